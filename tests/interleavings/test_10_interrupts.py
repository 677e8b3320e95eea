"""A KeyboardInterrupt at every step of a call at which Python looks for signals.

The struck thread may be the one that leads a group, that turns to the next segment, that
holds any of the locks. `tests.support.strikes` says what a step is. After each strike, on
another thread:

- nobody hangs: reads, weak writes and a SYNC write return, and no lock is held;
- what was interrupted is there or it is not, whole either way, and stays as it is;
- what others wrote and got acknowledged is there;

and from time to time, and at the end, a power cut: a strict recovery finds dense LSNs and
exactly what was visible.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from strandline import ABSENT, DiskFullError, Durability, InvalidRequestError
from strandline.engine.store import Store
from tests.support.calls import Call
from tests.support.faults import fail
from tests.support.history import contents
from tests.support.rig import Rig
from tests.support.strikes import Struck, strike

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LEVELS = [SYNC, BUFFERED, ASYNC]

Wanted = dict[tuple[str, bytes], bytes | None]
"""What the interrupted call would leave behind, by table and key; None for no value."""


class Attempt(NamedTuple):
    """One call that is to be interrupted."""

    call: Callable[[], Any]
    wanted: Wanted


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who waits for a leader that was struck look for itself at once."""
    monkeypatch.setattr("strandline.wal.log.GATE_TIMEOUT", 0.001)


def sweep(
    rig: Rig, attempt: Callable[[int], Attempt], *, reopen_every: int = 40, others: Any = None
) -> int:
    """Interrupt the n-th attempt at its n-th step, for all n; return how many there are."""
    db = rig.store
    for n in itertools.count():
        call, wanted = attempt(n)
        before = {where: db.table(where[0]).get(where[1]) for where in wanted}
        struck = strike(n, call)
        rig.disk.faults = None
        where = f"step {n}, {struck.where}"
        free(db, where)
        try:
            Call(aftermath, db, n, wanted, before, others).answer()
        except BaseException as error:
            error.add_note(f"after an interrupt at {where}: {struck.error!r}")
            raise
        if not struck.hit:
            check_whole(struck)
            break
        if n % reopen_every == reopen_every - 1:
            compare_with_reopened(rig, where)
    compare_with_reopened(rig, "the end")
    return n


def free(db: Store, where: str) -> None:
    """Assert that this thread was left with no lock."""
    engine = db.engine
    locks = {
        "mutex": engine.log.mutex,
        "append lock": engine.log.append_lock,
        "sync lock": engine.log.sync_lock,
        "close lock": engine.close_lock,
    }
    held = [name for name, lock in locks.items() if lock._is_owned()]
    assert not held, f"after an interrupt at {where}: {held} still held"
    assert engine.log.segments.lock.acquire(False), f"{where}: the lock of the segments is held"
    engine.log.segments.lock.release()


def aftermath(db: Store, n: int, wanted: Wanted, before: Wanted, others: Any) -> None:
    """What another thread sees and does after the strike."""
    db.put(b"first", b"%d" % n, durability=ASYNC)
    assert b"%d" % n == db.get(b"first")
    acknowledged: Wanted = others(n) if others is not None else {}
    seen = peek(db, wanted)
    assert seen in (wanted, before), f"half done: {seen}"
    weak = {b"other%d" % (n % 7): b"a%d" % n, b"another%d" % (n % 5): b"a%d" % n}
    db.put_many(weak, durability=ASYNC)
    acknowledged |= {("", key): value for key, value in weak.items()}
    assert db.put(b"sync%d" % (n % 3), b"s%d" % n) is not None
    db.sync()
    for place, value in acknowledged.items():
        assert value == db.table(place[0]).get(place[1]), f"an acknowledged write is lost: {place}"
    last = peek(db, wanted)
    assert last in (wanted, before), f"half done: {last}"
    if seen == wanted != before:
        assert last == wanted, "what was seen went away"
    db.engine.release_abandoned()
    assert 0 == db.stats().open_snapshots, "a snapshot that nobody holds stays open"


def peek(db: Store, wanted: Wanted) -> Wanted:
    """Return the values of the places that were to be written, whole commits of them."""
    seen: Wanted = {}
    tables = {name for name, _ in wanted}
    for name in tables:
        keys = [key for table, key in wanted if table == name]
        found = db.table(name).get_many(keys)
        seen |= {(name, key): found.get(key) for key in keys}
    return seen


def check_whole(struck: Struck) -> None:
    """An attempt with fewer steps than that was not interrupted at all."""
    if struck.error is not None:
        raise struck.error


