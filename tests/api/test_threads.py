"""Sixty-four threads at all levels on the same keys, and everything that they saw explained.

Each write's LSN and each read is written down, and held together when all is over: the
log's order is the order of everything. Nothing is asserted of how fast anything is.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import strandline
from strandline import Durability, Store
from tests.api.stores import Always

THREADS = 64
STEPS = 250
KEYS = [b"k%02d" % n for n in range(16)]
BATCH = [b"b%02d" % n for n in range(12)]
LEVELS = list(Durability)

Write = tuple[int, dict[bytes, bytes]]
"""The LSN at which a commit is complete, and what it stored in the default table."""


@dataclass
class Diary:
    """What one thread did and saw."""

    writes: list[Write] = field(default_factory=list)
    operations: int = 0
    """LSNs that its writes took."""
    reads: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """Values of each key, in the order in which they were seen."""
    own: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    """Reads of a key right after a write of it was acknowledged: key, that LSN, what was seen."""
    views: list[tuple[int, dict[bytes, bytes]]] = field(default_factory=list)
    """Snapshots: LSN and contents."""
    scans: list[dict[bytes, bytes]] = field(default_factory=list)
    counts: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    swaps: int = 0


class Worker:
    """One thread's work on the store."""

    def __init__(self, db: Store, number: int) -> None:
        self.db = db
        self.number = number
        self.random = random.Random(number)
        self.diary = Diary()
        self.sequence = 0
        self.counters = db.table("counters")
        self.mine = db.table("mine")
        self.unlogged = db.table("unlogged", logged=False)
        self.steps: list[Callable[[], None]] = [
            self.put, self.put, self.put, self.put_many, self.batch, self.read, self.read,
            self.many, self.scan, self.snapshot, self.count, self.swap, self.private,
            self.forget,
        ]  # fmt: skip

    def run(self, start: threading.Barrier) -> Diary:
        start.wait(60)
        for _ in range(STEPS):
            self.random.choice(self.steps)()
        return self.diary

    def value(self) -> bytes:
        self.sequence += 1
        return b"%d:%d" % (self.number, self.sequence)

    def level(self) -> Durability:
        return self.random.choice(LEVELS)

    def wrote(self, lsn: int | None, items: dict[bytes, bytes]) -> None:
        assert lsn is not None
        self.diary.writes.append((lsn, items))
        self.diary.operations += len(items)
        key = self.random.choice(list(items))
        self.diary.own.append((key, lsn, self.db[key]))

    # ---- writes

    def put(self) -> None:
        key, value = self.random.choice(KEYS), self.value()
        self.wrote(self.db.put(key, value, durability=self.level()), {key: value})

    def put_many(self) -> None:
        items = dict.fromkeys(BATCH, self.value())
        self.wrote(self.db.put_many(items, durability=self.level()), items)

    def batch(self) -> None:
        items = dict.fromkeys(self.random.sample(KEYS, 3), self.value())
        items |= dict.fromkeys(BATCH, self.value())
        with self.db.batch(durability=self.level()) as batch:
            for key, value in items.items():
                batch.put(key, value)
        self.wrote(batch.lsn, items)

    def count(self) -> None:
        key = b"%d" % self.random.randrange(3)
        self.diary.counts[key].append(self.counters.incr(key, durability=self.level()))
        self.diary.operations += 1

    def swap(self) -> None:
        old = self.counters.get(b"swapped", b"0")
        new = b"%d" % (int(old) + 1)
        expected = None if old == b"0" else old
        if self.counters.compare_and_set(b"swapped", expected, new, durability=self.level()):
            self.diary.swaps += 1
            self.diary.operations += 1

    def private(self) -> None:
        """A key that nobody else writes reads as this thread left it, whatever the levels."""
        key = b"%d" % self.number
        for _ in range(4):
            value = self.value()
            self.mine.put(key, value, durability=self.level())
            assert value == self.mine[key]
            self.mine.delete(key, durability=self.level())
            assert key not in self.mine
            assert self.mine.setdefault(key, value, durability=self.level()) == value
            assert self.mine.pop(key, durability=self.level()) == value
            self.unlogged[key] = value
            assert value == self.unlogged[key]
            self.diary.operations += 4

    # ---- reads

    def read(self) -> None:
        for key in self.random.sample(KEYS, 4):
            if (value := self.db.get(key)) is not None:
                self.diary.reads[key].append(value)

    def many(self) -> None:
        found = self.db.get_many([*BATCH, *KEYS[:4]])
        assert len({found.get(key) for key in BATCH}) == 1
        for key, value in found.items():
            self.diary.reads[key].append(value)

    def scan(self) -> None:
        self.diary.scans.append(dict(self.db.scan(reverse=self.random.random() < 0.5)))

    def snapshot(self) -> None:
        with self.db.snapshot() as snapshot:
            first = dict(snapshot.scan())
            counted = dict(snapshot.table(self.counters).scan())
            self.read()
            self.put()
            again = snapshot.get_many([*KEYS, *BATCH])
            assert first == again
            assert counted == dict(snapshot.table(self.counters).scan(reverse=True))
            self.diary.views.append((snapshot.lsn, first))

    def forget(self) -> None:
        """Leave a snapshot and an iterator to the garbage collector, or ask for a sync or flush."""
        match self.random.randrange(4):
            case 0:
                self.db.snapshot()
            case 1:
                next(self.db.scan(), None)
            case 2:
                self.db.sync()
            case _:
                self.db.flush(timeout=0.001)


