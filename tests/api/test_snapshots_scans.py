"""Snapshots keep one moment, scans go over one moment, and neither keeps more than it must."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import (
    ABSENT,
    Durability,
    InvalidRequestError,
    Store,
    StoreClosedError,
)
from strandline.engine.index import Index
from strandline.engine.layer import Entry
from strandline.engine.table_state import TableState
from tests.api.stores import TINY, open_small, refused


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with open_small(tmp_path / "store", durability=Durability.ASYNC) as store:
        yield store


# ---- snapshots


def test_a_snapshot_never_changes(db: Store) -> None:
    """Whatever is written, cleared, dropped and flushed later, it reads as at first."""
    table, unlogged = db.table("t", codec="json"), db.table("u", logged=False)
    doomed = db.table("doomed")
    for each in (db, unlogged, doomed):
        each.update({b"%d" % n: b"old" for n in range(10)})
    table.update({f"{n}": n for n in range(10)})
    db.flush()
    db[b"0"], table["0"], unlogged[b"0"] = b"dirty", None, b"dirty"
    with db.snapshot() as snapshot:
        handles = [snapshot, *map(snapshot.table, (table, unlogged, doomed))]
        before: list[Any] = [list(handle.scan()) for handle in handles]
        assert db.stats().last_lsn == snapshot.lsn
        for round_ in range(4):
            for each in (db, unlogged):
                each[b"1"] = b"%d" % round_
                each[b"new"] = b"x"
                each.delete(b"%d" % (round_ + 2))
            table[f"{round_}"] = [round_]
            if round_ == 1:
                db.clear()
                table.clear()
                unlogged.clear()
                db.drop_table("doomed")
                db.table("doomed")[b"k"] = b"new"
            if round_ % 2:
                db.flush()
            assert before == [list(handle.scan()) for handle in handles]
            assert [view[::-1] for view in before] == [
                list(handle.scan(reverse=True)) for handle in handles
            ]
            for handle, content in zip(handles, before, strict=True):
                keys = [key for key, _ in content]
                assert dict(content) == handle.get_many(keys)
                assert keys == list(handle)
                assert all(handle[key] == value for key, value in content)
        assert b"new" not in snapshot
        assert snapshot.get(b"new", ABSENT) is ABSENT
        with pytest.raises(KeyError):
            snapshot[b"new"]
        assert [] == list(snapshot.table("doomed").scan())


def test_a_snapshot_knows_its_lsn(db: Store) -> None:
    """It holds exactly the operations up to its LSN."""
    lsns = [db.put(b"k", b"%d" % n) for n in range(5)]
    with db.snapshot() as snapshot:
        db.put(b"k", b"later")
        assert lsns[-1] == snapshot.lsn
        assert snapshot[b"k"] == b"4"


def test_a_snapshot_reads_and_defines_nothing(db: Store) -> None:
    """A table that does not exist is refused: to look at one once made it, durably."""
    with db.snapshot() as snapshot:
        with refused(db, InvalidRequestError, "there is no table 'ghost'", "db.table()"):
            snapshot.table("ghost")
        later = db.table("later")
        later[b"k"] = b"v"
        assert [] == list(snapshot.table("later"))
    assert ["later"] == db.tables()


def test_a_closed_snapshot(db: Store) -> None:
    """Closing twice does nothing; every use of it or of a view of it says that it is closed."""
    db[b"k"] = b"v"
    snapshot = db.snapshot()
    view = snapshot.table("")
    assert db.stats().open_snapshots == 1
    snapshot.close()
    snapshot.close()
    assert db.stats().open_snapshots == 0
    for handle in (snapshot, view):
        for call in (
            lambda handle=handle: handle.get(b"k"),
            lambda handle=handle: handle[b"k"],
            lambda handle=handle: b"k" in handle,
            lambda handle=handle: handle.get_many([b"k"]),
            lambda handle=handle: handle.scan(),
            lambda handle=handle: list(handle),
        ):
            with pytest.raises(StoreClosedError, match="snapshot is closed"):
                call()
    with pytest.raises(StoreClosedError):
        _ = snapshot.lsn


def test_a_snapshot_that_outlives_its_store(tmp_path: Path) -> None:
    """It fails by name, or still gives what it gave; it closes without a complaint."""
    db = open_small(tmp_path / "s")
    db[b"k"] = b"v"
    snapshot, walk = db.snapshot(), db.scan()
    db.close()
    for read in (lambda: snapshot[b"k"], lambda: dict(walk)[b"k"]):
        try:
            assert read() == b"v"
        except StoreClosedError:
            pass
    with pytest.raises(StoreClosedError):
        snapshot.get(b"not in memory")
    snapshot.close()


def test_dropped_handles_let_go(db: Store) -> None:
    """Snapshots and iterators that were never closed pin nothing once they are collected."""
    db.update({b"%04d" % n: b"v" for n in range(3000)})
    for _ in range(3):
        db.snapshot()
        next(iter(db.items()))
        next(db.scan(reverse=True))
        assert db
    gc.collect()
    db.flush()
    with db.snapshot():
        assert db.stats().open_snapshots == 1
    assert db.stats().open_snapshots == 0


def test_what_snapshots_keep_counts_as_memory(db: Store) -> None:
    """Old values that only snapshots still see are part of the dirty bytes.

    They once were not, and a program that took a snapshot before each write could hold
    any number of them beyond the budget.
    """
    snapshots = []
    for n in range(50):
        db[b"k"] = bytes([n]) * 10_000
        snapshots.append(db.snapshot())
    assert db.stats().dirty_bytes >= 500_000
    assert [bytes([n]) * 10_000 for n in range(50)] == [s[b"k"] for s in snapshots]
    for snapshot in snapshots:
        snapshot.close()
    db[b"k"] = b"small"
    db.flush()
    db[b"k"] = b"again"
    db.flush()
    assert db.stats().dirty_bytes <= 2_000


@pytest.mark.parametrize("level", Durability)
def test_the_budget_holds_with_snapshots_open(tmp_path: Path, level: Durability) -> None:
    """A snapshot for each write cannot take the store beyond its budget: writers are refused."""
    options = {**TINY, "max_log_bytes": 1 << 24, "durability": level, "overload": "reject"}
    with open_small(tmp_path / "s", **options) as db:
        snapshots = []
        highest = 0
        for n in range(400):
            try:
                db[b"k%d" % (n % 3)] = bytes(2000)
            except Exception as error:
                assert type(error).__name__ == "BackpressureError"  # noqa: PT017
                break
            snapshots.append(db.snapshot())
            highest = max(highest, db.stats().dirty_bytes)
        else:
            raise AssertionError("400 pinned versions of 2 kB fitted a budget of 64 KiB")
        assert highest < 2 * TINY["max_dirty_bytes"]
        for snapshot in snapshots:
            snapshot.close()
        assert db.flush().remaining == 0
        deadline = time.monotonic() + 30
        while db.stats().dirty_bytes >= TINY["max_dirty_bytes"]:  # given back in the background
            assert time.monotonic() < deadline, "what the snapshots pinned was never given back"
            time.sleep(0.001)
        db[b"k"] = b"goes on"


# ---- scans


def test_scans_over_chunks_and_layers(db: Store) -> None:
    """Any range of 9,000 keys, either way: LMDB, frozen and active entries merged rightly.

    Tombstones over stored keys, new keys between them, runs that end where a chunk does.
    """
    random_ = random.Random(5)
    model: dict[bytes, bytes] = {}
    for step in range(3):
        fresh = {b"%05d" % random_.randrange(20_000): b"%d" % step for _ in range(5000)}
        db.update(fresh)
        model |= fresh
        for key in random_.sample(sorted(model), 1200):
            db.delete(key)
            del model[key]
        if step < 2:
            db.flush()
    ordered = sorted(model.items())
    assert ordered == list(db.scan())
    assert ordered[::-1] == list(db.scan(reverse=True))
    with db.snapshot() as snapshot:
        for _ in range(150):
            low, high = (b"%05d" % random_.randrange(20_001) for _ in range(2))
            start = random_.choice([None, low])
            stop = random_.choice([None, max(low, high)])
            limit = random_.choice([None, 1, 5, 127, 128, 129, 2048, 5000])
            reverse = random_.random() < 0.5
            expected = [
                (key, value)
                for key, value in (ordered[::-1] if reverse else ordered)
                if (start is None or start <= key) and (stop is None or key < stop)
            ][:limit]
            for source in (db, snapshot):
                assert expected == list(source.scan(start, stop, reverse=reverse, limit=limit))
        for prefix in (b"", b"0", b"00", b"0000", b"00000", b"000000", b"19", b"2", b"\xff"):
            matching = [item for item in ordered if item[0].startswith(prefix)]
            assert matching == list(db.scan(prefix=prefix))
            assert matching[::-1] == list(db.scan(prefix=prefix, reverse=True))


@pytest.mark.parametrize("flush", [True, False])
def test_the_edges_of_the_key_space(db: Store, flush: bool) -> None:
    """Prefixes of 0xff bytes, bounds that are empty, inverted or longer than any key."""
    keys = [b"\0", b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff" * 511]
    db.update(dict.fromkeys(keys, b"v"))
    if flush:
        db.flush()

    def found(**arguments: Any) -> list[bytes]:
        forward = [key for key, _ in db.scan(**arguments)]
        assert forward[::-1] == [key for key, _ in db.scan(**arguments, reverse=True)]
        return forward

    assert keys[1:4] == found(prefix=b"a")
    assert keys[2:4] == found(prefix=b"a\xff")
    assert keys[5:] == found(prefix=b"\xff")
    assert keys[7:] == found(prefix=b"\xff" * 511)
    assert [] == found(prefix=b"\xff" * 512)
    assert keys == found(start=b"") == found(stop=b"\xff" * 512) == found(prefix=b"")
    assert [] == found(stop=b"") == found(start=b"\xff" * 512) == found(start=b"b", stop=b"a")
    assert [] == found(start=b"b", stop=b"b")
    assert keys[4:] == found(start=b"a" + b"\xff" * 600)
    assert keys[:4] == found(stop=b"a" + b"\xff" * 600)
    assert [] == list(db.scan(limit=0))


def test_a_scan_is_of_the_moment_of_its_call(db: Store) -> None:
    """Not of its first step: what is written between the two is not in it."""
    db.update({b"%d" % n: b"old" for n in range(5)})
    late = db.scan()
    db[b"2"] = b"new"
    del db[b"3"]
    db[b"9"] = b"new"
    db.flush()
    assert [(b"%d" % n, b"old") for n in range(5)] == list(late)
    assert [] == list(late)


def test_a_scan_half_way_through_flushes(db: Store) -> None:
    """Its layers are written, dropped and freed under it; it goes on as if nothing were."""
    db.update({b"%05d" % n: b"%d" % n for n in range(6000)})
    walk = db.scan()
    seen = [next(walk) for _ in range(10)]
    for n in range(4):
        db.update({b"%05d" % k: b"later" for k in range(0, 6000, 7 + n)})
        db.clear() if n == 2 else db.flush()
        seen += [next(walk) for _ in range(500)]
    seen += list(walk)
    assert [(b"%05d" % n, b"%d" % n) for n in range(6000)] == seen


def test_codecs_keep_the_order_of_keys(db: Store) -> None:
    """Integers sort as numbers and text by code point, in memory and in LMDB."""
    numbers = db.table("n", codec="int64/bytes")
    values = [-(1 << 63), -256, -1, 0, 1, 255, 256, (1 << 63) - 1]
    texts = ["", "Z", "a", "é", "\uffff", "\U0001f30a"][1:]
    words = db.table("w", codec="utf-8")
    for flush in (False, True):
        numbers.update(dict.fromkeys(reversed(values), b""))
        words.update(dict.fromkeys(reversed(texts), ""))
        assert values == list(numbers)
        assert texts == list(words)
        assert values[2:5] == [n for n, _ in numbers.scan(start=-1, stop=255)]
        assert texts[2:] == [text for text, _ in words.scan(start="b")]
        assert ["é"] == [text for text, _ in words.scan(prefix="é")]
        if not flush:
            db.flush()


def test_a_scan_after_an_interrupt_sees_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KeyboardInterrupt in the middle of publishing a batch shows no scan half of it.

    Short scans take no snapshot, and looked at the layers before what the interrupt had left
    undone was done. Guard: `log.settle` in `scan_at_once`.
    """
    published = Index.install
    calls = itertools.count(1)

    def interrupted(self: Index, state: TableState, key: bytes, entry: Entry) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        published(self, state, key, entry)

    with strandline.open(tmp_path / "store") as db, db.snapshot():
        monkeypatch.setattr(Index, "install", interrupted)
        batch = {b"k%d" % n: b"v" for n in range(6)}
        with pytest.raises(KeyboardInterrupt):
            db.put_many(batch, durability=strandline.Durability.ASYNC)
        monkeypatch.undo()
        assert batch == dict(db.scan())
