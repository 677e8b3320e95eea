"""A process forks while its store is open.

The child has a copy of everything: descriptors, locks held by threads that it does not
have, LMDB's environment. It may do nothing with any of it. Its handle raises
StoreClosedError at the first use and never waits; its exit takes nothing from the parent;
and when the parent dies, the child that lives on does not keep the store locked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability, StrandlineError
from strandline.engine.store import Store
from tests.support import children
from tests.support.strikes import strike

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "segment_bytes": 64 << 10,
    "max_log_bytes": 1 << 20,
    "map_bytes": 64 << 20,
}

VERBS: dict[str, Callable[[Store], Any]] = {
    "get": lambda db: db.get(b"stored"),
    "get of what is in memory": lambda db: db.get(b"dirty"),
    "get_many": lambda db: db.get_many([b"stored", b"dirty"]),
    "contains": lambda db: b"dirty" in db,
    "put": lambda db: db.put(b"k", b"v"),
    "put BUFFERED": lambda db: db.put(b"k", b"v", durability=Durability.BUFFERED),
    "put ASYNC": lambda db: db.put(b"k", b"v", durability=Durability.ASYNC),
    "put_many": lambda db: db.put_many({b"k": b"v"}),
    "delete": lambda db: db.delete(b"k"),
    "incr": lambda db: db.incr(b"n"),
    "pop": lambda db: db.pop(b"dirty"),
    "append": lambda db: db.append(b"v"),
    "batch": lambda db: _batch(db),
    "scan": lambda db: list(db.scan()),
    "len": len,
    "snapshot": lambda db: db.snapshot(),
    "clear": lambda db: db.clear(),
    "unlogged put": lambda db: db.table("views").put(b"k", b"v"),
    "unlogged clear": lambda db: db.table("views").clear(),
    "unlogged append": lambda db: db.table("views").append(b"v"),
    "create": lambda db: db.table("new"),
    "drop": lambda db: db.drop_table("views"),
    "sync": lambda db: db.sync(),
    "flush": lambda db: db.flush(),
    "wait_stored": lambda db: db.wait_stored(1 << 40),
    "stats": lambda db: db.stats(),
    "health": lambda db: db.health(),
}


def _batch(db: Store) -> None:
    with db.batch() as batch:
        batch.put(b"k", b"v")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An open store with something in LMDB, something in memory, and an unlogged table."""
    with strandline.open(tmp_path / "data", **OPTIONS) as store:
        store.table("views", logged=False)
        store.put(b"stored", b"1")
        store.flush()
        store.put(b"dirty", b"2")
        yield store


@contextmanager
def held_by_another_thread(db: Store) -> Iterator[None]:
    """Have a thread hold every lock of the store, as if it were at work everywhere at once."""
    log, state = db.engine.log, db.engine.index.states[1]
    locks: list[Any] = [db.engine.close_lock, log.sync_lock, log.append_lock, log.mutex]
    locks += [log.segments.lock, *(layer.order._lock for layer in state.view.layers)]
    holds, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            holds.set()
            assert let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(30)
    try:
        yield
    finally:
        let_go.set()
        thread.join()


# The child --------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_every_verb_raises_at_once(db: Store, held: bool) -> None:
    """In the child each verb raises StoreClosedError, whoever held which lock at the fork.

    Guard: `Engine.forget_after_fork`, which gives the child locks that nobody holds.
    """
    tasks = [lambda verb=verb: verb(db) for verb in VERBS.values()]
    with held_by_another_thread(db) if held else ExitStack():
        outcomes = dict(zip(VERBS, children.run_all(tasks, seconds=5), strict=True))
    wrong = {name: o for name, o in outcomes.items() if o.error != "StoreClosedError"}
    assert not wrong
    assert all("forked child" in o.message for o in outcomes.values())
    assert (b"1", b"2") == (db.get(b"stored"), db.get(b"dirty"))
    assert db.put(b"after", b"1") is not None


@pytest.mark.parametrize("held", [False, True])
def test_what_was_open_at_the_fork(db: Store, held: bool) -> None:
    """Snapshots and iterators from before the fork raise, or end; closing them never waits."""
    for number in range(300):
        db.put(b"many%03d" % number, b"x", durability=Durability.ASYNC)
    snapshot, rows = db.snapshot(), db.scan()
    next(rows)
    for number in range(300):
        db.put(b"more%03d" % number, b"x", durability=Durability.ASYNC)
    refused: dict[str, Callable[[], Any]] = {
        "get": lambda: snapshot.get(b"stored"),
        "get in memory": lambda: snapshot.get(b"dirty"),
        "scan": lambda: list(snapshot.scan()),
        "rows": lambda: list(rows),
    }
    ended: dict[str, Callable[[], Any]] = {
        "close snapshot": snapshot.close,
        "close store": db.close,
        "close twice": lambda: (db.close(), db.close()),
        "with": lambda: db.__exit__(None, None, None),
    }
    with held_by_another_thread(db) if held else ExitStack():
        tasks = [*refused.values(), *ended.values()]
        outcomes = dict(zip([*refused, *ended], children.run_all(tasks, seconds=5), strict=True))
    assert {"StoreClosedError"} == {outcomes[name].error for name in refused}, outcomes
    assert not [outcomes[name] for name in ended if outcomes[name].error or outcomes[name].signal]
    assert b"2" == snapshot.get(b"dirty")
    assert 301 == len(list(rows))
    snapshot.close()


def test_child_of_a_thread_at_work(db: Store) -> None:
    """A handler forks in the middle of a write: the child ends, the parent's write is whole.

    In the child the write that was under way raises; it does not write, and it does not hang.
    """
    for n in range(0, 400, 9):
        outcomes: list[int] = []

        def handle(outcomes: list[int] = outcomes) -> None:
            child = os.fork()
            if child:
                outcomes.append(child)
            else:
                signal.alarm(10)

        parent = os.getpid()
        struck = None
        try:
            struck = strike(n, lambda n=n: db.put(b"k%d" % n, b"v"), handle)  # type: ignore[misc]
        finally:
            if os.getpid() != parent:
                refused = struck is not None and isinstance(struck.error, StrandlineError)
                whole = struck is not None and struck.error is None
                os._exit(0 if refused else 3 if whole else 4)
        assert struck.error is None
        if not struck.hit:
            break
        _, status = os.waitpid(outcomes[0], 0)
        assert not os.WIFSIGNALED(status), f"{struck.where}: the child hangs"
        assert os.WEXITSTATUS(status) in (0, 3), struck.where
        assert b"v" == db.get(b"k%d" % n)
    assert n > 30
