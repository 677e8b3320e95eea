"""Images of a crashed rig, and of the recoveries from them, crashed in turn.

    run ──crash──► image ──open, judge
                     └─now and then: open ──crash──► image of the recovery ──open, judge
                                                       └─ ...

Whatever a recovery was cut short at, and however often, what is left is judged as the first
image was: a recovery may lose nothing that the crash before it respects.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.oracle.after import (
    check_again,
    check_lsns,
    check_released,
    check_writable,
)
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.simulation.rig import Rig, crash_name
from strandline.wal.runtime import Runtime

_DEEPER: Final = (0.04, 0.004, 0.002)
"""How often the recovery from an image is crashed too, by how deep that image is. A sweep of
a recovery gives some hundred images, so that few rounds go down more than three times."""

_EVERY: Final = 0.15
"""How often a change is crashed before in every way, and not in one."""

_AFTERWARDS: Final = 0.1
"""How often an image lives on after it was judged: written to, crashed or closed, recovered."""

Now = Callable[[], Crash]
"""The crash that a power cut would be at this moment; only its kind is still open."""
Judge = Callable[[Store, Crash], int]
"""Holds an open image against what was told; returns how many acknowledged writes it checked."""


class NestedSweep:
    """A run crashed before every change of its disk."""

    def __init__(self, seed: str, now: Now, judge: Judge, promised: Callable[[], object]) -> None:
        """`promised` tells apart moments of which the later one allows fewer losses."""
        self.tally = Tally(rounds=1)
        self._choose = random.Random(seed)
        self._now = now
        self._judge = judge
        self._promised = promised

    def sweep(self, rig: Rig, run: Callable[[], object]) -> None:
        """Run it, and judge an image for every crash; a broken promise is put in the tally."""
        with self._finding():
            rig.sweep(run, self._look, draw=self._draw, promised=self._promised)

    def once(self, run: Callable[[], object], which: str) -> None:
        """Run it without crashes, but for those that it comes to `glance` at by itself."""
        self.tally.cases += 1
        with self._finding(which):
            run()

    def glance(self, rig: Rig, when: str) -> None:
        """Judge what one crash at this moment leaves."""
        policy = self._choose.choice(self._policies(1))
        image = rig.kill() if policy == "kill" else rig.power_cut(policy)
        image.cut_by = policy
        try:
            self._judge_image(image, 1, self._crash(image, None))
        except ViolationError as error:
            error.add_note(f"after a crash ({crash_name(policy)}) {when}")
            raise
        image.release()

    @contextlib.contextmanager
    def _finding(self, *where: str) -> Iterator[None]:
        """Put a broken promise in the tally."""
        try:
            yield
        except ViolationError as error:
            notes = getattr(error, "__notes__", ["while it ran, before any crash"])
            found = Finding(error.invariant, str(error), "; then ".join([*where, *notes[::-1]]))
            self.tally.finding = found

    def _draw(self) -> tuple[Any, ...]:
        """Return the crashes before one change: one as a rule, sometimes all.

        Another schedule shows more than another loss at the same moment of the same one.
        """
        every = self._policies(3)
        return every if self._choose.random() < _EVERY else (self._choose.choice(every),)

    def _policies(self, random_ones: int) -> tuple[Any, ...]:
        some = [random.Random(self._choose.random()) for _ in range(random_ones)]
        return ("none", "all", "kill", *some)

    def _look(self, image: Rig, depth: int = 1, before: Crash | None = None) -> None:
        crash = self._crash(image, before)
        if depth <= len(_DEEPER) and self._choose.random() < _DEEPER[depth - 1]:
            image.sweep(
                lambda: open_image(image),
                lambda further: self._look(further, depth + 1, crash),
                *self._policies(1),
            )
            image.close()
        self._judge_image(image, depth, crash)

    def _judge_image(self, image: Rig, depth: int, crash: Crash) -> None:
        self.tally.cases += 1
        self.tally.faults += depth
        db = open_image(image)
        self.tally.acknowledged += self._judge(db, crash)
        if self._choose.random() < _AFTERWARDS:
            self._live_on(db, image)

    def _live_on(self, db: Store, image: Rig) -> None:
        """What a recovery showed stays, whatever comes next; LSNs go on, and segments go."""
        issued = db.engine.log.next_lsn() - 1
        if self._choose.random() < 0.5:
            check_writable(db, issued)
            issued = db.engine.log.next_lsn() - 1
        kind = CrashKind.PROCESS
        match self._choose.choice(("close", "kill", "none", "some")):
            case "close":
                further = image
            case "kill":
                further = image.kill()
            case "none":
                further = image.power_cut("none")
            case _:
                some = random.Random(self._choose.random())
                further, kind = image.power_cut(some), CrashKind.POWER

        def reopen() -> Store:
            if further is image:
                image.close()
            return open_image(further)

        again = check_again(db, reopen, Crash(kind))
        check_lsns(again, issued)
        check_released(again)
        if further is not image:
            further.release()

    def _crash(self, image: Rig, before: Crash | None) -> Crash:
        killed = image.cut_by == "kill" and (before is None or before.kind is CrashKind.PROCESS)
        kind = CrashKind.PROCESS if killed else CrashKind.POWER
        return dataclasses.replace(before or self._now(), kind=kind)


def open_image(image: Rig, runtime: Runtime | None = None) -> Store:
    """Recover an image; that it cannot be opened breaks a promise."""
    try:
        return image.open(runtime=runtime)
    except (StrandlineError, OSError) as error:
        raise ViolationError(1, f"opening fails: {type(error).__name__}: {error}") from error
