"""The console script: `strandline`, or `python -m strandline.tools.cli.main`.

Knows nothing of the verbs. typer and rich come with an extra, so this module works
without them, to say so.
"""

from __future__ import annotations

import importlib
import sys

_EXTRA = ("typer", "rich")


def run() -> None:
    """Run the command line of this process; ends it with the command's exit status."""
    run_app("strandline.tools.cli.app", "strandline")


def run_app(module: str, program: str) -> None:
    """Run the command that is `app` in a module; ends the process with its exit status."""
    try:
        app = importlib.import_module(module).app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"{program}: the command needs {error.name}, which is not installed. It comes with "
            "the extra `cli`: run `pip install 'strandline[cli]'`\n"
        )
        sys.exit(1)
    app(prog_name=program)


if __name__ == "__main__":
    run()
