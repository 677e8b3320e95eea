"""A checkpoint commits in the middle of a read.

A reader looks at the layers first and at LMDB afterwards; a checkpoint moves everything
from the former to the latter, and lets go of the former. Wherever it comes in between, a
read finds each key once, with its newest value, and a snapshot goes on finding what it
found at first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import DiskFullError, Durability, Snapshot, Store
from strandline.engine.backing import Backing, CheckpointTransaction
from strandline.engine.checkpointer import Checkpointer
from strandline.engine.read_view import ReadView
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.log import Log
from tests.support.history import contents

ASYNC = Durability.ASYNC
KEYS = [b"base", b"gone", b"k", b"new"]
OLD = {b"base": b"0", b"gone": b"0", b"k": b"0"}
NEW = {b"base": b"0", b"k": b"1", b"new": b"1"}

STEPS: dict[str, tuple[type, str, bool]] = {
    "after the cut": (Log, "sync_through", False),
    "before the merge": (Checkpointer, "_merge", False),
    "after the merge": (Checkpointer, "_merge", True),
    "before LMDB's transaction": (Backing, "checkpoint", False),
    "in LMDB's transaction": (Backing, "checkpoint", True),
    "before the commit": (CheckpointTransaction, "commit", False),
    "before the commit is published": (Backing, "on_committed", False),
    "after the commit, before the swap": (CheckpointTransaction, "commit", True),
    "after the swap": (ReadView, "retire", False),
    "after all": (ReadView, "retire", True),
}
"""Where something can come in during a pass: a method, and whether after it."""


@contextlib.contextmanager
def come_in(
    owner: type, name: str, after: bool, action: Callable[[], object], times: int = 1
) -> Iterator[list[int]]:
    """Do `action` before or after the first calls of a method; yields the calls so far."""
    original = getattr(owner, name)
    calls: list[int] = []

    def method(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        due = len(calls) <= times
        if due and not after:
            action()
        result = original(*args, **kwargs)
        if due and after:
            action()
        return result

    with mock.patch.object(owner, name, method):
        yield calls
    assert calls, f"{name} was not called"


class Hashed(bytes):
    """A key that does something when a dict looks for it, at the call given by `at`."""

    at: int
    action: Callable[[], object]

    def __hash__(self) -> int:
        self.at -= 1
        if self.at == 0:
            self.action()
        return super().__hash__()


def hashed(key: bytes, at: int, action: Callable[[], object]) -> bytes:
    """Return a key whose look-up number `at`, counted from 1, comes after `action`."""
    made = Hashed(key)
    made.at, made.action = at, action
    return made


def fill(rig: Rig) -> Store:
    """Open a store with `OLD` in LMDB, and in memory what makes it `NEW`."""
    db = rig.open()
    db.put_many(OLD)
    assert rig.checkpoint()
    db.put(b"k", b"1")
    db.put(b"new", b"1")
    db.delete(b"gone")
    return db


def refuse_once(rig: Rig) -> None:
    """Make one pass that finds no room, so that its layers stay frozen."""
    with mock.patch.object(Backing, "reserve", side_effect=DiskFullError("no room")):
        assert not rig.checkpoint()


def check(db: Store | Snapshot, expected: dict[bytes, bytes]) -> None:
    """Assert that every way of reading says the same."""
    assert expected == dict(db.scan())
    assert expected == dict(reversed(list(db.scan(reverse=True))))
    assert [expected.get(key) for key in KEYS] == [db.get(key) for key in KEYS]
    if isinstance(db, Store):
        assert expected == db.get_many(KEYS)
        assert len(expected) == len(db)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_commit_while_a_get_looks_into_the_layers(
    tmp_path: Path, key: bytes, frozen: bool, at: int
) -> None:
    """A get has captured the view; a checkpoint writes and frees; then it looks into it.

    Guard: the count of references in `Checkpointer.free_retired`, and `Table.get`, which
    holds both layers' entries while it looks.
    """
    with Rig(tmp_path) as rig:
        db = fill(rig)
        if frozen:
            refuse_once(rig)
        assert NEW.get(key) == db.get(hashed(key, at, rig.checkpoint))
        check(db, NEW)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("passes", [1, 3])
def test_commit_between_layers_and_lmdb(tmp_path: Path, key: bytes, passes: int) -> None:
    """A get found nothing in the layers; what it looks for is written and committed then.

    It finds what was there when it began, or what is there now, never neither.

    Guard: `ReadView._read_anew`, which asks the newest view once its own is retired.
    """
    with Rig(tmp_path) as rig:
        db = fill(rig)
        assert rig.checkpoint()
        state = db.engine.index.states[1]
        below = state.view.below

        def late(raw: bytes) -> bytes | None:
            for number in range(passes):
                db.put(key, b"late %d" % number, durability=ASYNC)
                assert rig.checkpoint()
            return below(raw)

        state.view = state.view._replace(below=late)
        assert db.get(key) in (NEW.get(key), b"late %d" % (passes - 1))
        check(db, {**NEW, key: b"late %d" % (passes - 1)})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("refused", [False, True])
def test_reads_within_a_checkpoint(tmp_path: Path, step: str, refused: bool) -> None:
    """At each step of a pass every read finds the newest, LMDB's commit there or not.

    Guard: the order in `Checkpointer._pass`: layers are let go of after the commit, in
    the same moment in which readers get its view.
    """
    with Rig(tmp_path) as rig:
        db = fill(rig)
        expected = NEW
        if refused:
            refuse_once(rig)
            db.put(b"k", b"2")
            expected = {**NEW, b"k": b"2"}
        with come_in(*STEPS[step], lambda: check(db, expected)):
            assert rig.checkpoint()
        check(db, expected)
        assert expected == dict(rig.power_cut("none").open().scan())


@pytest.mark.parametrize("step", STEPS)
def test_snapshot_taken_within_a_checkpoint(tmp_path: Path, step: str) -> None:
    """A snapshot from any step of a pass is the same then, at its end, and after the next.

    Guard: `SnapshotState` captures the views and begins LMDB's transaction in one hold of
    the mutex, in which `drop_frozen` cannot be.
    """
    with Rig(tmp_path) as rig:
        db = fill(rig)
        taken: list[Snapshot] = []

        def take() -> None:
            taken.append(db.snapshot())
            check(taken[0], NEW)
            db.put_many({b"k": b"2", b"gone": b"2"}, durability=ASYNC)
            db.delete(b"base", durability=ASYNC)
            check(taken[0], NEW)

        with come_in(*STEPS[step], take):
            assert rig.checkpoint()
        newest = {b"gone": b"2", b"k": b"2", b"new": b"1"}
        check(taken[0], NEW)
        check(db, newest)
        assert rig.checkpoint()
        check(taken[0], NEW)
        taken[0].close()
        rig.checkpoint()
        assert not db.engine.index.retired
        check(db, newest)
        assert newest == dict(rig.kill().open().scan())


@pytest.mark.parametrize(("name", "after"), [("get_many", False), ("_take", True)])
@pytest.mark.parametrize("times", [1, 3])
def test_get_many_across_a_commit(tmp_path: Path, name: str, after: bool, times: int) -> None:
    """get_many has read one key from memory; a commit of it and another gets in between.

    The values of one moment come back, not the first key's old and the second's new one.

    Guard: `ViewRetiredError`, after which `reading.get_many` begins anew.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"a": b"0", b"b": b"0", b"round": b"0"})
        assert rig.checkpoint()
        db.put(b"a", b"0")
        done = [0]

        def commit() -> None:
            done[0] += 1
            value = b"%d" % done[0]
            db.put_many({b"a": value, b"b": value}, durability=ASYNC)
            assert rig.checkpoint()
            db.put(b"a", value, durability=ASYNC)

        with come_in(ReadView, name, after, commit, times) as calls:
            found = db.get_many([b"a", b"b"])
        assert found[b"a"] == found[b"b"]
        if not after:
            assert times + 1 == len(calls)
            assert b"%d" % times == found[b"b"]
        newest = b"%d" % done[0]
        assert {b"a": newest, b"b": newest, b"round": b"0"} == dict(db.scan())


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("failing", ["reserve", "checkpoint"])
def test_merge_after_a_failed_flush(tmp_path: Path, failing: str, cleared: bool) -> None:
    """Two generations are frozen by flushes that failed, and merged while snapshots read.

    Each snapshot stays as it was, the newest stays visible, and the pass that succeeds
    puts the newest into LMDB, deletes and the emptying of a table included.

    Guard: `Checkpointer._merge` builds a new layer, the newer over the older, and leaves
    those that it replaces untouched.
    """

    def no_room(*_: Any) -> None:
        raise DiskFullError("no room")  # a new one: its traceback holds what the pass held

    with Rig(tmp_path) as rig, contextlib.ExitStack() as held:
        db = fill(rig)
        first = held.enter_context(db.snapshot())
        with mock.patch.object(Backing, failing, no_room):
            assert not rig.checkpoint()
            check(db, NEW)
            if cleared:
                db.clear()
            db.put_many({b"gone": b"2", b"k": b"2"})
            db.delete(b"new")
            middle = {b"gone": b"2", b"k": b"2"} | ({} if cleared else {b"base": b"0"})
            second = held.enter_context(db.snapshot())
            with come_in(Checkpointer, "_merge", True, lambda: check(second, middle)):
                assert not rig.checkpoint()
            db.put(b"k", b"3")
            db.delete(b"gone")
            newest = {key: value for key, value in middle.items() if key != b"gone"} | {b"k": b"3"}
            assert not rig.checkpoint()
            check(db, newest)
            assert newest == dict(rig.power_cut("none").open().scan())
        for snapshot, expected in ((first, NEW), (second, middle)):
            check(snapshot, expected)
        assert rig.checkpoint()
        for snapshot, expected in ((first, NEW), (second, middle)):
            check(snapshot, expected)
        stored = db.engine.backing.begin_snapshot()
        assert [newest.get(key) for key in KEYS] == [stored.get(1, key) for key in KEYS]
        stored.close()
        check(db, newest)
        held.close()
        rig.checkpoint()
        assert not db.engine.index.retired
        expected_contents = {("", key): value for key, value in newest.items()}
        for image in (rig.power_cut("none"), rig.kill()):
            assert expected_contents == contents(image.open())


