"""The short way of a SYNC write: a frame of its own where nobody leads, or one more in a group.

Each case is done in two stores, the short way in one and the long way in the other, which have to
agree in the middle of the write, after it, and in every byte on disk. Beside this file
test_fast_sync_obstacles.py has what it gives way to, _waiting.py those who wait, _publishing.py
what becomes visible when, _errors.py and _interrupts.py what their names say.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability
from strandline.engine import short_way
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal import format as fmt
from strandline.wal.log_queues import NEVER
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    LOCKS,
    SYNC,
    WatchedLock,
    assert_free,
    begin_long,
    begin_short,
    calmed,
    facts,
    locks_of,
    log_files,
    operations,
    short,
    two_rigs,
)
from tests.native.sync_steps import (
    DELETED,
    EXPECTING,
    FIRST,
    FRAME,
    KEY,
    NEED,
    VALUE,
    Prepare,
    setting,
    several,
    sleeping,
    writing,
)
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


def abandoned(key: bytes) -> Prepare:
    """Return a step: a SYNC writer is struck down before it leads, its frame not written."""
    return lambda rig: begin_long(rig, key, b"a")


def close_group(rig: Rig) -> None:
    """Leave a closed group."""
    rig.store.put(b"waits", b"", durability=ASYNC)
    with rig.store.engine.log.mutex:
        rig.store.engine.log.close_group()


def left_unsynced(rig: Rig) -> None:
    """Leave a written group that waits for its sync, with nobody to lead it."""
    begin_long(rig, b"left", b"l")
    rig.drain()
    rig.store.engine.log.leading = False


ALONE: dict[str, Prepare] = {
    "nothing": lambda rig: None,
    "a snapshot": lambda rig: rig.store.snapshot(),
    "a snapshot, and an older value": several(
        writing(BUFFERED, KEY, b"o" * 70), lambda rig: rig.store.snapshot(), writing(BUFFERED)
    ),
    "an older value": writing(SYNC, KEY, b"older"),
    "the memory mark": setting("flush_mark", lambda e: e.index.active_bytes + 5),
    "a stalled window": several(writing(BUFFERED), sleeping(3.0)),
    "a frame that waits for its sync": several(writing(BUFFERED), sleeping(0.03)),
    "a clock that is ahead": setting("log.unsynced_since", lambda _: NEVER / 2),
    "a sync under way": several(
        setting("log._syncing_since", lambda e: e.runtime.monotonic()),
        setting("log.stall_at", lambda e: e.runtime.monotonic() + 2 * e.log.sync_interval),
        sleeping(0.03),
    ),
    "one served alone": setting("log.crowd", lambda _: 1),
    "just room in the segment": lambda rig: leave_room(rig, 0),
    "a sync mark": lambda rig: rig.housekeep(),
    "a checkpoint before": several(lambda rig: rig.checkpoint(), writing(BUFFERED)),
    "the last of the LSNs": setting(
        "log._ceiling", lambda e: e.log.next_lsn() + 1 + e.log.lsn_block // 4
    ),
    "a sync that is due after it": setting("log._wake_at", lambda e: e.log.tail[1] + FRAME),
    "a log that is just not long": setting(
        "log.segments.sealed_bytes", lambda e: e.log.pressure_bytes - e.log.tail[1] - FRAME
    ),
}
"""Where a frame of its own is written by the short way."""


def leave_room(rig: Rig, more: int) -> None:
    """Let the segment have just room for a full group behind the frame, and so much more."""
    segment, offset, _, _ = rig.store.engine.log.tail
    segment.usable = offset + FRAME + rig.store.engine.log.group.limit + 4096 + more


JOINS: dict[str, Prepare] = {
    "a crowd": EXPECTING,
    "a crowd, and a window that ends sooner": several(
        EXPECTING, setting("log.stall_at", lambda e: e.runtime.monotonic() + 1e-4)
    ),
    "an open group": several(writing(ASYNC), sleeping(0.0003)),
    "an open group of BUFFERED": several(
        lambda rig: rig.store._writes._join(*_buffered(rig)), sleeping(0.0003)
    ),
    "a leader": several(EXPECTING, setting("log.leading", lambda _: True)),
    "a leader, and one who waits": several(abandoned(b"one"), abandoned(b"two")),
    "a leader who gathers": several(
        abandoned(b"one"), setting("log.crowd", lambda _: 3), lambda rig: gather(rig)
    ),
    "unsynced": left_unsynced,
    "a closed group": close_group,
    "just room in the group": several(
        EXPECTING, setting("log.group.limit", lambda e: e.log.group.size + NEED)
    ),
    "the end of the segment": lambda rig: leave_room(rig, -1),
    "few LSNs": setting("log._ceiling", lambda e: e.log.next_lsn() + e.log.lsn_block // 4),
    "no ticking": setting("log.ticking", lambda _: False),
    "no room a moment ago": setting("log.full", lambda _: OSError(errno.ENOSPC, "full")),
    "a sync that is due": setting("log._wake_at", lambda e: e.log.tail[1] + FRAME - 1),
    "a long log": setting(
        "log.segments.sealed_bytes", lambda e: e.log.pressure_bytes - e.log.tail[1] - FRAME + 1
    ),
}
"""Where it joins the open group by the short way."""


def _buffered(rig: Rig) -> Any:
    return rig.store._state, b"b", b"b", BUFFERED, rig.store.engine.log.group, 18


def gather(rig: Rig) -> None:
    """Have a leader wait for those that it expects."""
    gate = rig.store.engine.log.gather_gate = WatchedLock()
    gate.acquire()


@contextmanager
def both(base: Path, kind: str, prepare: Prepare) -> Iterator[tuple[Rig, Rig]]:
    """Give two stores that were prepared alike; snapshots that were made for it are closed."""
    with two_rigs(base, kind) as rigs, ExitStack() as stack:
        for rig in rigs:
            calmed(rig, SYNC)
            kept = prepare(rig)
            for each in kept if isinstance(kept, list) else [kept]:
                if hasattr(each, "close"):
                    stack.callback(each.close)
        yield rigs


def finish_and_compare(fast: Rig, slow: Rig, one: Any, other: Any) -> None:
    """Wait for both writes and assert that nothing tells the stores apart."""
    assert slow.store._writes.wait(other) == fast.store._writes.wait(one)
    assert facts(slow) == facts(fast)
    assert contents(slow.store) == contents(fast.store)
    assert log_files(slow) == log_files(fast)
    assert operations(slow) == operations(fast)
    assert_free(fast.store)
    assert contents(fast.store) == contents(fast.power_cut("none").open())


@pytest.mark.parametrize(("kind", "deletes"), [("RLock", False), ("OwnedLock", True)])
@pytest.mark.parametrize("name", ALONE)
def test_a_frame_of_its_own(tmp_path: Path, kind: str, deletes: bool, name: str) -> None:
    """One pwrite, and all is as when the long way has joined a group, led, and written it."""
    with both(tmp_path, kind, ALONE[name]) as (fast, slow):
        before = len(fast.disk.operations)
        key = DELETED if deletes else KEY
        done = begin_short(fast, key, short_way.GONE if deletes else VALUE)
        assert ["pwrite"] == [each.op for each in fast.disk.operations[before:]]
        other = begin_long(slow, key, None if deletes else VALUE)
        slow.drain()
        assert (tuple, other[0], other[2], None) == (type(done), done[0], done[2], None)
        assert fast.store.engine.log.unsynced[-1] is done[1]
        one, two = facts(fast), facts(slow)
        assert two == one
        finish_and_compare(fast, slow, done, other)


@pytest.mark.parametrize(("kind", "deletes"), [("RLock", False), ("OwnedLock", True)])
@pytest.mark.parametrize("name", JOINS)
def test_joining_a_group(tmp_path: Path, kind: str, deletes: bool, name: str) -> None:
    """Nothing is written yet, and all is as when the long way has joined the group."""
    with both(tmp_path, kind, JOINS[name]) as (fast, slow):
        before, group = len(fast.disk.operations), fast.store.engine.log.group
        key = DELETED if deletes else KEY
        done = begin_short(fast, key, short_way.GONE if deletes else VALUE)
        assert before == len(fast.disk.operations)
        other = begin_long(slow, key, None if deletes else VALUE)
        assert (tuple, other[0], None) == (type(done), done[0], done[2])
        assert group is done[1]
        assert facts(slow) == facts(fast)
        for rig in (fast, slow):
            rig.store.engine.log.gather_gate = None
        finish_and_compare(fast, slow, done, other)


@pytest.mark.parametrize(("key", "value"), [(KEY, VALUE), (DELETED, short_way.GONE)])
def test_what_the_cases_assume(tmp_path: Path, key: bytes, value: Any) -> None:
    """The frames of the cases have the length that their bounds are made of."""
    with Rig(tmp_path) as rig:
        log = calmed(rig, SYNC).engine.log
        before = log.tail[1]
        assert begin_short(rig, key, value) is not None
        assert FRAME == log.tail[1] - before


@pytest.mark.parametrize("kind", LOCKS)
def test_as_much_as_a_group_takes(tmp_path: Path, kind: str) -> None:
    """A write that fills a group has a frame of its own; one that is longer gives way."""
    with locks_of(kind), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log
        value = b"v" * (log.group.limit - len(KEY) - 16)
        assert short(db, KEY, value + b"v", SYNC) is None
        done = short(db, KEY, value, SYNC)
        assert 3 == log.tail[3] == db._writes.wait(done)
        assert {**FIRST, KEY: value} == dict(db.scan())


@pytest.mark.parametrize("kind", LOCKS)
def test_nothing_dirty(tmp_path: Path, kind: str) -> None:
    """What is written after a checkpoint is dirty from when it is visible, if not before."""
    with two_rigs(tmp_path, kind) as (fast, slow):
        for rig in (fast, slow):
            calmed(rig, SYNC)
            assert rig.checkpoint()
            rig.store.engine.dirty_since = None
        finish_and_compare(fast, slow, begin_short(fast, KEY, VALUE), begin_long(slow, KEY, VALUE))
        assert fast.clock.now == fast.store.engine.dirty_since


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_the_next_write_finds_the_short_way_open(tmp_path: Path, level: Durability) -> None:
    """The group that is open after a frame of its own has the room that the one before it had."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log
        limit = log.group.limit
        done = short(db, KEY, VALUE, SYNC)
        assert (limit, 4, 0) == (log.group.limit, log.group.first_lsn, log.group.size)
        assert 4 == db.put(b"next", b"n", durability=level)
        assert 3 == db._writes.wait(done)
        assert {b"first", b"second", KEY, b"next"} == set(db)


def test_the_time_in_a_frame(tmp_path: Path) -> None:
    """A frame of its own says what the wall clock says, that of the system too."""
    with Rig(tmp_path, threads=True, sync_interval=60.0) as rig:
        db = rig.open()
        db.put(b"first", b"1", durability=SYNC)
        segment, offset, _, _ = db.engine.log.tail
        done = short(db, KEY, VALUE, SYNC)
        assert done[1] is db.engine.log.unsynced[-1]
        header = fmt.decode_frame_header(segment.file.pread(fmt.FRAME_HEADER_BYTES, offset))
        assert header is not None
        assert abs(db.engine.runtime.time_ns() - header.time_ns) < 60 * 10**9
        db._writes.wait(done)
