"""Arguments and options that several commands have, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strandline.tools.inspect.fields import Values

LogPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="A store, the folder of its log, or one segment.")
]

ValuesForm = Annotated[Values, typer.Option("--values", help="How values are shown.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
