"""What the tests of the short way of a write share."""

from __future__ import annotations

from typing import Any

from strandline import Durability, Store
from tests.support.calls import Call
from tests.support.rig import Rig

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC


def short(db: Store, key: Any, value: Any, level: Any, state: Any = None) -> Any:
    """Go the short way; None where it gave way."""
    fast = db._writes.fast
    assert fast is not None
    return fast(db._state if state is None else state, key, value, level)


def calmed(rig: Rig, level: Durability) -> Store:
    """Return the rig's store, opened and with the short way open at this level."""
    db = rig.open()
    db.put(b"first", b"1", durability=level)
    assert 2 == short(db, b"second", b"2", level)
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
