"""The ways in which a store comes to its end other than by a quiet close().

close() under fire, a batch that is left by an exception, an interpreter that exits with
the store open, an object that nobody holds any more. Each is a normal end: what was
acknowledged, at whatever level, is there afterwards.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability
from strandline.engine.store import Store
from strandline.errors import StoreClosedError, StoreLockedError
from strandline.tools.crash.simulation.faults import Gate
from strandline.tools.crash.simulation.rig import SMALL, Rig
from strandline.wal.segments import SPARE_NAME
from tests.support.calls import Call

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LEVELS = [SYNC, BUFFERED, ASYNC]
WRITERS = 16


def write_until_refused(db: Store, name: str, counts: list[int], me: int) -> StoreClosedError:
    """Count acknowledged writes, level after level; return what ended them."""
    level = LEVELS[me % len(LEVELS)]
    try:
        while True:
            db.table(name).put(b"%d-%d" % (me, counts[me]), b"v" * 50, durability=level)
            counts[me] += 1
    except StoreClosedError as error:
        return error


@pytest.mark.parametrize("drain", [True, False])
def test_close_beside_writers(tmp_path: Path, drain: bool) -> None:
    """What was acknowledged before or during close() is there; every other write is refused.

    A refused write is not there either, so nobody has to ask. Guard: `Engine.shut` closes
    the tables before `Log.close` drains, and what is queued by then is written.
    """
    counts = [0] * WRITERS
    with strandline.open(tmp_path / "data", **SMALL) as db:
        db.table("t")
        calls = [Call(write_until_refused, db, "t" * (me % 2), counts, me) for me in range(WRITERS)]
        wait_until(lambda: min(counts) >= 5)
        Call(db.close, drain=drain).answer()
        for call in calls:
            assert isinstance(call.answer(), StoreClosedError)
    expected = {b"%d-%d" % (me, n) for me in range(WRITERS) for n in range(counts[me])}
    with strandline.open(tmp_path / "data", **SMALL) as db:
        assert expected == {*db, *db.table("t")}
        assert db.recovery_report.torn_tail is None


def test_two_closes_beside_writers(tmp_path: Path) -> None:
    """Several threads close at once while others write: all come back, and nothing is lost.

    Guard: `Engine.close_lock`, and `closed_fully` looked at again under it.
    """
    counts = [0] * WRITERS
    db = strandline.open(tmp_path / "data", **SMALL)
    calls = [Call(write_until_refused, db, "", counts, me) for me in range(WRITERS)]
    wait_until(lambda: min(counts) >= 2)
    for closing in [Call(db.close) for _ in range(4)]:
        closing.answer()
    for call in calls:
        call.answer()
    with strandline.open(tmp_path / "data", **SMALL) as db:
        assert sum(counts) == len(db)


def test_close_beside_a_worker_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not come back from filling a spare segment does not hold close() up.

    When it does come back the thread finds the log closed, and leaves nothing behind. Guard:
    worker threads are waited for with a time limit.
    """
    monkeypatch.setattr("strandline.engine.closing._THREAD_TIMEOUT", 0.1)
    with Rig(tmp_path, threads=True) as rig:
        db = rig.open()
        gate = rig.disk.faults = Gate("pwrite", path=SPARE_NAME)
        while not gate.reached.is_set():
            db.put(b"k", bytes(1000), durability=SYNC)
        Call(db.close, drain=False).answer()
        with pytest.raises(StoreClosedError):
            db.get(b"k")
        log = f"{rig.directory}/log"
        again = rig.kill()
        gate.opened.set()
        wait_until(lambda: SPARE_NAME not in rig.disk.listdir(log))
        assert {b"k": bytes(1000)} == dict(again.open())
        assert {b"k": bytes(1000)} == dict(rig.open())


@pytest.mark.parametrize("level", LEVELS)
def test_exception_in_a_batch(tmp_path: Path, level: Durability) -> None:
    """An exception in the body discards the batch, takes no LSN, and comes out unchanged.

    Guard: `Batch.__exit__` writes only where there was no exception.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t").put(b"k", b"old")
        before = db.stats().last_lsn
        failure = RuntimeError("in the body")

        def body() -> None:
            with db.batch(durability=level) as batch:
                batch.put(b"k", b"new")
                batch.table("t").put(b"k", b"new")
                batch.table("t").delete(b"k")
                raise failure

        with pytest.raises(RuntimeError) as caught:
            body()
        assert caught.value is failure
        assert before == db.stats().last_lsn
        db.put(b"after", b"1")
        for store in (db, rig.kill().open()):
            assert {b"after": b"1"} == dict(store.items())
            assert {b"k": b"old"} == dict(store.table("t").items())


EXITING = """
import os, sys, threading
import strandline

