"""`strandline stats`: how a store is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from strandline import Store
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.tools.cli.params import AsJson, StorePath
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import opened
from strandline.tools.cli.tables import table_rows
from strandline.tools.cli.terminal import harmless, out

EXAMPLES: Final = ("strandline stats data", "strandline stats data --json")
