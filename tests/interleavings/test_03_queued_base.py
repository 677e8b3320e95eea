"""Answers that were computed from a write that is queued and not yet on disk.

A read-modify-write takes the newest queued value for its base, so that no update is
lost. If the group of that value fails, the answer was computed from something that never
happened: the call has to fail with it, whether it would have written or only answered,
and whatever its own durability level.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from strandline import ABSENT, DiskFullError, Durability, WriteOutcomeUnknownError
from strandline.engine.store import Store
from strandline.tools.crash.simulation.faults import Fault, Gate
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call

LEVELS = list(Durability)


class Case(NamedTuple):
    """A call on key b"k" whose base is b"5", queued; deleted, for `deleted`."""

    call: Callable[[Store, Durability], Any]
    answer: Any
    value: bytes | None
    """What the key holds when all went well."""
    deleted: bool = False


CASES = {
    "incr": Case(lambda db, at: db.incr(b"k", durability=at), 6, b"6"),
    "incr of a deleted key": Case(lambda db, at: db.incr(b"k", durability=at), 1, b"1", True),
    "compare_and_set that writes": Case(
        lambda db, at: db.compare_and_set(b"k", b"5", b"n", durability=at), True, b"n"
    ),
    "compare_and_set that deletes": Case(
        lambda db, at: db.compare_and_set(b"k", b"5", None, durability=at), True, None
    ),
    "compare_and_set that answers": Case(
        lambda db, at: db.compare_and_set(b"k", b"4", b"n", durability=at), False, b"5"
    ),
    "setdefault that writes": Case(
        lambda db, at: db.setdefault(b"k", b"d", durability=at), b"d", b"d", True
    ),
    "setdefault that answers": Case(
        lambda db, at: db.setdefault(b"k", b"d", durability=at), b"5", b"5"
    ),
    "pop that deletes": Case(lambda db, at: db.pop(b"k", durability=at), b"5", None),
    "pop that answers": Case(
        lambda db, at: db.pop(b"k", ABSENT, durability=at), ABSENT, None, True
    ),
}


def start_base(rig: Rig, case: Case) -> Call:
    """Queue the SYNC write that the case builds upon."""
    db = rig.store
    return Call(db.delete, b"k") if case.deleted else Call(db.put, b"k", b"5")


def waiting(db: Store) -> int:
    """Return how many calls wait for a group, beside the one that leads."""
    log = db.engine.log
    return sum(len(group.waiters) for group in (*log.unsynced, *log.closed, log.group))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("outcome", ["lands", "is lost", "is refused"])
def test_answer_from_a_queued_value(
    tmp_path: Path, name: str, level: Durability, outcome: str
) -> None:
    """The call waits for the group of its base, and fails with it.

    `lands`: the base is in its fdatasync, which returns. `is lost`: it fails with EIO.
    `is refused`: the base is queued behind another sync, and there is no room for it.

    Guard: `needed` and `_base_of` in `WritePath.update`, for those that only answer;
    `_stronger` there for those that write.
    """
    case = CASES[name]
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"4")
        gate = Gate("fdatasync", path=".wal")

        def hook(op: str, path: str) -> Fault:
            gate(op, path)
            if outcome == "is lost" and op == "fdatasync":
                return OSError(errno.EIO, "lost")
            return None

        rig.disk.faults = hook
        first = Call(db.put, b"other", b"1") if outcome == "is refused" else None
        if first is not None:
            assert gate.reached.wait(30)
        base = start_base(rig, case)
        if first is not None:
            while db.stats().last_lsn < 3:
                base.wait(0.001)
        else:
            assert gate.reached.wait(30)
        before = waiting(db)
        call = Call(case.call, db, level)
        while waiting(db) == before:
            call.wait(0.001)
            assert not call.done, "it answered from a value that is not on disk"
        assert b"4" == db.get(b"k")
        if first is not None:
            rig.disk.faults = lambda op, path: (
                OSError(errno.ENOSPC, "full") if op == "pwrite" else None
            )
        gate.opened.set()
        if outcome == "lands":
            base.answer()
            assert case.answer == call.answer()
            assert case.value == db.get(b"k")
            db.sync()
            assert case.value == rig.power_cut("none").open().get(b"k")
            return
        expected = WriteOutcomeUnknownError if outcome == "is lost" else DiskFullError
        with pytest.raises(expected):
            base.answer()
        with pytest.raises(expected):
            call.answer()
        assert b"4" == db.get(b"k")
        if first is not None:
            assert 2 == first.answer()
            rig.disk.faults = None
            assert 5 == db.incr(b"k")
        assert (b"5" if first else b"4") == rig.power_cut("none").open().get(b"k")


@pytest.mark.parametrize("level", LEVELS)
def test_chain_of_queued_increments_loses_none(tmp_path: Path, level: Durability) -> None:
    """Counters that are queued behind one another count each call once.

    Guard: `_newest` looks at `state.queued` before it looks at what is visible.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        calls = [Call(db.incr, b"n")]
        assert gate.reached.wait(30)
        for _ in range(5):
            before = db.stats().last_lsn
            calls.append(Call(db.incr, b"n", durability=level))
            while db.stats().last_lsn == before:
                calls[-1].wait(0.001)
        assert db.get(b"n") is None
        gate.opened.set()
        assert [1, 2, 3, 4, 5, 6] == [call.answer() for call in calls]
        assert b"6" == db.get(b"n")


def test_newer_visible_value_is_the_base(tmp_path: Path) -> None:
    """With a newer ASYNC value on top, the base is that one, and nobody waits for the older.

    Guard: `queued.lsn < entry[0]` in `WritePath._newest`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        first = Call(db.put, b"n", b"10")
        assert gate.reached.wait(30)
        db.put(b"n", b"20", durability=Durability.ASYNC)
        assert 21 == db.incr(b"n", durability=Durability.ASYNC)
        assert not db.compare_and_set(b"n", b"10", b"0")
        gate.opened.set()
        first.answer()
        assert b"21" == db.get(b"n")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch", [False, True])
def test_base_below_a_refused_write(tmp_path: Path, level: Durability, batch: bool) -> None:
    """The newest queued value is refused; the one below it is still on its way to the disk.

    An update that comes then has to build upon that one and not on what is visible, or
    it would be undone by it.

    Guard: `Index.withdraw` puts back what is in the groups that are landing.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"n", b"4")
        gate = Gate("fdatasync", path=".wal")
        full = False

        def hook(op: str, path: str) -> Fault:
            if op == "pwrite" and full:
                return OSError(errno.ENOSPC, "full")
            return gate(op, path)

        rig.disk.faults = hook
        landing = Call(db.put_many, {b"n": b"5", b"m": b"1"}) if batch else Call(db.incr, b"n")
        assert gate.reached.wait(30)
        refused = Call(db.incr, b"n")
        while not waiting(db):
            refused.wait(0.001)
        full = True
        with pytest.raises(DiskFullError):
            rig.drain()
        with pytest.raises(DiskFullError):
            refused.answer()
        full = False
        last = db.stats().last_lsn
        third = Call(db.incr, b"n", durability=level)
        while db.stats().last_lsn == last:
            third.wait(0.001)
        gate.opened.set()
        landing.answer()
        assert 6 == third.answer()
        assert b"6" == db.get(b"n")
        assert b"6" == rig.power_cut("none").open().get(b"n")
