"""L1: the store on a simulated disk, crashed before every change of it, and in every recovery.

    script ──► store ──► SimulatedDisk ──before each change──► images: none, all, some, torn
                                                                 │ open, judge
                                                                 └─► crashed before each change
                                                                     of that recovery ──► ...

A round takes a script step by step on one thread, with what the background threads would
do in between, all from the seed. Some rounds run with the locks and short ways of a real
process, others with plain ones.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.oracle.after import (
    check_again,
    check_lsns,
    check_report,
    check_writable,
)
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import judge_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, kept_steps, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Reopen
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime

_STEPS: Final = 24
_DEEPER: Final = 0.03
"""How often the recovery of an image is crashed too, before every one of its changes."""
_DEEPEST: Final = 0.02
"""How often the recovery from such a crash is."""
_AFTERWARDS: Final = 0.1
"""How often an image is written to, and recovered once more, after it was judged."""


class SimulationLayer:
    """The layer."""

    name = "simulation"
    number = "L1"
    title = "simulated disk, a crash before every change"

    def obstacle(self) -> str | None:
        """It runs everywhere."""
        return None

    def left_out(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[SimulationBench]:
        """Give each round a place for LMDB's files."""
        yield SimulationBench(directory)


class SimulationBench:
    """Rounds in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, seed: int) -> int:
        """Every script has the same length."""
        return _STEPS

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Crash one script everywhere."""
        place = self._directory / "round"
        try:
            return HandRound(place, seed, kept).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


class HandRound:
    """One script on one thread."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self.tally = Tally(rounds=1)
        self.script: Script = kept_steps(single_script(seed, _STEPS), kept)
        self._place = place
        self._seed = seed
        self._choose = random.Random(f"simulation/{seed}")
        self._native_locks = self._choose.random() < 0.5
        self._told: list[Told] = []
        # What nobody writes to LMDB meanwhile has to fit.
        self._options: dict[str, Any] = {
            **settings_of(seed),
            "max_dirty_bytes": 1 << 20,
            "max_log_bytes": 1 << 20,
        }

    def run(self) -> Tally:
        """Run the script under a sweep of crashes."""
        with Rig(self._place, **self._options) as rig:
            try:
                rig.sweep(lambda: self._write(rig), self._look, *self._policies(3))
            except ViolationError as error:
                where = "".join(getattr(error, "__notes__", ["while the script ran"]))
                self.tally.finding = Finding(error.invariant, str(error), where)
        return self.tally

    def _policies(self, random_ones: int) -> tuple[Any, ...]:
        some = [random.Random(self._choose.random()) for _ in range(random_ones)]
        return ("none", "all", "kill", *some)

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

    def _look(self, image: Rig, depth: int = 1, before: Crash | None = None) -> None:
        """Judge an image; now and then crash its recovery too, and judge what that leaves."""
        account = Account.of(self._told)
        killed = image.cut_by == "kill" and (before is None or before.kind is CrashKind.PROCESS)
        crash = Crash(CrashKind.PROCESS if killed else CrashKind.POWER)
        if self._choose.random() < (_DEEPER if depth == 1 else _DEEPEST):
            image.sweep(
                lambda: self._open_image(image),
                lambda further: self._look(further, depth + 1, crash),
                *self._policies(1),
            )
            image.close()
        self._judge(image, crash, account, depth)

    def _open_image(self, image: Rig) -> Store:
        try:
            return image.open()
        except (StrandlineError, OSError) as error:
            raise ViolationError(1, f"opening fails: {type(error).__name__}: {error}") from error

    def _judge(self, image: Rig, crash: Crash, account: Account, depth: int) -> None:
        self.tally.cases += 1
        self.tally.faults += depth
        db = self._open_image(image)
        check_report(db.recovery_report, crash)
        verdict = judge_single(db, Model(), self.script, account, crash)
        self.tally.acknowledged += verdict.acknowledged
        check_lsns(db, verdict.issued)
        if self._choose.random() < _AFTERWARDS:
            check_writable(db, verdict.issued)
            check_again(db, lambda: _reopened(image))


def _serve(rig: Rig) -> None:
    """Do what is waited for: the pass of the checkpointer that somebody asked for."""
    rig.drain()
    checkpointer = rig.store.engine.checkpointer
    if checkpointer.served < checkpointer.requested:
        rig.checkpoint()


def _reopened(image: Rig) -> Store:
    image.close()
    return image.open()
