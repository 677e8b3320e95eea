"""`strandline put`: store one value."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from strandline.options import Durability
from strandline.tools.cli.forms import Writing, form_of
from strandline.tools.cli.params import (
    AsJson,
    Base64,
    CodecName,
    Create,
    Hex,
    KeyText,
    Level,
    StorePath,
    TableName,
)
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import codec_of, opened, table_of
from strandline.tools.cli.terminal import write_line

EXAMPLES: Final = (
    "strandline put data user:1 Ada --create",
    "strandline put data logo --file logo.png",
    "strandline put data --table views --create --codec json /index.html 41",
)

_STDIN: Final = Path("-")

ValueText = Annotated[
    str | None, typer.Argument(metavar="VALUE", help="The value, unless --file has it.")
]
ValueFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Take the value from a file; - is stdin."),
]


def put(
    store: StorePath,
    key: KeyText,
    value: ValueText = None,
    *,
    file: ValueFile = None,
    table: TableName = "",
    as_hex: Hex = False,
    as_base64: Base64 = False,
    durability: Level = Durability.SYNC,
    create: Create = False,
    codec: CodecName = None,
    as_json: AsJson = False,
) -> None:
    """Store a value under a key.

    It is on disk when the command ends. A key or value that begins with a dash comes
    after two of them: strandline put data -- -key -value.
    """
    form = form_of(as_hex=as_hex, as_base64=as_base64)
    if (value is None) == (file is None):
        raise typer.BadParameter("expected VALUE or --file, found both or neither")
    data = os.fsencode(value) if value is not None else _contents(file)
    with opened(store, create=create) as db:
        handle = table_of(db, table, create=create, codec=codec)
        writing = Writing(codec_of(db, table), form)
        wanted = writing.key(key)
        lsn = handle.put(wanted, writing.value(data), durability=durability)
    if as_json:
        write_line(to_json({"key": writing.plain_key(wanted), "lsn": lsn}))


def _contents(file: Path | None) -> bytes:
    if file is None or file == _STDIN:
        return sys.stdin.buffer.read()
    return file.read_bytes()
