"""Where each planted bug is found the quickest: a layer, and the seed of a round."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.crash.planted import BUGS
from tests.crash.planted.cell import Cell, Outcome, run_cell

_PATH: Final = Path(__file__).with_name("pins.json")
_SECONDS: Final = 30.0
REPEATABLE: Final = ("simulation", "errors", "recorded", "rot")
"""Layers whose rounds follow from their seeds, and need no root."""


@dataclass(frozen=True)
class Pin:
    """One round."""

    layer: str
    seed: int
    cpu: float = field(default=0.0, compare=False)
    """How many seconds of processor time it took to find the bug."""

    def run(self, bug: str | None, *, in_python: bool = False) -> Outcome:
        """Run the round with a bug, or without one."""
        return run_cell(
            Cell(
                self.layer,
                bug,
                _SECONDS,
                self.seed,
                rounds=1,
                in_python=in_python,
            )
        )


def pins_of() -> dict[str, Pin]:
    """Return the pins of the bugs that there are, by name."""
    if not _PATH.exists():
        return {}
    stored = json.loads(_PATH.read_text())
    return {name: Pin(**fields) for name, fields in stored.items() if name in BUGS}


def write_pins(pins: dict[str, Pin]) -> None:
    """Store pins, a line each."""
    lines = [f"  {json.dumps(name)}: {json.dumps(asdict(pins[name]))}" for name in sorted(pins)]
    _PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")
