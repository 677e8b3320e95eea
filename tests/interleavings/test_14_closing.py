"""What close() meets at its worst moments, one thread's step at a time.

`test_14_endings.py` lets sixteen threads write while the store is closed, and leaves to
chance where they are then. Here each place is chosen: a write that was admitted and has
not joined a group yet, a table that is being created, a second close.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability
from strandline.engine.engine import HOLD_BACK
from strandline.engine.flush_strategy import FlushStats
from strandline.engine.store import Store
from strandline.errors import DiskFullError, StoreClosedError
from strandline.native import native
from strandline.tools.crash.script.settings import NeverFlush
from strandline.tools.crash.simulation.faults import Fault, Gate, fail
from strandline.tools.crash.simulation.rig import CHANGES, SMALL, Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from tests.support.calls import Call
from tests.support.history import contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LEVELS = [SYNC, BUFFERED, ASYNC]

BEFORE = {("", b"k"): b"1", ("t", b"k"): b"old"}


def batch(db: Store, level: Durability) -> None:
    """Write to two tables as one commit."""
    with db.batch(durability=level) as both:
        both.put(b"late", b"v")
        both.table("t").put(b"k", b"new")


WRITES: dict[str, Callable[[Store, Durability], object]] = {
    "put": lambda db, level: db.put(b"k", b"2", durability=level),
    "delete": lambda db, level: db.delete(b"k", durability=level),
    "put_many": lambda db, level: db.put_many({b"a": b"1", b"b": b"2"}, durability=level),
    "batch": batch,
    "incr": lambda db, level: db.incr(b"k", durability=level),
    "setdefault": lambda db, level: db.table("t", durability=level).setdefault(b"late", b"v"),
    "append": lambda db, level: db.table("t").append(b"v", durability=level),
    "create": lambda db, level: db.table("new"),
    "drop": lambda db, level: db.drop_table("t"),
    "clear": lambda db, level: db.table("t").clear(),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", WRITES)
def test_write_that_was_admitted_before_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: Durability
) -> None:
    """A write that back-pressure held back, and that finds the store closed, is refused.

    Acknowledged, it would have joined a group that nobody writes any more. Guards: the gate
    of every table, looked at under the mutex; `check_open` in `Definitions._define`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"1")
        db.table("t").put(b"k", b"old")
        db.engine.attention |= HOLD_BACK
        monkeypatch.setattr(db.engine.pressure, "admit", lambda need: rig.close())
        with pytest.raises(StoreClosedError):
            WRITES[name](db, level)
        assert BEFORE == contents(rig.open())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [*WRITES][:-3])
