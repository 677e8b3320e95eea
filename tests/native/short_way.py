"""What the tests of the short way of a write share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import strandline
from strandline import Durability, Store
from strandline.native import native
from strandline.tools.crash.simulation.faults import Fault, FaultHook
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.group import Group
from strandline.wal.log_queues import LogQueues
from tests.support.calls import Call

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC

LOCKS = ["RLock", "OwnedLock"]
"""The kinds of locks that a log can have: those of the hand runtime, or of the real one in C."""


@contextmanager
def locks_of(kind: str) -> Iterator[None]:
    """Let the hand runtime make locks of a kind."""
    assert native is not None
    made = native.OwnedLock if kind == "OwnedLock" else threading.RLock
    with mock.patch.object(HandRuntime, "owned_lock", side_effect=made):
        yield


def short(db: Store, key: Any, value: Any, level: Any, state: Any = None) -> Any:
    """Go the short way; None where it gave way."""
    fast = db._writes.fast
    assert fast is not None
    return fast(db._state if state is None else state, key, value, level)


def finished(db: Store, done: Any) -> Any:
    """Wait for what the short way of a SYNC write left to be waited for; the LSN."""
    return db._writes.wait(done) if type(done) is tuple else done


def calmed(rig: Rig, level: Durability) -> Store:
    """Return the rig's store, opened and with the short way open at this level."""
    db = rig.open()
    db.put(b"first", b"1", durability=level)
    assert 2 == finished(db, short(db, b"second", b"2", level))
    assert b"2" == db.get(b"second")
    return db


def is_free(lock: Any) -> bool:
    """Tell whether another thread can have a lock at once; it gives it back."""

    def take() -> bool:
        got = bool(lock.acquire(False))
        if got:
            lock.release()
        return got

    free: bool = Call(take).answer()
    return free


def assert_free(db: Store) -> None:
    """Assert that no thread was left holding a lock of the log."""
    log = db.engine.log
    assert [True] * 3 == [is_free(lock) for lock in (log.sync_lock, log.append_lock, log.mutex)]


