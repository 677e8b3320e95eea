"""The short way of a write: errors at its system call, what others find meanwhile, many threads."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import strandline
from strandline import DiskFullError, StoreFailedError, WriteOutcomeUnknownError
from strandline.native import native
from strandline.tools.crash.simulation.faults import Fault
from strandline.tools.crash.simulation.rig import Rig
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    SYNC,
    answering,
    assert_free,
    calmed,
    is_free,
    kind_of,
    short,
)
from tests.support.calls import Call
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


class Outcome(NamedTuple):
    """What came of a write whose frame met an error, and of the next one."""

    answer: object
    value: object
    failed: bool
    at_tail: bytes
    next_answer: object
    reopened: dict[tuple[str, bytes], bytes]


def faulty_write(base: Path, answers: list[Fault], *, fast: bool) -> Outcome:
    """Have a BUFFERED write meet errors, on the short way or on the long one."""
    with Rig(base) as rig:
        db = calmed(rig, BUFFERED)
        log = db.engine.log
        segment, offset, _, _ = log.tail
        if not fast:
            db._fast = db._writes.fast = None
        rig.disk.faults = answering(*(("pwrite", answer) for answer in answers))
        way: Any = short if fast else (lambda db, key, value, _: db.put(key, value))
        answer = kind_of(lambda: way(db, b"k", b"v" * 300, BUFFERED))
        rig.disk.faults = None
        at_tail = segment.file.pread(512, offset)
        failed, value = log.failure is not None, db.get(b"k")
        assert_free(db)
        following = kind_of(lambda: db.put(b"next", b"n", durability=BUFFERED))
        return Outcome(answer, value, failed, at_tail, following, contents(rig.kill().open()))


EIO, ENOSPC = (OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ENOSPC))
THERE = {("", b"first"): b"1", ("", b"second"): b"2"}
NEXT = {**THERE, ("", b"next"): b"n"}


@pytest.mark.parametrize(
    ("answers", "answer", "next_answer", "reopened"),
    [
        ([EIO], WriteOutcomeUnknownError, StoreFailedError, THERE),
        ([("short", 100), EIO], WriteOutcomeUnknownError, StoreFailedError, THERE),
        ([ENOSPC], DiskFullError, True, NEXT),
        ([("short", 100), ENOSPC], DiskFullError, True, NEXT),
        ([("short", 100)], True, True, {**NEXT, ("", b"k"): b"v" * 300}),
        ([("short", 1), ("short", 99)], True, True, {**NEXT, ("", b"k"): b"v" * 300}),
    ],
    ids=["EIO", "short, EIO", "ENOSPC", "short, ENOSPC", "short", "twice short"],
)
def test_a_write_that_meets_an_error(
    tmp_path: Path, answers: list[Fault], answer: Any, next_answer: Any, reopened: Any
) -> None:
    """An error does on the short way what it does on the long one, up to the bytes at the tail."""
    fast = faulty_write(tmp_path / "fast", answers, fast=True)
    slow = faulty_write(tmp_path / "slow", answers, fast=False)
    assert slow == fast
    assert (answer, next_answer, reopened) == (fast.answer, fast.next_answer, fast.reopened)
    assert (answer is not True) == (fast.value is None)
    assert (answer is not True) == (bytes(512) == fast.at_tail)


def test_nobody_finds_it_under_way(tmp_path: Path) -> None:
    """While the frame is being written it is not visible, and no other write can come between."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, BUFFERED)
        log, looks = db.engine.log, []

        def look(op: str, path: str) -> None:
            free = [is_free(lock) for lock in (log.append_lock, log.mutex)]
            looks.append((op, free, db.get(b"k"), log.tail[3], log.next_lsn(), log.group.first_lsn))

        rig.disk.faults = look
        assert 3 == short(db, b"k", b"v", BUFFERED)
        rig.disk.faults = None
        assert [("pwrite", [False, False], None, 2, 3, 3)] == looks
        assert (b"v", 3, 4, 4) == (db.get(b"k"), log.tail[3], log.next_lsn(), log.group.first_lsn)
        assert_free(db)


