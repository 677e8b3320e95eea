"""After a failed sync nothing is acknowledged, nothing is synced again, and reads go on.

The kernel forgets what it could not write and reports it once, so a second fdatasync
proves nothing. What was in the group and in the queue behind it is in doubt, and its
writers are told so; whoever comes later is refused.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import (
    DiskFullError,
    Durability,
    StoreFailedError,
    StrandlineError,
    WriteOutcomeUnknownError,
)
from strandline.engine.checkpoint_transaction import CheckpointTransaction, CommitOutcomeUnknown
from strandline.engine.stats import HealthState
from strandline.engine.store import Store
from strandline.tools.crash.simulation.faults import Fault, Gate, fail
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import History

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC

LATER: dict[str, Callable[[Store], Any]] = {
    "put, SYNC": lambda db: db.put(b"x", b"1"),
    "put, BUFFERED": lambda db: db.put(b"x", b"1", durability=BUFFERED),
    "put, ASYNC": lambda db: db.put(b"x", b"1", durability=ASYNC),
    "delete": lambda db: db.delete(b"k"),
    "put_many": lambda db: db.put_many({b"x": b"1", b"y": b"2"}, durability=ASYNC),
    "incr": lambda db: db.incr(b"n", durability=ASYNC),
    "compare_and_set": lambda db: db.compare_and_set(b"k", b"0", b"1", durability=ASYNC),
    "append": lambda db: db.append(b"1", durability=ASYNC),
    "clear": lambda db: db.clear(),
    "table": lambda db: db.table("new"),
    "sync": lambda db: db.sync(),
}
"""What a failed store refuses."""


def queue_behind(db: Store, *calls: Callable[[], Any]) -> list[Call]:
    """Start calls one after the other, each when the one before has its LSN."""
    started = []
    for call in calls:
        before = db.stats().last_lsn
        started.append(Call(call))
        while db.stats().last_lsn == before:
            started[-1].wait(0.001)
    return started


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINVAL])
def test_failed_sync_ends_it_all(tmp_path: Path, code: int) -> None:
    """Group and queue get WriteOutcomeUnknownError, later writes StoreFailedError.

    Guard: `failure` is set before anything else in `Log._fdatasync`, and `_check` stands
    before every sync and write.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        history.note({("", b"k"): b"0", ("", b"other"): b"0"})
        db.put_many({b"k": b"0", b"other": b"0"})
        gate = Gate("fdatasync", path=".wal")

        def hook(op: str, path: str) -> Fault:
            gate(op, path)
            return OSError(code, "lost") if op == "fdatasync" else None

        rig.disk.faults = hook
        history.note({("", b"k"): b"1"})
        leader = Call(db.put, b"k", b"1")
        assert gate.reached.wait(30)
        history.note({("", b"k"): b"2"})
        history.note({("", b"k"): b"3", ("", b"other"): b"3"})
        history.note({("", b"other"): None})
        history.note({("", b"k"): b"4"})
        queue = queue_behind(
            db,
            lambda: db.put(b"k", b"2"),
            lambda: db.put_many({b"k": b"3", b"other": b"3"}),
            lambda: db.delete(b"other"),
            lambda: db.incr(b"k", durability=ASYNC),
        )
        gate.opened.set()
        for call in (leader, *queue):
            with pytest.raises(WriteOutcomeUnknownError, match="open it anew"):
                call.answer()
        assert HealthState.FAILED is db.health().state
        asked = [op for op in rig.disk.operations if op.op in ("fdatasync", "pwrite")]
        for later in LATER.values():
            with pytest.raises(StoreFailedError):
                later(db)
        for background in (rig.housekeep, rig.drain):
            with contextlib.suppress(StrandlineError):
                background()
        assert not rig.checkpoint()
        assert {b"k": b"0", b"other": b"0"} == dict(db.scan())
        assert (b"0", 2, {b"k": b"0"}) == (db.get(b"k"), len(db), db.get_many([b"k", b"n"]))
        with db.snapshot() as snapshot:
            assert b"0" == snapshot.get(b"other")
        db.close()
        assert asked == [op for op in rig.disk.operations if op.op in ("fdatasync", "pwrite")]
        for image in (rig.power_cut("none"), rig.power_cut("all"), rig.kill()):
            assert 1 <= history.check(image.open())


