"""The matrix: which layer caught which bug, and how fast. Kept in docs/, as JSON and as a table."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.registry import NAMES, load_layer
from tests.crash.planted import BUGS
from tests.crash.planted.cell import HUNG, Outcome

CONTROL: Final = "no-bug"
"""The row without a bug."""

_DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
_JSON: Final = _DOCS / "crash-testing-matrix.json"
_PAGE: Final = _DOCS / "crash-testing.md"
BEGIN: Final = "<!-- the matrix: made by tests/crash/gate.py -->"
END: Final = "<!-- end of the matrix -->"


class Matrix:
    """Outcomes by bug and layer."""

    def __init__(self, cells: dict[str, dict[str, dict[str, Any]]]) -> None:
        self._cells = cells

    @classmethod
    def read(cls) -> Matrix:
        """Return what earlier runs came to, as far as its bugs and layers are still there."""
        text = _JSON.read_text() if _JSON.exists() else ""
        stored = json.loads(text)["cells"] if text else {}
        return cls(
            {
                bug: {layer: cell for layer, cell in row.items() if layer in NAMES}
                for bug, row in stored.items()
                if bug in BUGS or bug == CONTROL
            }
        )

    def note(self, layer: str, bug: str, outcome: Outcome) -> None:
        """Store one outcome; a skipped or failed cell says nothing, and leaves what is there.

        What other runs have stored meanwhile is taken in.
        """
        if outcome.skipped is not None or outcome.failed is not None:
            return
        cell: dict[str, Any] = {
            "caught": outcome.caught,
            "seconds": round(outcome.seconds, 1),
            "cases": outcome.cases,
            "rounds": outcome.rounds,
        }
        if outcome.caught:
            cell |= {
                "invariant": outcome.invariant,
                "seed": outcome.seed,
                "hung": outcome.invariant == HUNG and outcome.seed is None,
            }
        with _JSON.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._cells = Matrix.read()._cells
            self._cells.setdefault(bug, {})[layer] = cell
            self.write()

    def missed(self) -> list[str]:
        """Return the bugs that no layer has caught."""
        return [bug for bug in BUGS if not any(c["caught"] for c in self._row(bug).values())]

    def write(self) -> None:
        """Store everything, and put the table into the page if that is there."""
        rows = {bug: self._row(bug) for bug in (CONTROL, *BUGS)}
        bugs = {bug.name: {"breaks": bug.breaks, "what": bug.what} for bug in BUGS.values()}
        _JSON.write_text(json.dumps({"bugs": bugs, "cells": rows}, indent=1) + "\n")
        if _PAGE.exists() and BEGIN in (page := _PAGE.read_text()):
            before, _, rest = page.partition(BEGIN)
            after = rest.partition(END)[2]
            _PAGE.write_text(f"{before}{BEGIN}\n\n{self.table()}\n{END}{after}")

    def table(self) -> str:
        """Return the matrix in Markdown."""
        layers = [name for name in NAMES if any(name in self._row(bug) for bug in self._cells)]
        titles = [f"{load_layer(name).number} {name}" for name in layers]
        lines = [
            f"| planted bug | breaks | {' | '.join(titles)} |",
            f"|---|---|{'---|' * len(layers)}",
        ]
        for bug in (CONTROL, *BUGS):
            cells = [_shown(self._row(bug).get(name), bug) for name in layers]
            about = "no bug" if bug == CONTROL else f"`{bug}`<br>{BUGS[bug].what}"
            breaks = "" if bug == CONTROL else str(BUGS[bug].breaks)
            lines.append(f"| {about} | {breaks} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def _row(self, bug: str) -> dict[str, dict[str, Any]]:
        row = self._cells.get(bug, {})
        return {name: row[name] for name in NAMES if name in row}


def _shown(cell: dict[str, Any] | None, bug: str) -> str:
    """Return a cell of the table: how long it took to catch it, and in how many cases."""
    if cell is None:
        return ""
    if not cell["caught"]:
        return f"none in {cell['cases']:,}" if bug == CONTROL else "-"
    if cell["hung"]:
        return "hangs"
    return f"**{cell['seconds']:.1f} s**, {cell['cases']:,}"
