"""`python -m strandline.tools.demo`: the same as `strandline demo`."""

from __future__ import annotations

import sys

from strandline.tools.cli.app import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]], prog_name="strandline")
