"""The short way of a SYNC write that waits: what it sleeps on, who wakes it, and whom it wakes.

Nobody is acknowledged before his group is synced and published, whatever wakes him.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import DiskFullError, Store
from strandline.engine import short_way
from strandline.native import native
from strandline.tools.crash.simulation.faults import Gate
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.group import Group
from tests.native.short_way import (
    ASYNC,
    LOCKS,
    SYNC,
    WatchedLock,
    assert_free,
    begin_long,
    begin_short,
    calmed,
    finished,
    locks_of,
    short,
)
from tests.support.calls import Call

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


class Waiting:
    """A store where somebody leads, and what writers sleep on."""

    def __init__(self, rig: Rig) -> None:
        self.gates: list[WatchedLock] = []
        with mock.patch.object(HandRuntime, "lock", side_effect=self._gate):
            self.db = calmed(rig, SYNC)
        self.log = self.db.engine.log
        self.log.leading = True
        self.gates.clear()

    def _gate(self) -> WatchedLock:
        self.gates.append(WatchedLock())
        return self.gates[-1]

    def start(self, key: bytes) -> Call:
        """Have a writer go the short way, and return when it sleeps."""
        count = len(self.gates)
        call = Call(short, self.db, key, b"v", SYNC)
        while len(self.gates) == count or len(self.gates[-1].calls) < 2:
            call.wait(0.001)
            assert not call.done, "it did not wait"
        return call


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    """Give a store where somebody leads, and whoever waits does so until it is woken."""
    with mock.patch("strandline.engine.short_way.GATE_TIMEOUT", 30.0), Rig(tmp_path) as rig:
        yield Waiting(rig)


def land(db: Store, group: Group) -> list[Any]:
    """Sync and publish as a leader does, but wake nobody: return those to be woken."""
    log = db.engine.log
    waiters, group.waiters = group.waiters, []
    with log.sync_lock:
        log._sync_locked()
    assert group.done
    group.waiters = waiters
    return waiters


def test_what_it_sleeps_on(waiting: Waiting) -> None:
    """On a gate that was closed before anybody knew of it, for as long as a waiter's patience."""
    group = waiting.log.group
    call = waiting.start(b"k")
    (gate,) = waiting.gates
    assert [("acquire",), ("acquire", True, 30.0)] == gate.calls
    assert [gate.release] == group.waiters
    land(waiting.db, group).pop(0)()
    assert 3 == call.answer()
    assert [("release",)] == gate.calls[2:]


def test_an_answer_keeps_nothing(waiting: Waiting) -> None:
    """What one slept on goes when he is answered."""
    for number in range(4):
        waiting.log.leading = True
        call = waiting.start(b"k")
        land(waiting.db, waiting.log.group).pop(0)()
        assert 3 + number == call.answer()
    gates = [weakref.ref(waiting.gates.pop()) for _ in range(4)]
    gc.collect()
    assert [None] * 4 == [gate() for gate in gates]


def test_it_wakes_the_next_one(waiting: Waiting) -> None:
    """Those who wait are woken one by one, each by the one before, in the order of their coming."""
    group, woken = waiting.log.group, list[str]()
    call = waiting.start(b"k")
    group.waiters.append(lambda: woken.append("one"))
    group.waiters.append(lambda: woken.append("other"))
    waiters = land(waiting.db, group)
    waiters.pop(0)()
    assert 3 == call.answer()
    assert ["one"] == woken
    assert 1 == len(waiters)


def test_it_joins_behind_those_who_wait(waiting: Waiting) -> None:
    """The order of the waiters is that of their LSNs; all are answered, none is left behind."""
    group = waiting.log.group
    calls = [waiting.start(b"k%d" % n) for n in range(4)]
    assert [gate.release for gate in waiting.gates] == group.waiters
    land(waiting.db, group).pop(0)()
    assert [3, 4, 5, 6] == [call.answer() for call in calls]
    assert [] == group.waiters
    assert_free(waiting.db)


