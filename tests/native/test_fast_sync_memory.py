"""The short way of a SYNC write when memory runs out: at each allocation of it in turn.

With the locks of the real runtime: to let go of another kind of lock takes memory itself.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from strandline.native import native
from tests.native.short_way import SYNC, assert_free, calmed, facts, locks_of
from tests.support.rig import Rig

capi: Any = pytest.importorskip("_testcapi")
if not hasattr(capi, "set_nomemory"):
    pytest.skip("needs CPython's own tests", allow_module_level=True)

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


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
