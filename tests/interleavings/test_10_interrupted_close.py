"""A KeyboardInterrupt at every step of closing and of opening a store, and in a sync.

Closing again ends what was begun: the files are let go of, the lock is free and nothing
that was acknowledged is gone. An opening that was struck can be repeated.
"""

from __future__ import annotations

import gc
import itertools
import threading
from pathlib import Path

import pytest

from strandline import Durability, StoreClosedError
from strandline.engine import process_guard
from strandline.recovery.tail import ended_cleanly
from strandline.tools.crash.simulation.faults import Fault
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import contents
from tests.support.strikes import strike

ASYNC, BUFFERED = Durability.ASYNC, Durability.BUFFERED

EXPECTED = {("", b"k%03d" % n): b"v" for n in range(30)} | {
    ("", b"sync"): b"1",
    ("", b"weak"): b"2",
}


def filled(base: Path) -> Rig:
    """Return a rig whose store has 30 keys in LMDB, and is closed."""
    rig = Rig(base)
    db = rig.open()
    db.put_many({b"k%03d" % n: b"v" for n in range(30)})
    assert rig.checkpoint()
    rig.close()
    return rig


def checkpointed_while_others_sleep(rig: Rig) -> None:
    """Let the checkpointer have its turn, until it is told to end, whenever somebody waits."""
    checkpointer, slept = rig.store.engine.checkpointer, rig.clock.sleep
    ticking = threading.Lock()

    def sleep(seconds: float) -> None:
        slept(seconds)
        if not checkpointer.stopping and ticking.acquire(False):
            try:
                Call(checkpointer.tick).answer()
            finally:
                ticking.release()

    rig.clock.sleep = sleep  # type: ignore[method-assign]


def test_close(tmp_path: Path) -> None:
    """Whatever the first close had come to, the second one ends it and everything is there.

    The second is quick: no time passes on the store's clock but what threads are waited for.
    """
    with filled(tmp_path) as base:
        for n in itertools.count():
            rig = base.kill()
            db = rig.open()
            db.put(b"sync", b"1")
            db.put(b"weak", b"2", durability=ASYNC)
            checkpointed_while_others_sleep(rig)
            struck = strike(n, db.close)
            where = f"step {n}, {struck.where}: {struck.error!r}"
            before = rig.clock.now
            Call(db.close).answer()
            assert rig.clock.now < before + 1, f"{where}: closing again took its time"
            with pytest.raises(StoreClosedError):
                db.put(b"late", b"1")
            log, uuid = f"{rig.directory}/log", db.engine.log.uuid
            assert ended_cleanly(rig.disk, log, uuid), f"{where}: no seal of an orderly close"
            again = rig.open(recovery="strict")
            assert contents(again) == EXPECTED, where
            rig.release()
            if not struck.hit:
                break
        assert n > 50


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_open(tmp_path: Path) -> None:
    """An opening that was struck holds nothing: the next one has the lock and finds all.

    The store was killed before, so there is a replay, a new last segment and a new epoch.
    Every 31st step, for there are so many. A file that was struck between `open` and `with`
    is closed by Python, which says so.
    """
    with filled(tmp_path) as base:
        db = base.open()
        db.put(b"sync", b"1")
        db.put(b"weak", b"2", durability=BUFFERED)
        for n in itertools.count(0, 31):
            rig = base.kill()
            struck = strike(n, rig.open)
            if struck.error is None:
                rig.close()
            gc.collect()
            assert not [e for e, _ in process_guard._open.values() if e.path == rig.directory]
            again = rig.open()
            assert contents(again) == EXPECTED, f"step {n}, {struck.where}: {struck.error!r}"
            assert again.put(b"next", b"1") is not None
            rig.release()
            if not struck.hit:
                break
        assert n > 500


def test_weak_writes_are_synced_though_the_leader_was_struck(tmp_path: Path) -> None:
    """A leader is struck in its fdatasync: what is BUFFERED below it still waits for a sync.

    Guard: `Log.housekeep` goes by what is synced, not by what a leader meant to sync.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"weak", b"1", durability=BUFFERED)

        def interrupt(op: str, path: str) -> Fault:
            return KeyboardInterrupt() if op == "fdatasync" else None

        rig.disk.faults = interrupt
        with pytest.raises(KeyboardInterrupt):
            db.put(b"sync", b"1")
        rig.disk.faults = None
        assert not rig.housekeep(), "the thread would go to sleep"
        assert None is rig.power_cut("none").open().get(b"weak")
        rig.clock.now += 1.1
        rig.housekeep()
        assert b"1" == rig.power_cut("none").open().get(b"weak")
