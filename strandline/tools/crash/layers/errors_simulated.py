"""L2 in the simulation: every call of the disk fails once, or from then on, in every way.

A script runs once to count its calls. Then it runs again for every call, every error and
both modes. A step that raises is told as refused or as unknown. The promises: reads go on;
after a failed sync nothing is acknowledged; a full disk is no failure, and writes resume;
and whatever happened, power cuts and kills afterwards leave what the oracle expects.

All calls of one script are `SLICES` rounds, with seeds that follow each other: a round
takes every `SLICES`-th call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from strandline import Durability, Store
from strandline.errors import DiskFullError, StrandlineError
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.oracle.after import check_again, check_lsns, check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import check_living_single, judge_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, attempt, kept_steps, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Flush, Reopen, Sync
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.faults import Fault
from strandline.tools.crash.simulation.nested import open_image
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime

SLICES: Final = 96
STEPS: Final = 12
ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, "short", "half")
"""What a call meets. A short write is gone on with; of half a write the rest finds no room."""
MODES: Final[tuple[Mode, ...]] = ("once", "from then on")
FULL: Final = (errno.ENOSPC, errno.EDQUOT, "half")

_SYNCS: Final = ("fdatasync", "sync_directory")
_NAMES: Final = "/data/log"
"""The end of the path of the log's directory."""
_CRASHES: Final = 2
"""Behind how many steps, from the one that failed on, the power is cut before the end."""
_RECOVERIES: Final = 0.5
"""How often a call fails in the recovery from a crash too."""
_CLOSE: Final = STEPS - 2
"""The number of the step that closes, in the runs that do."""
_CLOSES: Final = 0.3
"""How often a run ends with a close, and does not look whether writes go on."""
_AFTERWARDS: Final = 0.2
"""How often the power is cut once more when that was recovered from."""
_CALLS: Final = 80
"""About how many calls an opening makes."""

Mode = Literal["once", "from then on"]


@dataclass(frozen=True)
class _Failure:
    """One fault: what happens at which call."""

    call: int
    error: int | str
    mode: Mode

    def __str__(self) -> str:
        name = self.error if isinstance(self.error, str) else errno.errorcode[self.error]
        return f"{name} at call {self.call}, {self.mode}"


class _Injector:
    """A hook that makes one call fail, and the calls of its kind after it."""

    def __init__(self, failure: _Failure | None) -> None:
        self.calls: list[str] = []
        self.failed: list[tuple[str, str]] = []
        """Operation and path of every call that failed."""
        self.synced_again: str | None = None
        """A file whose sync was tried again after it had failed."""
        self.log_sync_failed = False
        """Whether a sync of a segment, or of the directory of them, failed."""
        self.of_full_disk = failure is not None and failure.error in FULL
        self._failure = failure
        self._lost: set[str] = set()

    def __call__(self, op: str, path: str) -> Fault:
        self.calls.append(op)
        if op in ("create", "unlink"):
            self._lost.discard(path)  # whatever has this name next is another file
        if op in _SYNCS and path in self._lost:
            self.synced_again = path
        failure = self._failure
        if failure is None or not self._strikes(failure, op, path):
            return None
        self.failed.append((op, path))
        code = failure.error
        if isinstance(code, str):
            if code == "short" or len(self.failed) == 1:
                return ("short", 5)
            code = errno.ENOSPC
        # A directory is opened to be synced: where there is no descriptor, no sync has failed.
        of_names = path.endswith(_NAMES) and code != errno.EMFILE
        if op == "fdatasync" or (op == "sync_directory" and of_names):
            self._lost.add(path)
            self.log_sync_failed |= path.endswith((".wal", _NAMES))
        return OSError(code, os.strerror(code), path)

    def _strikes(self, failure: _Failure, op: str, path: str) -> bool:
        """Tell whether this call, the latest one, is to fail."""
        if len(self.calls) < failure.call or (isinstance(failure.error, str) and op != "pwrite"):
            return False
        if len(self.calls) == failure.call:
            return True
        if not self.failed or op != self.failed[0][0]:
            return False
        if op == "pread" and path != self.failed[0][1]:
            return False  # a sector that cannot be read is one file's
        return failure.mode == "from then on" or (failure.error == "half" and len(self.failed) == 1)

    def end(self) -> None:
        """Let everything pass from now on."""
        self._failure = None


