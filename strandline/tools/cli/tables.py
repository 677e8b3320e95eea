"""`strandline tables`: the tables of a store."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from strandline import Store
from strandline.tools.cli.params import AsJson, StorePath
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import opened, table_of
from strandline.tools.cli.terminal import escape, out, out_is_terminal, write_line

EXAMPLES: Final = ("strandline tables data", "strandline tables data --json")

_DEFAULT: Final = "(default)"


def tables(store: StorePath, *, as_json: AsJson = False) -> None:
    """List the tables: name, codec, whether they are logged, and how many keys they hold.

    The default table has no name and comes first. In a pipe the fields are separated by
    tabs; with --json each table is one line of JSON.
    """
    with opened(store) as db:
        rows = table_rows(db)
    if as_json:
        for row in rows:
            write_line(to_json(row))
    elif out_is_terminal():
        show_tables(rows)
    else:
        for name, codec, logged, entries in map(_shown, rows):
            write_line(f"{name}\t{codec}\t{logged}\t{entries}")


def table_rows(db: Store) -> list[dict[str, Any]]:
    """Return what there is to say of each table, the default one first."""
    rows = []
    for name in ["", *db.tables()]:
        state = db.definitions.find(name)
        if state is not None:
            rows.append(
                {
                    "table": name,
                    "codec": state.codec.name,
                    "logged": state.logged,
                    "entries": len(table_of(db, name)),
                }
            )
    return rows


def show_tables(rows: list[dict[str, Any]]) -> None:
    """Print aligned columns on a terminal; names that are too long for it go on below."""
    console = out()
    heads = ("table", "codec", "log", "keys")
    shown = [_shown(row) for row in rows]
    widths = [max(len(line[at]) for line in (heads, *shown)) for at in range(len(heads))]
    for line, style in [(heads, "dim"), *((line, "") for line in shown)]:
        name, codec, logged, entries = (
            cell.rjust(width) if at == 3 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        console.print(Text(f"{name}  {codec}  {logged}  {entries}", style=style))


def _shown(row: dict[str, Any]) -> tuple[str, str, str, str]:
    name = escape(row["table"]) or _DEFAULT
    return name, row["codec"], "logged" if row["logged"] else "unlogged", f"{row['entries']}"