@contextmanager
def held_elsewhere(lock: Any) -> Iterator[None]:
    """Have another thread hold a lock."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert done.wait(10)

    call = Call(hold)
    assert held.wait(10)
    try:
        yield
    finally:
        done.set()
        call.answer()


def kind_of(call: Callable[[], object]) -> object:
    """Return what a call gives, True for an LSN, or the kind of error that it raises."""
    try:
        return call() is not None
    except strandline.StrandlineError as error:
        return type(error)


def answering(*answers: tuple[str, Fault]) -> FaultHook:
    """Return a hook: the next calls on a segment are answered so, and the rest pass."""
    left = list(answers)

    def hook(op: str, path: str) -> Fault:
        if path[-4:] == ".wal" and left and left[0][0] == op:
            return left.pop(0)[1]
        return None

    return hook


# What a store holds at a moment. ------------------------------------------------------------------


def picture(rig: Rig) -> dict[str, object]:
    """Return all that a write could change, references to what is written left out.

    Only good for a comparison with another moment of the same store.
    """
    engine = rig.store.engine
    log, index = engine.log, engine.index
    return {
        "log": {n: getattr(log, n) for n in LogQueues.__slots__ if n != "__dict__"},
        "group": (log.group.items[:], log.group.size, log.group.limit, log.group.first_lsn),
        "waiters": (log.group.waiters[:], log.group.opened_at, log.group.done),
        "queues": (len(log.closed), len(log.unsynced), log.group.buffered[:], log.group.sync[:]),
        "entries": {s.name: dict(s.entries) for s in index.states.values()},
        "queued": {s.name: dict(s.queued) for s in index.states.values()},
        "bytes": (index.active_bytes, index.frozen_bytes),
        "engine": (engine.attention, engine.flush_mark, engine.dirty_since, engine.unlogged_writes),
        "singles": log.stats.singles,
        "disk": len(rig.disk.operations),
    }


def facts(rig: Rig) -> dict[str, object]:
    """Return all that two stores have to agree in, in the middle of a write too."""
    engine = rig.store.engine
    log, index = engine.log, engine.index
    groups = [*log.unsynced, *log.closed, log.group]
    places = {id(group): number for number, group in enumerate(groups)}
    return {
        "next LSN": log.next_lsn(),
        "tail": log.tail[1:],
        "queues": (len(log.unsynced), len(log.closed), log.group.size),
        "groups": [_group_facts(group) for group in groups],
        "synced": (log.synced_lsn, log.claimed_lsn, log.stored_lsn, log.unsynced_bytes),
        "clocks": (log.stall_at, log.unsynced_since, engine.dirty_since, rig.clock.now),
        "threads": (log.ticking, log.draining, log._wake_at),
        "leader": (log.leading, log.crowd, log.gather_gate is None),
        "health": (repr(log.failure), repr(log.full), log._ceiling),
        "bytes": (index.active_bytes, index.frozen_bytes, index.dirty_bytes()),
        "budget": (engine.flush_mark, engine.attention, log.log_bytes()),
        "layers": {s.name: [x.entries for x in (s.layer, *s.frozen)] for s in _states(rig)},
        "queued": {
            s.name: {key: (q[0], q[1], places.get(id(q[2])), q[3]) for key, q in s.queued.items()}
            for s in _states(rig)
        },
        "samples": (log.stats.groups().count, log.stats.groups().total),
        "syncs": log.stats.sync_seconds.count,
    }


def _states(rig: Rig) -> list[Any]:
    return list(rig.store.engine.index.states.values())


def _group_facts(group: Group) -> dict[str, object]:
    return {
        "items": group.items,
        "limit": group.limit,
        "LSNs": (group.first_lsn, group.closed_lsn),
        "opened": group.opened_at,
        "sync": [(item[0].name, *item[1:]) for item in group.sync],
        "buffered": len(group.buffered),
        "waiters": len(group.waiters),
        "end": (group.done, group.error is None),
    }


def log_files(rig: Rig) -> dict[str, bytes]:
    """Return what is in every file of the log, and in IDENTITY."""
    disk, found = rig.disk, {}
    for name in ["IDENTITY", *(f"log/{n}" for n in disk.listdir(f"{rig.directory}/log"))]:
        file = disk.open(f"{rig.directory}/{name}", "r")
        found[name] = file.pread(file.size(), 0)
        file.close()
    return found


def operations(rig: Rig) -> list[tuple[object, ...]]:
    """Return what was done on the disk, without the directory's own place."""
    place = str(rig._base)
    return [(o.op, o.path.replace(place, ""), *o[2:]) for o in rig.disk.operations]


# A SYNC write by either way, up to where it has to be waited for. ---------------------------------


def begin_short(rig: Rig, key: bytes, value: Any) -> Any:
    """Go the short way of a SYNC write up to the wait for its sync."""
    return short(rig.store, key, value, SYNC)


def begin_long(rig: Rig, key: bytes, value: bytes | None) -> Any:
    """Go the long way of a SYNC write up to the wait for its sync."""
    db = rig.store
    log, need = db.engine.log, len(key) + 16 + len(value or b"")
    with log.mutex:
        group = log.group
        assert group.size + need <= group.limit
        lsn = db._writes._join(db._state, key, value, SYNC, group, need)
        return lsn, group, log.elect(group)


@contextmanager
def two_rigs(base: Path, kind: str, **options: Any) -> Iterator[tuple[Rig, Rig]]:
    """Give two rigs that nothing tells apart; nobody waits long for a leader."""
    with (
        locks_of(kind),
        mock.patch("strandline.engine.short_way.GATE_TIMEOUT", 0.001),
        Rig(base / "fast", **options) as fast,
        Rig(base / "slow", **options) as slow,
    ):
        yield fast, slow


class WatchedLock:
    """A lock that notes its calls. `made` holds them all, weakly where the test drops them."""

    calls: list[tuple[object, ...]]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = []

    def acquire(self, *args: Any) -> bool:
        self.calls.append(("acquire", *args))
        return self._lock.acquire(*args)

    def release(self) -> None:
        self.calls.append(("release",))
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.release()
