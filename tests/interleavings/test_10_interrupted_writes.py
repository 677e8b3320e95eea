"""A KeyboardInterrupt at every step of a write: by its verb, by its level, by its way.

The struck thread may be the one that leads a group or that turns to the next segment; what
must hold after each strike is said in `tests.support.sweep`.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from strandline import ABSENT, DiskFullError, Durability
from strandline.engine.operations import decode_items
from strandline.recovery.survey import survey
from strandline.tools.crash.simulation.faults import fail
from strandline.tools.crash.simulation.rig import Rig
from tests.support.sweep import ASYNC, BUFFERED, LEVELS, SYNC, Attempt, Values, sweep


@pytest.mark.parametrize("level", LEVELS)
def test_put(tmp_path: Path, level: Durability) -> None:
    """Single writes of new and of old keys, at each level."""
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            key, value = b"k%d" % (n % 4), b"%d" % n
            return Attempt(lambda: db.put(key, value, durability=level), {("", key): value})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_delete(tmp_path: Path, level: Durability) -> None:
    """Deletes of keys that are in LMDB: gone or not, and never half."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"k%03d" % n: b"v" for n in range(200)})
        assert rig.checkpoint()

        def attempt(n: int) -> Attempt:
            key = b"k%03d" % n
            return Attempt(lambda: db.delete(key, durability=level), {("", key): None})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_put_many(tmp_path: Path, level: Durability) -> None:
    """One commit of three keys, published in one step or not at all.

    At ASYNC another thread's commit comes next, before anything else takes the mutex.
    Guards: `Log.unfinished`, which is finished before the next commit takes its place.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            items = {b"m%d" % i: b"%d" % n for i in range(n % 2, n % 2 + 3)}
            return Attempt(
                lambda: db.put_many(items, durability=level),
                {("", key): value for key, value in items.items()},
            )

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_batch(tmp_path: Path, level: Durability) -> None:
    """A batch over two tables with a delete in it."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t")
        db.put(b"gone", b"0")

        def attempt(n: int) -> Attempt:
            value = b"%d" % n

            def write() -> None:
                with db.batch(durability=level) as batch:
                    batch.put(b"b1", value)
                    batch.delete(b"gone") if n % 2 else batch.put(b"gone", value)
                    batch.table("t").put(b"b2", value)

            gone = None if n % 2 else value
            return Attempt(write, {("", b"b1"): value, ("", b"gone"): gone, ("t", b"b2"): value})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_incr(tmp_path: Path, level: Durability) -> None:
    """A counter: every second time in LMDB only, so that it is read from below first.

    Another thread adds to the same counter right after the strike: no addition is lost,
    and the interrupted one counts once or not at all.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        sums = {b"c0": 0, b"c1": 0}

        def attempt(n: int) -> Attempt:
            key = b"c%d" % (n % 2)
            if n % 2:
                assert rig.checkpoint()
            sums[key] = int(db.get(key, b"0"))
            return Attempt(lambda: db.incr(key, 10, durability=level))

        def others(n: int) -> Values:
            key = b"c%d" % (n % 2)
            after = db.incr(key, 1, durability=LEVELS[n // 2 % 3])
            assert after - sums[key] in (1, 11), f"{sums[key]} became {after}"
            return {("", key): b"%d" % after}

        assert sweep(rig, attempt, others) > 10


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_incr_of_what_was_interrupted(tmp_path: Path, level: Durability, many: bool) -> None:
    """A put is struck, and another thread counts on from the newest *queued* value.

    The put's group is written, and its sync held up, before the other thread counts: the
    sum is of the put's value if that becomes visible. Guard: what is put into a group is
    noted as queued with no step in between.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            value = b"%d" % (1000 * (n + 1))
            if not many:
                return Attempt(lambda: db.put(b"c", value, durability=level))
            items = {b"c": value, b"d": value}
            return Attempt(lambda: db.put_many(items, durability=level))

        def others(n: int) -> Values:
            before = int(db.get(b"c", b"0"))
            rig.drain()
            after = db.incr(b"c", 1, durability=ASYNC)
            assert after in (before + 1, 1000 * (n + 1) + 1)
            rig.drain()
            log = [int(value) for value in logged(rig, b"c")]
            for one, other in itertools.pairwise([0, *log]):
                assert other in (one + 1, other // 1000 * 1000), f"{other} was counted after {one}"
            return {("", b"c"): b"%d" % after}

        assert sweep(rig, attempt, others) > 10


def logged(rig: Rig, key: bytes) -> list[bytes]:
    """Return the values of a key in the order of the log, as far as it is written."""
    db = rig.store
    found = survey(
        rig.disk,
        f"{rig.directory}/log",
        uuid=db.engine.log.uuid,
        watermark_lsn=db.engine.backing.watermark.lsn,
    )
    values = []
    for _, count, payload in chain.from_iterable(found.batches(0)):
        items = decode_items(payload, count)
        values += [v for k, v in zip(items[2::3], items[3::3], strict=True) if k == key and v]
    return values


@pytest.mark.parametrize("level", LEVELS)
def test_other_read_modify_writes(tmp_path: Path, level: Durability) -> None:
    """compare_and_set, setdefault and pop in turn."""
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            key, value = b"r%d" % n, b"%d" % n
            wanted: Values = {("", key): value}
            if n % 3 == 0:
                return Attempt(
                    lambda: db.compare_and_set(key, ABSENT, value, durability=level), wanted
                )
            if n % 3 == 1:
                return Attempt(lambda: db.setdefault(key, value, durability=level), wanted)
            db.put(key, value)
            return Attempt(lambda: db.pop(key, durability=level), {("", key): None})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_append(tmp_path: Path, level: Durability) -> None:
    """Keys made of LSNs: those that are there are in order, each with its own value."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        events = db.table("events")

        def others(n: int) -> Values:
            key = events.append(b"other", durability=LEVELS[n % 3])
            assert key > max(events, default=b"") or key == max(events)
            return {("events", key): b"other"}

        def attempt(n: int) -> Attempt:
            return Attempt(lambda: events.append(b"%d" % n, durability=level))

        steps = sweep(rig, attempt, others)
        values = [int(value) for value in events.values() if value != b"other"]
        assert values == sorted(set(values))
        assert steps in values


@pytest.mark.parametrize("level", LEVELS)
def test_turn_to_the_next_segment(tmp_path: Path, level: Durability) -> None:
    """Every write needs a segment of its own, which is made, or was prepared, on the way.

    Guards: each step of `Log._turn` and of `Segments._make` can be done twice, and a
    segment that frames go to is not taken for its own successor.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            if n % 2:
                rig.housekeep()
            if n % 8 == 7:
                assert rig.checkpoint()
            key, value = b"t%d" % (n % 2), b"%05d" % n * 8000
            return Attempt(lambda: db.put(key, value, durability=level), {("", key): value})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", [SYNC, BUFFERED])
def test_full_disk(tmp_path: Path, level: Durability) -> None:
    """A write is refused for want of room, and the refusing is interrupted.

    Guard: a group loses its operations and what is published of them in one step, in
    `Log._write_failed`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            wanted: Values = {("", b"f%d" % n): b"1", ("", b"g%d" % n): b"1"}
            items = {key: b"1" for _, key in wanted}

            def put() -> None:
                with suppress(DiskFullError):
                    db.put_many(items, durability=level)

            rig.disk.faults = fail("pwrite", OSError(28, "no room"), path=".wal")
            return Attempt(put, wanted)

        assert sweep(rig, attempt) > 10
