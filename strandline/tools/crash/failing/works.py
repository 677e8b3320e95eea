"""The works of the children: one writes and meets the fault, one judges what it leaves.

The writer tells its steps through the record; a promise that it sees broken it says. The
judge opens the store as it is, and images of it: of a process killed, or the power cut, as
soon as the fault had struck, at some moment after it, and at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

import strandline
from strandline import Durability, Store
from strandline.errors import DiskFullError, StrandlineError
from strandline.tools.crash.failing.case import FailingCase
from strandline.tools.crash.failing.witness import DATABASE, Witness
from strandline.tools.crash.forking.server import Talk
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.after import check_report, check_writable
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.reading import read_whole
from strandline.tools.crash.oracle.single import judge_single
from strandline.tools.crash.recording.opening import open_store, verify_here
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, attempt, tell_opened
from strandline.tools.crash.script.told import Account, Told, unpack
from strandline.tools.crash.shim import control, record
from strandline.tools.crash.shim.control import Action, Plan
from strandline.tools.crash.shim.record import Recording
from strandline.tools.crash.shim.replay import replay, write_image
from strandline.tools.crash.simulation.disk import SimulatedDisk

STRUCK: Final = "struck"
"""What a judge says first: the call that the fault met, in words."""
IMAGE: Final = "image"
"""... of the image that it opens next: where it comes from."""
JUDGED: Final = "judged"
"""... at its end: how many acknowledged steps it looked for."""
BROKEN: Final = "broken"
"""A broken promise: its invariant, and in what."""

_NO_FAULT: Final = Plan(Action.FAIL_ONCE, nth=1 << 60)
_AGAIN: Final = 0.1
_CLOSING: Final = 2.0
_TRIES: Final = 20
_PAUSE: Final = 0.1


# ---- writing


def write(argument: dict[str, Any], talk: Talk) -> None:
    """Open the store, take the script's steps and meet the fault, end."""
    case = FailingCase.unpack(argument)
    verify_here()
    told = os.open(case.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(message: Told) -> None:
        os.write(told, message.pack())

    control.make_board(case.board)
    control.arm(case.root, record=case.record, board=case.board, marks=told)
    if case.fault is not None:
        control.plan(case.fault.plan())
    try:
        db = _open(case)
        if db is not None:
            tell_opened(db, tell)
            _take_steps(db, case.script(), tell)
            if case.fault is not None:
                _end(db, case)
    except ViolationError as error:
        _say_broken(talk, error)
    control.disarm()


def _open(case: FailingCase) -> Store | None:
    try:
        return strandline.open(case.store, **case.options)
    except (StrandlineError, OSError) as error:
        if not control.counts().fired:
            raise ViolationError(9, f"nothing failed, and opening raised {error!r}") from error
        return None
    except Exception as error:
        raise _unexpected(error, "opening") from error


def _take_steps(db: Store, script: Script, tell: Any) -> None:
    for number, step in script.items():
        try:
            error = attempt(db, number, step, tell)
        except Exception as caught:
            raise _unexpected(caught, f"step {number}, {step!r:.100}") from caught
        if error is not None:
            if not control.counts().fired:
                raise ViolationError(9, f"nothing failed, and a step raised {error!r}") from error
            read_whole(db)


def _end(db: Store, case: FailingCase) -> None:
    """Close while calls fail; or look whether the store goes on without the fault, and end."""
    if case.ending != "failing":
        control.plan(_NO_FAULT)
        _check_life(db, case)
    if case.ending != "left":
        with contextlib.suppress(StrandlineError, OSError):
            db.close(drain=case.seed % 2 == 0, timeout=_CLOSING)


def _check_life(db: Store, case: FailingCase) -> None:
    """A full disk is no failure, unless LMDB meets it, and then writes go on."""
    assert case.fault is not None
    log = db.engine.log
    struck = Witness(record.read(case.record)).struck
    calls = {call for _, call, _ in struck}
    of_database = any(path.endswith(DATABASE) for _, _, path in struck)
    if (
        case.fault.of_full_disk
        and calls
        and calls <= {"write", "allocate"}
        and not of_database
        and log.failure is not None
    ):
        raise ViolationError(9, f"a full disk made the store fail: {log.failure!r}")
    last: BaseException | None = None
    for _ in range(_TRIES):
        if log.failure is not None:
            return
        try:
            db.delete(b"room again", durability=Durability.SYNC)
            return
        except DiskFullError as error:
            last = error
            db.engine.runtime.sleep(_PAUSE)
        except StrandlineError as error:
            if log.failure is None:
                raise ViolationError(
                    9, f"the fault is gone, and a write fails: {error!r}"
                ) from error
    raise ViolationError(9, f"there is room again, and writes go on to fail: {last!r}")


# ---- judging


def judge(argument: dict[str, Any], talk: Talk) -> None:
    """Hold a run against what it told, and all that crashes leave of it."""
    case = FailingCase.unpack(argument)
    recording = record.read(case.record)
    witness = Witness(recording)
    met = ", ".join(f"{call} of {path}" for _, call, path in witness.struck[:3])
    talk.say(msgpack.packb([STRUCK, met or "it was not reached"]))
    choose = random.Random(f"{case.seed}/{case.fault}")
    told = list(unpack(b"".join(recording.marks)))
    acknowledged = 0
    try:
        witness.check(case.script())
        talk.say(msgpack.packb([IMAGE, "the store as it was left"]))
        _judge(case, case.store, told, CrashKind.PROCESS, choose)
        for disk, said, kind, where in _images(recording, witness, choose):
            talk.say(msgpack.packb([IMAGE, where]))
            folder = case.place / "image" / str(choose.randrange(1 << 60))
            folder.mkdir(parents=True)
            write_image(disk, folder)
            acknowledged += _judge(case, folder / "data", told[:said], kind, choose)
            shutil.rmtree(folder)
    except ViolationError as error:
        _say_broken(talk, error)
    else:
        talk.say(msgpack.packb([JUDGED, acknowledged]))


def _images(
    recording: Recording, witness: Witness, choose: random.Random
) -> Iterator[tuple[SimulatedDisk, int, CrashKind, str]]:
    """Yield what crashes leave right after the fault, somewhere after it, and at the end."""
    last = len(recording.events)
    first = witness.struck[0][0] + 1 if witness.struck else last
    wanted = {first, choose.randint(first, last), last}
    for cut in replay(recording):
        if cut.position not in wanted:
            continue
        when = f"at event {cut.position} of {last}"
        yield cut.disk.kill(), cut.said, CrashKind.PROCESS, f"a kill {when}"
        for policy in ("none", "all", random.Random(choose.random())):
            name = policy if isinstance(policy, str) else "some"
            disk = cut.disk.crash(policy)
            yield disk, cut.said, CrashKind.POWER, f"a power cut ({name} is left) {when}"


def _judge(
    case: FailingCase, path: Path, told: list[Told], kind: CrashKind, choose: random.Random
) -> int:
    verify_here()
    db = open_store(path, case.options)
    # A failed call can leave a frame half written, so that a kill is told like a power cut.
    check_report(db.recovery_report, Crash(CrashKind.POWER))
    account = Account.of(told)
    verdict = judge_single(db, Model(), case.script(), account, Crash(kind), refusable=True)
    if choose.random() < _AGAIN:
        check_writable(db, verdict.issued)
    db.close(drain=False, timeout=_CLOSING)
    return verdict.acknowledged


def _unexpected(error: Exception, what: str) -> ViolationError:
    return ViolationError(
        9, f"{what} raised {type(error).__name__}, which no caller expects: {error}"
    )


def _say_broken(talk: Talk, error: ViolationError) -> None:
    talk.say(msgpack.packb([BROKEN, error.invariant, str(error)]))
