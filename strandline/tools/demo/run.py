"""The demonstration in order: write, kill, reopen and prove, twice; write on; prove it all."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import strandline
from strandline import Durability, RecoveryReport, Store
from strandline.tools.demo.child import SEGMENT_BYTES
from strandline.tools.demo.messages import LEVELS
from strandline.tools.demo.proof import Found, Proof, RunStart, Verdict, judge
from strandline.tools.demo.totals import Totals, judge_totals
from strandline.tools.demo.watch import KillPlan, Watched
from strandline.tools.demo.workload import ROUTES, START, Model, Position

_KILL_BETWEEN: Final = ((0.15, 0.45), (0.55, 0.85))
"""Shares of the input between which the kills come."""
_LONGEST_DELAY: Final = 0.02
"""A kill comes up to so many seconds late, so that it does not follow the reader's rhythm."""
_BUSIEST: Final = 10


@dataclass(frozen=True, slots=True)
class Crash:
    """One kill, the recovery after it, and what was proved."""

    at: float
    open_seconds: float
    """What the call of `strandline.open` took."""
    report: RecoveryReport
    verdict: Verdict
    stored: int
    """Entries that went to LMDB in this recovery."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route over the whole input."""

    name: str
    flights: int
    cancelled: int
    air_minutes: float
    """Mean."""
    arrival_delay: float
    """Mean, in minutes."""


@dataclass(slots=True)
class Outcome:
    """Everything that there is to show. Times are of the monotonic clock."""

    rows: int
    seed: int
    store: Path
    began: float
    runs: list[Watched] = field(default_factory=list)
    crashes: list[Crash] = field(default_factory=list)
    final: list[Proof] = field(default_factory=list)
    """The proofs at the end."""
    by_level: dict[Durability, int] = field(default_factory=dict)
    """Operations of the stream that are in the store, by level."""
    disk: dict[str, int] = field(default_factory=dict)
    """Bytes that the parts of the store take on disk."""
    busiest: list[Route] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def proofs(self) -> list[Proof]:
        """All proofs, in the order in which they were made."""
        return [*(p for crash in self.crashes for p in crash.verdict.proofs), *self.final]

    @property
    def operations(self) -> int:
        """Operations of the stream that are in the store."""
        return sum(self.by_level.values())

    @property
    def holds(self) -> bool:
        """Whether it came to the end and everything was proved."""
        return bool(self.final) and all(proof.holds for proof in self.proofs)

    @property
    def stored(self) -> int:
        """Entries that went to LMDB in all runs and recoveries."""
        runs = sum(run.samples[-1].stored for run in self.runs if run.samples)
        return runs + sum(crash.stored for crash in self.crashes)


class Screen(Protocol):
    """Where the progress is shown."""

    def writing(self, run: Watched) -> None:
        """Show how a run goes; called every few milliseconds."""

    def killed(self, run: Watched) -> None:
        """Show that a run was killed."""

    def recovered(self, crash: Crash) -> None:
        """Show what a recovery came to."""

    def checking(self) -> None:
        """Show that the figures at the end are compared."""


class Demonstration:
    """Runs on one store, which must not exist yet."""

    def __init__(
        self, data: Path, lines: list[bytes], store: Path, seed: int, screen: Screen
    ) -> None:
        self._data = data
        self._store = store
        self._screen = screen
        self._model = Model(lines)
        self._runs: list[RunStart] = []
        self._random = random.Random(seed)  # noqa: S311 - moments, not secrets
        self.outcome = Outcome(len(lines), seed, store, time.monotonic())

    def run(self) -> Outcome:
        """Go through it all; stop early where a recovered state cannot be gone on from.

        Raises:
            WriterError: the writing process ended although nobody killed it.
            StrandlineError: the store could not be opened after a crash.
        """
        outcome = self.outcome
        position = START
        for low, high in _KILL_BETWEEN:
            event = int(self._random.uniform(low, high) * outcome.rows)
            plan = KillPlan(event, self._random.uniform(0, _LONGEST_DELAY))
            verdict = self._crash(position, plan)
            if verdict.position is None or not verdict.holds:
                break
            position = verdict.position
        else:
            self._finish(position)
        outcome.seconds = time.monotonic() - outcome.began
        return outcome

    def _watch(self, start: Position) -> Watched:
        run = Watched(self._store, self._data, self.outcome.rows, start)
        self.outcome.runs.append(run)
        return run

    def _crash(self, start: Position, plan: KillPlan) -> Verdict:
        before = self._model.operations
        with self._watch(start) as run:
            run.until_killed(plan, self._screen.writing)
        self._screen.killed(run)
        assert run.started is not None
        assert run.killed_at is not None
        self._runs.append(RunStart(before, run.started.next_lsn))
        began = time.monotonic()
        with reopen(self._store) as store:
            seconds = time.monotonic() - began
            report: RecoveryReport = store.recovery_report
            found = Found.read(store, self._model.lines)
            verdict = judge(found, self._model, self._runs, report.last_lsn, run.acknowledged)
            store.flush()
            stored = store.stats().stored_writes
        self.outcome.by_level = dict(self._model.by_level)
        crash = Crash(run.killed_at, seconds, report, verdict, stored)
        self.outcome.crashes.append(crash)
        self._screen.recovered(crash)
        return verdict

    def _finish(self, start: Position) -> None:
        outcome = self.outcome
        with self._watch(start) as run:
            run.until_closed(self._screen.writing)
        self._screen.checking()
        for level, count in zip(LEVELS, run.samples[-1].counts, strict=True):
            outcome.by_level[level] += count
        with reopen(self._store) as store:
            report: RecoveryReport = store.recovery_report
            found = Found.read(store, self._model.lines)
            outcome.busiest = busiest(store)
        totals = Totals(self._data, outcome.rows)
        outcome.final = [
            Proof(
                "after a clean close nothing is replayed",
                report.clean and not report.operations_replayed,
                f"{report.operations_replayed:,} operations replayed",
            ),
            *judge_totals(found, totals, outcome.rows),
        ]
        outcome.disk = disk_use(self._store)


def reopen(path: Path) -> Store:
    """Open the store after a crash, or to look at it."""
    return strandline.open(path, segment_bytes=SEGMENT_BYTES)


def busiest(store: Store) -> list[Route]:
    """Return the routes with the most flights, from the store's own counters."""
    counters = {key: int(value) for key, value in store.table(ROUTES).items()}
    names = {key.partition(" ")[0] for key in counters}

    def flights(name: str) -> int:
        return counters.get(f"{name} flights", 0)

    def mean(name: str, what: str) -> float:
        return counters.get(f"{name} {what}", 0) / (flights(name) or 1)

    first = sorted(names, key=lambda name: (-flights(name), name))[:_BUSIEST]
    return [
        Route(
            name,
            flights(name),
            counters.get(f"{name} cancelled", 0),
            mean(name, "air minutes"),
            mean(name, "arrival delay"),
        )
        for name in first
    ]


def disk_use(path: Path) -> dict[str, int]:
    """Return the bytes on disk of each file and directory of a store; holes do not count."""
    result: dict[str, int] = {}
    for place, _, names in os.walk(path):
        inner = Path(place).relative_to(path).parts
        for name in names:
            part = inner[0] if inner else name
            blocks = (Path(place) / name).stat().st_blocks
            result[part] = result.get(part, 0) + 512 * blocks
    return result
