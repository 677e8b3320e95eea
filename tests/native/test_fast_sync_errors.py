"""The short way of a SYNC write: errors at its system calls, and what others are told of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

import strandline
from strandline import (
    DiskFullError,
    StoreClosedError,
    StoreFailedError,
    WriteOutcomeUnknownError,
)
from strandline.native import native
from strandline.tools.crash.simulation.faults import Fault, Gate
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.log_tail import LogTail
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    LOCKS,
    SYNC,
    answering,
    assert_free,
    begin_long,
    begin_short,
    calmed,
    finished,
    kind_of,
    short,
    two_rigs,
)
from tests.support.calls import Call
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

EIO, ENOSPC = (OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ENOSPC))
THERE = {("", b"first"): b"1", ("", b"second"): b"2"}
NEXT = {**THERE, ("", b"next"): b"n"}
KEPT = {**THERE, ("", b"k"): b"v" * 300}


class Outcome(NamedTuple):
    """What came of a write that met errors, and of the next one."""

    answer: object
    value: object
    failed: bool
    at_tail: bytes
    left: tuple[object, ...]
    next_answer: object
    killed: dict[tuple[str, bytes], bytes]
    cut: dict[tuple[str, bytes], bytes]


def faulty_write(rig: Rig, answers: list[tuple[str, Fault]], *, fast: bool) -> Outcome:
    """Have a SYNC write meet errors, on the short way or on the long one."""
    db = calmed(rig, SYNC)
    log = db.engine.log
    segment, offset, _, _ = log.tail
    if not fast:
        db._fast = db._writes.fast = None
    rig.disk.faults = answering(*answers)
    way: Any = (lambda: finished(db, short(db, b"k", b"v" * 300, SYNC))) if fast else None
    answer = kind_of(way or (lambda: db.put(b"k", b"v" * 300, durability=SYNC)))
    rig.disk.faults = None
    at_tail, value = segment.file.pread(512, offset), db.get(b"k")
    queued = [(key, each.lsn, each.level) for key, each in db._state.queued.items()]
    failed, left = log.failure is not None, (log.leading, len(log.unsynced), queued)
    assert_free(db)
    following = kind_of(lambda: db.put(b"next", b"n", durability=SYNC))
    cut, killed = rig.power_cut("none"), rig.kill()
    return Outcome(
        answer,
        value,
        failed,
        at_tail,
        left,
        following,
        contents(killed.open()),
        contents(cut.open()),
    )


UNKNOWN, FAILED = WriteOutcomeUnknownError, StoreFailedError


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize(
    ("answers", "answer", "next_answer", "killed", "cut"),
    [
        ([("pwrite", EIO)], UNKNOWN, FAILED, THERE, THERE),
        ([("pwrite", ("short", 100)), ("pwrite", EIO)], UNKNOWN, FAILED, THERE, THERE),
        ([("pwrite", ENOSPC)], DiskFullError, True, NEXT, NEXT),
        ([("pwrite", ("short", 100)), ("pwrite", ENOSPC)], DiskFullError, True, NEXT, NEXT),
        ([("pwrite", ("short", 100))], True, True, KEPT | NEXT, KEPT | NEXT),
        ([("pwrite", ("short", 1)), ("pwrite", ("short", 99))], True, True, *[KEPT | NEXT] * 2),
        ([("fdatasync", EIO)], UNKNOWN, FAILED, KEPT, THERE),
        ([("fdatasync", ENOSPC)], UNKNOWN, FAILED, KEPT, THERE),
        ([("pwrite", OSError("a handler's"))], OSError, True, NEXT, NEXT),
    ],
    ids=lambda each: str(each) if isinstance(each, list) else "",
)
def test_a_write_that_meets_an_error(
    tmp_path: Path, kind: str, answers: Any, answer: Any, next_answer: Any, killed: Any, cut: Any
) -> None:
    """An error does on the short way what it does on the long one, up to the bytes at the tail."""
    with two_rigs(tmp_path, kind) as (one, other):
        if answer is OSError:  # raised as it is, and the long way keeps the group for the next one
            with pytest.raises(OSError, match="handler"):
                faulty_write(one, answers, fast=True)
            one.disk.faults = None
            assert (None, False) == (one.store.get(b"k"), one.store.engine.log.leading)
            assert_free(one.store)
            assert 3 == one.store.put(b"next", b"n", durability=SYNC)
            return
        fast = faulty_write(one, answers, fast=True)
        slow = faulty_write(other, answers, fast=False)
    assert slow == fast
    assert (answer, next_answer, killed, cut) == (
        fast.answer,
        fast.next_answer,
        fast.killed,
        fast.cut,
    )
    assert (answer is not True) == (fast.value is None)
    assert fast.left[0] is False


@pytest.mark.parametrize("error", [EIO, ENOSPC])
def test_who_hands_over_an_error(tmp_path: Path, error: OSError) -> None:
    """What becomes of the write is said under the append lock, and not under the mutex."""
    held, refuse = [], LogTail.refuse_frame

    def refusing(log: Any, met: OSError) -> None:
        held.append((met is error, log.append_lock._is_owned(), log.mutex._is_owned()))
        refuse(log, met)

    with mock.patch.object(LogTail, "refuse_frame", refusing), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        rig.disk.faults = answering(("pwrite", error))
        with pytest.raises(DiskFullError if error is ENOSPC else WriteOutcomeUnknownError):
            short(db, b"k", b"v", SYNC)
        assert [(True, True, False)] == held
        assert_free(db)


def test_the_log_fails_meanwhile(tmp_path: Path) -> None:
    """A write whose frame was written while the log failed is not acknowledged, nor visible.

    Its frame is in the log, and it is in the queue of those who are told.
    """
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log

        def lose(op: str, _path: str) -> None:
            assert "pwrite" == op
            log.failure = OSError(errno.EIO, "lost")

        rig.disk.faults = lose
        with pytest.raises(WriteOutcomeUnknownError, match="lost"):
            short(db, b"k", b"v", SYNC)
        rig.disk.faults = None
        (group,) = log.unsynced
        assert (None, 3, 4, 3) == (db.get(b"k"), log.tail[3], log.next_lsn(), group.closed_lsn)
        assert_free(db)
        db.engine.fail(OSError(errno.EIO, "lost"), "lost")
        assert (True, False, []) == (group.done, log.leading, group.sync)
        with pytest.raises(WriteOutcomeUnknownError, match="lost"):
            finished(db, (3, group, None))
        with pytest.raises(StoreFailedError):
            db.put(b"k", b"v", durability=SYNC)
        assert db.get(b"k") is None
        assert {**THERE, ("", b"k"): b"v"} == contents(rig.kill().open())


@pytest.mark.parametrize("fast", [False, True])
def test_a_log_that_failed_a_moment_ago(tmp_path: Path, fast: bool) -> None:
    """Nothing is written behind a failure that nobody was told of yet: who leads tells all."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log
        log.failure = OSError(errno.EIO, "lost")
        before = len(rig.disk.operations)
        done = (begin_short if fast else begin_long)(rig, b"k", b"v")
        assert (3, log.group, None) == done
        with pytest.raises(WriteOutcomeUnknownError, match="lost"):
            finished(db, done)
        assert (before, None, 2) == (len(rig.disk.operations), db.get(b"k"), log.tail[3])
        assert_free(db)
        with pytest.raises(StoreFailedError):
            db.put(b"k", b"v", durability=SYNC)


