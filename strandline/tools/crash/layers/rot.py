"""L7: a store whose files rotted while nobody looked, opened in every way there is.

    script ──► store, at rest ──copy──► one file damaged ──► a child checks, opens, reads,
                    │                                        writes, opens again
                    └── every value and state that it had ──► detected, harmless, unseen?

A round makes one store and damages some tens of copies of it. What is damaged follows from
the seed; the store's bytes do so only as far as its threads let them.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.rot.anatomy import DATA_FILE, Place, places_of
from strandline.tools.crash.rot.children import run_child
from strandline.tools.crash.rot.damage import Damage, plan_damage
from strandline.tools.crash.rot.looking import look
from strandline.tools.crash.rot.stores import STEPS, Specimen, make_specimen
from strandline.tools.crash.rot.verdict import Case, History, claimed_by_survivors

_CASES: Final = 48
"""Copies that a round damages."""
_SECONDS: Final = 90
"""After which a child hangs; the probe's own patience is less."""
_MODES: Final = (
    "tolerate-torn-tail", "tolerate-torn-tail", "strict", "point-in-time", "salvage",
)  # fmt: skip
_UNGUARDED: Final = 0.2
"""How often LMDB's damage is met without any look at it first, where that can be."""


class RotLayer:
    """The layer."""

    name = "rot"
    number = "L7"
    title = "bit rot, lost, stale and misdirected blocks, in every file"

    def obstacle(self) -> str | None:
        """It runs everywhere."""
        return None

    def left_out(self) -> Sequence[str]:
        """Nothing is."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[RotBench]:
        """Give each round a place for its store and the copies."""
        yield RotBench(directory)


class RotBench:
    """Rounds in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, seed: int) -> int:
        """Every script has the same length."""
        return STEPS

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Damage copies of one store."""
        place = self._directory / "round"
        place.mkdir()
        try:
            return RotRound(place, seed, kept).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


class RotRound:
    """One store, and what is done to it."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self.tally = Tally(rounds=1)
        self._place = place
        self._seed = seed
        self._kept = kept

    def run(self) -> Tally:
        """Make the store, then case after case."""
        where = "before any damage"
        try:
            specimen = make_specimen(self._place, self._seed, self._kept)
            history = History(specimen)
            places = by_kind(places_of(specimen.path))
            for number in range(_CASES):
                choose = random.Random(f"rot/{self._seed}/{number}")
                kind = choose.choice(sorted(places))
                damage = plan_damage(choose, specimen.path, specimen.earlier, places[kind])
                options = options_for(choose, specimen, damage)
                where = _described(number, specimen, damage, options)
                self._case(specimen, history, damage, options)
        except ViolationError as error:
            self.tally.finding = Finding(error.invariant, str(error), where)
        return self.tally

    def _case(
        self, specimen: Specimen, history: History, damage: Damage, options: dict[str, Any]
    ) -> None:
        copy = self._place / "damaged"
        shutil.copytree(specimen.path, copy)
        try:
            damage.inflict(copy)
            claimed = claimed_by_survivors(specimen.path, copy)
            said = run_child(lambda say: look(copy, history.keys(), options, say), _SECONDS)
        finally:
            shutil.rmtree(copy)
        self.tally.cases += 1
        self.tally.faults += 1
        outcome = Case(specimen, history, damage, options, copy, said).judge(claimed)
        self.tally.outcomes[damage.place.kind, damage.kind, outcome] += 1


def by_kind(places: list[Place]) -> dict[str, list[Place]]:
    """Return the places by what they are, so that the rare ones are damaged as often."""
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.kind, []).append(place)
    return found


def options_for(choose: random.Random, specimen: Specimen, damage: Damage) -> dict[str, Any]:
    """Choose how the damaged copy is opened."""
    check = choose.choice(["auto", "auto", "always"])
    if DATA_FILE in damage.contents and specimen.closed and choose.random() > _UNGUARDED:
        check = "always"
    return {**specimen.options, "recovery": choose.choice(_MODES), "check": check}


def _described(number: int, specimen: Specimen, damage: Damage, options: dict[str, Any]) -> str:
    ended = "closed" if specimen.closed else "killed"
    return (
        f"case {number}: a {specimen.shape} store, {ended}; {damage.kind} in {damage.what}; "
        f"opened with recovery={options['recovery']!r}, check={options['check']!r}"
    )
