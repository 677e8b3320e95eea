"""The short way of a single ASYNC or BUFFERED write gives way to whatever is in its way.

test_fast_put_errors.py has its errors and its threads; test_fast_put_twin.py compares it with the
long way over long runs.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, InvalidRequestError
from strandline.engine import short_way
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.log_queues import NEVER
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    LOCKS,
    assert_free,
    calmed,
    held_elsewhere,
    locks_of,
    picture,
    short,
)
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

WEAK = [ASYNC, BUFFERED]


@pytest.fixture(params=LOCKS)
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Give a rig with the locks of the hand runtime, or with those of the real one."""
    with locks_of(request.param), Rig(tmp_path) as rig:
        yield rig


# What stands in its way: each does something to a calm store, and may undo it afterwards. --------

Patch = pytest.MonkeyPatch
Obstacle = Callable[[Rig, Patch], Any]


def setting(path: str, value: Callable[[Any], Any]) -> Obstacle:
    """Return an obstacle: an attribute of the engine's or one below it has another value."""

    def obstruct(rig: Rig, patch: Patch) -> None:
        *parents, name = path.split(".")
        owner: Any = rig.store.engine
        for parent in parents:
            owner = getattr(owner, parent)
        patch.setattr(owner, name, value(rig.store.engine))

    return obstruct


def _close_group(rig: Rig, _patch: Patch) -> None:
    log = rig.store.engine.log
    rig.store.put(b"waits", b"", durability=ASYNC)
    with log.mutex:
        log.close_group()


def _gate(rig: Rig, patch: Patch) -> None:
    patch.setattr(rig.store._state, "gate", rig.store.engine.check_open)