class SimulatedErrors:
    """A round: some of the calls of one script."""

    def __init__(self, place: Path, seed: int, kept: frozenset[int] | None) -> None:
        self._place = place
        self._seed, self._slice = divmod(seed, SLICES)
        self._whole: Script = kept_steps(script_of(self._seed), kept)
        # Or a close takes the place of the steps that put everything where it belongs.
        self._closing: Script = {n: step for n, step in self._whole.items() if n < _CLOSE}
        self._closing[_CLOSE] = Reopen(Durability.SYNC, drain=self._seed % 2 == 0)
        self._script = self._whole
        self._options: dict[str, Any] = {
            **settings_of(self._seed),
            "max_dirty_bytes": 1 << 20,
            "max_log_bytes": 1 << 20,
        }
        self._tally = Tally(rounds=1)

    def run(self) -> Tally:
        """Fail every call of this slice in every way."""
        counting = _Injector(None)
        try:
            self._attempt(counting)
            for failure in self._failures(counting.calls):
                self._tally.cases += 1
                self._tally.faults += 1
                injector = _Injector(failure)
                try:
                    self._attempt(injector)
                except ViolationError as error:
                    struck = ", ".join(f"{op} of {_short(path)}" for op, path in injector.failed)
                    error.add_note(f"{failure}: {struck or 'it was not reached'}")
                    raise
        except ViolationError as error:
            where = "; ".join(getattr(error, "__notes__", ["without a fault"]))
            self._tally.finding = Finding(error.invariant, str(error), where)
        return self._tally

    def _failures(self, calls: list[str]) -> Iterator[_Failure]:
        for call in range(1 + self._slice, len(calls) + 1, SLICES):
            for error in ERRORS:
                if isinstance(error, str) and calls[call - 1] != "pwrite":
                    continue
                for mode in MODES:
                    yield _Failure(call, error, mode)

    # ---- one run

    def _attempt(self, injector: _Injector) -> None:
        """Run the script with one fault, then crash it in several ways."""
        told: list[Told] = []
        closes = self._tally.cases and self._closes()
        self._script = self._closing if closes else self._whole
        try:
            with Rig(self._place, **self._options) as rig:
                rig.disk.faults = injector
                db = self._open(rig, told, injector)
                if db is not None:
                    self._take_steps(rig, db, told, injector)
                    if closes:
                        self._close(db, told, injector)
                    else:
                        self._check_life(rig, db, injector)
                rig.disk.faults = None
                self._crash(rig, told)
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

    def _open(self, rig: Rig, told: list[Told], injector: _Injector) -> Store | None:
        runtime = HandRuntime(self._seed, clock_jumps=True)
        try:
            db = rig.open(runtime=runtime)
        except (StrandlineError, OSError):
            if not injector.failed:
                raise
            return None
        except Exception as error:
            raise _unexpected(error, "opening") from error
        runtime.while_asleep = lambda: _serve(rig)
        tell_opened(db, told.append)
        return db

    def _take_steps(self, rig: Rig, db: Store, told: list[Told], injector: _Injector) -> None:
        sync_failed = False
        crashes = 0
        for number, step in self._script.items():
            if isinstance(step, Reopen):
                break
            behind = random.Random(f"behind/{self._seed}/{number}")
            try:
                error = attempt(db, number, step, told.append)
            except Exception as caught:
                raise _unexpected(caught, f"step {number}, {step!r:.100}") from caught
            done = told[-1].kind == DONE
            if done and sync_failed and (step.answers_lsn or isinstance(step, Sync)):
                raise ViolationError(
                    8, f"step {number}, {step!r:.160}, was acknowledged after a failed sync"
                )
            if error is not None:
                self._check_error(db, error, injector, told)
            sync_failed = sync_failed or injector.log_sync_failed
            _background(rig, behind)
            if injector.failed and crashes < _CRASHES:
                # Also now: later steps, a flush above all, make good what is lost of the log.
                crashes += 1
                self._crash(rig, told)
            sync_failed = sync_failed or injector.log_sync_failed
        if injector.synced_again is not None:
            raise ViolationError(8, f"{_short(injector.synced_again)}: a failed sync was repeated")

    def _closes(self) -> bool:
        """Tell whether this run ends with a close."""
        return random.Random(f"{self._seed}/{self._tally.cases}/closes").random() < _CLOSES

    def _close(self, db: Store, told: list[Told], injector: _Injector) -> None:
        """Close while calls fail; when it is quiet, all that was acknowledged is on disk."""
        step = self._script[_CLOSE]
        try:
            step.do(db)
        except (StrandlineError, OSError) as error:
            if not injector.failed:
                raise ViolationError(9, f"nothing failed, and a close raised {error!r}") from error
            return
        except Exception as error:
            raise _unexpected(error, "a close") from error
        told.append(Told(DONE, 0, _CLOSE, None))

    def _check_error(
        self, db: Store, error: BaseException, injector: _Injector, told: list[Told]
    ) -> None:
        """An error comes from a fault; reads go on, and find what they found before."""
        if not injector.failed:
            raise ViolationError(9, f"nothing failed, and a step raised {error!r}") from error
        check_living_single(db, Model(), self._script, Account.of(told))

    def _check_life(self, rig: Rig, db: Store, injector: _Injector) -> None:
        """A full disk is no failure, and a store that has not failed takes writes again."""
        injector.end()
        failed = db.engine.log.failure
        wrote = injector.failed and injector.failed[0][0] in ("pwrite", "allocate")
        if wrote and injector.of_full_disk and failed is not None:
            raise ViolationError(9, f"a full disk made the store fail: {failed!r}")
        if failed is not None:
            return
        last: BaseException | None = None
        for _ in range(3):
            try:
                db.put(b"room again", b"", durability=Durability.SYNC)
                db.delete(b"room again", durability=Durability.SYNC)
                return
            except DiskFullError as error:
                last = error
                _background(rig, None)
                db.engine.runtime.sleep(1.0)
        raise ViolationError(9, f"there is room again, and writes go on to fail: {last!r}")

    # ---- what a crash leaves

    def _crash(self, rig: Rig, told: list[Told]) -> None:
        account = Account.of(told)
        choose = random.Random(f"{self._seed}/{self._slice}/{self._tally.cases}/{len(told)}")
        for policy in ("none", "all", choose, "kill"):
            image = rig.kill() if policy == "kill" else rig.power_cut(policy)  # type: ignore[arg-type]
            kind = CrashKind.PROCESS if policy == "kill" else CrashKind.POWER
            try:
                if choose.random() < _RECOVERIES:
                    _fail_recovery(image, choose)
                db = open_image(image)
                check_report(db.recovery_report, Crash(CrashKind.POWER))
                verdict = judge_single(db, Model(), self._script, account, Crash(kind))
                self._tally.acknowledged += verdict.acknowledged
                if choose.random() < _AFTERWARDS:
                    self._cut_again(db, image)
            except ViolationError as error:
                error.add_note(f"then a crash ({policy})")
                raise
            image.release()

    @staticmethod
    def _cut_again(db: Store, image: Rig) -> None:
        """What a recovery found in the page cache, a failed sync's too, is durable once shown."""
        again = image.power_cut("none")
        issued = db.engine.log.next_lsn() - 1
        crash = Crash(CrashKind.POWER)
        check_lsns(check_again(db, lambda: open_image(again), crash), issued)
        again.release()


