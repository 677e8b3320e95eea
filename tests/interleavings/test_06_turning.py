"""A crash at every step of turning from one segment to the next, and of recovering from it.

A spare is filled, synced, named, its directory synced; the old segment is sealed and
synced; the header of the next one is written, then its first frame. A checkpoint gives
old segments back, and they come round again with stale frames in them. Whatever survives
of all this must be read as a prefix of the commits that holds all acknowledged ones, and
a recovery that is cut short must leave as much as it found.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability
from strandline.errors import DiskFullError
from strandline.tools.crash.simulation.faults import fail
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.format import segment_id_of
from strandline.wal.segments import SPARE_NAME
from tests.support.history import Changes, History, contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC


class Run:
    """A run of writes of every kind over several segments, and what was acknowledged."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.history = History()
        self.highest_lsn = 0
        self._rng = random.Random(seed)
        self._pending = 0

    def steps(self) -> Iterator[Callable[[], object]]:
        """Yield what is done, one after the other."""
        rig = self.rig
        yield lambda: rig.store.table("t")
        for number in range(36):
            yield lambda: self.write(self._rng.choice((SYNC, SYNC, BUFFERED, ASYNC)), 15_000)
            if number % 4 == 1:
                yield rig.housekeep
            if number % 7 == 3:
                yield self.sync
            if number % 9 == 5:
                yield self.checkpoint
            if number == 20:
                yield lambda: self.write(SYNC, 100_000)  # a segment of its own
            if number in (13, 26):
                yield self.reopen
            if number % 10 == 8:
                yield lambda: self.clear(b"")

    def changes(self, size: int) -> Changes:
        """Return the next commit: one key, or a batch over two tables with a delete in it."""
        number = len(self.history.states)
        value = self._rng.randbytes(8) * (size // 8)
        if number % 3 or size > 60_000:
            return {("", b"k%d" % (number % 11)): value}
        return {
            ("", b"k%d" % (number % 11)): value[: size // 3],
            ("t", b"k%d" % (number % 5)): value[: size // 3],
            ("t", b"n"): b"%d" % number,
            ("", b"k%d" % ((number + 1) % 11)): None,
        }

    def write(self, level: Durability, size: int) -> None:
        changes = self.changes(size)
        length = self.history.note(changes)
        with self.rig.store.batch(durability=level) as batch:
            for (name, key), value in changes.items():
                table: Any = batch.table(name) if name else batch
                table.delete(key) if value is None else table.put(key, value)
        self.highest_lsn = self.rig.store.stats().last_lsn
        if level is SYNC:
            self.history.acknowledged = length
        if level is not ASYNC:
            self.history.written = length

    def clear(self, name: bytes) -> None:
        """Empty the default table, by one operation."""
        state = self.history.states[-1]
        length = self.history.note({where: None for where in state if where[0] == ""})
        self.rig.store.clear()
        self.history.acknowledged = self.history.written = length

    def sync(self) -> None:
        self.rig.store.sync()
        self.history.acknowledged = self.history.written = len(self.history.states) - 1

    def reopen(self) -> None:
        """Close the store in good order and open it again."""
        self.rig.store.close(drain=False)
        self.history.acknowledged = self.history.written = len(self.history.states) - 1
        self.rig.open()

    def checkpoint(self) -> None:
        length = len(self.history.states) - 1
        assert self.rig.checkpoint(), self.rig.store.health()
        self.history.acknowledged = self.history.written = length


def start(tmp_path: Path, seed: int) -> Run:
    """Open a store and a run on it."""
    rig = Rig(tmp_path)
    rig.open()
    return Run(rig, seed)


def least(run: Run, image: Rig) -> int:
    """Return how many commits an image must hold."""
    return run.history.written if image.cut_by == "kill" else run.history.acknowledged


def go_on(run: Run, image: Rig, length: int) -> None:
    """Write to an image that was opened, cut its power, and look whether all is there."""
    issued = run.rig.store.engine.log.next_lsn() - 1
    lsn = image.store.put(b"after", b"1")
    assert lsn is not None
    assert lsn > issued, "an LSN was issued twice"
    image.housekeep()
    again = image.power_cut("none")
    db = again.open()
    assert b"1" == db.pop(b"after")
    assert length == run.history.check(db, length)
    again.release()


@pytest.mark.parametrize("seed", [9, pytest.param(6, marks=pytest.mark.slow)])
def test_crash_at_every_operation(tmp_path: Path, seed: int) -> None:
    """Every image opens, holds a prefix with all that was acknowledged, and goes on.

    Guards: the successor's name is synced (`Segments._adopt`) before the seal is written;
    the seal is synced (`Log._seal`) before the successor's header is written; a segment is
    given back only when the watermark covers it (`stored_lsn` in `Log.housekeep`).
    """
    run = start(tmp_path, seed)
    rng = random.Random(seed)
    with run.rig as rig:

        def look(image: Rig) -> None:
            db = image.open()
            length = run.history.check(db, least(run, image))
            report = db.recovery_report
            assert ((), (), ()) == (report.damages, report.gaps, report.given_up)
            names = image.disk.listdir(f"{image.directory}/log")
            assert all(segment_id_of(name) or name == SPARE_NAME for name in names), names
            if rng.random() < 0.2:
                go_on(run, image, length)

        def everything() -> None:
            for step in run.steps():
                step()

        count = rig.sweep(everything, look, "none", "all", "kill", rng, rng, rng)
        assert 300 < count
        created = sum(op.op == "create" and ".wal" in op.path for op in rig.disk.operations)
        assert created + 2 < rig.store.engine.log.tail[0].id, "recycled segments are in use"
        db = rig.power_cut("none").open()
        run.history.check(db)


def test_crash_at_every_operation_of_the_first_opening(tmp_path: Path) -> None:
    """A store that was being made is made by the next opening, empty, and so by the one after.

    What the process had made before it was killed is in the page cache, and found there,
    but maybe not on disk: neither the store's directory nor the log's first name.

    Guards: `_identity` of `recovery.opening` syncs the directories above and below it,
    whether it made what is in them or not, and writes IDENTITY last.
    """
    rng = random.Random(8)
    with Rig(tmp_path) as rig:

        def look(image: Rig) -> None:
            second = image.power_cut("none") if image.cut_by != "kill" else image.kill()
            assert {} == contents(image.open())
            image.store.put(b"k", b"v")
            again = image.power_cut("none")
            assert {("", b"k"): b"v"} == contents(again.open())
            again.release()
            if rng.random() < 0.3:
                second.sweep(second.open, look_again, "none", "kill", rng)
            second.release()

        def look_again(image: Rig) -> None:
            assert {} == contents(image.open())

        assert 20 < rig.sweep(rig.open, look, "none", "all", "kill", rng, rng)


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_crash_at_every_operation_of_a_recovery(tmp_path: Path, seed: int) -> None:
    """A recovery that is cut short, twice if need be, ends where it would have ended.

    Guards: `_make_name` before the last segment is written anew, in `recovery.tail.settle`;
    that one's sync in `recovery.rewrite`; `remove_leftovers`.
    """
    run = start(tmp_path, seed)
    rng = random.Random(seed)
    with run.rig as rig:

        def look(image: Rig) -> None:
            if rng.random() > 0.02:
                return
            twin = image.power_cut("none")
            length = run.history.check(
                twin.open(), None if image.cut_by == "kill" else least(run, image)
            )
            twin.release()

            def look_again(second: Rig) -> None:
                if rng.random() < 0.03:
                    third = second.power_cut("none")
                    third.sweep(third.open, look_at_last, rng)
                    third.release()
                look_at_last(second)

            def look_at_last(last: Rig) -> None:
                found = run.history.check(last.open())
                assert found == length or image.cut_by == "kill"
                if rng.random() < 0.1:
                    go_on(run, last, found)

            image.sweep(image.open, look_again, "none", rng, "kill")

        def everything() -> None:
            for step in run.steps():
                step()

        rig.sweep(everything, look, "none", "kill", rng, rng)


def test_segment_that_could_not_be_left_is_not_given_back(tmp_path: Path) -> None:
    """It was sealed, its successor's header found no room, and so it goes on taking frames.

    A checkpoint covers all that was in it then. Guard: `Segments.release` keeps what is not
    retired for good.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        segment = db.engine.log.tail[0]
        while db.engine.log.tail[1] < segment.usable - 3000:
            db.put(b"k", bytes(1000), durability=SYNC)
        rig.housekeep()
        (successor,) = db.engine.log.segments.prepared
        rig.disk.faults = fail("pwrite", OSError(errno.ENOSPC, "No space"), path=successor.path)
        with pytest.raises(DiskFullError):
            db.put(b"k", bytes(8000), durability=SYNC)
        rig.disk.faults = None
        assert rig.checkpoint()
        db.put(b"after", b"1", durability=SYNC)
        rig.housekeep()
        db.put(b"after that", b"2", durability=SYNC)
        assert segment is db.engine.log.tail[0], "the test proves nothing"
        image = rig.power_cut("none")
        expected = {b"k": bytes(1000), b"after": b"1", b"after that": b"2"}
        assert expected == dict(image.open())
        db.put(b"last", bytes(8000), durability=SYNC)
        assert expected | {b"last": bytes(8000)} == dict(rig.power_cut("none").open())
