"""What each level means: when a call returns, who sees the write, and what is on disk by then."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline import ABSENT, Durability, Store
from strandline.tools.crash.simulation.faults import Gate
from tests.api.stores import open_small
from tests.support.calls import Call
from tests.support.fault_disk import FaultDisk

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
FOREVER: dict[str, Any] = {"sync_interval": 3600, "log_interval": 60}
"""Nothing is written or synced for the sake of its age."""


@pytest.fixture
def disk() -> FaultDisk:
    """A real disk whose calls are recorded."""
    return FaultDisk()


@pytest.fixture
def db(tmp_path: Path, disk: FaultDisk) -> Iterator[Store]:
    """A store on that disk."""
    with open_small(tmp_path / "store", disk=disk, **FOREVER) as store:
        store[b"begun"] = b""  # whatever opening and the first write cost is paid
        yield store


def until(condition: Callable[[], bool], seconds: float = 10) -> float:
    """Wait for something; return how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "this did not come about"
        time.sleep(0.001)
    return time.monotonic() - started


def calls(disk: FaultDisk, op: str) -> int:
    """Count the calls of one kind."""
    return sum(each.op == op and each.path.endswith(".wal") for each in disk.operations)


WRITES: dict[str, Callable[[Store, Durability | None], Any]] = {
    "put": lambda db, level: db.put(b"k", b"v", durability=level),
    "delete": lambda db, level: db.delete(b"begun", durability=level),
    "put_many": lambda db, level: db.put_many({b"k": b"v", b"l": b"w"}, durability=level),
    "incr": lambda db, level: db.incr(b"n", durability=level),
    "compare_and_set": lambda db, level: db.compare_and_set(b"k", None, b"v", durability=level),
    "setdefault": lambda db, level: db.setdefault(b"k", b"v", durability=level),
    "pop": lambda db, level: db.pop(b"begun", durability=level),
    "append": lambda db, level: db.append(b"v", durability=level),
    "batch": lambda db, level: db.batch(durability=level).__enter__(),
}


def write(db: Store, verb: str, level: Durability | None) -> None:
    """Write with one of the verbs."""
    if verb == "batch":
        with db.batch(durability=level) as batch:
            batch.put(b"k", b"v")
            batch.delete(b"begun")
    else:
        WRITES[verb](db, level)


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("level", Durability)
def test_what_has_happened_when_a_call_returns(
    db: Store, disk: FaultDisk, verb: str, level: Durability
) -> None:
    """SYNC: a frame and an fdatasync. BUFFERED: a frame. ASYNC: neither. Visible in any case."""
    writes, syncs = calls(disk, "pwrite"), calls(disk, "fdatasync")
    before, content = db.stats(), dict(db)
    write(db, verb, level)
    after = db.stats()
    assert (0 if level is ASYNC else 1) == calls(disk, "pwrite") - writes
    assert (1 if level is SYNC else 0) == calls(disk, "fdatasync") - syncs
    assert after.last_lsn > before.last_lsn
    assert (level is SYNC) == (after.synced_lsn == after.last_lsn)
    assert content != dict(db)


@pytest.mark.parametrize("store", Durability)
def test_the_call_wins_over_the_table_over_the_store(tmp_path: Path, store: Durability) -> None:
    """Each level may be set in three places; the nearest one counts."""
    disk = FaultDisk()
    with open_small(tmp_path / "s", disk=disk, durability=store, **FOREVER) as db:
        for table, call in itertools.product([None, *Durability], repeat=2):
            handle = db.table("", durability=table)
            db.put(b"first", b"", durability=SYNC)
            writes, syncs = calls(disk, "pwrite"), calls(disk, "fdatasync")
            handle.put(b"k", b"v", durability=call)
            level = call or table or store
            assert (level is not ASYNC, level is SYNC) == (
                calls(disk, "pwrite") > writes,
                calls(disk, "fdatasync") > syncs,
            )


# ---- windows


def test_buffered_is_synced_within_the_interval(tmp_path: Path) -> None:
    """Without any further call a BUFFERED write is on disk after sync_interval and a sync."""
    with open_small(tmp_path / "s", sync_interval=0.05) as db:
        lsn = db.put(b"k", b"v", durability=BUFFERED)
        assert until(lambda: db.stats().synced_lsn == lsn) < 2


