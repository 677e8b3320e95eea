"""The commands of `wal-inspect`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from strandline.errors import CorruptionError, ForeignStoreError, LogGapError
from strandline.tools.cli.verbs import Verbs, show_version

_HERE: Final = "strandline.tools.inspect"


class LogCommands(Verbs):
    """What can be done with a log."""

    modules = {  # noqa: RUF012 - never changed
        name: f"{_HERE}.{name}"
        for name in (
            "ls",
            "dump",
            "verify",
            "stats",
            "history",
            "frame",
            "follow",
            "diff",
            "export",
            "repair",
            "report",
        )
    }
    statuses = {  # noqa: RUF012 - never changed
        ForeignStoreError: 6,
        LogGapError: 5,
        CorruptionError: 4,
    }


app = typer.Typer(
    cls=LogCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=(
        "See, prove, repair and explain the log of a store, offline or beside its writer. "
        "Nothing that is inspected is written to, but for `repair --in-place`.\n\n"
        "Exit status: 0 sound; 1 cannot be read; 2 wrong use; 3 a torn tail only; 4 damage in "
        "mid-log; 5 a gap: a segment is missing or out of order; 6 foreign or unsupported."
    ),
)


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    pass