db = strandline.open(sys.argv[1], segment_bytes=64 << 10, group_bytes=4 << 10,
                     map_bytes=16 << 20, max_log_bytes=64 << 20, disk_reserve_bytes=0)
enough = threading.Barrier(7)

def write(me, level):
    number = 0
    try:
        while True:
            db.put(b"%s-%d-%d" % (level.value.encode(), me, number), b"v", durability=level)
            os.write(1, b"%s-%d-%d\\n" % (level.value.encode(), me, number))
            number += 1
            if number == 5:
                enough.wait()
    except strandline.StoreClosedError:
        threading.Event().wait()  # still running when the interpreter ends

for me, level in enumerate([*strandline.Durability] * 2):
    threading.Thread(target=write, args=(me, level), daemon=True).start()
enough.wait()
"""


def test_interpreter_exit_beside_daemon_threads(tmp_path: Path) -> None:
    """An exit without close() is soon over, warns, and loses nothing acknowledged.

    Not even ASYNC writes that were acknowledged during the exit. Guard: `_at_exit` of
    `engine.process_guard`, which closes from a thread of its own.
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", EXITING, str(tmp_path / "data")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert 20 > time.monotonic() - started
    stderr = done.stderr.decode()
    assert 0 == done.returncode, stderr
    assert re.search(r"ResourceWarning: .*data: the store was not closed before", stderr), stderr
    assert "Traceback" not in stderr
    acknowledged = set(done.stdout.split())
    assert {b"sync", b"buffered", b"async"} == {key.split(b"-")[0] for key in acknowledged}
    with strandline.open(tmp_path / "data", **SMALL) as db:
        assert set() == acknowledged - set(db)
        assert db.recovery_report.torn_tail is None


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("cycle", [False, True])
def test_dropped_store_is_closed(tmp_path: Path, cycle: bool, flushed: bool) -> None:
    """A store that nobody holds warns, and lets go of its lock with everything on disk.

    Guard: `Store.__del__` only sets a flag and wakes the checkpointer's thread, which may have
    nothing to do. It does not hold the store, and does the rest (`close_orphan`): a flush too,
    for what has no other home than LMDB.
    """
    path = tmp_path / "data"
    threads = threading.active_count()

    def use() -> None:
        held: Any = [strandline.open(path, **SMALL)]
        table = held[0].table("t")
        for number in range(30):
            table.put(b"%d" % number, b"v", durability=LEVELS[number % 3])
        held[0].table("unlogged", logged=False).put(b"k", b"v")
        if flushed:
            held[0].flush()
        if cycle:
            held.append(held)
        del held, table
        gc.collect()

    with pytest.warns(ResourceWarning, match="data: the store was not closed"):
        use()
    found: list[Store] = []

    def opened() -> bool:
        try:
            found.append(strandline.open(path, **SMALL))
        except StoreLockedError:
            return False
        return True

    wait_until(opened)
    with found[0] as db:
        assert {b"%d" % number for number in range(30)} == set(db.table("t"))
        assert {b"k": b"v"} == dict(db.table("unlogged").items())
        assert db.recovery_report.torn_tail is None
    wait_until(lambda: threading.active_count() <= threads)


DROPPING = """
import gc, sys, time
import strandline

strandline.open(sys.argv[1], map_bytes=16 << 20).put(b"k", b"v")
gc.collect()
while True:
    try:
        with strandline.open(sys.argv[1], map_bytes=16 << 20) as db:
            assert {b"k": b"v"} == dict(db)
        break
    except strandline.StoreLockedError:
        time.sleep(0.01)
"""


def test_dropped_store_is_closed_where_warnings_are_errors(tmp_path: Path) -> None:
    """What the warning raises in a finalizer goes to stderr; the store is closed before.

    Guard: `Store.__del__` warns last.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DROPPING, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "ResourceWarning" in done.stderr


def wait_until(holds: Any, seconds: float = 30.0) -> None:
    """Ask until it holds; what never does fails the test."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)
