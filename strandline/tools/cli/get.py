"""`strandline get`: one value."""

from __future__ import annotations

import sys
from typing import Final

import typer

from strandline.codecs import ABSENT
from strandline.tools.cli.forms import Writing, form_of
from strandline.tools.cli.params import AsJson, Base64, Hex, KeyText, StorePath, TableName
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import codec_of, opened, table_of
from strandline.tools.cli.terminal import fail, out_is_terminal, write_line

ABSENT_STATUS: Final = 3

EXAMPLES: Final = (
    "strandline get data user:1",
    "strandline get data --table views --json /index.html",
    "strandline get data --hex 00ff > value.bin",
)


def get(
    store: StorePath,
    key: KeyText,
    *,
    table: TableName = "",
    as_hex: Hex = False,
    as_base64: Base64 = False,
    as_json: AsJson = False,
) -> None:
    """Print the value of a key.

    On a terminal it is escaped; a pipe or a file gets the value's bytes and nothing else.
    The exit status is 3 where the key is absent.
    """
    form = form_of(as_hex=as_hex, as_base64=as_base64)
    with opened(store) as db:
        handle = table_of(db, table)
        writing = Writing(codec_of(db, table), form)
        wanted = writing.key(key)
        value = handle.get(wanted, ABSENT)
    if value is ABSENT:
        fail(f"{store}: there is no key {writing.show_key(wanted)}")
        raise typer.Exit(ABSENT_STATUS)
    if as_json:
        write_line(to_json({"key": writing.plain_key(wanted), "value": writing.plain_value(value)}))
    elif out_is_terminal():
        write_line(writing.show_value(value))
    else:
        sys.stdout.buffer.write(writing.raw_value(value))
