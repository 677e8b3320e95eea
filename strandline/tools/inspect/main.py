"""The console script: `wal-inspect`, or `python -m strandline.tools.inspect.main`."""

from __future__ import annotations

from strandline.tools.cli.main import run_app


def run() -> None:
    """Run the command line of this process; ends it with the command's exit status."""
    run_app("strandline.tools.inspect.app", "wal-inspect")


if __name__ == "__main__":
    run()
