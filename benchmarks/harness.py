"""Rows, rounds and verdicts: what it means to run a comparison in turn.

A row holds contenders. All of them are started, then measured one after the other, round by
round (A B C, A B C, ...), so that what the machine does to one it does to its neighbours. A
ratio is taken within a round; the median of the rounds is what a verdict rests on. A verdict
never fails the run: it is printed.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Literal

SUBJECT = "strandline"
BEST_PEER = "the best peer"

Measure = Callable[[int], float]
"""Takes one measurement, given the number of the round from 0."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that a row measures.

    `start(directory)` prepares it in a directory of its own and yields what measures it. A
    `reference` is shown and can be a target, but is no peer: it promises less, or it is no
    store at all.
    """

    name: str
    config: str
    start: Callable[[str], AbstractContextManager[Measure]]
    reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the design asks of a row.

    With `against`, the median over the rounds of subject / against is held to `bound`;
    otherwise the subject's own median is. `or_extra_us` is a second way to meet a ratio of
    rates: so many microseconds a call above the other.
    """

    text: str
    bound: float
    subject: str = SUBJECT
    against: str | None = None
    sense: Literal["at least", "at most"] = "at least"
    or_extra_us: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: what is timed, by whom, and what is asked."""

    name: str
    title: str
    unit: str
    timed: str
    contenders: list[Contender]
    targets: list[Target] = field(default_factory=list)
    better: Literal["higher", "lower"] = "higher"
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what came of it; `met` is None where it could not be measured."""

    target: Target
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class RowResult:
    """The numbers of a row, round by round, by contender."""

    row: Row
    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median of a contender's rounds."""
        return statistics.median(self.rounds[name])

    def ratio(self, subject: str, against: str) -> float:
        """Return the median over the rounds of one contender's number by another's."""
        pairs = zip(self.rounds[subject], self.rounds[against], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def best_peer(self) -> str | None:
        """Return the peer with the best median, None where no peer ran."""
        peers = [
            contender.name
            for contender in self.row.contenders
            if not contender.reference and not contender.name.startswith(SUBJECT)
        ]
        pick = max if self.row.better == "higher" else min
        return pick(peers, key=self.median, default=None)

    def verdicts(self) -> list[Verdict]:
        """Hold every target of the row against the numbers."""
        return [self._verdict(target) for target in self.row.targets]

    def _verdict(self, target: Target) -> Verdict:
        against = self.best_peer() if target.against == BEST_PEER else target.against
        wanted = [target.subject] if target.against is None else [target.subject, against]
        absent = [str(name) for name in wanted if name not in self.rounds]
        if absent or (target.against is not None and against is None):
            return Verdict(target, f"not measured: {', '.join(absent)} did not run", None)
        if against is None:
            value = self.median(target.subject)
            return Verdict(target, f"{readable(value)} {self.row.unit}", _holds(target, value))
        ratio = self.ratio(target.subject, against)
        measured, met = f"{ratio:.2f} x {against}", _holds(target, ratio)
        if target.or_extra_us is not None:
            extra = statistics.median(
                1e6 / one - 1e6 / other
                for one, other in zip(
                    self.rounds[target.subject], self.rounds[against], strict=True
                )
            )
            measured += f", {extra:+.1f} us a call"
            met = met or extra <= target.or_extra_us
        return Verdict(target, measured, met)


def readable(value: float) -> str:
    """Return a number with as many digits as it takes to compare it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _holds(target: Target, value: float) -> bool:
    return value >= target.bound if target.sense == "at least" else value <= target.bound


def run_row(row: Row, directory: str, rounds: int, progress: Callable[[str], None]) -> RowResult:
    """Measure every contender of a row in turn, `rounds` times, in parts of `directory`."""
    result = RowResult(row, {contender.name: [] for contender in row.contenders})
    with ExitStack() as stack:
        measures: dict[str, Measure] = {}
        for contender in row.contenders:
            progress(f"{row.name}: prepare {contender.name}")
            own = os.path.join(directory, f"{row.name}-{contender.name}".replace(" ", "-"))
            os.mkdir(own)
            measures[contender.name] = stack.enter_context(contender.start(own))
        for number in range(rounds):
            for name, measure in measures.items():
                progress(f"{row.name}: round {number + 1} of {rounds}, {name}")
                result.rounds[name].append(measure(number))
    return result
