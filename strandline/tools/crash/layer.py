"""What a layer of the harness is, and what a round of one comes to.

    Layer ──bench()──► Bench ──round(seed)──► Tally, with a Finding if a promise was broken

A layer knows whether this machine can run it. A bench is what one worker process works
on: directories, mounts, a fork server. A round follows from its seed, as far as its layer
can: real threads and kernels decide some things by themselves. It ends at its first finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

INVARIANTS: Final = {
    1: "what was acknowledged as durable is there",
    2: "the state is a prefix of the commit order, batches whole",
    3: "no value that was never written for its key",
    4: "nothing deleted, overwritten, cleared or dropped comes back",
    5: "recovery is idempotent",
    6: "weaker writes are lost only within their window, and never leave a hole",
    7: "a torn tail is dropped and reported; damage before valid records is an error",
    8: "after a failed sync nothing is acknowledged until the store is opened anew",
    9: "on EIO and ENOSPC reads work, acknowledged data is intact, reopening succeeds",
    10: "damage is detected or harmless, and never kills the process",
    11: "a segment goes only when a durable checkpoint covers it; disk use is bounded",
    12: "a recovered store takes writes, and no LSN is issued twice",
    13: "nobody hangs",
}
"""What must hold, by number. Findings name one."""


class ViolationError(Exception):
    """An invariant does not hold. Raised by the oracle, turned into a `Finding` by a round."""

    def __init__(self, invariant: int, what: str) -> None:
        super().__init__(what)
        self.invariant = invariant


@dataclass(frozen=True)
class Finding:
    """One broken promise."""

    invariant: int
    what: str
    """What was expected and what was found."""
    where: str
    """The case: which crash, fault or damage, and at which call."""


@dataclass
class Tally:
    """What a round, a worker or a layer came to."""

    rounds: int = 0
    cases: int = 0
    """Crash images, failed calls, kills: everything that was judged."""
    faults: int = 0
    """Faults that were injected; a case can have several (a crash in a recovery from a crash)."""
    acknowledged: int = 0
    """Acknowledged writes that were looked for, summed over cases."""
    outcomes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Cases by what was struck, how, and what became of it, where a layer tells them apart."""
    finding: Finding | None = None

    def add(self, other: Tally) -> None:
        """Take in another tally; the first finding stays."""
        self.rounds += other.rounds
        self.cases += other.cases
        self.faults += other.faults
        self.acknowledged += other.acknowledged
        self.outcomes.update(other.outcomes)
        self.finding = self.finding or other.finding


class Bench(Protocol):
    """What one worker process works on."""

    def steps(self, seed: int) -> int:
        """Return how many steps the round of a seed has; what shrinking leaves out some of."""

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Run one round; with `kept`, of its script's steps only those.

        A broken promise is in the tally. Any exception is a fault of the harness.
        """


class Layer(Protocol):
    """One way of breaking a store."""

    name: str
    """As `--layer` takes it."""
    number: str
    """L0 to L7."""
    title: str
    """What it does, in a few words."""

    def obstacle(self) -> str | None:
        """Return why this machine cannot run the layer, None if it can."""

    def left_out(self) -> Sequence[str]:
        """Return which parts of the layer this machine cannot run, and why; none as a rule."""

    def bench(self, directory: Path) -> AbstractContextManager[Bench]:
        """Set up what a worker needs, in an empty directory of its own; clean up at the end."""
