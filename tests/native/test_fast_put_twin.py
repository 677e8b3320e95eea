"""Two stores do the same, one of them with the short way of a single write: no difference.

Everything that the two keep is compared after each step, and every operation on the disk and
every byte in the log at the end; so the short way is held to the long one in what it takes,
in what it leaves to the long one, and in what it leaves behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, StrandlineError
from strandline.engine.store import Store
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from tests.native.short_way import LOCKS, locks_of, log_files, operations
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

LEVELS = [Durability.ASYNC] * 5 + [Durability.BUFFERED] * 5 + [Durability.SYNC]
LENGTHS = [0, 7, *[40] * 6, *[200] * 4, 900, 900, 3000, 4900, 5001]
STEPS = 1000
Step = Callable[["Side"], object]


class Side:
    """One of the two stores, and what the run holds of it."""

    def __init__(self, base: Path, *, fast: bool) -> None:
        self.rig = Rig(
            base,
            max_dirty_bytes=1 << 20,
            max_log_bytes=256 << 10,
            max_value_bytes=5000,
            overload="reject",
        )
        self.db = self.rig.open()
        self.snapshots: list[Any] = []
        self.done = 0
        """Writes that went the short way."""
        self._watch(self.db._writes, fast=fast)
        self.db._fast = self.db._writes.fast
        self.tables: list[Any] = [
            self.db,
            self.db.table("second"),
            self.db.table("coded", codec="utf-8"),
            self.db.table("loose", logged=False),
        ]

    def _watch(self, writes: Any, *, fast: bool) -> None:
        """Count what goes the short way, or shut it."""
        short = writes.fast
        writes.fast = None
        if not fast:
            if hasattr(self.db.engine.index, "publish_singles"):
                self.db.engine.index.publish_singles = None
            return

        def count(*args: Any) -> Any:
            answer = short(*args)
            self.done += answer is not None
            return answer

        writes.fast = count

    def do(self, step: Step) -> object:
        """Return what a step gives, or the kind of error that it raises."""
        try:
            return step(self)
        except StrandlineError as error:
            return type(error)

    def picture(self) -> dict[str, object]:
        """Return all that the two have to agree in."""
        engine = self.db.engine
        log, index = engine.log, engine.index
        return {
            "next LSN": log.next_lsn(),
            "tail": log.tail[1:],
            "group": (log.group.items, log.group.size, log.group.limit, len(log.closed)),
            "synced": (log.synced_lsn, log.claimed_lsn, log.stored_lsn, log.unsynced_bytes),
            "clocks": (log.stall_at, log.unsynced_since, engine.dirty_since, self.rig.clock.now),
            "threads": (log.ticking, log.draining, log._wake_at),
            "bytes": (index.active_bytes, index.frozen_bytes, index.dirty_bytes()),
            "budget": (engine.flush_mark, engine.attention, log.log_bytes()),
            "entries": {s.name: s.entries for s in index.states.values()},
            "queued": {s.name: sorted(s.queued) for s in index.states.values()},
            "dirty": index.dirty_count(),
            "samples": (log.stats.groups().count, log.stats.groups().total),
        }


@contextmanager
def two_sides(base: Path) -> Iterator[tuple[Side, Side]]:
    """Open two stores that nothing tells apart but the short way."""
    sides = Side(base / "fast", fast=True), Side(base / "slow", fast=False)
    with sides[0].rig, sides[1].rig:
        try:
            yield sides
        finally:
            for side in sides:
                for snapshot in side.snapshots:
                    snapshot.close()


class Script:
    """Draws steps. One draw is done on both sides, so it takes nothing from either."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._count = 0

    def draw(self) -> tuple[str, Step]:
        """Return the next step and its name."""
        names = [name for name in dir(self) if name.startswith("do_")]
        weights = [getattr(self, name).__defaults__[0] for name in names]
        name = self._dice.choices(names, weights)[0]
        return name, getattr(self, name)()

    def _key(self, table: int) -> Any:
        key = f"key {self._dice.randrange(40)}" if self._dice.random() < 0.9 else "k" * 300
        return key if table == 2 else key.encode()

    def _value(self, table: int) -> Any:
        self._count += 1
        length = self._dice.choice(LENGTHS)
        value = f"{self._count} ".ljust(length, "v")[: max(length, 6)]
        return value if table == 2 else value.encode()

    def _table(self) -> int:
        return self._dice.choice([0] * 8 + [1, 1, 2, 2, 3])

    def do_put(self, weight: int = 60) -> Step:
        table, level = self._table(), self._dice.choice(LEVELS)
        key, value = self._key(table), self._value(table)
        return lambda side: side.tables[table].put(key, value, durability=level)

    def do_burst(self, weight: int = 35) -> Step:
        """Write one after the other at one level: so the short way stays open."""
        level = self._dice.choice(LEVELS[:-1])
        items = [(self._key(0), self._value(0)) for _ in range(self._dice.randrange(2, 12))]
        return lambda side: [side.db.put(k, v, durability=level) for k, v in items]

    def do_delete(self, weight: int = 12) -> Step:
        table, level = self._table(), self._dice.choice(LEVELS)
        key = self._key(table)
        return lambda side: side.tables[table].delete(key, durability=level)

    def do_put_many(self, weight: int = 5) -> Step:
        level = self._dice.choice(LEVELS)
        items = [(self._key(0), self._value(0)) for _ in range(self._dice.randrange(5))]
        return lambda side: side.db.put_many(items, durability=level)

    def do_batch(self, weight: int = 3) -> Step:
        level, key, value = self._dice.choice(LEVELS), self._key(0), self._value(0)

        def step(side: Side) -> object:
            with side.db.batch(durability=level) as batch:
                batch.put(key, value)
                batch.delete(b"key 1")
            return batch.lsn

        return step

    def do_incr(self, weight: int = 5) -> Step:
        level, key = self._dice.choice(LEVELS), b"n%d" % self._dice.randrange(3)
        return lambda side: side.db.incr(key, 3, durability=level)

    def do_refused(self, weight: int = 2) -> Step:
        wrong: Any = self._dice.choice([(b"", b"v"), (b"k" * 512, b"v"), ("k", b"v"), (b"k", "v")])
        return lambda side: side.db.put(*wrong, durability=_level_now(side))

    def do_get(self, weight: int = 5) -> Step:
        table = self._table()
        key = self._key(table)
        return lambda side: side.tables[table].get(key)

    def do_scan(self, weight: int = 3) -> Step:
        table, limit = self._table(), self._dice.choice([None, 5])
        return lambda side: list(side.tables[table].scan(limit=limit))

    def do_snapshot(self, weight: int = 3) -> Step:
        def step(side: Side) -> object:
            side.snapshots.append(side.db.snapshot())
            return side.snapshots[-1].lsn

        return step

    def do_close_snapshot(self, weight: int = 12) -> Step:
        key, place = self._key(0), self._dice.random()

        def step(side: Side) -> object:
            if not side.snapshots:
                return None
            with side.snapshots.pop(int(place * len(side.snapshots))) as snapshot:
                return snapshot.lsn, snapshot.get(key), list(snapshot.scan())

        return step

    def do_drain(self, weight: int = 6) -> Step:
        return lambda side: side.rig.drain()

    def do_housekeep(self, weight: int = 5) -> Step:
        return lambda side: side.rig.housekeep()

    def do_sync(self, weight: int = 3) -> Step:
        return lambda side: side.db.sync()

    def do_checkpoint(self, weight: int = 3) -> Step:
        return lambda side: side.rig.checkpoint()

    def do_clock(self, weight: int = 8) -> Step:
        seconds = self._dice.choice([0.0005, 0.002, 0.03, 0.2, 2.0])
        return lambda side: side.rig.clock.sleep(seconds)

    def do_tick_ends(self, weight: int = 2) -> Step:
        return lambda side: setattr(side.db.engine.log, "ticking", False)

    def do_few_lsns(self, weight: int = 2) -> Step:
        """Leave so few LSNs below the ceiling that the next ones have to raise it."""
        left = self._dice.randrange(4)

        def step(side: Side) -> None:
            log = side.db.engine.log
            log._ceiling = log.next_lsn() + log.lsn_block // 4 + left

        return step