def test_async_is_in_the_log_within_its_interval(tmp_path: Path) -> None:
    """Without any further call an ASYNC write is written after log_interval, and synced later."""
    disk = FaultDisk()
    options: dict[str, Any] = {"sync_interval": 0.3, "log_interval": 0.02}
    with open_small(tmp_path / "s", disk=disk, **options) as db:
        db[b"begun"] = b""
        writes = calls(disk, "pwrite")
        lsn = db.put(b"k", b"v", durability=ASYNC)
        assert until(lambda: calls(disk, "pwrite") > writes) < 2
        assert until(lambda: db.stats().synced_lsn == lsn) < 3


@pytest.mark.parametrize("level", [BUFFERED, ASYNC])
def test_weaker_writers_stall_behind_a_stalled_sync(tmp_path: Path, level: Durability) -> None:
    """The window is a promise: when it is full twice over, no write is acknowledged."""
    disk = FaultDisk()
    options: dict[str, Any] = {"sync_interval": 0.1, "log_interval": 0.01}
    with open_small(tmp_path / "s", disk=disk, **options) as db:
        db[b"begun"] = b""
        gate = disk.faults = Gate("fdatasync", path=".wal")
        lsn = db.put(b"k", b"0", durability=level)
        assert gate.reached.wait(10)
        time.sleep(0.3)
        call = Call(db.put, b"k", b"1", durability=level)
        call.wait(0.2)
        assert not call.done
        assert db[b"k"] == b"0"
        assert db.stats().synced_lsn < lsn  # type: ignore[operator]
        gate.opened.set()
        call.answer()
        assert db[b"k"] == b"1"


def test_sync_puts_everything_on_disk(db: Store, disk: FaultDisk) -> None:
    """sync() covers whatever was acknowledged before it, at any level."""
    for level in (ASYNC, BUFFERED, ASYNC):
        last = db.put(b"k", b"v", durability=level)
    assert db.stats().synced_lsn < last  # type: ignore[operator]
    db.sync()
    assert last == db.stats().synced_lsn
    syncs = calls(disk, "fdatasync")
    db.sync()
    assert syncs == calls(disk, "fdatasync")


def test_a_sync_write_brings_all_before_it(db: Store) -> None:
    """What is acknowledged as on disk has no unsynced write below it."""
    db.put(b"a", b"1", durability=ASYNC)
    db.put(b"b", b"2", durability=BUFFERED)
    lsn = db.put(b"c", b"3")
    assert lsn == db.stats().synced_lsn == 4


@pytest.mark.parametrize("level", Durability)
def test_a_clean_end_keeps_everything(tmp_path: Path, level: Durability) -> None:
    """close() drains what is queued at any level, flushed or not."""
    for drain in (True, False):
        db = open_small(tmp_path / "s", durability=level, **FOREVER)
        for n in range(100):
            db[b"%d" % n] = b"%d" % drain
        db.close(drain=drain)
        with open_small(tmp_path / "s") as again:
            assert {b"%d" % n: b"%d" % drain for n in range(100)} == dict(again)


# ---- who sees a SYNC write, and when


def held(db: Store, disk: FaultDisk, *call: Any, **arguments: Any) -> tuple[Call, Gate]:
    """Start a write and hold it up in its fdatasync."""
    gate = disk.faults = Gate("fdatasync", path=".wal")
    begun = Call(*call, **arguments)
    assert gate.reached.wait(10)
    return begun, gate


def seen(db: Store) -> set[bytes | None]:
    """Read key k in every way there is."""
    with db.snapshot() as snapshot:
        return {
            db.get(b"k"),
            db[b"k"] if b"k" in db else None,  # noqa: SIM401 - three ways of reading
            db.get_many([b"k"]).get(b"k"),
            dict(db.scan()).get(b"k"),
            dict(db.scan(reverse=True)).get(b"k"),
            snapshot.get(b"k"),
            dict(snapshot.scan()).get(b"k"),
        }