def explain(diaries: list[Diary], last_lsn: int, definitions: int) -> dict[bytes, bytes]:
    """Hold all diaries together; return what the default table must hold in the end."""
    writes = sorted((w for d in diaries for w in d.writes), key=lambda write: write[0])
    lsns = [lsn for lsn, _ in writes]
    assert len(lsns) == len(set(lsns))
    assert last_lsn == definitions + sum(d.operations for d in diaries)
    lsn_of = {(key, value): lsn for lsn, items in writes for key, value in items.items()}

    for diary in diaries:
        for key, values in diary.reads.items():
            seen = [lsn_of[key, value] for value in values]
            assert seen == sorted(seen), f"{key!r} went back in time"
        for key, lsn, value in diary.own:
            assert lsn_of[key, value] >= lsn, "a writer did not see its own write"

    views = [view for d in diaries for view in d.views]
    # Scans are of one moment too: that of the newest write in them.
    views += [
        (max(lsn_of[item] for item in scan.items()), scan)
        for d in diaries
        for scan in d.scans
        if scan
    ]
    state: dict[bytes, bytes] = {}
    pending = iter([*writes, (last_lsn + 1, {})])
    following = next(pending)
    for lsn, contents in sorted(views, key=lambda view: view[0]):
        while following[0] <= lsn:
            state |= following[1]
            following = next(pending)
        assert state == contents, f"the view at LSN {lsn} is not the operations up to it"
    for _, items in writes:
        state |= items

    totals: Counter[bytes] = Counter()
    for key in {key for d in diaries for key in d.counts}:
        answers = sorted(n for d in diaries for n in d.counts[key])
        assert list(range(1, len(answers) + 1)) == answers, "a counter skipped or repeated"
        totals[key] = len(answers)
    return state


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_is_explained_by_the_log_order(tmp_path: Path, seed: int) -> None:
    """Reads never go back, own writes are seen, batches are whole, counters exact, views prefixes.

    A snapshot at LSN X holds exactly the operations up to X; so does what a crash leaves.
    """
    options = {"segment_bytes": 1 << 18, "group_bytes": 1 << 14, "max_log_bytes": 1 << 22}
    path = tmp_path / "store"
    db = strandline.open(path, **options, flush_strategy=Always(), disk_reserve_bytes=0)
    workers = [Worker(db, seed * 1000 + n) for n in range(THREADS)]
    start = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        diaries = list(pool.map(lambda worker: worker.run(start), workers))
    expected = explain(diaries, db.stats().last_lsn, definitions=3)
    assert expected == dict(db)
    counters = {key: int(value) for key, value in db.table("counters").items()}
    assert counters.pop(b"swapped") == sum(d.swaps for d in diaries)
    assert counters == {key: sum(len(d.counts[key]) for d in diaries) for key in (b"0", b"1", b"2")}
    assert not db.table("mine")
    assert db.health().state is not strandline.HealthState.FAILED
    assert db.stats().checkpoint_failures == 0
    db.close(drain=False)
    with strandline.open(path, disk_reserve_bytes=0) as again:
        assert expected == dict(again)
        assert not again.table("mine")
        assert counters == {key: int(again.table("counters")[key]) for key in (b"0", b"1", b"2")}
