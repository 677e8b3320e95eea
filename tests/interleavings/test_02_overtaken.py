"""A SYNC write 5 is in its fdatasync, and an ASYNC write 6 is visible already.

A cut at 6 (a snapshot, a scan, a frozen generation) has to hold 5 as well, so it waits
for 5 to land; a cut that cannot see 6 need not wait and holds neither. Where both are
writes of one key, 5 lands under 6 and never on top of it, in every place that it can
land in: the active layer, a frozen one, the chain that an open snapshot reads.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, WriteOutcomeUnknownError
from strandline.tools.crash.simulation.faults import Fault, Gate
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call

ASYNC, BUFFERED = Durability.ASYNC, Durability.BUFFERED


@contextmanager
def in_flight(rig: Rig, *calls: tuple[Any, ...]) -> Iterator[tuple[Gate, Call]]:
    """Make LSNs 1 to 4, then hold SYNC write 5, the first of `calls`, in its fdatasync."""
    db = rig.open()
    db.put_many({b"k": b"1", b"a": b"2", b"b": b"3", b"c": b"4"})
    gate = rig.disk.faults = Gate("fdatasync", path=".wal")
    call = Call(*calls[0])
    assert gate.reached.wait(30)
    assert 5 == db.stats().last_lsn
    try:
        yield gate, call
    finally:
        gate.opened.set()
    call.answer()


def put(rig: Rig, key: bytes, value: bytes) -> tuple[Any, ...]:
    """Return the SYNC write of a key as a call."""
    return (lambda: rig.store.put(key, value),)


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_snapshot_of_what_is_visible_waits_for_what_is_below(
    tmp_path: Path, level: Durability
) -> None:
    """With 6 visible a snapshot is at 6 and comes back with 5 in it, not before.

    Guard: the wait that `cut_point` in `engine.snapshots` asks for.
    """
    with Rig(tmp_path) as rig, in_flight(rig, put(rig, b"five", b"5")) as (gate, _):
        db = rig.store
        six = Call(db.put, b"six", b"6", durability=level)
        assert 6 == six.answer()
        assert (None, b"6") == (db.get(b"five"), db.get(b"six"))
        taking = Call(db.snapshot)
        scanning = Call(lambda: dict(db.scan()))
        taking.wait(0.05)
        assert not taking.done
        assert not scanning.done
        gate.opened.set()
        expected = {b"a": b"2", b"b": b"3", b"c": b"4", b"five": b"5", b"k": b"1", b"six": b"6"}
        with taking.answer() as snapshot:
            assert 6 == snapshot.lsn
            assert expected == dict(snapshot.scan())
            assert b"5" == snapshot.get(b"five")
        assert expected == scanning.answer()


def test_snapshot_waits_for_what_is_being_written(tmp_path: Path) -> None:
    """The same for a BUFFERED write 2 that is on its way to the page cache, below 3.

    Guard: `log.drain` as the wait that `cut_point` asks for.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"1")
        gate = rig.disk.faults = Gate("pwrite", path=".wal")
        two = Call(db.put, b"k", b"2", durability=BUFFERED)
        assert gate.reached.wait(30)
        db.put(b"a", b"3", durability=ASYNC)
        taking = Call(db.snapshot)
        while not db.engine.snapshots:
            taking.wait(0.001)
        assert b"1" == db.get(b"k")
        gate.opened.set()
        with taking.answer() as snapshot:
            assert {b"k": b"2", b"a": b"3"} == dict(snapshot.scan())
        two.answer()


def test_snapshot_below_what_is_in_flight_does_not_wait(tmp_path: Path) -> None:
    """With nothing visible above 5 a snapshot is at 4, at once, and stays there.

    Guard: the LSN that `cut_point` gives and that `layer.visible` respects.
    """
    with Rig(tmp_path) as rig, in_flight(rig, put(rig, b"k", b"5")) as (gate, five):
        with rig.store.snapshot() as snapshot:
            assert 4 == snapshot.lsn
            assert b"1" == snapshot.get(b"k")
            rig.store.put(b"k", b"6", durability=ASYNC)
            gate.opened.set()
            assert 5 == five.answer()
            rig.store.put(b"new", b"7")
            assert {b"k": b"1", b"a": b"2", b"b": b"3", b"c": b"4"} == dict(snapshot.scan())
        assert b"6" == rig.store.get(b"k")