def test_nobody_sees_what_is_not_on_disk(db: Store, disk: FaultDisk) -> None:
    """A SYNC put, delete and batch are invisible in every way until their sync is over."""
    for number, verb in enumerate(("put", "put_many", "delete")):
        db[b"k"] = b"old"
        length = len(db)
        arguments = {"put": (b"k", b"new"), "put_many": ({b"k": b"new", b"l": b"x"},)}
        call, gate = held(db, disk, getattr(db, verb), *arguments.get(verb, (b"k",)))
        assert {b"old"} == seen(db)
        assert length == len(db)
        with db.snapshot() as snapshot:
            assert db.engine.log.next_lsn() > snapshot.lsn + 1
        gate.opened.set()
        lsn = call.answer()
        disk.faults = None
        assert {None if verb == "delete" else b"new"} == seen(db)
        with db.snapshot() as snapshot:
            assert lsn == snapshot.lsn, number


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_a_weaker_write_is_seen_at_once_and_not_overwritten(
    db: Store, disk: FaultDisk, level: Durability
) -> None:
    """It comes after the SYNC write whose sync is on its way, and stays when that lands."""
    db[b"k"] = b"old"
    call, gate = held(db, disk, db.put, b"k", b"sync")
    later = db.put(b"k", b"weak", durability=level)
    assert db[b"k"] == b"weak"
    assert db.get_many([b"k"]) == {b"k": b"weak"}
    gate.opened.set()
    assert later == call.answer() + 1
    assert {b"weak"} == seen(db)
    db.close(drain=False)
    with open_small(db.path) as again:
        assert again[b"k"] == b"weak"


def test_a_snapshot_above_a_queued_write_waits_for_it(db: Store, disk: FaultDisk) -> None:
    """With something visible above a write that is on its way, it holds both or is below both."""
    call, gate = held(db, disk, db.put, b"k", b"sync")
    weak = db.put(b"other", b"weak", durability=ASYNC)
    taking = Call(db.snapshot)
    taking.wait(0.1)
    assert not taking.done
    gate.opened.set()
    with taking.answer() as snapshot:
        assert weak == snapshot.lsn
        assert (snapshot[b"k"], snapshot[b"other"]) == (b"sync", b"weak")
    call.answer()


MODIFY: dict[str, tuple[Callable[[Store, Durability], Any], Any, Any]] = {
    "incr": (lambda db, level: db.incr(b"k", durability=level), 6, b"6"),
    "compare_and_set": (
        lambda db, level: db.compare_and_set(b"k", b"5", b"x", durability=level), True, b"x",
    ),
    "compare_and_set in vain": (
        lambda db, level: db.compare_and_set(b"k", b"old", b"x", durability=level), False, b"5",
    ),
    "setdefault": (lambda db, level: db.setdefault(b"k", b"x", durability=level), b"5", b"5"),
    "pop": (lambda db, level: db.pop(b"k", ABSENT, durability=level), b"5", None),
}  # fmt: skip


@pytest.mark.parametrize("verb", MODIFY)
@pytest.mark.parametrize("level", Durability)
def test_what_is_computed_from_a_queued_write_waits_for_it(
    db: Store, disk: FaultDisk, verb: str, level: Durability
) -> None:
    """Read-modify-write sees the newest queued state, and answers when that is on disk."""
    modify, answer, left = MODIFY[verb]
    call, gate = held(db, disk, db.put, b"k", b"5")
    second = Call(modify, db, level)
    second.wait(0.1)
    assert not second.done
    assert {None} == seen(db)
    gate.opened.set()
    assert answer == second.answer()
    call.answer()
    assert {left} == seen(db)


def test_writers_share_a_sync(tmp_path: Path) -> None:
    """What queues up while one fdatasync is on its way goes to disk with the next one."""
    disk = FaultDisk()
    with open_small(tmp_path / "s", disk=disk, **FOREVER) as db:
        db[b"begun"] = b""
        first, gate = held(db, disk, db.put, b"first", b"")
        crowd = [Call(db.put, b"%d" % n, b"v") for n in range(16)]
        until(lambda: db.stats().last_lsn == 18)
        syncs = calls(disk, "fdatasync")
        gate.opened.set()
        lsns = [call.answer() for call in crowd]
        first.answer()
        assert calls(disk, "fdatasync") - syncs <= 2
        assert list(range(3, 19)) == sorted(lsns)
        assert db.stats().group_sizes.maximum >= 15


def test_close_waits_for_no_interval(tmp_path: Path) -> None:
    """Long intervals do not make for a long close: threads that sleep are woken."""
    db = open_small(tmp_path / "s", **FOREVER)
    db.put(b"k", b"v", durability=ASYNC)
    time.sleep(0.05)
    started = time.monotonic()
    db.close()
    assert time.monotonic() - started < 5