def test_write_that_waited_for_the_mutex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: Durability
) -> None:
    """It is refused too, if whoever had the mutex before it closed the store.

    Guard: the gate is looked at when the mutex is held, not before.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"1")
        db.table("t").put(b"k", b"old")
        mutex = db.engine.log.mutex

        @contextlib.contextmanager
        def door() -> Iterator[None]:
            rig.close()
            with mutex:
                yield

        monkeypatch.setattr(db, "_fast", None)
        monkeypatch.setattr(db._writes, "fast", None)
        monkeypatch.setattr(db._writes, "_mutex", door())
        with pytest.raises(StoreClosedError):
            WRITES[name](db, level)
        assert BEFORE == contents(rig.open())


class ClosingRuntime(HandRuntime):
    """A runtime that lets something happen when somebody asks for the time."""

    meanwhile: Callable[[], object] | None = None

    def monotonic(self) -> float:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().monotonic()


@pytest.mark.skipif(native is None, reason="what is tested is in C")
@pytest.mark.parametrize("level", LEVELS)
def test_write_that_found_the_store_open_a_moment_ago(tmp_path: Path, level: Durability) -> None:
    """Also where nothing is in a write's way and it is made in one call.

    Guard: the table's gate, looked at again in `native/fast_put.c` under the mutex.
    """
    with Rig(tmp_path) as rig:
        runtime = ClosingRuntime()
        db = rig.open(runtime=runtime)
        for number in range(3):
            db.put(b"k%d" % number, b"1", durability=level)
        before = contents(db)
        runtime.meanwhile = rig.close
        with pytest.raises(StoreClosedError):
            db.put(b"late", b"2", durability=level)
        assert runtime.meanwhile is None
        assert before == contents(rig.open())


class WritesBehindTheFlush(NeverFlush):
    """A strategy that writes at the end of every flush, which is when close() has flushed."""

    def __init__(self) -> None:
        self.write: Callable[[], object] | None = None
        self.refusal: StoreClosedError | None = None

    def on_flush_complete(self, stats: FlushStats) -> None:
        if self.write is not None:
            try:
                self.write()
            except StoreClosedError as error:
                self.refusal = error


@pytest.mark.parametrize("logged", [True, False])
def test_nothing_is_let_in_behind_the_flush(tmp_path: Path, logged: bool) -> None:
    """After a close() that flushed, LMDB has everything: the next start replays nothing.

    A write to an unlogged table that came behind the flush would be lost. Guard: `close`
    shuts the store first and flushes then.
    """
    strategy = WritesBehindTheFlush()
    db = strandline.open(tmp_path / "data", **SMALL, flush_strategy=strategy)
    table = db.table("t", logged=logged)
    table.put(b"k", b"v")
    strategy.write = lambda: table.put(b"late", b"v")
    assert 0 == db.close().remaining
    assert strategy.refusal is not None
    with strandline.open(tmp_path / "data", **SMALL) as db:
        assert {("t", b"k"): b"v"} == contents(db)
        assert 0 == db.recovery_report.operations_replayed


def test_close_writes_and_syncs_what_was_acknowledged(tmp_path: Path) -> None:
    """When close() returns the power may go: what was only in memory is on disk, and sealed.

    Guard: `Log.close` writes and syncs what is queued before it seals the log.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        for level in LEVELS:
            db.put(level.value.encode(), b"v", durability=level)
        expected = contents(db)
        rig.close()
        again = rig.power_cut("none").open(recovery="strict")
        assert expected == contents(again)
        assert again.recovery_report.torn_tail is None
        assert expected == contents(rig.open())


def test_second_close_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of two calls comes back, the store is closed and can be opened again.

    Guard: `Engine.close_lock`, held to the end.
    """
    db = strandline.open(tmp_path / "data", **SMALL)
    db.put(b"k", b"v", durability=ASYNC)
    reached, go = threading.Event(), threading.Event()
    real = db.engine.backing.close

    def held_up() -> None:
        first = not reached.is_set()
        reached.set()
        if first:
            assert go.wait(30)
        real()

    monkeypatch.setattr(db.engine.backing, "close", held_up)
    one = Call(db.close)
    assert reached.wait(30)
    other = Call(db.close)
    other.wait(0.3)
    assert not other.done, "it came back while the store was being closed"
    go.set()
    one.answer()
    other.answer()
    with strandline.open(tmp_path / "data", **SMALL) as db:
        assert {("", b"k"): b"v"} == contents(db)


def test_close_waits_for_a_definition(tmp_path: Path) -> None:
    """A table whose creation is being synced is there, or the store is closed: in that order.

    Guard: `Engine.shut` takes the mutex, which a definition holds until it is applied.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        gate = rig.disk.faults = Gate("fdatasync")
        creating = Call(db.table, "t")
        assert gate.reached.wait(30)
        closing = Call(rig.close)
        closing.wait(0.3)
        assert not db.engine.closing
        gate.opened.set()
        late: Any = creating.answer()
        closing.answer()
        with pytest.raises(StoreClosedError):
            late.put(b"k", b"v", durability=ASYNC)
        assert ["t"] == rig.open().tables()


