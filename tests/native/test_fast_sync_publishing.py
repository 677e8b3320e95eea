"""What was queued becomes visible: as `Index.install` would have it, and never too soon.

The first half publishes queues that were made by hand in two stores, in one of them without the C.
The second half looks at a SYNC write of the short way before, while and after it is synced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, Store
from strandline.engine import short_way
from strandline.engine.table_state import Queued
from strandline.native import native
from strandline.tools.crash.simulation.faults import Gate
from strandline.tools.crash.simulation.rig import Rig
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    SYNC,
    assert_free,
    begin_long,
    calmed,
    facts,
    is_free,
    short,
)
from tests.support.calls import Call

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

Queue = Callable[[Rig], list[Any]]


def single(lsn: int, key: bytes = b"k", value: bytes | None = b"value") -> Queue:
    """Return a queue of one write that is also the newest queued one of its key."""

    def make(rig: Rig) -> list[Any]:
        state = rig.store._state
        state.queued[key] = Queued(lsn, value, rig.store.engine.log.group, SYNC)
        return [(state, key, (lsn, value, None))]

    return make


def commit(lsn: int, *keys: bytes) -> Queue:
    """Return a queue of a commit of several operations."""

    def make(rig: Rig) -> list[Any]:
        state = rig.store._state
        entries: Any = {key: (lsn + n, b"many", None) for n, key in enumerate(keys)}
        return [([(state, entries)], lsn, lsn + len(keys) - 1)]

    return make


def several(*parts: Queue) -> Queue:
    """Return a queue that is others in a row."""
    return lambda rig: [item for part in parts for item in part(rig)]


def twice(part: Queue) -> Queue:
    """Return a queue whose items come twice, as after an interrupt."""
    return lambda rig: [*(made := part(rig)), *made]


def below(part: Queue, newer: int) -> Queue:
    """Return a queue of a write that is no longer the newest queued one of its key."""

    def make(rig: Rig) -> list[Any]:
        made = part(rig)
        group = rig.store.engine.log.group
        rig.store._state.queued[b"k"] = Queued(newer, b"newer", group, SYNC)
        return made

    return make


def unqueued(part: Queue) -> Queue:
    """Return a queue of a write that nothing is noted of any more."""

    def make(rig: Rig) -> list[Any]:
        made = part(rig)
        rig.store._state.queued.clear()
        return made

    return make


def of_table(name: str, part: Queue) -> Queue:
    """Return a queue with its tables replaced."""
    return lambda rig: [(rig.store.table(name)._state, *item[1:]) for item in part(rig)]


def definition(rig: Rig) -> list[Any]:
    """Return a queue of a definition: something to be called."""
    return [(lambda: rig.store._state.queued.clear(), None, (9, None, None))]


QUEUES: dict[str, tuple[int, Queue]] = {
    "nothing": (0, lambda rig: []),
    "a new key": (1, single(10, b"new")),
    "a key of some length": (1, single(10, b"n" * 200, b"v" * 500)),
    "a newer value": (1, single(10)),
    "a longer value": (1, single(10, value=b"v" * 99)),
    "a delete": (1, single(10, value=None)),
    "a delete of nothing": (1, single(10, b"new", None)),
    "an older value": (1, single(1, value=b"o" * 77)),
    "the same LSN": (1, single(5, value=b"same")),
    "above a delete": (1, single(10, b"gone")),
    "twice": (2, twice(single(10, b"new"))),
    "several": (3, several(single(10, b"new"), single(11, b"k"), single(12, b"new", None))),
    "not the newest of its key": (1, below(single(10), 11)),
    "not noted any more": (1, unqueued(single(10))),
    "another table": (1, of_table("second", single(10))),
    "a commit": (0, commit(10, b"a", b"b")),
    "a commit, then one": (0, several(commit(10, b"a", b"b"), single(12))),
    "one, then a commit, then one": (1, several(single(10), commit(11, b"k", b"b"), single(13))),
    "one, then a definition": (1, several(single(10), definition, single(11, b"new"))),
}


def prepared(rig: Rig, *, fast: bool) -> Store:
    """Return a store with LSN 5 of b"k" visible, and a delete of b"gone" above LSN 3."""
    db = rig.open()
    db.table("second")
    for key, value in ((b"one", b"1"), (b"gone", b"3"), (b"two", b"2"), (b"k", b"5")):
        db.put(key, value, durability=ASYNC)
    db.delete(b"gone", durability=ASYNC)
    db.sync()
    assert 5 == db._state.entries[b"k"][0]
    if not fast:
        db.engine.index.publish_singles = None
    return db


def cut(rig: Rig, lsn: int) -> None:
    """Freeze what is there at an LSN."""
    with rig.store.engine.log.mutex:
        rig.store.engine.index.cut(lsn)


def cut_twice(rig: Rig) -> None:
    """Leave two frozen layers, as after a flush that failed; the key b"new" is in the upper one."""
    cut(rig, 9)
    rig.store._state.entries[b"new"] = (10, b"n", None)
    cut(rig, 11)


def flush(rig: Rig) -> None:
    """Leave nothing that is frozen, after a cut high above all that is queued."""
    assert rig.checkpoint()
    rig.store.engine.index.cut_lsn = 50


def setting(name: str, value: Any) -> Callable[[Rig], None]:
    """Return a step: an attribute of the engine gets another value."""
    return lambda rig: setattr(rig.store.engine, name, value)


BEFORE: dict[str, Callable[[Rig], Any]] = {
    "calm": lambda rig: None,
    "a snapshot": lambda rig: rig.store.snapshot(),
    "a frozen layer": partial(cut, lsn=10),
    "a frozen layer below": partial(cut, lsn=9),
    "two frozen layers": cut_twice,
    "nothing frozen any more": flush,
    "a full memory": setting("flush_mark", 1),
    "nothing dirty": setting("dirty_since", None),
}


FEW = ["several", "an older value", "one, then a commit, then one"]
CASES = [
    (name, before)
    for number, before in enumerate(BEFORE)
    for name in (QUEUES if number < 4 else FEW)
]


@pytest.mark.parametrize(("name", "before"), CASES)
def test_what_is_published(tmp_path: Path, name: str, before: str) -> None:
    """Every queue is published as by the long way, whatever is there already."""
    found = []
    for fast in (True, False):
        with Rig(tmp_path / str(fast)) as rig:
            db = prepared(rig, fast=fast)
            kept = BEFORE[before](rig)
            with db.engine.log.mutex:
                db.engine.publish(QUEUES[name][1](rig))
            found.append((facts(rig), dict(db.scan())))
            if hasattr(kept, "close"):
                kept.close()
    assert found[1] == found[0]


@pytest.mark.parametrize("name", QUEUES)
def test_how_many_it_takes(tmp_path: Path, name: str) -> None:
    """It says how many it has made visible: the single ones that the queue begins with."""
    with Rig(tmp_path) as rig:
        db = prepared(rig, fast=True)
        publish: Any = db.engine.index.publish_singles
        count, queue = QUEUES[name]
        with db.engine.log.mutex:
            assert count == publish(queue(rig), 0)


def test_a_snapshot_of_an_empty_store(tmp_path: Path) -> None:
    """A snapshot at LSN 0 counts as one: with any open, older values are kept by the long way."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        publish: Any = db.engine.index.publish_singles
        with db.snapshot() as snapshot:
            assert 0 == snapshot.lsn
            assert 0 == publish(single(1)(rig), 0)
            db.put(b"k", b"1", durability=SYNC)
            assert snapshot.get(b"k") is None
        assert 1 == publish(single(2)(rig), 0)