@pytest.mark.parametrize("error", [EIO, None])
def test_what_others_are_told(tmp_path: Path, error: OSError | None) -> None:
    """Those who wait behind a sync that fails are told the same; where it does not, they land."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log, gate = db.engine.log, Gate("fdatasync", path=".wal")

        def hook(op: str, path: str) -> Fault:
            gate(op, path)
            return error if op == "fdatasync" else None

        rig.disk.faults = hook
        calls = [Call(db.put, b"k", b"v", durability=SYNC)]
        assert gate.reached.wait(30)
        for number, level in enumerate((SYNC, SYNC, BUFFERED, ASYNC)):
            calls.append(Call(db.put, b"o%d" % number, b"v", durability=level))
            while log.next_lsn() < 5 + number:
                calls[-1].wait(0.001)
        gate.opened.set()
        if error is None:
            assert [3, 4, 5, 6, 7] == [call.answer() for call in calls]
            assert 7 == len(db)
            return
        for call in calls[:3]:
            with pytest.raises(WriteOutcomeUnknownError):
                call.answer()
        assert [None] * 3 == [db.get(key) for key in (b"k", b"o0", b"o1")]
        with pytest.raises(StoreFailedError):
            db.put(b"k", b"v", durability=SYNC)
        assert THERE.items() <= contents(rig.power_cut("none").open()).items()


def test_a_store_that_was_closed(tmp_path: Path) -> None:
    """With the store closed the short way gives way, whatever it saw a moment ago."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        fast, state = db._writes.fast, db._state
        assert fast is not None
        db.close()
        db.engine.attention = 0  # as one sees it who looked a moment earlier
        assert fast(state, b"k", b"v", SYNC) is None
        with pytest.raises(StoreClosedError):
            db._writes.write(state, b"k", b"v", SYNC)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_file_of_the_operating_system(tmp_path: Path) -> None:
    """The system call on a real file meets ENOSPC: the write is refused, the next one is not."""
    with strandline.open(tmp_path / "data", sync_interval=60.0, disk_reserve_bytes=0) as db:
        db.put(b"first", b"1", durability=SYNC)
        file: Any = db.engine.log.tail[0].file
        real, file._fd = file._fd, os.open("/dev/full", os.O_RDWR)
        try:
            with pytest.raises(DiskFullError):
                short(db, b"k", b"v", SYNC)
        finally:
            full, file._fd = file._fd, real
            os.close(full)
        assert_free(db)
        assert {("", b"first"): b"1"} == contents(db)
        assert 2 == db.put(b"second", b"2", durability=SYNC)
