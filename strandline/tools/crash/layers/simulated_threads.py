"""A round of L1 with threads: writers and the store's own, taking turns as a seed says.

Group commit, checkpoints, rotation and housekeeping interleave at every lock, sleep and
disk operation. The clock is the scheduler's, so the windows of the weaker levels are judged
too: what is older than its window must have survived.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from strandline import Store
from strandline.tools.crash.layer import Tally, ViolationError
from strandline.tools.crash.oracle.after import check_lsns, check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import check_living_many, judge_many
from strandline.tools.crash.script.many import COUNTERS, OTHER, scripts_of_many
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, kept_steps, run_script, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.told import Account, Told
from strandline.tools.crash.simulation.nested import NestedSweep
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.scheduler import Scheduler
from strandline.wal.log import GATE_TIMEOUT

STEPS: Final = 8
"""Of each writer."""
MOST_WRITERS: Final = 4
_BASE: Final = Model({"": {}, OTHER: {}, COUNTERS: {}})
_PACES: Final = (0.0, 0.0001, 0.01, 0.3)
"""How many seconds a writer thinks before a step, in the mean."""
_SCHEDULES: Final = 40
"""In how many orders the same scripts are run; one of them under crashes."""
_GLANCES: Final = 0.04
"""How often one crash is tried behind a step, in any of those orders."""
_LATENCIES: Final = (0.0, 0.0002, 0.002)
"""How long an fdatasync takes: what is written meanwhile is not covered by it."""
_SYNCS: Final = 6
"""How many syncs, of a group, a seal and a header, what is due may have to wait for."""
_SLACK: Final = 0.002
"""Seconds of the clock that a thread may be late in waking, beyond its interval."""


class ThreadsRound:
    """Several scripts, each on a task of its own."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        choose = random.Random(f"threads/{seed}")
        writers = choose.randint(2, MOST_WRITERS)
        # Step n of writer w is the round's step w * STEPS + n.
        self._scripts: list[Script] = [
            kept_steps(script, None if kept is None else frozenset(n - w * STEPS for n in kept))
            for w, script in enumerate(scripts_of_many(seed, writers, STEPS))
        ]
        self._paces = [choose.choice(_PACES) for _ in self._scripts]
        if choose.random() < 0.5:
            self._paces = [0.0 for _ in self._scripts]
        self._drains = choose.random() < 0.5
        self._place = place
        self._seed = seed
        self._options: dict[str, Any] = settings_of(seed)
        self._latency = choose.choice(_LATENCIES)
        # A thread that is late in waking, and one that waits for its turn at the disk.
        self._logged_after = 2 * self._options["log_interval"] + _SLACK + _SYNCS * self._latency
        self._synced_after = self._options["sync_interval"] + self._logged_after
        self._told: list[Told] = []
        self._scheduler = Scheduler(seed)
        self._glances = random.Random()
        self._sweep = NestedSweep(f"threads/{seed}", self._crash, self._judge, self._promised)

    def run(self) -> Tally:
        """Let the writers run in several orders, then in one more under a sweep of crashes."""
        tally = self._sweep.tally
        for schedule in range(_SCHEDULES - 1, -1, -1):
            with self._rig(f"{self._seed}/{schedule}") as rig:
                write = partial(self._write, rig)
                if schedule:
                    self._sweep.once(write, f"in order {schedule} of their turns")
                else:
                    self._sweep.sweep(rig, write)
            if tally.finding is not None:
                break
            tally.acknowledged += len(self._told)
        return tally

    @contextlib.contextmanager
    def _rig(self, schedule: str) -> Iterator[Rig]:
        """Begin anew, with turns of their own."""
        self._told = []
        self._glances = random.Random(f"glances/{schedule}")
        self._scheduler = Scheduler(schedule)
        shutil.rmtree(self._place, ignore_errors=True)
        with Rig(self._place, **self._options) as rig:
            rig.disk.before = self._before
            yield rig
            rig.disk.before = None

    def _before(self, op: str) -> None:
        """Let others go on before an operation, and for as long as a sync takes."""
        if op == "fdatasync" and self._latency:
            self._scheduler.sleep(self._latency)
        else:
            self._scheduler.pause()

    # ---- the writers

    def _write(self, rig: Rig) -> None:
        scheduler = self._scheduler
        db = rig.open(runtime=scheduler)
        db.table(OTHER)
        db.table(COUNTERS)
        tell_opened(db, self._tell)
        tasks = [
            scheduler.spawn(f"writer-{number}", self._take_steps, rig, number)
            for number in range(len(self._scripts))
        ]
        for task in tasks:
            task.join()
        for failure in scheduler.failures:
            raise failure
        check_living_many(db, _BASE, self._scripts, Account.of(self._told))
        for window in (self._logged_after, self._synced_after):
            # What lands by itself must do so without another write that pushes it.
            scheduler.sleep(window + _SLACK)
            rig.cut_now("nothing more is written")
            if self._glances.random() < _GLANCES:
                self._sweep.glance(rig, "when nothing more is written")
        db.close(drain=self._drains)
        for failure in scheduler.failures:
            raise failure

    def _take_steps(self, rig: Rig, writer: int) -> None:
        db = rig.store
        think = random.Random(f"think/{self._seed}/{writer}")
        pace = self._paces[writer]
        for number, step in self._scripts[writer].items():
            if pace:
                self._scheduler.sleep(think.expovariate(1 / pace))
            began = self._scheduler.now
            run_script(db, lambda: db, {number: step}, self._tell, writer=writer)
            took = self._scheduler.now - began
            if took >= GATE_TIMEOUT:
                # The disk takes little time and no budget is reached: it waited to be woken.
                raise ViolationError(
                    13, f"writer {writer}, step {number}, {step!r:.160}, took {took:.3f} s: nobody "
                    "woke it",
                )  # fmt: skip
            if self._glances.random() < _GLANCES:
                self._sweep.glance(rig, f"behind step {number} of writer {writer}")

    def _tell(self, told: Told) -> None:
        self._told.append(told._replace(at=self._scheduler.now))

    # ---- the images

    def _crash(self) -> Crash:
        return Crash(CrashKind.POWER, self._scheduler.now, self._logged_after, self._synced_after)

    def _promised(self) -> tuple[int, int, int]:
        """What was told, and how much of it is too old by now to be lost."""
        now = self._scheduler.now
        return (
            len(self._told),
            sum(now - told.at > self._logged_after for told in self._told),
            sum(now - told.at > self._synced_after for told in self._told),
        )

    def _judge(self, db: Store, crash: Crash) -> int:
        check_report(db.recovery_report, crash)
        verdict = judge_many(db, _BASE, self._scripts, Account.of(self._told), crash)
        check_lsns(db, verdict.issued)
        return verdict.acknowledged
