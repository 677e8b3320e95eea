"""The disk is full: in the middle of a frame, in a sync, in a new segment, in a checkpoint.

Want of room refuses what was not acknowledged yet and costs nothing else: what was
acknowledged is kept and logged once there is room, no LSN is skipped, and writes resume
by themselves. Only a sync that fails for want of room is like any other that fails.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import (
    DiskFullError,
    Durability,
    HealthState,
    Store,
    StoreFailedError,
    WriteOutcomeUnknownError,
)
from strandline.engine.backing import Backing
from strandline.tools.crash.simulation.faults import Fault, FaultHook, Operation, fail
from strandline.tools.crash.simulation.rig import Rig
from tests.support.history import contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
OUT_OF_ROOM = [errno.ENOSPC, errno.EDQUOT]


def short_then_full(code: int, length: int) -> FaultHook:
    """Return a hook: a write to a segment stops after `length` bytes, and its rest fails.

    What comes third passes, for it writes over bytes that have their room.
    """
    answers: list[Fault] = [("short", length), OSError(code, "full")]

    def hook(op: str, path: str) -> Fault:
        return answers.pop(0) if op == "pwrite" and path.endswith(".wal") and answers else None

    return hook


def read_at(rig: Rig, operation: Operation) -> bytes:
    """Return what is in a file where an operation wrote, or was to write."""
    file = rig.disk.open(operation.path, "r")
    try:
        return file.pread(operation.length, operation.offset)
    finally:
        file.close()


def check_everywhere(rig: Rig, expected: dict[bytes, bytes]) -> None:
    """Assert that the store has this, and what a crash and a reopen make of it."""
    wanted = {("", key): value for key, value in expected.items()}
    assert wanted == contents(rig.store)
    rig.store.sync()
    for image in (rig.power_cut("none"), rig.kill()):
        assert wanted == contents(image.open())
    last = rig.store.stats().last_lsn
    rig.store.close(drain=False)
    assert wanted == contents(rig.open())
    assert last + 1 == rig.store.put(b"after", b"")


@pytest.mark.parametrize("level", [SYNC, BUFFERED])
@pytest.mark.parametrize("code", OUT_OF_ROOM)
@pytest.mark.parametrize("length", [1, 40, 600])
def test_full_in_the_middle_of_a_frame(
    tmp_path: Path, level: Durability, code: int, length: int
) -> None:
    """A frame is written in part; the part is undone, its writer refused, the rest kept.

    Guard: the undoing in `_finish_write`, `withdraw` and `without` in `_write_failed`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        assert 1 == db.put(b"k", b"0")
        assert 2 == db.put(b"early", b"1", durability=ASYNC)
        rig.disk.faults = short_then_full(code, length)
        begun = len(rig.disk.operations)
        with pytest.raises(DiskFullError, match="not logged") as caught:
            db.put(b"k", bytes(1000), durability=level)
        assert code == caught.value.errno
        writes = [op for op in rig.disk.operations[begun:] if op.op == "pwrite"]
        assert bytes(writes[0].length) == read_at(rig, writes[0])
        assert {b"k": b"0", b"early": b"1"} == dict(db.scan())
        assert {b"k": b"0"} == dict(rig.power_cut("all").open().scan())
        rig.disk.faults = None
        lsn = db.put(b"late", b"2", durability=level)
        assert lsn == db.stats().last_lsn
        assert HealthState.OK is db.health().state
        check_everywhere(rig, {b"k": b"0", b"early": b"1", b"late": b"2"})


