"""A round of L1 with threads: writers and the store's own, taking turns as a seed says.

Group commit, checkpoints, rotation and housekeeping interleave at every lock, sleep and
disk operation. The clock is the scheduler's, so the windows of the weaker levels are judged
too: what is older than its window must have survived.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

from strandline import Store
from strandline.tools.crash.layer import Tally
from strandline.tools.crash.oracle.after import check_lsns, check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import judge_many
from strandline.tools.crash.script.many import COUNTERS, OTHER, scripts_of_many
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, kept_steps, run_script, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.told import Account, Told
from strandline.tools.crash.simulation.nested import NestedSweep
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.scheduler import Scheduler

STEPS: Final = 8
"""Of each writer."""
MOST_WRITERS: Final = 4
_SLACK: Final = 0.002
"""Seconds of the clock that a thread may be late in waking, beyond its interval."""


class ThreadsRound:
    """Several scripts, each on a task of its own."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self._choose = random.Random(f"threads/{seed}")
        writers = self._choose.randint(2, MOST_WRITERS)
        # Step n of writer w is the round's step w * STEPS + n.
        self._scripts: list[Script] = [
            kept_steps(script, None if kept is None else frozenset(n - w * STEPS for n in kept))
            for w, script in enumerate(scripts_of_many(seed, writers, STEPS))
        ]
        self._place = place
        self._seed = seed
        self._told: list[Told] = []
        self._options: dict[str, Any] = settings_of(seed)
        self._scheduler = Scheduler(seed)

    def run(self) -> Tally:
        """Run the writers under a sweep of crashes."""
        sweep = NestedSweep(
            f"threads/{self._seed}", self._crash, self._judge, lambda: len(self._told)
        )
        with Rig(self._place, **self._options) as rig:
            rig.disk.before = self._scheduler.pause
            sweep.sweep(rig, lambda: self._write(rig))
            rig.disk.before = None
        return sweep.tally

    # ---- the writers

    def _write(self, rig: Rig) -> None:
        scheduler = self._scheduler
        db = rig.open(runtime=scheduler)
        db.table(OTHER)
        db.table(COUNTERS)
        tell_opened(db, self._tell)
        tasks = [
            scheduler.spawn(f"writer-{number}", self._take_steps, db, number)
            for number in range(len(self._scripts))
        ]
        for task in tasks:
            task.join()
        db.close(drain=self._choose.random() < 0.5)
        for failure in scheduler.failures:
            raise failure

    def _take_steps(self, db: Store, writer: int) -> None:
        think = random.Random(f"think/{self._seed}/{writer}")
        pace = think.choice((0.0, 0.0001, 0.01, 0.3))
        for number, step in self._scripts[writer].items():
            if pace:
                self._scheduler.sleep(think.expovariate(1 / pace))
            run_script(db, lambda: db, {number: step}, self._tell, writer=writer)

    def _tell(self, told: Told) -> None:
        self._told.append(told._replace(at=self._scheduler.now))

    # ---- the images

    def _crash(self) -> Crash:
        logged_after = 2 * self._options["log_interval"] + _SLACK
        synced_after = self._options["sync_interval"] + logged_after
        return Crash(CrashKind.POWER, self._scheduler.now, logged_after, synced_after)

    def _judge(self, db: Store, _image: Rig, crash: Crash) -> int:
        check_report(db.recovery_report, crash)
        base = Model({"": {}, OTHER: {}, COUNTERS: {}})
        verdict = judge_many(db, base, self._scripts, Account.of(self._told), crash)
        check_lsns(db, verdict.issued)
        return verdict.acknowledged