def test_an_error_on_the_way_to_the_next_one(waiting: Waiting) -> None:
    """What the waking of the next one raises is not kept quiet."""
    group = waiting.log.group
    call = waiting.start(b"k")
    group.waiters.append(lambda: 1 // 0)
    land(waiting.db, group).pop(0)()
    with pytest.raises(ZeroDivisionError):
        call.answer()


def test_woken_before_the_sync(waiting: Waiting) -> None:
    """One who is woken while his group is not done was appointed: he is to lead."""
    group = waiting.log.group
    call = waiting.start(b"k")
    group.waiters.pop(0)()
    assert (3, group, None) == call.answer()
    assert waiting.db.get(b"k") is None
    assert 3 == finished(waiting.db, call.answer())
    assert b"v" == waiting.db.get(b"k")


def test_nobody_wakes_it(tmp_path: Path) -> None:
    """Out of patience he looks for himself whether anybody leads."""
    with mock.patch("strandline.engine.short_way.GATE_TIMEOUT", 0.001), Rig(tmp_path) as rig:
        waiting = Waiting(rig)
        group = waiting.log.group
        done = short(waiting.db, b"k", b"v", SYNC)
        assert (3, group, None) == done
        assert [("acquire",), ("acquire", True, 0.001)] == waiting.gates[0].calls
        assert waiting.db.get(b"k") is None
        assert 3 == finished(waiting.db, done)


def test_a_group_that_was_refused(waiting: Waiting) -> None:
    """With an error in his group he is not acknowledged: the long way raises it, and wakes on."""
    group, woken = waiting.log.group, list[str]()
    call = waiting.start(b"k")
    group.waiters.append(lambda: woken.append("next"))
    waiters, group.waiters = group.waiters, []
    with waiting.log.mutex:
        group.done, group.error = True, lambda: DiskFullError("refused")
    group.waiters = waiters
    waiters.pop(0)()
    assert (3, group, None) == call.answer()
    with pytest.raises(DiskFullError, match="refused"):
        finished(waiting.db, call.answer())
    assert ["next"] == woken


@pytest.mark.parametrize(("crowd", "opened_by"), [(2, 1), (3, 2), (4, 3)])
def test_the_last_one_expected(waiting: Waiting, crowd: int, opened_by: int) -> None:
    """The leader who gathers is told by the last of those that he expects, and only once."""
    log = waiting.log
    log.crowd, gathering = crowd, WatchedLock()
    log.gather_gate = gathering
    gathering.acquire()
    for number in range(1, crowd + 1):
        waiting.start(b"k%d" % number)
        assert (number < opened_by) == (log.gather_gate is gathering)
        assert int(number >= opened_by) == gathering.calls.count(("release",))
    assert log.gather_gate is None
    log.group.waiters.pop(0)()


def test_a_leader_who_gathered_long_ago(waiting: Waiting) -> None:
    """A gate that is open already is passed over."""
    log = waiting.log
    log.crowd, log.gather_gate = 2, WatchedLock()
    call = waiting.start(b"k")
    assert log.gather_gate is None
    log.group.waiters.pop(0)()
    assert 3 == finished(waiting.db, call.answer())


@pytest.mark.parametrize("kind", LOCKS)
def test_a_group_behind_one_in_its_sync(tmp_path: Path, kind: str) -> None:
    """Who comes while a leader syncs waits in the next group, sees nothing, and is synced by one.

    One fdatasync for the leader, one for all who came meanwhile.
    """
    with locks_of(kind), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log, taken = db.engine.log, list[Any]()
        before = log.stats.sync_seconds.count, log.stats.groups().count
        with mock.patch.object(db, "_fast", _noting(db, taken)):
            gate = rig.disk.faults = Gate("fdatasync", path=".wal")
            calls = [Call(db.put, b"k0", b"v", durability=SYNC)]
            assert gate.reached.wait(30)
            for number in range(1, 5):
                calls.append(Call(db.put, b"k%d" % number, b"v", durability=SYNC))
                while len(log.group.waiters) < number:
                    calls[-1].wait(0.001)
            assert [None] * 5 == [db.get(b"k%d" % n) for n in range(5)]
            assert b"first" in db
            gate.opened.set()
            assert [3, 4, 5, 6, 7] == [call.answer() for call in calls]
        after = log.stats.sync_seconds.count, log.stats.groups().count
        assert (2, 2) == (after[0] - before[0], after[1] - before[1])
        assert 5 == len(taken)
        assert None not in taken
        assert 7 == len(rig.power_cut("none").open())


def _noting(db: Store, answers: list[Any]) -> Callable[..., Any]:
    fast: Any = db._fast

    def noting(*args: Any) -> Any:
        answer = fast(*args)
        answers.append(answer)
        return answer

    return noting


def test_threads_that_only_sync(tmp_path: Path) -> None:
    """Whoever is acknowledged finds his LSN synced and his value visible; none is skipped."""
    with Rig(tmp_path, threads=True) as rig:
        db = rig.open()
        lsns: list[list[int]] = [[] for _ in range(6)]

        def work(number: int) -> None:
            for count in range(60):
                key, value = b"%d" % number, b"%d" % count
                lsn = db.put(key, value, durability=SYNC)
                assert lsn is not None
                assert db.engine.log.synced_lsn >= lsn
                assert value == db.get(key)
                lsns[number].append(lsn)

        for call in [Call(work, number) for number in range(6)]:
            call.answer()
        assert list(range(1, 361)) == sorted(lsn for own in lsns for lsn in own)
        assert all(own == sorted(own) for own in lsns)
        assert 360 == db.engine.log.stats.groups().total
        assert_free(db)
        assert {b"%d" % n: b"59" for n in range(6)} == dict(rig.power_cut("none").open())


class Gated(WatchedLock):
    """A lock that can be looked for when nobody holds it any more."""


ROUNDS = 200


@pytest.mark.parametrize("value", [b"v" * 20, short_way.GONE])
@pytest.mark.parametrize("led", [False, True])
def test_nothing_is_kept(tmp_path: Path, led: bool, value: Any) -> None:
    """What a write was made of goes with it: what it slept on, its group, key and value."""
    fast, slow = (
        growth(tmp_path / str(way), value, led=led, way=way) for way in (begin_short, begin_long)
    )
    assert slow.keys() == fast.keys()
    assert {} == {what: n for what, n in fast.items() if abs(n - slow[what]) > ROUNDS // 4}


def growth(
    base: Path, value: Any, *, led: bool, way: Callable[[Rig, bytes, Any], Any]
) -> dict[str, int]:
    """Return by how much what is kept grows in some writes that go the same way."""
    gates: list[weakref.ref[Any]] = []

    def gate() -> Gated:
        made = Gated()
        gates.append(weakref.ref(made))
        return made

    with (
        mock.patch("strandline.engine.short_way.GATE_TIMEOUT", 0.0),
        mock.patch.object(HandRuntime, "lock", side_effect=gate),
        Rig(base) as rig,
    ):
        db, key = calmed(rig, SYNC), b"k" * 20
        log = db.engine.log

        def count() -> dict[str, int]:
            gc.collect()
            held = [key, value, db._state, SYNC, log.tail[0], True, False]
            return {
                "gates": sum(made() is not None for made in gates),
                "groups": sum(type(each) is Group for each in gc.get_objects()),
                "objects": len(gc.get_objects()),
                **{f"held {n}": sys.getrefcount(each) for n, each in enumerate(held)},
            }

        before = count()
        for _ in range(ROUNDS):
            log.leading, log.crowd = led, 0
            done = way(rig, key, None if way is begin_long and value is short_way.GONE else value)
            assert done is not None
            assert (led or way is begin_long) == (log.group is done[1])
            db._writes.wait((*done[:2], None))
            del done
        after = count()
        return {what: after[what] - before[what] for what in after}


def test_async_writers_go_on_meanwhile(waiting: Waiting) -> None:
    """A group that somebody waits for is open to weaker writers, who are visible at once."""
    call = waiting.start(b"k")
    assert 4 == short(waiting.db, b"a", b"v", ASYNC)
    assert (None, b"v") == (waiting.db.get(b"k"), waiting.db.get(b"a"))
    group = waiting.log.group
    land(waiting.db, group).pop(0)()
    assert 3 == call.answer()
    assert b"v" == waiting.db.get(b"k")