@pytest.mark.parametrize("level", [SYNC, BUFFERED])
def test_full_in_the_padding_of_a_frame(tmp_path: Path, level: Durability) -> None:
    """All of a frame but its padding was written: a refused write must not come back.

    The zeros that are missing are there already, so what was written is a whole frame.

    Guard: `_finish_write` undoes what the first, short write has written, too.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        begun = len(rig.disk.operations)
        db.put(b"k", b"0" * 1001)
        frame = next(op for op in rig.disk.operations[begun:] if op.op == "pwrite")
        assert b"\0" == read_at(rig, frame)[-1:], "this frame has no padding"
        rig.disk.faults = short_then_full(errno.ENOSPC, frame.length - 1)
        with pytest.raises(DiskFullError, match="not logged"):
            db.put(b"k", b"1" * 1001, durability=level)
        rig.disk.faults = None
        assert {b"k": b"0" * 1001} == dict(db.scan()) == dict(rig.kill().open().scan())
        db.put(b"l", b"2")
        for image in (rig.kill(), rig.power_cut("all")):
            assert {b"k": b"0" * 1001, b"l": b"2"} == dict(image.open().scan())
            report: Any = image.store.recovery_report
            assert report.torn_tail is None


@pytest.mark.parametrize("code", OUT_OF_ROOM)
def test_acknowledged_writes_wait_for_room(tmp_path: Path, code: int) -> None:
    """ASYNC writes that were acknowledged before stay visible and are logged in the end.

    New writes are refused meanwhile, at any level, before they get an LSN.

    Guard: `group.without(gone)` in `_write_failed` keeps them; `retry_full` goes first.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"n", b"5")
        expected = {b"%d" % n: b"%d" % n for n in range(5)}
        for key, value in expected.items():
            db.put(key, value, durability=ASYNC)
        rig.disk.faults = fail("pwrite", OSError(code, "full"), path=".wal", times=100)
        with pytest.raises(DiskFullError):
            db.put_many({b"0": b"refused", b"x": b"refused"})
        assert HealthState.DEGRADED is db.health().state
        last = db.stats().last_lsn
        for level in (SYNC, BUFFERED, ASYNC):
            with pytest.raises(DiskFullError):
                db.incr(b"n", durability=level)
            with pytest.raises(DiskFullError):
                db.delete(b"0", durability=level)
        with pytest.raises(DiskFullError):
            rig.drain()
        assert not rig.housekeep()
        assert not rig.checkpoint()
        assert last == db.stats().last_lsn
        expected[b"n"] = b"5"
        assert expected == dict(db.scan())
        assert {b"n": b"5"} == dict(rig.kill().open().scan())
        rig.disk.faults = None
        db.sync()
        assert expected == dict(rig.power_cut("none").open().scan())
        assert 6 == db.incr(b"n")
        assert last + 1 == db.stats().last_lsn
        assert rig.checkpoint()
        assert HealthState.OK is db.health().state
        check_everywhere(rig, {**expected, b"n": b"6"})


@pytest.mark.parametrize("code", OUT_OF_ROOM)
def test_full_in_a_sync_ends_it_all(tmp_path: Path, code: int) -> None:
    """ENOSPC from fdatasync is no refusal: the pages may be lost, so nothing is tried again.

    Guard: `Log._fdatasync` asks for no errno.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        rig.disk.faults = fail("fdatasync", OSError(code, "full"), path=".wal")
        with pytest.raises(WriteOutcomeUnknownError) as caught:
            db.put(b"k", b"1")
        assert not isinstance(caught.value, DiskFullError)
        assert HealthState.FAILED is db.health().state
        begun = len(rig.disk.operations)
        for level in (SYNC, BUFFERED, ASYNC):
            with pytest.raises(StoreFailedError):
                db.put(b"k", b"2", durability=level)
        assert not rig.checkpoint()
        db.close()
        after = {operation.op for operation in rig.disk.operations[begun:]}
        assert not after & {"fdatasync", "pwrite"}
        assert rig.power_cut("none").open().get(b"k") == b"0"
        assert rig.power_cut("all").open().get(b"k") in (b"0", b"1")


def fill_segment(db: Store, expected: dict[bytes, bytes]) -> None:
    """Write until the disk has no room for the next segment."""
    for number in range(1000):
        key = b"%05d" % number
        db.put(key, bytes(1000))
        expected[key] = bytes(1000)


@pytest.mark.parametrize("failing", ["allocate", "create", "fdatasync of the new one", "capacity"])
def test_full_when_the_next_segment_is_made(tmp_path: Path, failing: str) -> None:
    """The active segment is full and there is no room for another: that write is refused.

    Guard: `OUT_OF_ROOM` in `_make_room`, and `Segments._make`, which leaves no successor
    behind that is not whole.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        expected: dict[bytes, bytes] = {}
        error = OSError(errno.ENOSPC, "full")
        if failing == "capacity":
            rig.disk.capacity_bytes = 1
        else:
            path = ".tmp" if failing.startswith("fdatasync") else ""
            rig.disk.faults = fail(failing.partition(" ")[0], error, path=path, times=1000)
        with pytest.raises(DiskFullError):
            fill_segment(db, expected)
        assert 30 < len(expected)
        assert expected == dict(db.scan())
        with pytest.raises(DiskFullError):
            db.put(b"again", bytes(1000))
        assert expected == dict(rig.kill().open().scan()) if failing != "capacity" else True
        rig.disk.faults = rig.disk.capacity_bytes = None
        db.put(b"late", bytes(1000))
        assert HealthState.OK is db.health().state
        check_everywhere(rig, {**expected, b"late": bytes(1000)})


