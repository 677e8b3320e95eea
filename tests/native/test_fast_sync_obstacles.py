"""The short way of a SYNC write gives way to whatever is in its way, nothing changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from strandline import InvalidRequestError
from strandline.engine import short_way
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.group import Group
from tests.native.short_way import (
    ASYNC,
    LOCKS,
    SYNC,
    assert_free,
    calmed,
    held_elsewhere,
    locks_of,
    picture,
    short,
)
from tests.native.sync_steps import (
    DELETED,
    EXPECTING,
    KEY,
    NEED,
    VALUE,
    Prepare,
    setting,
    several,
    writing,
)

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


def _gate(rig: Rig) -> None:
    rig.store._state.gate = rig.store.engine.check_open


GIVES_WAY: dict[str, Prepare] = {
    "attention": setting("attention", lambda _: 1),
    "a gate": _gate,
    "a gate, and a crowd": several(EXPECTING, _gate),
    "a full group": several(
        EXPECTING, setting("log.group.limit", lambda e: e.log.group.size + NEED - 1)
    ),
    "a group with little room": several(
        writing(ASYNC), setting("log.group.limit", lambda e: e.log.group.size + NEED - 1)
    ),
    "a group that is too small": setting("log.group.limit", lambda _: NEED - 1),
    "nothing dirty, and a crowd": several(EXPECTING, setting("dirty_since", lambda _: None)),
    "a drainer asleep, and a crowd": several(EXPECTING, setting("log.draining", lambda _: False)),
}


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize("name", GIVES_WAY)
@pytest.mark.parametrize("led", [False, True])
def test_it_gives_way(tmp_path: Path, kind: str, name: str, led: bool) -> None:
    """With something in the way it gives None, and nothing at all has changed."""
    with locks_of(kind), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        GIVES_WAY[name](rig)
        db.engine.log.leading = led
        for value in (VALUE, short_way.GONE):
            key = KEY if value is VALUE else DELETED
            before, counts = picture(rig), (sys.getrefcount(key), sys.getrefcount(value))
            assert short(db, key, value, SYNC) is None
            assert before == picture(rig)
            assert counts == (sys.getrefcount(key), sys.getrefcount(value))
            assert_free(db)


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize("crowd", [0, 2])
@pytest.mark.parametrize("name", ["mutex", "append_lock", "sync_lock"])
def test_a_lock_that_is_taken(tmp_path: Path, kind: str, name: str, crowd: int) -> None:
    """It waits for no lock. Inside of one it gives way, and the long way refuses the write.

    Without the append lock it can still join; the sync lock is for whoever leads.
    """
    with locks_of(kind), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log
        log.crowd = crowd
        before, lock = picture(rig), getattr(log, name)
        with lock:
            assert short(db, KEY, VALUE, SYNC) is None
            with pytest.raises(InvalidRequestError, match="finalizer"):
                db.put(KEY, VALUE, durability=SYNC)
        assert before == picture(rig)
        with held_elsewhere(lock):
            done = short(db, KEY, VALUE, SYNC)
        if name == "mutex":
            assert done is None
            assert before == picture(rig)
        else:
            alone = crowd == 0 and name == "sync_lock"
            assert (3, None, alone) == (done[0], done[2], done[1] is not log.group)
            assert (3 if alone else 2) == log.tail[3]
            assert 3 == db._writes.wait(done)
        assert_free(db)


def test_a_leader_who_came_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who saw nobody lead made nothing to sleep on: where somebody leads now, it gives way."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log, made = db.engine.log, Group.__init__

        def make(group: Group, first_lsn: int, limit: int) -> None:
            made(group, first_lsn, limit)
            log.leading = True

        monkeypatch.setattr(Group, "__init__", make)
        assert short(db, KEY, VALUE, SYNC) is None
        monkeypatch.undo()
        log.leading = False
        assert (2, 3, True) == (log.tail[3], log.next_lsn(), log.group.is_empty())
        assert 3 == db.put(KEY, VALUE, durability=SYNC)


def test_a_leader_who_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who saw somebody lead joins, and leads where nobody does any more."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log, lock = db.engine.log, HandRuntime.lock
        db.close()

        def make(runtime: HandRuntime) -> Any:
            rig.store.engine.log.leading = False
            return lock(runtime)

        monkeypatch.setattr(HandRuntime, "lock", make)
        db = rig.open()
        db.put(b"first", b"1", durability=SYNC)
        log = db.engine.log
        log.leading = True
        group = log.group
        done = short(db, KEY, VALUE, SYNC)
        assert (group, None, True, []) == (done[1], done[2], log.leading, group.waiters)
        db._writes.wait(done)
        assert VALUE == db.get(KEY)
