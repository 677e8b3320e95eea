"""`strandline delete`: remove keys."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from strandline.codecs import ABSENT
from strandline.tools.cli.forms import Writing, form_of
from strandline.tools.cli.params import AsJson, Base64, Hex, StorePath, TableName
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import codec_of, opened, table_of
from strandline.tools.cli.terminal import write_line

EXAMPLES: Final = (
    "strandline delete data user:1 user:2",
    "strandline delete data --table events --hex 0000000000000001",
)

Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="The keys to delete.")]


def delete(
    store: StorePath,
    keys: Keys,
    *,
    table: TableName = "",
    as_hex: Hex = False,
    as_base64: Base64 = False,
    as_json: AsJson = False,
) -> None:
    """Delete keys, each on its own.

    A key that is absent is no error; the output says how many there were.
    """
    form = form_of(as_hex=as_hex, as_base64=as_base64)
    with opened(store) as db:
        handle = table_of(db, table)
        writing = Writing(codec_of(db, table), form)
        wanted = [writing.key(key) for key in keys]
        deleted = sum(handle.pop(key, ABSENT) is not ABSENT for key in wanted)
    if as_json:
        write_line(to_json({"deleted": deleted, "absent": len(wanted) - deleted}))
    else:
        absent = len(wanted) - deleted
        write_line(f"{deleted} deleted" + (f", {absent} absent" if absent else ""))