def test_what_is_synced_is_claimed(tmp_path: Path) -> None:
    """A frame says how far the log is synced at that moment, and the log knows that one says so."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, BUFFERED)
        log = db.engine.log
        log.synced_lsn = 2  # as when a sync has just ended elsewhere
        assert (0, 3) == (log.claimed_lsn, short(db, b"k", b"v", BUFFERED))
        assert 2 == log.claimed_lsn


def test_the_log_fails_meanwhile(tmp_path: Path) -> None:
    """A write whose frame was written while a sync failed is not acknowledged, nor visible."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, BUFFERED)
        log = db.engine.log

        def fail(_op: str, _path: str) -> None:
            log.failure = OSError(errno.EIO, "lost")

        rig.disk.faults = fail
        with pytest.raises(WriteOutcomeUnknownError, match="lost"):
            short(db, b"k", b"v", BUFFERED)
        rig.disk.faults = None
        assert (None, 3, 4) == (db.get(b"k"), log.tail[3], log.next_lsn())
        assert_free(db)
        assert {**THERE, ("", b"k"): b"v"} == contents(rig.kill().open())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_file_of_the_operating_system(tmp_path: Path) -> None:
    """The system call on a real file meets ENOSPC: the write is refused, the next one is not."""
    with strandline.open(tmp_path / "data", sync_interval=60.0, disk_reserve_bytes=0) as db:
        db.put(b"first", b"1", durability=BUFFERED)
        file: Any = db.engine.log.tail[0].file
        real, file._fd = file._fd, os.open("/dev/full", os.O_RDWR)
        try:
            with pytest.raises(DiskFullError):
                short(db, b"k", b"v", BUFFERED)
        finally:
            full, file._fd = file._fd, real
            os.close(full)
        assert_free(db)
        assert {("", b"first"): b"1"} == contents(db)
        assert 2 == db.put(b"second", b"2", durability=BUFFERED)


@pytest.mark.parametrize("seed", range(2))
def test_many_threads(tmp_path: Path, seed: int) -> None:
    """Every write has an LSN of its own, none is skipped, and the newest of each key is kept."""
    options: Any = {"segment_bytes": 1 << 18, "group_bytes": 1 << 14, "sync_interval": 0.01}
    db = strandline.open(tmp_path / "data", **options, max_dirty_bytes=4 << 20)
    newest: dict[bytes, tuple[int, bytes | None]] = {}
    lsns: list[list[int]] = [[] for _ in range(8)]
    answers: list[Any] = []
    writes: list[list[tuple[int, bytes, bytes | None]]] = [[] for _ in range(8)]

    def work(number: int) -> None:
        dice = random.Random(8 * seed + number)
        level, own = BUFFERED, writes[number]
        for count in range(1200):
            if count % 8 == 0:
                level = dice.choice([ASYNC, ASYNC, BUFFERED, BUFFERED, BUFFERED])
            now = SYNC if dice.random() < 0.02 else level
            key, value = (
                b"%d" % dice.randrange(60),
                b"%d.%d " % (number, count) * dice.randrange(20),
            )
            if dice.random() < 0.1:
                lsn = db.delete(key, durability=now)
                own.append((lsn or 0, key, None))
            else:
                lsn = db.put(key, value, durability=now)
                own.append((lsn or 0, key, value))
            lsns[number].append(lsn or 0)

    fast: Any = db._fast

    def counted(*args: Any) -> Any:
        answers.append(fast(*args))
        return answers[-1]

    db._fast = counted
    calls = [Call(work, number) for number in range(8)]
    for call in calls:
        call.answer()
    assert sum(type(answer) is int for answer in answers) > 500
    for lsn, key, value in sorted(write for own in writes for write in own):
        newest[key] = (lsn, value)
    assert all(own == sorted(own) for own in lsns)
    assert list(range(1, 8 * 1200 + 1)) == sorted(lsn for own in lsns for lsn in own)
    expected = {("", key): value for key, (_, value) in newest.items() if value is not None}
    assert expected == contents(db)
    db.close(drain=False)
    with strandline.open(tmp_path / "data", **options) as again:
        assert expected == contents(again)