def _fail_recovery(image: Rig, choose: random.Random) -> None:
    """Open an image while calls fail; whatever comes of it, the next opening finds all."""
    failure = _Failure(choose.randrange(1, _CALLS), choose.choice(ERRORS), choose.choice(MODES))
    image.disk.faults = _Injector(failure)
    try:
        image.open()
    except (StrandlineError, OSError):
        pass
    except Exception as error:
        raise _unexpected(error, f"a recovery with {failure}") from error
    finally:
        image.disk.faults = None
    image.close()


def script_of(seed: int) -> list[Any]:
    """Return a script whose last steps put everything where it belongs.

    Every other one fills segments: what names and seals the next one fails as well.
    """
    steps = single_script(seed, STEPS - 2, reopen=False, fills=seed % 2 == 0)
    return [*steps, Sync(Durability.SYNC), Flush(Durability.SYNC)]


def _background(rig: Rig, choose: random.Random | None) -> None:
    """Do what the threads would do, and survive errors as they do."""
    log = rig.store.engine.log
    if choose is None or choose.random() < 0.4:
        with contextlib.suppress(StrandlineError, OSError):
            rig.drain()
    if choose is None or choose.random() < 0.3:
        with contextlib.suppress(StrandlineError, OSError):
            rig.housekeep()
    if (choose is None or choose.random() < 0.15) and log.failure is None:
        rig.checkpoint()


def _serve(rig: Rig) -> None:
    with contextlib.suppress(StrandlineError, OSError):
        rig.drain()
    engine = rig.store.engine
    if engine.checkpointer.served < engine.checkpointer.requested and engine.log.failure is None:
        rig.checkpoint()


def _unexpected(error: Exception, what: str) -> ViolationError:
    return ViolationError(
        9, f"{what} raised {type(error).__name__}, which no caller expects: {error}"
    )


def _short(path: str) -> str:
    """Return a path from the store's directory on."""
    return path.rpartition("/data/")[2]