def test_failed_commit_of_lmdb_ends_it_all(tmp_path: Path) -> None:
    """The same holds for LMDB's own sync, which its commit asks for.

    Guard: `CommitOutcomeUnknown` in `Checkpointer.run`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        leader = Call(db.put, b"k", b"1")
        assert gate.reached.wait(30)
        queued = queue_behind(db, lambda: db.put(b"k", b"2"))
        lost = CommitOutcomeUnknown("lost")
        with (
            mock.patch.object(CheckpointTransaction, "commit", side_effect=lost),
            mock.patch.object(db.engine.log, "sync_through"),
        ):
            assert not rig.checkpoint()
        gate.opened.set()
        for call in (leader, *queued):
            with pytest.raises(WriteOutcomeUnknownError):
                call.answer()
        assert HealthState.FAILED is db.health().state
        assert b"0" == db.get(b"k")
        with pytest.raises(StoreFailedError):
            db.put(b"k", b"3", durability=ASYNC)
        assert not rig.checkpoint()
        assert rig.power_cut("none").open().get(b"k") in (b"0", b"1", b"2")


def test_failed_write_ends_it_all(tmp_path: Path) -> None:
    """EIO on a log write: the group that waits to be written is in doubt as well.

    Guard: `_write_failed`, and `Log._pass_over`, which tells a leader that came too late
    to lead what became of its own group.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        gate = Gate("pwrite", path=".wal")

        def hook(op: str, path: str) -> Fault:
            gate(op, path)
            return OSError(errno.EIO, "broken") if op == "pwrite" else None

        rig.disk.faults = hook
        writer = Call(lambda: db.put(b"a", b"1", durability=BUFFERED))
        assert gate.reached.wait(30)
        queue = queue_behind(
            db,
            lambda: db.put(b"b", b"1"),
            lambda: db.put(b"c", b"1"),
            lambda: db.put(b"d", b"1", durability=BUFFERED),
        )
        gate.opened.set()
        for call in (writer, *queue):
            with pytest.raises(WriteOutcomeUnknownError):
                call.answer()
        assert {b"k": b"0"} == dict(db.scan())
        with pytest.raises(StoreFailedError):
            db.put(b"k", b"3")


def test_write_that_returns_after_the_failure(tmp_path: Path) -> None:
    """A BUFFERED write is in its pwrite while the sync of the group before it fails.

    It is told that its outcome is unknown, and nobody gets to see it.

    Guard: `Log._tell_all` empties the groups that it fails.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        sync, write = Gate("fdatasync", path=".wal"), Gate("pwrite", path=".wal")

        def hook(op: str, path: str) -> Fault:
            if sync.reached.is_set():
                write(op, path)
            sync(op, path)
            return OSError(errno.EIO, "lost") if op == "fdatasync" else None

        rig.disk.faults = hook
        leader = Call(db.put, b"k", b"1")
        assert sync.reached.wait(30)
        writer = Call(db.put, b"a", b"1", durability=BUFFERED)
        assert write.reached.wait(30)
        sync.opened.set()
        with pytest.raises(WriteOutcomeUnknownError):
            leader.answer()
        write.opened.set()
        with pytest.raises(WriteOutcomeUnknownError):
            writer.answer()
        assert {b"k": b"0"} == dict(db.scan())


def test_written_before_the_failure_and_told_after_it(tmp_path: Path) -> None:
    """A BUFFERED write is in the page cache, a sync loses the page, its writer is told only then.

    Guard: the look at `failure` in `Log.wait_written`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        log = db.engine.log
        with log.append_lock:
            (writer,) = queue_behind(db, lambda: db.put(b"a", b"1", durability=BUFFERED))
            rig.drain()
            rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), path=".wal")
            with pytest.raises(WriteOutcomeUnknownError):
                log.sync()
        with pytest.raises(WriteOutcomeUnknownError):
            writer.answer()