OBSTACLES: dict[str, tuple[list[Durability], Obstacle]] = {
    "attention": (WEAK, setting("attention", lambda _: 1)),
    "a stalled window": (WEAK, setting("log.stall_at", lambda e: e.runtime.monotonic() - 0.001)),
    "a snapshot": (WEAK, lambda rig, _: rig.store.snapshot()),
    "a gate": (WEAK, _gate),
    "the memory mark": (WEAK, setting("flush_mark", lambda e: e.index.active_bytes + 5)),
    "nothing dirty": (WEAK, setting("dirty_since", lambda _: None)),
    "an empty group": ([ASYNC], lambda rig, _: rig.drain()),
    "a full group": ([ASYNC], setting("log.group.limit", lambda e: e.log.group.size + 20)),
    "an open group": ([BUFFERED], lambda rig, _: rig.store.put(b"k", b"", durability=ASYNC)),
    "a closed group": ([BUFFERED], _close_group),
    "a group that is too small": ([BUFFERED], setting("log.group.limit", lambda _: 20)),
    "the end of the segment": (
        [BUFFERED],
        setting("log.group.limit", lambda e: e.log.tail[0].usable - e.log.tail[1] - 4096),
    ),
    "few LSNs": (
        [BUFFERED],
        setting("log._ceiling", lambda e: e.log.next_lsn() + e.log.lsn_block // 4),
    ),
    "no ticking": ([BUFFERED], setting("log.ticking", lambda _: False)),
    "a clock that stands": ([BUFFERED], lambda rig, _: rig.store.sync()),
    "a clock that is ahead": ([BUFFERED], setting("log.unsynced_since", lambda _: NEVER / 2)),
    "no room": ([BUFFERED], setting("log.full", lambda _: OSError(errno.ENOSPC, "full"))),
    "a failed log": ([BUFFERED], setting("log.failure", lambda _: OSError(errno.EIO, "lost"))),
    "a sync that is due": ([BUFFERED], setting("log._wake_at", lambda e: e.log.tail[1] + 64)),
    "a long log": (
        [BUFFERED],
        setting("log.segments.sealed_bytes", lambda e: e.log.pressure_bytes),
    ),
}


@pytest.mark.parametrize(
    ("reason", "level"),
    [(reason, level) for reason, (levels, _) in OBSTACLES.items() for level in levels],
    ids=str,
)
@pytest.mark.parametrize("deletes", [False, True])
def test_it_gives_way(rig: Rig, reason: str, level: Durability, deletes: bool) -> None:
    """With something in the way it gives None, and nothing at all has changed."""
    db = calmed(rig, level)
    key, value = b"x" * 30, short_way.GONE if deletes else b"y" * 30
    with pytest.MonkeyPatch.context() as patch:
        kept = OBSTACLES[reason][1](rig, patch)
        before, counts = picture(rig), (sys.getrefcount(key), sys.getrefcount(value))
        assert short(db, key, value, level) is None
        assert before == picture(rig)
        assert counts == (sys.getrefcount(key), sys.getrefcount(value))
        assert_free(db)
        if hasattr(kept, "close"):
            kept.close()


@pytest.mark.parametrize("level", WEAK)
@pytest.mark.parametrize("name", ["mutex", "append_lock", "sync_lock"])
def test_a_lock_that_is_taken(rig: Rig, name: str, level: Durability) -> None:
    """It waits for no lock. Inside of one it gives way, and the long way refuses the write."""
    db = calmed(rig, level)
    lock = getattr(db.engine.log, name)
    stands_in_the_way = name == "mutex" or level is BUFFERED
    before = picture(rig)
    if stands_in_the_way:
        with lock:
            assert short(db, b"k", b"v", level) is None
            with pytest.raises(InvalidRequestError, match="finalizer"):
                db.put(b"k", b"v", durability=level)
        assert before == picture(rig)
    with held_elsewhere(lock):
        passes = not stands_in_the_way or name == "sync_lock"
        assert (3 if passes else None) == short(db, b"k", b"v", level)
        assert passes == (before != picture(rig))
    assert_free(db)


class Word(bytes):
    """A kind of bytes that is not quite bytes."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, b"v") for key in (b"", b"k" * 512, "k", bytearray(b"k"), Word(b"k"))],
        *[(b"k", value) for value in (None, "v", bytearray(b"v"), b"v" * 1001)],
    ],
    ids=repr,
)
@pytest.mark.parametrize("level", [*WEAK, "ASYNC", None, 1])
def test_an_argument_that_it_does_not_take(rig: Rig, key: Any, value: Any, level: Any) -> None:
    """Keys, values and levels that are not plainly in order are left to the long way."""
    db = rig.open(max_value_bytes=1000)
    db.put(b"first", b"1", durability=ASYNC if level is ASYNC else BUFFERED)
    before = picture(rig)
    assert short(db, key, value, level) is None
    assert short(db, b"k", value, level) is None or value == b"v"
    if level not in WEAK:
        assert short(db, b"k", b"v", level) is None
        assert before == picture(rig)


@pytest.mark.parametrize("level", WEAK)
def test_tables_of_other_kinds(rig: Rig, level: Durability) -> None:
    """In an unlogged table it gives way; a table with a codec hands it what it has encoded."""
    db = calmed(rig, level)
    loose, coded = db.table("loose", logged=False), db.table("coded", codec="utf-8")
    db.put(b"first", b"1", durability=level)
    before = picture(rig)
    assert short(db, b"k", b"v", level, loose._state) is None
    assert before == picture(rig)
    assert coded.put("käy", "välue", durability=level) is not None
    assert before != picture(rig)
    assert {("", b"first"): b"1", ("", b"second"): b"2", ("coded", "käy"): "välue"} == contents(db)


def test_it_stops_before_the_segment_is_full(rig: Rig) -> None:
    """As much stays free as the open group may need: what joins it later is sure of its place."""
    db = calmed(rig, BUFFERED)
    log = db.engine.log
    log._wake_at = 1 << 30
    count = 2
    while short(db, b"%d" % count, b"v" * 500, BUFFERED) is not None:
        count += 1
    segment, offset, _, lsn = log.tail
    assert count == lsn
    assert 0 <= segment.usable - offset - log.group.limit - 4096 < 700
    items = {b"a%d" % n: b"w" * 100 for n in range(25)}
    db.put_many(items, durability=ASYNC)
    rig.drain()
    assert segment is log.tail[0]
    assert items.items() <= dict(rig.kill().open().scan()).items()