def test_generation_is_cut_with_what_is_in_flight_below(tmp_path: Path) -> None:
    """A checkpoint at 6 waits for 5, and holds it: what comes later is in the next one.

    Guard: `log.sync_through(lsn)` in `Checkpointer._pass`, and the landing of late
    operations in frozen layers (`frozen` in `Index.install`).
    """
    with Rig(tmp_path) as rig, in_flight(rig, put(rig, b"five", b"5")) as (gate, _):
        db = rig.store
        db.put(b"six", b"6", durability=ASYNC)
        checkpoint = Call(rig.checkpoint)
        while db.engine.index.cut_lsn < 6:
            checkpoint.wait(0.001)
        db.put(b"seven", b"7", durability=ASYNC)
        assert 0 == db.engine.backing.watermark.lsn
        assert not checkpoint.done
        gate.opened.set()
        assert checkpoint.answer()
        assert 6 == db.engine.backing.watermark.lsn
        stored = db.engine.backing.begin_snapshot()
        assert [b"5", b"6", None] == [stored.get(1, k) for k in (b"five", b"six", b"seven")]
        stored.close()
        image = rig.power_cut("none").open()
        assert [b"5", b"6"] == [image.get(k) for k in (b"five", b"six")]


@pytest.mark.parametrize("newer", [b"6", None])
@pytest.mark.parametrize("landing", ["active", "snapshot", "frozen", "frozen, then active"])
def test_late_write_lands_below_the_newer(
    tmp_path: Path, landing: str, newer: bytes | None
) -> None:
    """5 and 6 are of one key: 6 stays on top, whether it is a value or a delete.

    Guard: `old[0] < entry[0]` in `Index.install`.
    """
    with Rig(tmp_path) as rig, in_flight(rig, put(rig, b"k", b"5")) as (gate, five):
        db = rig.store
        snapshot = db.snapshot() if landing == "snapshot" else None

        def write_six() -> None:
            if newer is None:
                db.delete(b"k", durability=ASYNC)
            else:
                db.put(b"k", newer, durability=ASYNC)

        if landing != "frozen, then active":
            write_six()
        checkpoint = Call(rig.checkpoint) if landing.startswith("frozen") else None
        while checkpoint is not None and db.engine.index.cut_lsn < 5:
            checkpoint.wait(0.001)
        if landing == "frozen, then active":
            write_six()
        assert newer == db.get(b"k")
        gate.opened.set()
        assert 5 == five.answer()
        if checkpoint is not None:
            assert checkpoint.answer()
        assert newer == db.get(b"k")
        assert newer == dict(db.scan()).get(b"k")
        if snapshot is not None:
            assert b"1" == snapshot.get(b"k")
            snapshot.close()
        db.sync()
        assert newer == rig.power_cut("none").open().get(b"k")
        rig.checkpoint()
        assert newer == db.get(b"k")
        assert newer == rig.power_cut("none").open().get(b"k")


def test_late_batch_lands_below_the_newer(tmp_path: Path) -> None:
    """A SYNC batch lands around a newer write of one of its keys.

    Guard: the comparison of LSNs in `Index.install_many`.
    """
    batch = {b"k": b"5", b"x": b"6", b"y": b"7"}
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"k": b"1", b"a": b"2", b"b": b"3", b"c": b"4"})
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        putting = Call(db.put_many, batch)
        assert gate.reached.wait(30)
        assert 8 == db.put(b"x", b"8", durability=ASYNC)
        gate.opened.set()
        assert 7 == putting.answer()
        assert {b"k": b"5", b"x": b"8", b"y": b"7"} == db.get_many([b"k", b"x", b"y"])


def test_cut_over_a_group_that_fails(tmp_path: Path) -> None:
    """5 never lands: what waits for it is told so, and reads go on without it.

    Guard: what `SnapshotState` makes of the error of its wait.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"k": b"1", b"a": b"2", b"b": b"3", b"c": b"4"})
        gate = Gate("fdatasync", path=".wal")

        def lose(op: str, path: str) -> Fault:
            gate(op, path)
            return OSError(errno.EIO, "lost") if op == "fdatasync" else None

        rig.disk.faults = lose
        five = Call(db.put, b"k", b"5")
        assert gate.reached.wait(30)
        db.put(b"k", b"6", durability=ASYNC)
        db.put(b"six", b"7", durability=ASYNC)
        taking, checkpoint = Call(db.snapshot), Call(rig.checkpoint)
        taking.wait(0.02)
        assert not taking.done
        gate.opened.set()
        with pytest.raises(WriteOutcomeUnknownError):
            five.answer()
        assert not checkpoint.answer()
        assert b"6" == db.get(b"k")
        expected = {b"a": b"2", b"b": b"3", b"c": b"4", b"k": b"6", b"six": b"7"}
        assert expected == dict(db.scan())
        with db.snapshot() as snapshot:
            assert expected == dict(snapshot.scan())
        taking.answer().close()
        assert len(expected) == len(db)
        assert expected == db.get_many(expected)