@pytest.mark.parametrize("arguments", [(), ([],), ([], 0, 0), ((), 0), ([], "0"), ([], 1 << 70)])
def test_publish_refuses(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    """It takes a list and an LSN."""
    with Rig(tmp_path) as rig, pytest.raises(TypeError, match="publish"):
        rig.open().engine.index.publish_singles(*arguments)  # type: ignore[misc]


# Visible when it is synced, and not before. -------------------------------------------------------


@pytest.fixture(params=["a frame of its own", "in a group"])
def begun(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Give a rig, and a SYNC write 3 of b"first" that was begun and not synced."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        db.engine.log.crowd = 2 if request.param == "in a group" else 0
        done = short(db, b"first", b"10", SYNC)
        assert (3, None) == (done[0], done[2])
        assert (done[1] is db.engine.log.group) == (request.param == "in a group")
        yield rig, done
        assert_free(rig.store)


def test_no_reader_finds_it(begun: Any) -> None:
    """Neither get, nor a scan, nor a snapshot has it before its sync; afterwards all have."""
    rig, done = begun
    db, before, after = rig.store, {b"first": b"1", b"second": b"2"}, {}
    after = {**before, b"first": b"10"}
    with db.snapshot() as snapshot:
        assert 2 == snapshot.lsn
        assert before == dict(snapshot.scan()) == dict(db.scan())
        assert before == db.get_many([b"first", b"second"])
        assert b"1" == db.get(b"first")
        assert before == dict(rig.power_cut("none").open())
        assert 3 == db._writes.wait(done)
        assert before == dict(snapshot.scan())
    assert after == dict(db.scan()) == db.get_many([b"first", b"second"])
    assert b"10" == db.get(b"first")
    assert after == dict(rig.power_cut("none").open())


@pytest.mark.parametrize("level", [ASYNC, BUFFERED, SYNC])
def test_what_is_computed_from_it(begun: Any, level: Durability) -> None:
    """A counter counts on from what is queued, and is given when both are synced."""
    rig, done = begun
    db = rig.store
    assert 11 == db.incr(b"first", durability=level)
    assert (4, True) == (db.engine.log.synced_lsn, done[1].done)
    assert b"11" == db.get(b"first") == rig.power_cut("none").open().get(b"first")
    assert 3 == db._writes.wait(done)
    assert {} == db._state.queued


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
@pytest.mark.parametrize("newer", [b"20", None])
def test_a_weaker_write_above_it(begun: Any, level: Durability, newer: bytes | None) -> None:
    """A newer value of the same key is visible first, and stays when the older one lands."""
    rig, done = begun
    db = rig.store
    value = short_way.GONE if newer is None else newer
    if short(db, b"first", value, level) is None:
        db.put(b"first", newer) if newer else db.delete(b"first")
    assert newer == db.get(b"first")
    assert 3 == db._writes.wait(done)
    assert newer == db.get(b"first")
    assert {} == db._state.queued
    db.sync()
    assert newer == rig.power_cut("none").open().get(b"first")


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_a_weaker_write_below_it(tmp_path: Path, level: Durability) -> None:
    """An older value of the same key is visible until the newer one is synced."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        db.put(b"k", b"3", durability=level)
        done = short(db, b"k", b"4", SYNC)
        assert (4, level is ASYNC) == (done[0], done[1] is db.engine.log.group)
        assert b"3" == db.get(b"k")
        assert 4 == db._writes.wait(done)
        assert b"4" == db.get(b"k") == rig.power_cut("none").open().get(b"k")


def test_two_of_one_key(begun: Any) -> None:
    """The second SYNC write of a key joins behind the first, and is what is left of them."""
    rig, done = begun
    db = rig.store
    other = begin_long(rig, b"first", b"20")
    assert (4, SYNC) == (other[0], db._state.queued[b"first"].level)
    assert 3 == db._writes.wait(done)
    assert 4 == db._writes.wait((*other[:2], None))
    assert b"20" == db.get(b"first")
    assert {} == db._state.queued


def test_while_it_is_written_and_synced(tmp_path: Path) -> None:
    """Under way it holds append lock and mutex, then the sync lock, and is visible in neither."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log, looks = db.engine.log, list[Any]()

        def look(op: str, path: str) -> None:
            free = [is_free(lock) for lock in (log.sync_lock, log.append_lock, log.mutex)]
            at = (log.tail[3], log.next_lsn(), log.group.first_lsn, log.leading, len(log.unsynced))
            looks.append((op, free, db.get(b"k"), len(db._state.queued), *at))

        rig.disk.faults = look
        assert 3 == db.put(b"k", b"v", durability=SYNC)
        rig.disk.faults = None
        assert [
            ("pwrite", [True, False, False], None, 0, 2, 3, 3, False, 0),
            ("fdatasync", [False, True, True], None, 1, 3, 4, 4, True, 1),
        ] == looks
        assert (b"v", 0, False, 0) == (
            db.get(b"k"),
            len(db._state.queued),
            log.leading,
            len(log.unsynced),
        )


def test_a_reader_while_it_is_synced(tmp_path: Path) -> None:
    """Another thread reads what was there before, and takes a snapshot of it, without waiting."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        call = Call(db.put, b"first", b"3", durability=SYNC)
        assert gate.reached.wait(30)
        with db.snapshot() as snapshot:
            assert b"1" == db.get(b"first") == snapshot.get(b"first") == dict(db)[b"first"]
            gate.opened.set()
            assert 3 == call.answer()
            assert (b"3", b"1") == (db.get(b"first"), snapshot.get(b"first"))
