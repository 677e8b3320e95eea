"""How often each outcome was, by kind of place and of damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from strandline.tools.crash.layer import Tally
from strandline.tools.crash.rot.anatomy import KINDS
from strandline.tools.crash.rot.damage import DAMAGE_KINDS
from strandline.tools.crash.rot.verdict import (
    CHECKED,
    HARMLESS,
    KILLED,
    READ,
    REFUSED,
    SHORTER,
    TOLD,
    UNSEEN,
)

_COLUMNS: Final = {
    "detected": (REFUSED, TOLD, READ),
    "harmless": (HARMLESS, SHORTER),
    "check only": (CHECKED,),
    "not seen": (UNSEEN,),
    "killed": (KILLED,),
}


@dataclass
class RotTally(Tally):
    """A tally that also counts outcomes."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By kind of place, kind of damage, and outcome."""

    def add(self, other: Tally) -> None:
        """Take in another tally."""
        super().add(other)
        if isinstance(other, RotTally):
            self.outcomes.update(other.outcomes)

    def table(self) -> str:
        """Return what became of each kind of damage to each kind of place, as text."""
        lines = [_row("place", "damage", _COLUMNS)]
        for place in KINDS:
            for damage in DAMAGE_KINDS:
                counts = self._counts(place, damage)
                if any(counts):
                    lines.append(_row(place, damage, counts))
            lines.append(_row(place, "all", self._counts(place, None)))
        lines.append(_row("all", "all", self._counts(None, None)))
        return "\n".join(lines)

    def _counts(self, place: str | None, damage: str | None) -> list[int]:
        return [
            sum(
                count
                for (at, kind, outcome), count in self.outcomes.items()
                if place in (None, at) and damage in (None, kind) and outcome in outcomes
            )
            for outcomes in _COLUMNS.values()
        ]


def _row(place: str, damage: str, cells: Iterable[object]) -> str:
    return f"{place:24}{damage:18}" + "".join(f"{cell!s:>12}" for cell in cells)
