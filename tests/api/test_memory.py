"""Memory is bounded by the budget and not by the data, while writing and in recovery.

Each case runs in a child of its own. What is measured is anonymous memory: the pages of
LMDB's file that the kernel has mapped are its cache, and go when somebody needs the room.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability
from tests.api.stores import Never
from tests.support import children

MIB = 1 << 20
BUDGET = 4 * MIB
DATA = 96 * MIB
VALUE = 1000
COUNT = DATA // VALUE
ALLOWED = 8 * BUDGET + 16 * MIB
"""The dirty entries, LMDB's copy of each page that a checkpoint touches, groups, fragments."""

OPTIONS: dict[str, Any] = {
    "segment_bytes": MIB,
    "group_bytes": MIB // 4,
    "max_dirty_bytes": BUDGET,
    "max_log_bytes": 4 * BUDGET,
    "durability": Durability.ASYNC,
    "disk_reserve_bytes": 0,
}

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="memory is read from /proc"
)


def anonymous() -> int:
    """Return the anonymous memory of this process in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


class Peak:
    """The highest amount of memory within a block, beyond what there was at its begin."""

    def __enter__(self) -> Peak:
        self._over = threading.Event()
        self._first = self._highest = anonymous()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._highest = max(self._highest, anonymous())

    @property
    def grown(self) -> int:
        return self._highest - self._first


def record(n: int) -> tuple[bytes, bytes]:
    """Return the n-th key and value."""
    return b"%016d" % (n * 7919 % COUNT), b"%0*d" % (VALUE, n)


def write_all(path: Path) -> int:
    """Write the data set and return the peak of memory."""
    with Peak() as peak, strandline.open(path, **OPTIONS) as db:
        for n in range(COUNT):
            db.put(*record(n))
        assert len(db) == COUNT
        assert sum(1 for _ in db.scan()) == COUNT
    return peak.grown


def write_and_die(path: Path, keys: int) -> None:
    """Leave a log of `DATA` bytes above the watermark."""
    wide = {**OPTIONS, "max_dirty_bytes": 1 << 30, "max_log_bytes": 1 << 30}
    db = strandline.open(path, **wide, flush_strategy=Never())
    for n in range(COUNT):
        key, value = record(n)
        db.put(key if keys == COUNT else b"%d" % (n % keys), value)
    db.engine.log.drain()
    os.kill(os.getpid(), signal.SIGKILL)


def recover(path: Path, keys: int) -> int:
    """Open the store, read it, and return the peak of memory."""
    with Peak() as peak, strandline.open(path, **OPTIONS) as db:
        assert db.recovery_report.operations_replayed == COUNT
        assert len(db) == keys
        for n in range(COUNT - min(keys, 1000), COUNT):
            key, value = record(n)
            assert value == db[key if keys == COUNT else b"%d" % (n % keys)]
    return peak.grown


def test_data_far_larger_than_the_budget(tmp_path: Path) -> None:
    """Sixteen times the budget is written, counted and scanned within a few times the budget."""
    grown = children.run(lambda: write_all(tmp_path / "s"), 60).unwrap()
    assert grown < ALLOWED


@pytest.mark.parametrize("keys", [COUNT, 10], ids=["different keys", "the same ten keys"])
def test_replay_of_a_log_far_larger_than_the_budget(tmp_path: Path, keys: int) -> None:
    """After SIGKILL the replay goes to LMDB as it fills the budget, however long the log is."""
    died = children.run(lambda: write_and_die(tmp_path / "s", keys), 60)
    assert died.signal == signal.SIGKILL
    log = sum(each.stat().st_size for each in (tmp_path / "s" / "log").iterdir())
    assert log > 16 * BUDGET
    grown = children.run(lambda: recover(tmp_path / "s", keys), 60).unwrap()
    assert grown < ALLOWED


def test_old_values_that_snapshots_see_stay_within_the_budget(tmp_path: Path) -> None:
    """Snapshots taken all the time pin no more than the budget: the writer waits for them to go."""

    def work() -> int:
        options = {**OPTIONS, "overload": "reject"}
        with Peak() as peak, strandline.open(tmp_path / "s", **options) as db:
            held: list[strandline.Snapshot] = []
            refusals = 0
            for n in range(COUNT):
                try:
                    db[b"%d" % (n % 3)] = b"%0*d" % (MIB // 10, n)
                except strandline.BackpressureError:
                    refusals += 1
                    if refusals == 3:
                        break
                    while held:
                        held.pop().close()
                    db.flush()
                held.append(db.snapshot())
            assert refusals == 3
        return peak.grown

    assert children.run(work, 60).unwrap() < ALLOWED