def test_layers_in_use_are_not_emptied(tmp_path: Path) -> None:
    """What a snapshot, an iterator or a captured view holds stays whole; then it goes.

    Guard: the two counts of references in `Checkpointer.free_retired`.
    """
    with Rig(tmp_path) as rig:
        db = fill(rig)
        state = db.engine.index.states[1]
        retired = db.engine.index.retired
        holds: list[Callable[[], Any]] = [
            db.snapshot,
            lambda: state.view,
            lambda: state.view.active,
            lambda: state.layer,
        ]
        for number, hold in enumerate(holds):
            db.put(b"k", b"%d" % number)
            entries = len(state.entries)
            holder = hold()
            assert rig.checkpoint()
            assert 1 == len(retired), hold
            (layer,) = retired[0].layers
            assert entries == len(layer.entries)
            del layer
            if isinstance(holder, Snapshot):
                assert b"%d" % number == holder.get(b"k")
                holder.close()
            del holder
            db.engine.checkpointer.free_retired()
            assert not retired
        check(db, {**NEW, b"k": b"3"})


def test_iterator_goes_on_across_commits(tmp_path: Path) -> None:
    """A scan that is half done yields the rest as it was, whatever is committed meanwhile.

    Guard: the snapshot that a scan holds to its end.
    """
    expected = {b"%05d" % n: b"0" for n in range(3000)}
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many(dict(list(expected.items())[::2]))
        assert rig.checkpoint()
        db.put_many(dict(list(expected.items())[1::2]))
        items = iter(db.scan())
        found = dict([next(items)])
        for value in (b"1", b"2"):
            db.put_many(dict.fromkeys(expected, value))
            assert rig.checkpoint()
            found.update([next(items)])
        found.update(items)
        assert expected == found
        assert rig.checkpoint()
        assert not db.engine.index.retired
        assert dict.fromkeys(expected, b"2") == dict(db.scan())