def test_close_waits_for_whoever_leads(tmp_path: Path) -> None:
    """No file is closed while a leader may be about to sync it, or the write looks failed.

    Guard: `Log.close` takes the sync lock first.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v", durability=ASYNC)
        held, done = threading.Event(), threading.Event()

        def lead() -> None:
            with db.engine.log.sync_lock:
                held.set()
                assert done.wait(30)

        leader = Call(lead)
        assert held.wait(30)
        closing = Call(rig.close)
        closing.wait(0.3)
        assert not closing.done
        assert not db.engine.log.ended
        done.set()
        leader.answer()
        closing.answer()
        assert {("", b"k"): b"v"} == contents(rig.open())


def test_the_lock_is_given_back_last(tmp_path: Path) -> None:
    """As long as close() changes anything on disk nobody else can open the store.

    Guard: `close` lets go of the writer's lock behind everything else.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v", durability=ASYNC)
        lock, free = f"{rig.directory}/LOCK", []

        def look(op: str, path: str) -> Fault:
            if op in CHANGES:
                hook, rig.disk.faults = rig.disk.faults, None
                file = rig.disk.open(lock, "rw")
                free.append(file.try_lock())
                file.close()
                rig.disk.faults = hook
            return None

        rig.disk.faults = look
        db.close(drain=False)
        assert 3 < len(free)
        assert not any(free)
        assert {("", b"k"): b"v"} == contents(rig.open())


def test_workers_that_come_late_touch_nothing(tmp_path: Path) -> None:
    """A thread that close() did not wait for leaves the files to whoever has opened them since.

    Raising the ceiling it would write an IDENTITY of an older epoch over theirs; recycling a
    segment it would rename it over one of theirs. Guards: `Log.ended`, looked at by the
    housekeeping and by whoever makes room, and `Segments._closed` for who is past that.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v")
        rig.close()
        log = db.engine.log
        log._ceiling = 0
        before = len(rig.disk.operations)
        assert log.housekeep(), "nothing is left to be done"
        log.make_room(100)
        log.segments.release(log.synced_lsn)
        assert [] == rig.disk.operations[before:]
        names = rig.disk.listdir(f"{rig.directory}/log")
        for call in (log.segments.prepare, lambda: log.segments.successor(100)):
            with pytest.raises(OSError, match="the log is closed"):
                call()
        assert names == rig.disk.listdir(f"{rig.directory}/log")


def test_a_closed_store_is_forgotten(tmp_path: Path) -> None:
    """The interpreter's exit neither closes it again nor warns of it.

    Guard: `unregister`.
    """
    db = strandline.open(tmp_path / "data", **SMALL)
    db.put(b"k", b"v")
    engine = weakref.ref(db.engine)
    db.close()
    del db
    gc.collect()
    assert engine() is None


def test_close_with_a_log_that_has_no_room(tmp_path: Path) -> None:
    """The error is raised, and the store is closed all the same: it can be opened again.

    Guard: `close` catches what `Log.close` raises until everything was let go of.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v")
        rig.disk.faults = fail("pwrite", OSError(errno.ENOSPC, "No space left"), path=".wal")
        with pytest.raises(OSError, match="No space left"):
            db.close(drain=False)
        rig.disk.faults = None
        assert {("", b"k"): b"v"} == contents(rig.open())


def never_flushing(monkeypatch: pytest.MonkeyPatch, path: Path) -> Store:
    """Return a store with one dirty key, whose LMDB finds no room."""
    db = strandline.open(path, **SMALL, flush_strategy=NeverFlush())
    db.put(b"k", b"v")

    def refuse() -> None:
        raise DiskFullError("no room", errno.ENOSPC)

    monkeypatch.setattr(db.engine.backing, "checkpoint", refuse)
    return db


def test_close_ends_although_nothing_can_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what stays in the log, which has it all. Guard: the deadline in `flush`."""
    db = never_flushing(monkeypatch, tmp_path / "data")
    assert 1 == Call(db.close, timeout=0.1).answer().remaining
    with strandline.open(tmp_path / "data", **SMALL) as again:
        assert {("", b"k"): b"v"} == contents(again)


def test_flush_beside_a_close_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody will flush any more, however long the caller would have waited.

    Guard: `flush` looks whether the checkpointer was told to stop.
    """
    db = never_flushing(monkeypatch, tmp_path / "data")
    flushing = Call(db.flush, timeout=3600.0)
    while not db.engine.checkpointer.requested:
        flushing.wait(0.001)
    Call(db.close, drain=False).answer()
    assert 1 == flushing.answer().remaining
