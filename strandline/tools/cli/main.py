"""The console script: `strandline`, or `python -m strandline.tools.cli.main`.

Knows nothing of the verbs. typer and rich come with an extra, so this module works
without them, to say so.
"""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich")


def run() -> None:
    """Run the command line of this process; ends it with the command's exit status."""
    try:
        from strandline.tools.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"strandline: the command needs {error.name}, which is not installed. It comes with "
            "the extra `cli`: run `pip install 'strandline[cli]'`\n"
        )
        sys.exit(1)
    app(prog_name="strandline")


if __name__ == "__main__":
    run()
