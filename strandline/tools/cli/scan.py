"""`strandline scan`: keys and values in order."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.text import Text

from strandline.tools.cli.forms import Writing, form_of
from strandline.tools.cli.params import AsJson, Base64, Hex, StorePath, TableName
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import codec_of, opened, table_of
from strandline.tools.cli.terminal import out, out_is_terminal, write_line

EXAMPLES: Final = (
    "strandline scan data --prefix user:",
    "strandline scan data --start a --stop b --reverse --limit 10",
    "strandline scan data --table views --json",
)

_LEAST_WIDTH: Final = 20

Prefix = Annotated[str | None, typer.Option("--prefix", help="Only keys that begin with this.")]
Start = Annotated[str | None, typer.Option("--start", help="The first key.")]
Stop = Annotated[str | None, typer.Option("--stop", help="The key before which it ends.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="The greatest key first.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=0, help="At most so many.")]
KeysOnly = Annotated[bool, typer.Option("--keys", help="Keys without values.")]
Full = Annotated[bool, typer.Option("--full", help="Do not cut lines to the terminal's width.")]


def scan(
    store: StorePath,
    *,
    prefix: Prefix = None,
    start: Start = None,
    stop: Stop = None,
    reverse: Reverse = False,
    limit: Limit = None,
    keys: KeysOnly = False,
    table: TableName = "",
    as_hex: Hex = False,
    as_base64: Base64 = False,
    as_json: AsJson = False,
    full: Full = False,
) -> None:
    """Print keys and values in key order, escaped, one pair on a line.

    On a terminal lines are cut to its width; in a pipe they are whole, with a tab
    between key and value.
    """
    form = form_of(as_hex=as_hex, as_base64=as_base64)
    if prefix is not None and (start is not None or stop is not None):
        raise typer.BadParameter("--prefix goes without --start and --stop")
    with opened(store) as db:
        handle = table_of(db, table)
        writing = Writing(codec_of(db, table), form)
        bounds = {
            name: writing.key(bound)
            for name, bound in (("prefix", prefix), ("start", start), ("stop", stop))
            if bound is not None
        }
        found = handle.scan(**bounds, reverse=reverse, limit=limit)
        if as_json:
            for key, value in found:
                write_line(to_json(_pair(writing, key, value, keys=keys)))
        elif out_is_terminal():
            _show(found, writing, keys=keys, full=full)
        else:
            for key, value in found:
                shown = writing.show_key(key)
                write_line(shown if keys else f"{shown}\t{writing.show_value(value)}")


def _pair(writing: Writing, key: Any, value: Any, *, keys: bool) -> dict[str, Any]:
    pair = {"key": writing.plain_key(key)}
    if not keys:
        pair["value"] = writing.plain_value(value)
    return pair


def _show(found: Any, writing: Writing, *, keys: bool, full: bool) -> None:
    console = out()
    width = max(_LEAST_WIDTH, console.width)
    for key, value in found:
        line = Text(writing.show_key(key), style="bold")
        if not keys:
            shown = writing.show_value(value)
            # What cannot be on the line anyway need not be measured.
            line.append("  " + (shown if full else shown[: width + 1]), style="not bold")
        if not full:
            line.truncate(width, overflow="ellipsis")
        console.print(line)
