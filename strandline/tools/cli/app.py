"""The `strandline` command's verbs."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from strandline.tools.cli.verbs import Verbs, show_version

_CLI: Final = "strandline.tools.cli"


class StoreVerbs(Verbs):
    """What can be done with a store."""

    modules = {  # noqa: RUF012 - never changed
        "get": f"{_CLI}.get",
        "put": f"{_CLI}.put",
        "delete": f"{_CLI}.delete",
        "scan": f"{_CLI}.scan",
        "load": f"{_CLI}.load",
        "dump": f"{_CLI}.dump",
        "tables": f"{_CLI}.tables",
        "stats": f"{_CLI}.stats",
        "check": f"{_CLI}.check",
        "demo": "strandline.tools.demo.command",
        "crash-test": "strandline.tools.crash.command",
    }


app = typer.Typer(
    cls=StoreVerbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A crash-safe key-value store: look into one, fill it, check it.",
)


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    pass
