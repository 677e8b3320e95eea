"""The short way of a SYNC write when memory runs out: at each allocation of it in turn.

With the locks of the real runtime: to let go of another kind of lock takes memory itself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, StoreFailedError, WriteOutcomeUnknownError
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from tests.native.short_way import SYNC, assert_free, calmed, facts, locks_of
from tests.support import children

capi: Any = pytest.importorskip("_testcapi")
if not hasattr(capi, "set_nomemory"):
    pytest.skip("needs CPython's own tests", allow_module_level=True)

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child without other threads: one of them could be struck instead."""

    @functools.wraps(test)
    def in_a_child(*args: Any, **kwargs: Any) -> None:
        children.run(functools.partial(test, *args, **kwargs), seconds=60).unwrap()

    return in_a_child


def struck_at(rig: Rig, n: int) -> Any:
    """Go the short way, with no memory for the n-th allocation; what it gives, None if struck."""
    fast, state = rig.store._writes.fast, rig.store._state
    assert fast is not None
    capi.set_nomemory(n, n + 1)
    try:
        return fast(state, b"k", b"v", SYNC)
    except MemoryError:
        return None
    finally:
        capi.remove_mem_hooks()


@alone
def test_joining_a_group(tmp_path: Path) -> None:
    """What cannot join as a whole does not join at all, and the next one has its LSN."""
    with locks_of("OwnedLock"), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        log = db.engine.log
        log.crowd = 2
        for n in itertools.count(1):
            before = what_counts(rig)
            done = struck_at(rig, n)
            assert_free(db)
            if done is not None:
                break
            assert before == what_counts(rig)
        assert n > 3
        assert log.group is done[1]
        assert 3 == db._writes.wait(done)
        assert {b"first": b"1", b"second": b"2", b"k": b"v"} == dict(rig.power_cut("none").open())


@alone
def test_a_frame_of_its_own(tmp_path: Path) -> None:
    """Up to where its frame is written nothing has changed, and the next one has its place."""
    with locks_of("OwnedLock"), Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        writes: list[str] = []
        rig.disk.faults = lambda op, path: writes.append(op)
        for n in itertools.count(1):
            before = what_counts(rig)
            done = struck_at(rig, n)
            assert_free(db)
            if writes:
                break
            assert (None, before) == (done, what_counts(rig))
        assert n > 5
        assert ["pwrite"] == writes


def what_counts(rig: Rig) -> Any:
    """Return what must not have changed: all but the clocks of a group that nothing is in."""
    found: Any = facts(rig)
    del found["clocks"]
    for group in found["groups"]:
        del group["opened"]
        group["items"] = group["items"].copy()
    return found


@alone
def test_a_refused_write_is_no_base_for_another(tmp_path: Path) -> None:
    """What could not join a leader's group is not what incr goes on from."""
    for n in itertools.count(1):
        with locks_of("OwnedLock"), Rig(tmp_path / str(n)) as rig:
            db = calmed(rig, SYNC)
            fast, state = db._writes.fast, db._state
            assert fast is not None
            db.engine.log.leading = True
            capi.set_nomemory(n, n + 1)
            try:
                done = fast(state, b"number", b"5", SYNC)
            except (MemoryError, RuntimeError):  # what a lock that cannot be made raises
                done = None
            finally:
                capi.remove_mem_hooks()
                db.engine.log.leading = False
            if done is not None:
                break
            assert b"number" not in state.queued
    assert n > 5


@pytest.mark.parametrize("level", [SYNC, Durability.BUFFERED])
@alone
def test_memory_that_ends_behind_a_written_frame(tmp_path: Path, level: Durability) -> None:
    """The log knows of the write and nobody else does: nothing is acknowledged from then on."""
    ended = set()
    for n in itertools.count(1):
        with locks_of("OwnedLock"), Rig(tmp_path / str(n)) as rig:
            db = calmed(rig, level)
            fast = db._writes.fast
            assert fast is not None
            tail = db.engine.log.tail
            capi.set_nomemory(n, n + 1)
            try:
                done = fast(db._state, b"number", b"5", level)
            except (MemoryError, WriteOutcomeUnknownError) as error:
                done = type(error)
            finally:
                capi.remove_mem_hooks()
            if not isinstance(done, type):
                break
            written = tail is not db.engine.log.tail
            assert written == (done is WriteOutcomeUnknownError)
            ended.add(written)
            if written:
                with pytest.raises(StoreFailedError):
                    db.compare_and_set(b"number", None, b"6")
                assert db.health().state.name == "FAILED"
                assert b"5" == rig.kill().open()[b"number"]
    assert ended == {True, False}
