"""A signal handler, a `__del__` and a callback of the garbage collector that use the store.

They run on a thread that may be anywhere inside the store, with any of its locks held. The
locks know their owner and would let it in: an append in the middle of an append leaves the
tail before what the inner one wrote. So such a call works, or it is refused with
InvalidRequestError and nothing of it is done. It never waits for the thread that it runs
on, and what it came into the middle of goes on as if nothing had been.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from strandline import InvalidRequestError, StoreClosedError
from strandline.engine.store import Store
from strandline.tools.crash.simulation.rig import Rig
from tests.support.history import contents
from tests.support.strikes import strike
from tests.support.sweep import (
    ASYNC,
    BUFFERED,
    SYNC,
    Attempt,
    Values,
    compare_with_reopened,
    sweep,
)

Verb = Callable[[Store, int], Values]
"""Does something with a store; returns what was acknowledged."""


def _put(level: Any) -> Verb:
    def put(db: Store, n: int) -> Values:
        db.put(b"inner", b"%d" % n, durability=level)
        return {("", b"inner"): b"%d" % n}

    return put


def _put_many(db: Store, n: int) -> Values:
    items = {b"i%d" % i: b"%d" % n for i in range(3)}
    db.put_many(items, durability=ASYNC)
    return {("", key): value for key, value in items.items()}


def _incr(db: Store, n: int) -> Values:
    """Count on from what the interrupted write has queued: as strong as that is."""
    db.incr(b"outer", 1, durability=ASYNC)
    return {}


def _big(db: Store, n: int) -> Values:
    """Need more room than the open group has."""
    value = b"%05d" % n * 2000
    db.put(b"big", value, durability=ASYNC)
    return {("", b"big"): value}


def _snapshot(db: Store, n: int) -> Values:
    with db.snapshot() as snapshot:
        assert snapshot.get(b"k") == b"v"
        assert dict(snapshot.scan(prefix=b"k"))[b"k"] == b"v"
    return {}


def _read(db: Store, n: int) -> Values:
    assert db.get(b"k") == b"v"
    with suppress(InvalidRequestError):
        assert db.get_many([b"k", b"none"]) == {b"k": b"v"}
    with suppress(InvalidRequestError):
        assert len(db) > 0
    with suppress(InvalidRequestError):
        assert (b"k", b"v") in list(db.scan())
    return {}


def _define(db: Store, n: int) -> Values:
    with suppress(InvalidRequestError):
        db.table("t").clear()
    with suppress(InvalidRequestError):
        db.table("made")
    if "made" in db.tables():
        db.drop_table("made")
    return {}


def _sync(db: Store, n: int) -> Values:
    with suppress(InvalidRequestError):
        db.sync()
    with suppress(InvalidRequestError):
        db.flush(timeout=0.01)
    with suppress(InvalidRequestError):
        db.wait_stored(1 << 40, timeout=0.01)
    db.stats()
    db.health()
    return {}


VERBS: dict[str, Verb] = {
    "SYNC put": _put(SYNC),
    "BUFFERED put": _put(BUFFERED),
    "ASYNC put": _put(ASYNC),
    "put_many": _put_many,
    "incr": _incr,
    "big": _big,
    "snapshot": _snapshot,
    "read": _read,
    "define": _define,
    "sync": _sync,
}


def opened(rig: Rig) -> Store:
    """Open a store with a table, a key in LMDB, and an active segment that is soon full."""
    db = rig.open()
    db.table("t")
    db.put(b"k", b"v")
    assert rig.checkpoint()
    return db


@pytest.mark.parametrize(
    ("level", "verb"),
    [*((SYNC, verb) for verb in VERBS), *((ASYNC, verb) for verb in ("ASYNC put", "incr", "big"))],
)
def test_signal_handler(tmp_path: Path, level: Any, verb: str) -> None:
    """A handler strikes at every step of a write, and its own write is there or refused.

    The write turns to the next segment. Guards: `Log.refuse_reentry`, `WritePath._guard`.
    """
    with Rig(tmp_path) as rig:
        db = opened(rig)
        done: Values = {}

        def attempt(n: int) -> Attempt:
            done.clear()
            if n % 8 == 7:
                assert rig.checkpoint()
                rig.housekeep()
            items = {b"outer": b"%d" % (10 * n), b"large": b"%05d" % n * 8000}

            def handle() -> None:
                with suppress(InvalidRequestError):
                    done.update(VERBS[verb](db, n))

            return Attempt(lambda: db.put_many(items, durability=level), handle=handle)

        def others(n: int) -> Values:
            added = int(db.get(b"outer", b"0")) - 10 * n
            assert added in (0, 1), "an addition is lost"
            return {**done, ("", b"large"): b"%05d" % n * 8000}

        assert sweep(rig, attempt, others, recovery="tolerate-torn-tail") > 10


def test_closing_handler(tmp_path: Path) -> None:
    """A handler closes the store in the middle of a write: it is refused, or it works.

    Where it works the write ends in StoreClosedError, or was there before.
    """
    with Rig(tmp_path) as base:
        opened(base)
        base.close()
        refused = closed = 0
        for n in itertools.count():
            rig = base.kill()
            db = rig.open()
            outcome: list[str] = []

            def handle(db: Store = db, outcome: list[str] = outcome) -> None:
                try:
                    db.close(drain=False)
                except InvalidRequestError:
                    outcome.append("refused")
                else:
                    outcome.append("closed")

            struck = strike(n, lambda db=db: db.put(b"outer", b"1"), handle)  # type: ignore[misc]
            if struck.error is not None:
                assert isinstance(struck.error, StoreClosedError), struck.where
                assert outcome == ["closed"]
            db.close(drain=False)
            there = rig.open(recovery="strict").get(b"outer")
            assert (there is None) == (struck.error is not None)
            refused += outcome == ["refused"]
            closed += outcome == ["closed"]
            rig.release()
            if not struck.hit:
                break
        assert refused > 10
        assert closed > 2


class Uses:
    """Calls one verb after the other on a store, from where it should not."""

    def __init__(self, db: Store) -> None:
        self.calls = self.refused = 0
        self.wrong: list[BaseException] = []
        self.done: Values = {}
        self._db = db
        self._verbs = itertools.cycle(VERBS.values())
        self._inside = False

    def __call__(self) -> None:
        if self._inside:
            return
        self._inside = True
        self.calls += 1
        try:
            self.done.update(next(self._verbs)(self._db, self.calls))
        except InvalidRequestError:
            self.refused += 1
        except BaseException as error:
            self.wrong.append(error)
        finally:
            self._inside = False


class Dying:
    """Part of a cycle; uses the store when the garbage collector finds it."""

    def __init__(self, uses: Uses) -> None:
        self._uses = uses
        self._self = self

    def __del__(self) -> None:
        self._uses()


@contextmanager
def collecting(uses: Uses, kind: str) -> Iterator[Callable[[int], None]]:
    """Let the garbage collector come to use the store; calls of what is yielded say when.

    As a callback at almost every allocation, as a finalizer so many allocations later.
    """
    threshold = gc.get_threshold()

    def callback(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            uses()

    def later(allocations: int) -> None:
        if kind == "finalizer":
            gc.collect(0)
            Dying(uses)
            gc.set_threshold(gc.get_count()[0] + allocations, 1000, 1000)

    if kind == "callback":
        gc.callbacks.append(callback)
        gc.set_threshold(3, 1000, 1000)
    try:
        yield later
    finally:
        gc.set_threshold(*threshold)
        if kind == "callback":
            gc.callbacks.remove(callback)
        gc.collect()


@pytest.mark.parametrize("kind", ["callback", "finalizer"])
def test_garbage_collector(tmp_path: Path, kind: str) -> None:
    """Collections in the midst of writes, reads and definitions, each of which uses the store.

    The collector comes with an allocation: between the very bytecodes that no signal can
    come between.
    """
    with Rig(tmp_path) as rig:
        db = opened(rig)
        uses = Uses(db)
        with collecting(uses, kind) as later:
            for n in range(150):
                value, level = b"%d" % n, (SYNC, BUFFERED, ASYNC)[n % 3]
                calls: list[Callable[[], object]] = [
                    partial(db.put, b"own", value, durability=level),
                    partial(db.put_many, {b"a": value, b"b": value}),
                    partial(db.incr, b"counter"),
                    partial(db.get_many, [b"a", b"k"]),
                    partial(dict, db.scan(prefix=b"a")),
                    db.table("t").clear,
                ]
                for number, call in enumerate(calls if n % 10 == 0 else calls[:5]):
                    later((7 * n + number) % 50)
                    call()
                assert value == db.get(b"a") == db.get(b"own")
        assert not uses.wrong, uses.wrong
        assert uses.calls > 100
        assert uses.refused > 10
        assert b"150" == db.get(b"counter")
        db.sync()
        found = contents(db)
        for place, expected in uses.done.items():
            assert found[place] == expected, f"an acknowledged write is lost: {place}"
        compare_with_reopened(rig, "the end")
