"""`strandline dump`: everything, as lines of JSON."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from strandline import Store
from strandline.tools.cli import dumps
from strandline.tools.cli.params import StorePath
from strandline.tools.cli.plain import kinds
from strandline.tools.cli.stores import codec_of, opened, table_of
from strandline.tools.cli.terminal import ProgressBar

EXAMPLES: Final = (
    "strandline dump data > data.jsonl",
    "strandline dump data --table views | gzip > views.jsonl.gz",
    "strandline load copy data.jsonl --format dump --create",
)

_LINES: Final = 1000

OneTable = Annotated[
    str | None,
    typer.Option("--table", "-t", metavar="NAME", help="Only this table; without, all of them."),
]


def dump(store: StorePath, *, table: OneTable = None) -> None:
    """Print the whole store, or one table, as lines of JSON.

    As of one moment, and exact: what is not text is base64. `strandline load --format
    dump` reads it again. The last line says how many entries there are; without it the
    dump was cut short.
    """
    with opened(store) as db, ProgressBar("dumping", "entries") as bar:
        if table is not None:
            table_of(db, table)
        _dump(db, ["", *db.tables()] if table is None else [table], bar)


def _dump(db: Store, names: list[str], bar: ProgressBar) -> None:
    with db.snapshot() as snapshot:
        total = sum(len(table_of(db, name)) for name in names)
        lines = [dumps.head_line(snapshot.lsn)]
        done = 0
        for name in names:
            state = db.definitions.find(name)
            lines.append(
                dumps.table_line(name, codec_of(db, name), logged=state is None or state.logged)
            )
            key_kind, value_kind = kinds(codec_of(db, name))
            for key, value in snapshot.table(table_of(db, name)).scan():
                lines.append(dumps.entry_line(key_kind, value_kind, key, value))
                done += 1
                if len(lines) >= _LINES:
                    _write(lines)
                    bar.advance(done, done, total)
        lines.append(dumps.end_line(done))
        _write(lines)


def _write(lines: list[str]) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    lines.clear()
