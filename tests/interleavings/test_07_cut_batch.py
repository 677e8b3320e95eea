"""A batch that an LSN falls into the middle of.

A commit takes as many LSNs as it has operations, maybe of several tables. Whatever cuts
the log at an LSN (a checkpoint's watermark, a snapshot, a crash) must not cut through
one: readers would see half of it, or a replay above the watermark would bring half of it
back.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import Durability
from strandline.engine.index import Index
from strandline.engine.store import Store
from strandline.tools.crash.simulation.faults import Gate
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import History, contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LEVELS = [SYNC, BUFFERED, ASYNC]
TABLES = ["", "t", "u"]


def write_batch(db: Store, value: bytes, level: Durability, size: int = 2) -> None:
    """Set `size` keys of each of three tables to one value."""
    with db.batch(durability=level) as batch:
        for name in TABLES:
            for number in range(size):
                batch.table(name).put(b"k%d" % number, value)


def values(found: dict[tuple[str, bytes], bytes]) -> set[bytes]:
    """Return the values that a state holds, after checking that the tables hold the same."""
    by_table = [{key: value for (name, key), value in found.items() if name == t} for t in TABLES]
    assert by_table[0] == by_table[1] == by_table[2], f"half a batch: {found}"
    return set(by_table[0].values())


def open_with_tables(rig: Rig) -> Store:
    """Open the rig and make its tables, with a first batch."""
    db = rig.open()
    for name in TABLES[1:]:
        db.table(name)
    write_batch(db, b"old", SYNC)
    return db


@pytest.mark.parametrize("visible_above", [False, True])
def test_snapshot_beside_a_batch_in_flight(tmp_path: Path, visible_above: bool) -> None:
    """A snapshot has all of a batch that is landing or nothing, now and when it has landed.

    Guard: `_bounds` in `engine.snapshots` gives a batch's first LSN, so that the cut lies
    before it and not in it.
    """
    with Rig(tmp_path) as rig:
        db = open_with_tables(rig)
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        landing = Call(write_batch, db, b"new", SYNC)
        assert gate.reached.wait(30)
        if visible_above:
            db.put(b"above", b"1", durability=ASYNC)
        taking = Call(db.snapshot)
        if not visible_above:
            snapshot = taking.answer()
        gate.opened.set()
        landing.answer()
        with taking.answer() as snapshot:
            found = {
                (name, key): value
                for name in TABLES
                for key, value in snapshot.table(name).scan(prefix=b"k")
            }
            assert values(found) == ({b"new"} if visible_above else {b"old"})
        assert values({k: v for k, v in contents(db).items() if k[1] != b"above"}) == {b"new"}


@pytest.mark.parametrize("level", LEVELS)
def test_watermark_beside_a_batch_in_flight(tmp_path: Path, level: Durability) -> None:
    """A generation that is cut while a batch is landing holds all of it, or nothing.

    The batch shares its frame with writes on both sides of the cut; what the watermark
    leaves to the replay is whole commits.

    Guard: `Checkpointer._pass` takes the LSN and cuts under the mutex, where no commit is
    half joined, and `Replay.apply` skips by LSN what the watermark covers.
    """
    with Rig(tmp_path) as rig:
        db = open_with_tables(rig)
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        holding = Call(db.put, b"first", b"1")
        assert gate.reached.wait(30)
        before = db.stats().last_lsn
        landing = Call(write_batch, db, b"new", level)
        while db.stats().last_lsn < before + 6:
            landing.wait(0.001)
        checkpoint = Call(rig.checkpoint)
        while not db.engine.index.cut_lsn:
            checkpoint.wait(0.001)
        db.put(b"after", b"1", durability=ASYNC)
        gate.opened.set()
        for call in (holding, landing):
            call.answer()
        assert checkpoint.answer()
        db.sync()
        for image in (rig.power_cut("none"), rig.power_cut("all"), rig.kill()):
            found = contents(image.open())
            assert [b"1", b"1"] == [found.pop(("", key)) for key in (b"first", b"after")]
            assert values(found) == {b"new"}
        assert before + 6 == db.engine.backing.watermark.lsn


@pytest.mark.parametrize("level", LEVELS)
def test_torn_frame_of_a_batch(tmp_path: Path, level: Durability) -> None:
    """A batch whose frame reaches over many sectors survives a power cut whole or not at all.

    Guard: the frame's one CRC over all of the commit, in `SegmentReader`.
    """
    history = History()
    rng = random.Random(3)
    with Rig(tmp_path) as rig:
        db = open_with_tables(rig)
        history.note({(name, b"k%d" % n): b"old" for name in TABLES for n in range(2)})
        history.acknowledged = 1

        def everything() -> None:
            for number in range(6):
                value = rng.randbytes(300)
                last = history.note(
                    {(name, b"k%d" % n): value for name in TABLES for n in range(8)}
                )
                write_batch(db, value, level, size=8)
                if level is SYNC:
                    history.acknowledged = last
                if number % 2:
                    rig.drain()

        def look(image: Rig) -> None:
            history.check(image.open())

        count = rig.sweep(everything, look, "none", "all", *[rng] * 6)
        assert count > (20 if level is SYNC else 3)
        for _ in range(20):
            image = rig.power_cut(rng)
            history.check(image.open())
            image.release()


READS: dict[str, Callable[[Store], list[tuple[bytes, bytes]]]] = {
    "get_many": lambda db: list(db.get_many([b"k0", b"k1", b"k2"]).items()),
    "scan": lambda db: list(db.scan()),
    "snapshot": lambda db: [item for name in TABLES for item in read_snapshot(db, name)],
}


def read_snapshot(db: Store, name: str) -> list[tuple[bytes, bytes]]:
    """Return a table's items as of a snapshot."""
    with db.snapshot() as snapshot:
        return list(snapshot.table(name).scan())


@pytest.mark.parametrize("level", LEVELS)
def test_reads_in_the_middle_of_a_landing(tmp_path: Path, level: Durability) -> None:
    """While a batch is being published, key by key, whoever reads several keys waits.

    Guard: `Index.publish` is called under the mutex, and `get_many`, scans and snapshots
    capture what they read under it.
    """
    with Rig(tmp_path) as rig:
        db = open_with_tables(rig)
        write_batch(db, b"old", SYNC, size=3)
        older = db.snapshot()  # as long as one is open the keys are published one by one
        middle, go_on = threading.Event(), threading.Event()
        install, count = Index.install, itertools.count()

        def halting(*args: Any) -> None:
            install(*args)
            if next(count) == 1:
                middle.set()
                assert go_on.wait(30)

        with mock.patch.object(Index, "install", halting):
            landing = Call(write_batch, db, b"new", level, size=3)
            assert middle.wait(30)
            readers = [Call(read, db) for read in READS.values()]
            for reader in readers:
                reader.wait(0.05)
            go_on.set()
            landing.answer()
        for reader in readers:
            assert {b"new"} == {value for _, value in reader.answer()}
        older.close()