def test_two_syncs_of_one_file_and_one_error(tmp_path: Path) -> None:
    """A group's sync fails while a full segment is sealed; the kernel tells only one of two.

    An fdatasync of the seal that ran beside the group's would return as if nothing had
    happened, and the lost pages would be taken for synced. So it waits for the group's,
    and is not tried when that one has failed.

    Guard: `_one_sync` in `Log._fdatasync`.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(14):
            history.note({("", b"k%d" % number): b"x" * 4000})
            db.put(b"k%d" % number, b"x" * 4000)
        history.acknowledged = 14
        rig.housekeep()
        gate = Gate("fdatasync", path=".wal")
        sealing, sealed = threading.Event(), threading.Event()

        def hook(op: str, path: str) -> Fault:
            if db.engine.log.sync_lock._is_owned():
                gate(op, path)
                return OSError(errno.EIO, "lost") if op == "fdatasync" else None
            (sealed if op == "fdatasync" else sealing).set()
            return None

        rig.disk.faults = hook
        history.note({("", b"group"): b"1"})
        leader = Call(db.put, b"group", b"1")
        assert gate.reached.wait(30)
        history.note({("", b"turn"): b"y" * 4000})
        turner = Call(db.put, b"turn", b"y" * 4000, durability=BUFFERED)
        assert sealing.wait(30)
        sealed.wait(0.1)
        gate.opened.set()
        for call in (leader, turner):
            with pytest.raises(WriteOutcomeUnknownError):
                call.answer()
        assert not sealed.is_set()
        assert 14 == db.stats().synced_lsn
        assert (None, None) == (db.get(b"group"), db.get(b"turn"))
        assert 14 == len(dict(db.scan()))
        history.check(rig.kill().open())
        history.check(rig.power_cut("none").open())


@pytest.mark.parametrize("level", [SYNC, BUFFERED])
def test_only_the_refused_are_told_so(tmp_path: Path, level: Durability) -> None:
    """A writer who also writes the next group for others finds no room for that one.

    Its own write has landed, and it is told that; a DiskFullError would say that nothing
    was logged, and an `incr` that is repeated would count twice.

    Guard: `Log._pass_over`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        gate = Gate("pwrite", path=".wal")

        def hook(op: str, path: str) -> Fault:
            if op == "pwrite" and gate.opened.is_set():
                return OSError(errno.ENOSPC, "full")
            gate(op, path)
            return None

        rig.disk.faults = hook
        first = Call(db.incr, b"n", durability=level)
        assert gate.reached.wait(30)
        second, third = queue_behind(
            db,
            lambda: db.put(b"x", b"1", durability=level),
            lambda: db.incr(b"n", durability=level),
        )
        gate.opened.set()
        assert 1 == first.answer()
        for call in (second, third):
            with pytest.raises(DiskFullError):
                call.answer()
        assert {b"k": b"0", b"n": b"1"} == dict(db.scan())
        rig.disk.faults = None
        assert 2 == db.incr(b"n")
        assert {b"k": b"0", b"n": b"2"} == dict(rig.power_cut("none").open().scan())