def _level_now(side: Side) -> Durability:
    """Return a level for a write that is refused before its level counts."""
    return Durability.BUFFERED if side.db.engine.log.group.is_empty() else Durability.ASYNC


def compare_reopened(fast: Store, slow: Store) -> None:
    """Assert that two stores that were opened after a crash hold the same and go on alike."""
    assert contents(slow) == contents(fast)
    assert slow.put(b"after", b"1") == fast.put(b"after", b"1")


@pytest.mark.parametrize("locks", LOCKS)
@pytest.mark.parametrize("seed", range(8))
def test_the_short_way_makes_no_difference(tmp_path: Path, seed: int, locks: str) -> None:
    """After each step both stores are the same, down to the bytes on disk; after a crash too."""
    script = Script(seed)
    with locks_of(locks), two_sides(tmp_path) as (fast, slow):
        for number in range(STEPS):
            name, step = script.draw()
            where = f"step {number}, {name}"
            assert (where, slow.do(step)) == (where, fast.do(step))
            expected, actual = slow.picture(), fast.picture()
            for what in expected:
                assert (where, what, expected[what]) == (where, what, actual[what])
        assert fast.done > STEPS // 5, "the short way was hardly ever open"
        assert 0 == slow.done
        assert log_files(slow.rig) == log_files(fast.rig)
        assert operations(slow.rig) == operations(fast.rig)
        compare_reopened(fast.rig.power_cut("none").open(), slow.rig.power_cut("none").open())
        compare_reopened(fast.rig.kill().open(), slow.rig.kill().open())
