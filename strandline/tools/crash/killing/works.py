"""The works of the children: one writes until it is killed, one recovers, one judges.

A writer says what it was told (`Told.pack`). What a store may not do here, where no call
fails but by the end of the process, is a violation: it is said too, as `BROKEN`. A judge
says its verdict, or that.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import msgpack

import strandline
from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.forking.server import Talk
from strandline.tools.crash.killing.case import Case, pack_model, unpack_model
from strandline.tools.crash.killing.phases import Board, Phase, watch
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.after import (
    check_again,
    check_lsns,
    check_report,
    check_writable,
)
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import judge_many
from strandline.tools.crash.oracle.single import judge_single
from strandline.tools.crash.script.many import COUNTERS, OTHER
from strandline.tools.crash.script.running import run_script, run_together, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.told import Account, Told, unpack
from strandline.tools.crash.shim import control

BROKEN: Final = "broken"
"""The kind of the message with a violation: its invariant as the step, the text as answer."""


def write(argument: dict[str, Any], talk: Talk) -> None:
    """Open the store, take the scripts' steps, close it."""
    case = Case.unpack(argument)
    board = _board(case, talk)
    tell = _telling(case, talk)
    try:
        db = _open(case)
        with board.within(Phase.WRITING):
            scripts = case.scripts()
            if case.history.writers == 1:
                tell_opened(db, tell)
                db = run_script(db, lambda: _open(case), scripts[0], tell)
            else:
                for name in (OTHER, COUNTERS):
                    db.table(name)
                tell_opened(db, tell)
                run_together(db, scripts, tell)
        db.close(drain=case.drain)
    except ViolationError as error:
        _say_broken(talk, error)
    except (StrandlineError, OSError) as error:
        _say_broken(talk, _unexpected(error))


def recover(argument: dict[str, Any], talk: Talk) -> None:
    """Open the store and close it."""
    case = Case.unpack(argument)
    _board(case, talk)
    try:
        _open(case).close(drain=case.drain)
    except ViolationError as error:
        _say_broken(talk, error)
    except (StrandlineError, OSError) as error:
        _say_broken(talk, _unexpected(error))


def judge(argument: dict[str, Any], talk: Talk) -> None:
    """Open the store and hold it against what was told; say the base of the next cycle."""
    case = Case.unpack(argument["case"])
    base = unpack_model(argument["base"])
    crash = Crash(CrashKind(argument["kind"]))
    account = _account(argument["said"], argument["late"])
    ending, again = argument["ending"], argument["again"]
    try:
        db = _open(case)
        check_report(db.recovery_report, crash)
        if case.history.writers == 1:
            verdict = judge_single(db, base, case.scripts()[0], account, crash)
        else:
            verdict = judge_many(db, base, case.scripts(), account, crash)
        issued = max(verdict.issued, base.lsn)
        check_lsns(db, issued)
        if again:
            check_writable(db, issued)
            db = check_again(db, lambda: _reopened(db, case))
        model = verdict.model
        model.lsn = db.engine.log.next_lsn() - 1
        if ending != "left":
            db.close(drain=ending == "drained")
    except ViolationError as error:
        _say_broken(talk, error)
    else:
        talk.say(msgpack.packb([verdict.acknowledged, pack_model(model)]))


def _board(case: Case, talk: Talk) -> Board:
    """Set up what this process tells of itself, and what kills it."""
    if case.shim:
        counts = case.board.with_suffix(".shim")
        control.make_board(counts)
        control.arm(case.store.parent, board=counts)
        if case.call is not None:
            control.plan(case.call.plan())
    board = Board(case.board, talk.mark, shim=case.shim)
    board.aim(case.target)
    watch(board)
    return board


def _telling(case: Case, talk: Talk) -> Callable[[Told], None]:
    """Return what takes the messages: the marks first, each in one write, then the bench."""
    marks = None if case.marks is None else os.open(case.marks, os.O_WRONLY | os.O_CLOEXEC)
    one_at_a_time = threading.Lock()

    def tell(told: Told) -> None:
        data = told.pack()
        if marks is not None:
            with one_at_a_time:
                os.write(marks, data)
        talk.say(data)

    return tell


def _account(said: bytes, late: bytes) -> Account:
    """Return what was told; what was not whole before the crash came late."""
    in_time = sum(1 for _ in unpack(said))
    told = [each for each in unpack(said + late) if each.kind != BROKEN]
    return Account.of([*told[:in_time], *(each._replace(at=math.inf) for each in told[in_time:])])


def _open(case: Case) -> Store:
    # In a frozen program LMDB's file is verified where it is opened: this process may end by
    # it, and takes a tenth of the time that it takes to start another one.
    setattr(sys, "frozen", not case.apart)  # noqa: B010
    try:
        return strandline.open(case.store, **settings_of(case.opening))
    except (StrandlineError, OSError) as error:
        raise ViolationError(1, f"opening fails: {type(error).__name__}: {error}") from error


def _reopened(db: Store, case: Case) -> Store:
    db.close(drain=case.drain)
    return _open(case)


def _unexpected(error: Exception) -> ViolationError:
    return ViolationError(12, f"a step failed on a sound disk: {type(error).__name__}: {error}")


def _say_broken(talk: Talk, error: ViolationError) -> None:
    talk.say(Told(BROKEN, 0, error.invariant, str(error)).pack())