def compare_with_reopened(rig: Rig, where: str) -> None:
    """Cut the power and compare: strict recovery passes over nothing."""
    db = rig.store
    db.sync()
    visible = contents(db)
    last = db.engine.log.next_lsn() - 1
    image = rig.power_cut("none")
    again = image.open(recovery="strict")
    report = again.recovery_report
    assert last == report.last_lsn
    assert report.first_lsn is None or report.operations_scanned == last - report.first_lsn + 1
    found = contents(again)
    wrong = {k for k in visible.keys() | found.keys() if visible.get(k) != found.get(k)}
    assert not wrong, f"after {where}: " + ", ".join(
        f"{k}: visible {visible.get(k)!r:.20}, after a reopen {found.get(k)!r:.20}"
        for k in sorted(wrong)
    )
    image.release()


# Writes ---------------------------------------------------------------------------------


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
            return Attempt(lambda: db.incr(key, 10, durability=level), {})

        def others(n: int) -> Wanted:
            key = b"c%d" % (n % 2)
            after = db.incr(key, 1, durability=LEVELS[n // 2 % 3])
            assert after - sums[key] in (1, 11), f"{sums[key]} became {after}"
            return {("", key): b"%d" % after}

        assert sweep(rig, attempt, others=others) > 10


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
                return Attempt(lambda: db.put(b"c", value, durability=level), {})
            items = {b"c": value, b"d": value}
            return Attempt(lambda: db.put_many(items, durability=level), {})

        def others(n: int) -> Wanted:
            before = int(db.get(b"c", b"0"))
            rig.drain()
            after = db.incr(b"c", 1, durability=ASYNC)
            assert after in (before + 1, 1000 * (n + 1) + 1)
            rig.drain()
            log = [int(value) for value in logged(rig, b"c")]
            for one, other in itertools.pairwise([0, *log]):
                assert other in (one + 1, other // 1000 * 1000), f"{other} was counted after {one}"
            return {("", b"c"): b"%d" % after}

        assert sweep(rig, attempt, others=others) > 10


def logged(rig: Rig, key: bytes) -> list[bytes]:
    """Return the values of a key in the order of the log, as far as it is written."""
    from strandline.engine.operations import decode_items
    from strandline.recovery.survey import survey

    db = rig.store
    found = survey(
        rig.disk,
        f"{rig.directory}/log",
        uuid=db.engine.log.uuid,
        watermark_lsn=db.engine.backing.watermark.lsn,
    )
    values = []
    for _, count, payload in found.frames(0):
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
            match n % 3:
                case 0:
                    call = lambda: db.compare_and_set(key, ABSENT, value, durability=level)
                    return Attempt(call, {("", key): value})
                case 1:
                    call = lambda: db.setdefault(key, value, durability=level)
                    return Attempt(call, {("", key): value})
            db.put(key, value)
            return Attempt(lambda: db.pop(key, durability=level), {("", key): None})

        assert sweep(rig, attempt) > 10


@pytest.mark.parametrize("level", LEVELS)
def test_append(tmp_path: Path, level: Durability) -> None:
    """Keys made of LSNs: those that are there are in order, each with its own value."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        events = db.table("events")

        def others(n: int) -> Wanted:
            key = events.append(b"other", durability=LEVELS[n % 3])
            assert key > max(events, default=b"") or key == max(events)
            return {("events", key): b"other"}

        def attempt(n: int) -> Attempt:
            return Attempt(lambda: events.append(b"%d" % n, durability=level), {})

        steps = sweep(rig, attempt, others=others)
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
            wanted = {("", b"f%d" % n): b"1", ("", b"g%d" % n): b"1"}
            items = {key: b"1" for _, key in wanted}

            def put() -> None:
                with suppress(DiskFullError):
                    db.put_many(items, durability=level)

            rig.disk.faults = fail("pwrite", OSError(28, "no room"), path=".wal")
            return Attempt(put, wanted)

        assert sweep(rig, attempt) > 10


# Without a log --------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["put", "put_many", "incr", "append", "clear"])
def test_unlogged(tmp_path: Path, verb: str) -> None:
    """Writes to an unlogged table are whole in memory; what follows them is seen."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        views = db.table("views", logged=False)

        def others(n: int) -> Wanted:
            views.put(b"other", b"%d" % n)
            assert b"%d" % n == views.get(b"other")
            assert b"%d" % n == dict(views.scan())[b"other"]
            return {("views", b"other"): b"%d" % n}

        def attempt(n: int) -> Attempt:
            key, value = b"u%d" % (n % 3), b"%d" % n
            wanted: Wanted = {("views", key): value}
            match verb:
                case "put":
                    return Attempt(lambda: views.put(key, value), wanted)
                case "put_many":
                    return Attempt(lambda: views.put_many({key: value}), wanted)
                case "incr":
                    before = int(views.get(key, b"0"))
                    wanted = {("views", key): b"%d" % (before + 1)}
                    return Attempt(lambda: views.incr(key), wanted)
                case "append":
                    return Attempt(lambda: views.append(value), {})
            views.put_many({b"x": value, b"y": value})
            wanted = {("views", b"x"): None, ("views", b"y"): None}
            return Attempt(views.clear, wanted)

        for n in itertools.count():
            call, wanted = attempt(n)
            before = {place: views.get(place[1]) for place in wanted}
            struck = strike(n, call)
            where = f"step {n}, {struck.where}"
            free(db, where)
            Call(aftermath, db, n, wanted, before, others).answer()
            if not struck.hit:
                break
        assert n > 5
        assert rig.checkpoint()
        assert dict(views.scan()) == dict(rig.power_cut().open().table("views").scan())


# Definitions ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", [ASYNC, SYNC])
@pytest.mark.parametrize("flushed", [False, True])
def test_clear(tmp_path: Path, level: Durability, flushed: bool) -> None:
    """A clear is struck; another thread's write to the table comes next and stays.

    With a checkpoint in between at every second step. Guard: clearing leaves what has a
    higher LSN, and no cut is made above a definition that was not applied.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t")

        def attempt(n: int) -> Attempt:
            table.put_many({b"x": b"%d" % n, b"y": b"%d" % n})
            if flushed:
                assert rig.checkpoint()
            return Attempt(table.clear, {("t", b"x"): None, ("t", b"y"): None})

        def others(n: int) -> Wanted:
            table.put(b"late", b"%d" % n, durability=level)
            assert b"%d" % n == table.get(b"late")
            if n % 2:
                assert rig.checkpoint()
            return {("t", b"late"): b"%d" % n}

        assert sweep(rig, attempt, others=others) > 10


def test_create(tmp_path: Path) -> None:
    """The creation of a table is struck; whoever asks for it next gets it, once."""
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            if n:
                db.drop_table("t%d" % (n - 1))
            return Attempt(lambda: db.table("t%d" % n), {})

        def others(n: int) -> Wanted:
            if n % 3 == 1:
                assert rig.checkpoint()
            table = db.table("t%d" % n)
            table.put(b"k", b"%d" % n, durability=LEVELS[n % 3])
            assert 1 == db.tables().count(table.name)
            return {(table.name, b"k"): b"%d" % n}

        assert sweep(rig, attempt, others=others) > 10


@pytest.mark.parametrize("flushed", [False, True])
def test_drop(tmp_path: Path, flushed: bool) -> None:
    """A drop is struck while others write to the table; it is gone, or there with all.

    Guards: an interrupted drop is finished before anything else joins, or replay knows
    that writes can lie behind it.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        kept: Wanted = {}

        def attempt(n: int) -> Attempt:
            if n:
                db.drop_table("t%d" % (n - 1))
            table = db.table("t%d" % n)
            table.put_many({b"x": b"%d" % n, b"y": b"%d" % n})
            if flushed:
                assert rig.checkpoint()
            return Attempt(lambda: db.drop_table("t%d" % n), {})

        def others(n: int) -> Wanted:
            name = "t%d" % n
            late = False
            if name in db.tables():
                with suppress(InvalidRequestError):
                    db.table(name).put(b"late", b"1", durability=ASYNC)
                    late = True
            if n % 3 == 1:
                assert rig.checkpoint()
            db.sync()
            if name not in db.tables():
                table = db.table(name)
                assert {} == dict(table.scan()), "a dropped table came back with its keys"
            else:
                there = dict(db.table(name).scan())
                assert {b"x", b"y"} <= there.keys()
                assert not late or b"late" in there
            return kept

        assert sweep(rig, attempt, others=others) > 10


# Reads ----------------------------------------------------------------------------------


READS: dict[str, Callable[[Store], Any]] = {
    "get": lambda db: (db.get(b"k001"), db.get(b"none"), db.get(b"new")),
    "get_many": lambda db: db.get_many([b"k001", b"k010", b"new", b"none"]),
    "scan": lambda db: list(db.scan()),
    "reverse": lambda db: list(db.scan(prefix=b"k0", reverse=True, limit=10)),
    "len": len,
    "snapshot": lambda db: _look(db),
    "sync": lambda db: db.sync(),
    "stats": lambda db: (db.stats(), db.health()),
}


def _look(db: Store) -> Any:
    with db.snapshot() as snapshot:
        return snapshot.get(b"k001"), snapshot.get(b"new"), list(snapshot.scan(limit=3))


@pytest.mark.parametrize("read", READS)
def test_read(tmp_path: Path, read: str) -> None:
    """A struck read leaves no lock, no open snapshot and no reader slot of LMDB behind.

    Guard: what a snapshot registers it takes back, however its making ends.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"k%03d" % n: b"v" for n in range(30)})
        assert rig.checkpoint()

        def attempt(n: int) -> Attempt:
            db.put(b"new", b"%d" % n)
            db.put(b"k%03d" % (n % 3), b"%d" % n, durability=ASYNC)
            return Attempt(lambda: READS[read](db), {})

        assert sweep(rig, attempt, reopen_every=1000) > 3
        slots = db.engine.backing._env.readers().count("\n")  # type: ignore[union-attr]
        assert slots < 8, f"{slots} reader slots of LMDB are taken"