def test_housekeeping_on_a_full_disk(tmp_path: Path) -> None:
    """A spare segment that finds no room is given up, and writes go on in the active one.

    Guard: `Segments.prepare` removes what it could not fill.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(20):
            db.put(b"%d" % number, bytes(1000))
        rig.disk.faults = fail("allocate", OSError(errno.ENOSPC, "full"))
        with pytest.raises(OSError, match="full"):
            rig.housekeep()
        assert not [name for name in rig.disk.listdir(f"{rig.directory}/log") if "tmp" in name]
        db.put(b"k", b"v")
        assert HealthState.OK is db.health().state
        rig.housekeep()
        check_everywhere(rig, {**{b"%d" % n: bytes(1000) for n in range(20)}, b"k": b"v"})


@pytest.mark.parametrize("code", OUT_OF_ROOM)
def test_full_in_a_checkpoint(tmp_path: Path, code: int) -> None:
    """No room for LMDB: the reserve file goes first; then the generation waits, all of it kept.

    Guard: `engine.reserve` in `Checkpointer._attempt`; what `_pass` leaves as it was.
    """
    with Rig(tmp_path, disk_reserve_bytes=64 << 10) as rig:
        db = rig.open()
        expected = {b"k": b"0", b"gone": b"0"}
        db.put_many(expected)
        assert rig.checkpoint()
        assert 64 << 10 == db.engine.reserve.held
        del expected[b"gone"]
        db.delete(b"gone")
        db.put(b"k", b"1")
        held: list[int] = []

        def no_room(*_: Any) -> None:
            held.append(db.engine.reserve.held)
            raise DiskFullError("no room", code)

        with mock.patch.object(Backing, "reserve", no_room):
            assert not rig.checkpoint()
            assert [64 << 10, 0] == held
            health = db.health()
            assert HealthState.DEGRADED is health.state
            assert "no room" in health.reason
            assert 2 == db.engine.backing.watermark.lsn
            assert 2 == db.stats().stored_lsn
            db.put(b"new", b"2")
            assert not rig.checkpoint()
            assert 2 == db.stats().checkpoint_failures
            expected |= {b"k": b"1", b"new": b"2"}
            assert expected == dict(db.scan())
            assert expected == dict(rig.power_cut("none").open().scan())
        assert rig.checkpoint()
        assert HealthState.OK is db.health().state
        assert 64 << 10 == db.engine.reserve.held
        assert db.stats().last_lsn == db.engine.backing.watermark.lsn
        assert 0 == db.stats().dirty_entries
        check_everywhere(rig, expected)


def test_reserve_file_makes_the_checkpoint_succeed(tmp_path: Path) -> None:
    """The room of the reserve file is what a checkpoint lacked: it succeeds in one pass.

    Guard: the second attempt in `Checkpointer._attempt`.
    """
    with Rig(tmp_path, disk_reserve_bytes=64 << 10) as rig:
        db = rig.open()
        rig.checkpoint()
        db.put(b"k", b"1")
        original = Backing.reserve

        def tight(backing: Backing, room: int) -> None:
            if db.engine.reserve.held:
                raise DiskFullError("no room")
            original(backing, room)

        with mock.patch.object(Backing, "reserve", tight):
            assert rig.checkpoint()
        assert 0 == db.stats().checkpoint_failures
        assert 1 == db.stats().stored_lsn
        assert HealthState.OK is db.health().state
        check_everywhere(rig, {b"k": b"1"})