def test_reads_of_a_full_disk_go_on(tmp_path: Path) -> None:
    """A snapshot that waits for a queued write is not concerned when that one is refused.

    Guard: what `SnapshotState` makes of the error of its wait.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        gate = Gate("pwrite", path=".wal")

        def hook(op: str, path: str) -> Fault:
            gate(op, path)
            return OSError(errno.ENOSPC, "full") if op == "pwrite" else None

        rig.disk.faults = hook
        refused = Call(db.put, b"k", b"1", durability=BUFFERED)
        assert gate.reached.wait(30)
        db.put(b"a", b"1", durability=ASYNC)
        taking = Call(db.snapshot)
        gate.opened.set()
        with pytest.raises(DiskFullError):
            refused.answer()
        with taking.answer() as snapshot:
            assert {b"k": b"0", b"a": b"1"} == dict(snapshot.scan())


@pytest.mark.parametrize(
    ("op", "path"), [("fdatasync", ".wal.tmp"), ("sync_directory", "log"), ("pwrite", "1.wal")]
)
def test_opening_that_fails_leaves_nothing_behind(tmp_path: Path, op: str, path: str) -> None:
    """An error while the first segment is made: no handle, no files, no exit hook.

    Guard: `opening.run` makes the `Store` last, and `give_up` closes what the log holds.
    """
    with Rig(tmp_path) as rig:
        rig.disk.faults = fail(op, OSError(errno.EIO, "lost"), path=path)
        with pytest.raises(StrandlineError):
            rig.open()
        rig.disk.faults = None
        assert not rig.disk._handles
        assert b"v" == rig.open().setdefault(b"k", b"v")


@pytest.mark.parametrize("op", ["allocate", "fdatasync", "sync_directory"])
def test_failed_making_of_a_segment_ends_it_all(tmp_path: Path, op: str) -> None:
    """EIO while a writer makes the segment that its frame needs: the store fails, not the call.

    Guard: `Log._make_room` fails the log on EIO instead of handing on what the disk raised.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"0")
        rig.disk.faults = fail(op, OSError(errno.EIO, "broken"))
        with pytest.raises(StoreFailedError):
            db.put(b"large", bytes(100_000))
        assert HealthState.FAILED is db.health().state
        assert {b"k": b"0"} == dict(db.scan()) == dict(rig.power_cut("none").open().scan())


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR, errno.ENOMEM])
@pytest.mark.parametrize("by", ["recycling", "preparing", "turning"])
def test_failed_sync_of_the_directory_ends_it_all(tmp_path: Path, by: str, code: int) -> None:
    """Which names are durable nobody knows any more: it is not synced again, whatever the error.

    It used to be: a segment could have been sealed whose successor has no durable name.
    Guard: `Segments._sync_names` remembers what failed, and the log fails.
    """
    synced: list[str] = []

    def hook(op: str, path: str) -> Fault:
        if op == "sync_directory" and path.endswith("log"):
            synced.append(path)
            return OSError(code, "lost") if len(synced) == 1 else None
        return None

    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(40 if by == "recycling" else 8):
            db.put(b"k%d" % number, bytes(5000))
        written = dict(db.scan())
        assert by != "recycling" or rig.checkpoint()
        rig.disk.faults = hook
        if by == "turning":
            with pytest.raises(StoreFailedError):
                db.put(b"large", bytes(100_000))
        else:
            with pytest.raises(OSError, match="lost"):
                rig.housekeep()
        assert HealthState.FAILED is db.health().state
        for durability in Durability:
            with pytest.raises(StoreFailedError):
                db.put(b"after", b"", durability=durability)
        with contextlib.suppress(StrandlineError, OSError):
            rig.housekeep()
        assert len(synced) == 1
        assert written == dict(db.scan()) == dict(rig.power_cut("none").open().scan())


@pytest.mark.parametrize("durability", [SYNC, BUFFERED])
def test_error_of_close_is_told_to_nobody(tmp_path: Path, durability: Durability) -> None:
    """close(2) of a sealed segment fails: what was synced is on disk whatever it says.

    It used to be raised by the write whose turn it happened to be, which had landed: its
    caller took it for refused. Found by the harness, which lets every real call fail.
    Guard: `segments.let_go`.
    """
    failed: list[str] = []

    def hook(op: str, path: str) -> Fault:
        if op == "close":
            failed.append(path)
            return OSError(errno.EIO, "broken")
        return None

    with Rig(tmp_path) as rig:
        db = rig.open()
        rig.disk.faults = hook
        for number in range(40):
            db.put(b"k%d" % number, bytes(5000), durability=durability)
        db.sync()
        assert rig.checkpoint()
        rig.housekeep()
        assert len(failed) > 1
        assert HealthState.OK is db.health().state
        db.close()
        rig.disk.faults = None
        assert len(rig.open()) == 40
