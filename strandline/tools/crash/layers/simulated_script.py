"""A round of L1 on one thread: a script of every verb, and the background work in between.

What the threads of the store would do is done between the steps, as the seed says, and
whenever the script sleeps. Half of the rounds run with the locks and the short ways of a
real process, the others with plain locks.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

from strandline import Store
from strandline.tools.crash.layer import Tally
from strandline.tools.crash.oracle.after import check_lsns, check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import check_living_single, judge_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, kept_steps, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Reopen
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.nested import NestedSweep
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime

STEPS: Final = 24


class ScriptRound:
    """One script on one thread."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self.script: Script = kept_steps(single_script(seed, STEPS), kept)
        self._place = place
        self._seed = seed
        self._native_locks = random.Random(f"simulation/{seed}").random() < 0.5
        self._told: list[Told] = []
        # What nobody writes to LMDB meanwhile has to fit.
        self._options: dict[str, Any] = {
            **settings_of(seed),
            "max_dirty_bytes": 1 << 20,
            "max_log_bytes": 1 << 20,
        }

    def run(self) -> Tally:
        """Run the script under a sweep of crashes."""
        sweep = NestedSweep(
            f"sweep/{self._seed}",
            lambda: Crash(CrashKind.POWER),
            self._judge,
            lambda: len(self._told),
        )
        with Rig(self._place, **self._options) as rig:
            sweep.sweep(rig, lambda: self._write(rig))
        return sweep.tally

    # ---- the script

    def _write(self, rig: Rig) -> None:
        db = self._open(rig)
        for number, step in self.script.items():
            behind = random.Random(f"behind/{self._seed}/{number}")
            answer = step.do(db)
            if isinstance(step, Reopen):
                self._told.append(Told(DONE, 0, number, answer))
                db = self._open(rig)
            else:
                self._told.append(Told(DONE, 0, number, answer))
            self._background(rig, behind)
        check_living_single(db, Model(), self.script, Account.of(self._told))
        db.close(drain=False)

    def _open(self, rig: Rig) -> Store:
        runtime = HandRuntime(self._seed, native_locks=self._native_locks)
        db = rig.open(runtime=runtime)
        runtime.while_asleep = lambda: _serve(rig)
        tell_opened(db, self._told.append)
        return db

    @staticmethod
    def _background(rig: Rig, choose: random.Random) -> None:
        """Do now and then what the threads of the store would do."""
        if choose.random() < 0.4:
            rig.drain()
        if choose.random() < 0.2:
            rig.housekeep()
        if choose.random() < 0.1:
            rig.checkpoint()

    # ---- the images

    def _judge(self, db: Store, crash: Crash) -> int:
        check_report(db.recovery_report, crash)
        account = Account.of(self._told)
        verdict = judge_single(db, Model(), self.script, account, crash)
        check_lsns(db, verdict.issued)
        return verdict.acknowledged


def _serve(rig: Rig) -> None:
    """Do what is waited for: the pass of the checkpointer that somebody asked for."""
    rig.drain()
    checkpointer = rig.store.engine.checkpointer
    if checkpointer.served < checkpointer.requested:
        rig.checkpoint()
