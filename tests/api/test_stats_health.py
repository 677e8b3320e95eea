"""What the store says of itself, and back-pressure: who is held back, refused, and let go on."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import (
    BackpressureError,
    DiskFullError,
    Durability,
    HealthState,
    Store,
    StoreFailedError,
    WriteOutcomeUnknownError,
)
from strandline.tools.crash.simulation.faults import fail
from tests.api.stores import Always, open_small, refused
from tests.support.calls import Call
from tests.support.fault_disk import FaultDisk

SMALL: dict[str, Any] = {"segment_bytes": 1 << 16, "max_log_bytes": 1 << 20}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with open_small(tmp_path / "store") as store:
        yield store


def no_flush(db: Store) -> Any:
    """Make every checkpoint fail, before its commit, until the context ends."""

    def fault() -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    return mock.patch.object(db.engine.backing, "checkpoint", side_effect=fault)


def until(condition: Any, seconds: float = 10) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come about"
        time.sleep(0.002)


# ---- statistics


def test_a_new_store(db: Store) -> None:
    """Everything is zero and all is well."""
    stats = db.stats()
    for name in (
        "total_writes", "coalesced_writes", "stored_writes", "coalescing_efficiency",
        "dirty_entries", "dirty_bytes", "oldest_dirty_age", "last_lsn", "synced_lsn",
        "stored_lsn", "checkpoint_failures", "strategy_errors", "stalls", "stall_seconds",
        "rejected_writes", "open_snapshots",
    ):  # fmt: skip
        assert getattr(stats, name) == 0, name
    assert stats.tables == 1
    assert (HealthState.OK, "") == (db.health().state, db.health().reason)


def test_writes_are_counted(db: Store) -> None:
    """Writes, what they came to in LMDB, and the watermarks on the way."""
    for n in range(30):
        db[b"%d" % (n % 3)] = b"v" * 10
    db.delete(b"0")
    db.put_many({b"a": b"1", b"b": b"2"})
    unlogged = db.table("u", logged=False)
    unlogged[b"k"] = b"v"
    before = db.stats()
    assert 30 + 1 + 2 + 1 + 1 == before.total_writes  # the table's creation is one
    assert (34, 34, 0) == (before.last_lsn, before.synced_lsn, before.stored_lsn)
    assert before.dirty_entries == 6
    assert 6 * 300 < before.dirty_bytes < 6 * 400
    assert before.fsyncs >= 32
    assert before.group_sizes.count >= 32
    assert before.group_sizes.maximum >= 2
    assert before.fsync_seconds.count == before.fsyncs
    assert 0 < before.fsync_seconds.p50 <= before.fsync_seconds.p99 <= before.fsync_seconds.maximum
    assert before.oldest_dirty_age > 0
    assert before.tables == 2
    report = db.flush()
    after = db.stats()
    assert (6, 0, 0) == (report.stored, report.parked, report.remaining)
    assert (6, 0, 34) == (after.stored_writes, after.dirty_entries, after.stored_lsn)
    assert 35 - 6 == after.coalesced_writes
    assert 35 / 6 == pytest.approx(after.coalescing_efficiency)
    assert after.oldest_dirty_age == 0
    assert before.checkpoints + 1 == after.checkpoints == after.checkpoint_seconds.count
    until(lambda: db.stats().dirty_bytes == 0)
    assert db.flush().stored == 0


def test_snapshots_tables_and_time_are_counted(db: Store) -> None:
    """What is open now, and how old the oldest dirty entry is."""
    with db.snapshot(), db.snapshot():
        assert db.stats().open_snapshots == 2
    assert db.stats().open_snapshots == 0
    db[b"k"] = b"v"
    time.sleep(0.05)
    db[b"l"] = b"v"
    assert 0.05 <= db.stats().oldest_dirty_age < 5
    db.table("t")
    db.drop_table("t")
    assert db.stats().tables == 1


def test_the_log_is_given_back(tmp_path: Path) -> None:
    """log_bytes grows with what is written and goes back to one segment after a flush."""
    with open_small(tmp_path / "s", **SMALL, durability=Durability.ASYNC) as db:
        for n in range(300):
            db[b"%d" % n] = bytes(1000)
        db.sync()
        assert db.stats().log_bytes > 300_000
        db.flush()
        until(lambda: db.stats().log_bytes <= 1 << 16)
        kept = [each.stat().st_size for each in (tmp_path / "s" / "log").iterdir()]
        assert sum(kept) <= 6 * (1 << 16)


def test_a_strategy_that_raises_is_counted(tmp_path: Path) -> None:
    """Its errors show in the statistics and harm nothing; flushes that must be still come."""

    class Broken:
        def should_flush(self, stats: object) -> bool:
            raise ZeroDivisionError

        def on_flush_complete(self, stats: object) -> None:
            raise ZeroDivisionError

    with open_small(tmp_path / "s", flush_strategy=Broken(), max_dirty_bytes=1 << 16) as db:
        db[b"k"] = b"v"
        until(lambda: db.stats().strategy_errors > 0)
        db.put_many({b"%d" % n: bytes(100) for n in range(80)})
        db.put_many({b"x%d" % n: bytes(100) for n in range(80)})
        until(lambda: db.stats().dirty_entries == 0)
        # The memory of what was flushed is given back in the background.
        until(lambda: db.health().state is HealthState.OK)


def test_a_report_has_what_was_there_at_the_deadline(db: Store) -> None:
    """flush() and wait_stored() come back in time and tell what is left."""
    lsn = db.put(b"k", b"v")
    assert lsn is not None
    with no_flush(db):
        started = time.monotonic()
        assert db.flush(timeout=0.1).remaining == 1
        assert not db.wait_stored(lsn, timeout=0.1)
        assert time.monotonic() - started < 5
    assert db.wait_stored(lsn, timeout=40)
    assert db.stats().stored_lsn == lsn


# ---- flushes that fail


def test_degraded_and_well_again(db: Store) -> None:
    """While flushes fail nothing is lost, and the reason is told; then it is as before."""
    db[b"k"] = b"v"
    db.table("made while degraded")
    with no_flush(db):
        db.flush(timeout=0.3)
        health = db.health()
        assert health.state is HealthState.DEGRADED
        assert "last flush failed" in health.reason
        assert "No space left" in health.reason
        assert db.stats().checkpoint_failures >= 1
        db[b"k"] = b"newer"
        del db[b"k"]
        db[b"l"] = b"x"
        assert {b"l": b"x"} == dict(db)
        assert len(db) == 1
    assert db.flush(timeout=40).remaining == 0
    assert db.health().state is HealthState.OK
    assert {b"l": b"x"} == dict(db)
    db.close()
    with open_small(db.path) as again:
        assert again.recovery_report.clean
        assert {b"l": b"x"} == dict(again)
        assert ["made while degraded"] == again.tables()


def test_a_close_that_cannot_flush(db: Store) -> None:
    """It ends in time, says what is left, and the next start has it."""
    db[b"k"] = b"v"
    with no_flush(db):
        started = time.monotonic()
        assert db.close(timeout=0.2).remaining == 1
        assert time.monotonic() - started < 5
    with open_small(db.path) as again:
        assert {b"k": b"v"} == dict(again)


# ---- failed for good


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_failed(tmp_path: Path, code: int) -> None:
    """After a failed sync reads go on, writes raise, health says so; a reopen recovers."""
    disk = FaultDisk()
    db = open_small(tmp_path / "s", disk=disk)
    db[b"k"] = b"v"
    db.put(b"weak", b"1", durability=Durability.BUFFERED)
    disk.faults = fail("fdatasync", OSError(code, "injected"), path=".wal")
    with pytest.raises(WriteOutcomeUnknownError, match="injected") as caught:
        db[b"maybe"] = b"v"
    assert "open it anew" in str(caught.value)
    assert ".wal" in str(caught.value)
    health = db.health()
    assert health.state is HealthState.FAILED
    assert "injected" in health.reason
    last = db.stats().last_lsn
    for write in (
        lambda: db.put(b"k", b"w"),
        lambda: db.put(b"k", b"w", durability=Durability.ASYNC),
        lambda: db.put_many({b"k": b"w"}),
        lambda: db.incr(b"n"),
        lambda: db.pop(b"k"),
        lambda: db.table("new"),
        db.clear,
        db.sync,
    ):
        with pytest.raises(StoreFailedError, match="open it anew"):
            write()
    assert last == db.stats().last_lsn
    assert db[b"k"] == b"v"
    assert b"maybe" not in db
    assert {b"k": b"v", b"weak": b"1"} == dict(db)
    with db.snapshot() as snapshot:
        assert snapshot[b"k"] == b"v"
    with pytest.raises(WriteOutcomeUnknownError, match="the last 1 operations"):
        db.close()
    db.close()
    with open_small(tmp_path / "s") as again:
        assert again[b"k"] == b"v"
        assert again[b"weak"] == b"1"
        assert again.get(b"maybe", b"v") == b"v"
        again[b"k"] = b"goes on"


def test_no_room_for_the_log(tmp_path: Path) -> None:
    """ENOSPC on a log write refuses that write alone; writes resume when there is room."""
    disk = FaultDisk()
    with open_small(tmp_path / "s", disk=disk) as db:
        db[b"k"] = b"v"
        for level in (Durability.SYNC, Durability.BUFFERED):
            disk.faults = fail("pwrite", OSError(errno.ENOSPC, "injected"), path=".wal")
            with pytest.raises(DiskFullError, match="not logged") as caught:
                db.put(b"k", b"refused", durability=level)
            assert caught.value.errno == errno.ENOSPC
            assert "Free some space" in str(caught.value)
            assert db[b"k"] == b"v"
            disk.faults = None
            db.put(b"l", level.value.encode(), durability=level)
            assert db[b"l"] == level.value.encode()
            assert db.health().state is HealthState.OK
    with open_small(tmp_path / "s") as again:
        assert {b"k": b"v", b"l": b"buffered"} == dict(again)


# ---- back-pressure


def filled(db: Store, share: float) -> None:
    """Fill the memory budget to a share of it, with flushes that fail."""
    n = 0
    while db.stats().dirty_bytes < share * db.engine.options.max_dirty_bytes:
        n += 1
        db.put(b"fill%05d" % n, bytes(1000), durability=Durability.ASYNC)


@pytest.mark.parametrize("options", [{"overload": "reject"}, {"stall_timeout": 0}], ids=repr)
def test_refused_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    """With a full budget a write is refused before it is logged, and reads go on."""
    with open_small(tmp_path / "s", max_dirty_bytes=1 << 17, **options) as db:
        with no_flush(db):
            filled(db, 1.0)
            before = db.stats().last_lsn
            for write in (
                lambda: db.put(b"k", b"v"),
                lambda: db.put(b"k", b"v", durability=Durability.ASYNC),
                lambda: db.put_many({b"k": b"v", b"l": b"w"}),
                lambda: db.delete(b"k"),
                lambda: db.incr(b"n"),
                lambda: db.append(b"v"),
                lambda: db.table("new"),
            ):
                with pytest.raises(BackpressureError) as caught:
                    write()
                for words in ("nothing was logged", "max_dirty_bytes 131,072", "last flush failed",
                              "refused at once", "raise the budget"):  # fmt: skip
                    assert words in str(caught.value)
            assert before == db.stats().last_lsn
            assert db.stats().rejected_writes == 7
            assert db[b"fill00001"] == bytes(1000)
            assert b"k" not in db
        assert db.flush(timeout=40).remaining == 0
        until(lambda: db.stats().dirty_bytes == 0)
        assert before + 1 == db.put(b"k", b"v")


def test_waits_and_resumes(tmp_path: Path) -> None:
    """With `block` a writer waits while there is no room and goes on by itself."""
    with open_small(tmp_path / "s", max_dirty_bytes=1 << 17) as db:
        with no_flush(db):
            filled(db, 1.0)
            before = db.stats().last_lsn
            call = Call(db.put, b"k", b"v")
            until(lambda: db.health().state is HealthState.BLOCKED)
            assert "1 writers wait" in db.health().reason
            call.wait(0.1)
            assert not call.done
            assert before == db.stats().last_lsn
            assert b"k" not in db
        assert before + 1 == call.answer()
        assert db.stats().stalls >= 1
        assert db.stats().stall_seconds >= 0.1
        assert db.health().state is not HealthState.BLOCKED


def test_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    """After stall_timeout the writer is refused, and nothing was logged."""
    with open_small(tmp_path / "s", max_dirty_bytes=1 << 17, stall_timeout=0.2) as db:
        with no_flush(db):
            filled(db, 1.0)
            before = db.stats().last_lsn
            started = time.monotonic()
            with pytest.raises(BackpressureError, match=r"waited 0\.2 s for room"):
                db[b"k"] = b"v"
            assert 0.2 <= time.monotonic() - started < 5
            assert before == db.stats().last_lsn
        db.flush(timeout=40)
        with refused(db, KeyError):
            db[b"k"]


def test_a_close_ends_the_waiting(tmp_path: Path) -> None:
    """A writer that waits for room is told when the store closes."""
    db = open_small(tmp_path / "s", max_dirty_bytes=1 << 17)
    with no_flush(db):
        filled(db, 1.0)
        call = Call(db.put, b"k", b"v")
        until(lambda: db.health().state is HealthState.BLOCKED)
        db.close(timeout=0.1)
        with pytest.raises(Exception, match="closed") as caught:
            call.answer()
        assert type(caught.value).__name__ == "StoreClosedError"
    with open_small(tmp_path / "s") as again:
        assert b"k" not in again
        assert again[b"fill00001"] == bytes(1000)


def test_throttled_before_it_is_full(tmp_path: Path) -> None:
    """From 60 % on writers are delayed, and health says so."""
    with open_small(tmp_path / "s", max_dirty_bytes=1 << 20) as db:
        with no_flush(db):
            filled(db, 0.9)
            health = db.health()
            assert health.state in (HealthState.THROTTLED, HealthState.DEGRADED)
            db.engine.checkpointer._last_error = None
            assert db.health().state is HealthState.THROTTLED
            assert "% full" in db.health().reason
            assert db.stats().stall_seconds > 0
        db.flush(timeout=40)
        until(lambda: db.stats().dirty_bytes == 0)
        db[b"k"] = b"v"
        assert db.health().state is HealthState.OK


def test_the_log_budget_holds_writers_back_too(tmp_path: Path) -> None:
    """A few keys written over and over fill the log and not the memory."""
    options: dict[str, Any] = {"segment_bytes": 1 << 16, "max_log_bytes": 1 << 18}
    with open_small(tmp_path / "s", **options, overload="reject") as db:
        with no_flush(db):
            written = 0
            with pytest.raises(BackpressureError, match="max_log_bytes 262,144"):
                while True:
                    db.put(b"k", b"%d" % written * 1000, durability=Durability.BUFFERED)
                    written += 1
            assert db.stats().log_bytes < (1 << 18) + 2 * (1 << 16)
            assert db.stats().dirty_entries <= 3  # one in each generation that could not go
        db.flush(timeout=40)
        db.put(b"k", b"v")


@pytest.mark.parametrize("level", Durability)
def test_a_value_beyond_the_log_budget_does_not_block_for_ever(
    tmp_path: Path, level: Durability
) -> None:
    """One frame that is longer than max_log_bytes is flushed like any other, and writes go on.

    Its segment, being the active one, could not be given back and once counted all the same:
    every later write waited for room in vain.
    """
    options: dict[str, Any] = {"segment_bytes": 1 << 16, "max_log_bytes": 1 << 18}
    with open_small(tmp_path / "s", **options, stall_timeout=5, durability=level) as db:
        for n in range(3):
            db[b"large"] = bytes([n]) * 300_000
            for k in range(50):
                db[b"%d" % k] = b"v"
        assert db[b"large"] == b"\x02" * 300_000
        assert len(db) == 51
        assert db.stats().rejected_writes == 0


def test_a_large_active_segment_does_not_hide_its_room(tmp_path: Path) -> None:
    """A batch whose frame is much smaller than was reserved for it leaves a segment half full.

    A value that fitted that room, and not the smaller segment prepared behind it, once made
    its writer look for room for ever.
    """
    options: dict[str, Any] = {
        "segment_bytes": 1 << 16, "group_bytes": 1 << 12, "max_log_bytes": 1 << 24,
    }  # fmt: skip
    with open_small(tmp_path / "s", **options) as db:
        db.put_many([(b"%d" % n, b"") for n in range(10_000)])
        until(lambda: bool(db.engine.log.segments.prepared))
        call = Call(db.put, b"large", bytes(100 << 10))
        assert call.answer() == 10_001


def test_always_flushing_stays_well(tmp_path: Path) -> None:
    """A flush after each write: counters, health and contents agree at the end."""
    with open_small(tmp_path / "s", flush_strategy=Always()) as db:
        for n in range(200):
            db.put(b"%d" % (n % 7), b"%d" % n, durability=Durability.ASYNC)
        until(lambda: db.stats().dirty_entries == 0)
        stats = db.stats()
        assert 200 == stats.total_writes == stats.stored_writes + stats.coalesced_writes
        assert (200, 0) == (stats.stored_lsn, stats.checkpoint_failures)


def test_flushes_that_fail_again_and_again_stay_within_the_budget(tmp_path: Path) -> None:
    """Each attempt freezes a generation of its own; together they count.

    A writer was once let through as long as the youngest of them was small, however many
    had piled up behind the failing flushes.
    """
    with open_small(tmp_path / "s", max_dirty_bytes=1 << 18, overload="reject") as db:
        db.engine.runtime.random = lambda: 0.0  # type: ignore[method-assign]  # no back-off
        with no_flush(db), pytest.raises(BackpressureError):
            for n in range(600):
                db.put(b"%d" % n, bytes(700), durability=Durability.ASYNC)
                if n % 3 == 0:
                    failed = db.stats().checkpoint_failures
                    db.flush(timeout=0)
                    until(lambda failed=failed: db.stats().checkpoint_failures > failed)
        assert db.stats().dirty_bytes < 1.2 * (1 << 18)
        db.flush(timeout=40)
        until(lambda: db.stats().dirty_bytes == 0)


def test_an_error_that_is_kept_keeps_no_memory(tmp_path: Path) -> None:
    """Its traceback must not pin a generation: the budget would stay full until it is dropped."""
    with open_small(tmp_path / "s") as db:
        db[b"k"] = b"v"
        kept = []
        for call in (
            lambda: db["text"],  # type: ignore[index]
            lambda: db[b"absent"],
            lambda: db.get_many(["text"]),  # type: ignore[list-item]
            lambda: db.put(b"", b""),
            lambda: db.incr(b"k"),
            lambda: db.scan(prefix=b"a", start=b"b"),
            lambda: db.drop_table("none"),
        ):
            try:
                call()
            except Exception as error:
                kept.append(error)
        db.flush()
        until(lambda: db.stats().dirty_bytes == 0)
        assert len(kept) == 7
