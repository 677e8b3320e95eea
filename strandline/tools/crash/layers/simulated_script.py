"""A round of L1 on one thread: a script of every verb, and the background work in between.

What the threads of the store would do is its *background*: it is done between the steps, as
the seed says, and whenever the script sleeps. Steps are taken while a checkpoint is under way,
and checkpoints fail. The script runs with many backgrounds: half of them with the locks and the
short ways of a real process, the others with plain locks.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from strandline import Store
from strandline.errors import DiskFullError
from strandline.tools.crash.layer import Tally
from strandline.tools.crash.oracle.after import check_lsns, check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import check_living_single, judge_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, kept_steps, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Flush, Reopen, Step
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.nested import NestedSweep, open_image
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime

STEPS: Final = 24
_BACKGROUNDS: Final = 16
"""With how many backgrounds the script runs before it does so under a sweep of crashes."""
_GLANCES: Final = 0.1
"""How often one crash is tried behind a step, in any run."""
_OVERTAKING: Final = (0.05, 0.05, 0.4)
"""How often a step is taken while a checkpoint is under way, by the kind of background."""
_DRAINED: Final = (0.1, 0.4, 0.4)
"""How often what is queued is written behind a step, by the kind of background."""


class ScriptRound:
    """One script on one thread, with one background after the other."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self.script: Script = kept_steps(single_script(seed, STEPS), kept)
        self._place = place
        self._seed = seed
        self._told: list[Told] = []
        # What nobody writes to LMDB meanwhile has to fit.
        self._options: dict[str, Any] = {
            **settings_of(seed),
            "max_dirty_bytes": 1 << 20,
            "max_log_bytes": 1 << 20,
        }
        self._sweep = NestedSweep(
            f"sweep/{seed}", lambda: Crash(CrashKind.POWER), self._judge, lambda: len(self._told)
        )
        self._begin(0)

    def _begin(self, background: int) -> None:
        """Choose how the next run goes."""
        self._behind = f"{self._seed}/{background}"
        choose = random.Random(f"simulation/{self._behind}")
        self._native_locks = choose.random() < 0.5
        self._overtaking = choose.choice(_OVERTAKING)
        self._drained = choose.choice(_DRAINED)
        self._told = []

    def run(self) -> Tally:
        """Run the script with many backgrounds and few crashes, then with one and all of them."""
        tally = self._sweep.tally
        for background in range(_BACKGROUNDS, -1, -1):
            self._begin(background)
            shutil.rmtree(self._place, ignore_errors=True)
            with Rig(self._place, **self._options) as rig:
                write = partial(self._write, rig)
                if background:
                    self._sweep.once(write, f"with background {background}")
                else:
                    self._sweep.sweep(rig, write)
            if tally.finding is not None:
                break
        return tally

    # ---- the script

    def _write(self, rig: Rig) -> None:
        db = self._open(rig)
        for number, step in self.script.items():
            behind = random.Random(f"behind/{self._behind}/{number}")
            if isinstance(step, Reopen):
                self._take(db, number, step)
                db = self._open(rig)
            elif isinstance(step, Flush) or behind.random() >= self._overtaking:
                self._take(db, number, step)
            else:
                self._overtake(rig, behind, partial(self._take, db, number, step))
                self._sweep.glance(rig, f"behind step {number}, which overtook a checkpoint")
            self._background(rig, behind)
            if behind.random() < _GLANCES:
                self._sweep.glance(rig, f"behind step {number}")
        check_living_single(db, Model(), self.script, Account.of(self._told))
        db.close(drain=False)

    def _overtake(self, rig: Rig, choose: random.Random, take: Callable[[], object]) -> None:
        """Take a step while a checkpoint is under way."""
        told = len(self._told)
        rig.checkpoint(before=choose.choice(("sync", "write")), meanwhile=take)
        if len(self._told) == told:
            take()  # it raised, and the pass has hidden that

    def _take(self, db: Store, number: int, step: Step) -> None:
        self._told.append(Told(DONE, 0, number, step.do(db)))

    def _open(self, rig: Rig) -> Store:
        runtime = HandRuntime(self._seed, native_locks=self._native_locks, clock_jumps=True)
        db = open_image(rig, runtime)
        runtime.while_asleep = lambda: _serve(rig)
        tell_opened(db, self._told.append)
        return db

    def _background(self, rig: Rig, choose: random.Random) -> None:
        """Do now and then what the threads of the store would do."""
        if choose.random() < self._drained:
            rig.drain()
        if choose.random() < 0.2:
            rig.housekeep()
        if choose.random() < 0.1:
            rig.checkpoint()
        if choose.random() < 0.1:
            rig.checkpoint(before="write", meanwhile=_find_no_room)

    # ---- the images

    def _judge(self, db: Store, crash: Crash) -> int:
        check_report(db.recovery_report, crash)
        account = Account.of(self._told)
        verdict = judge_single(db, Model(), self.script, account, crash)
        check_lsns(db, verdict.issued)
        return verdict.acknowledged


def _find_no_room() -> None:
    """Let a checkpoint fail before anything of it is in LMDB."""
    raise DiskFullError("no room for LMDB, says the harness", errno.ENOSPC)


def _serve(rig: Rig) -> None:
    """Do what is waited for: the pass of the checkpointer that somebody asked for."""
    rig.drain()
    checkpointer = rig.store.engine.checkpointer
    if checkpointer.served < checkpointer.requested:
        rig.checkpoint()
