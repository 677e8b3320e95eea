"""Arguments and options that several verbs have, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strandline.options import Durability

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="The store's directory.")]

KeyText = Annotated[str, typer.Argument(metavar="KEY", help="The key, as text unless said so.")]

TableName = Annotated[
    str, typer.Option("--table", "-t", metavar="NAME", help="The table; the default one without.")
]

Hex = Annotated[
    bool, typer.Option("--hex", help="Keys and values are hexadecimal, here and in the output.")
]

Base64 = Annotated[
    bool, typer.Option("--base64", help="Keys and values are base64, here and in the output.")
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

Create = Annotated[
    bool, typer.Option("--create", help="Make the store and the table where they do not exist.")
]

CodecName = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="NAME",
        help="With --create, the codec of a new table: bytes, utf-8, msgpack, json, int64/json ...",
    ),
]

Level = Annotated[
    Durability,
    typer.Option("--durability", help="When a write counts as done.", case_sensitive=False),
]
