"""Batches: one commit, whole or not at all, over any number of tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from strandline import Batch, Durability, InvalidRequestError, Store, StoreClosedError
from tests.api.stores import Always, open_small, refused


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with open_small(tmp_path / "store") as store:
        yield store


@pytest.mark.parametrize("level", [None, *Durability])
def test_written_at_the_end_of_the_block(db: Store, level: Durability | None) -> None:
    """Nothing is there before the block ends; then all is, under LSNs that follow one another."""
    table = db.table("t", codec="json")
    before = db.stats().last_lsn
    with db.batch(durability=level) as batch:
        batch.put(b"a", b"1")
        batch.table(table).put("x", [1])
        batch.table("t").put("y", None)
        batch.delete(b"gone")
        assert (len(batch), batch.lsn) == (4, None)
        assert not db
        assert not table
        assert before == db.stats().last_lsn
    assert before + 4 == batch.lsn == db.stats().last_lsn
    assert ({b"a": b"1"}, {"x": [1], "y": None}) == (dict(db), dict(table))


def test_discarded_on_an_exception(db: Store) -> None:
    """Whatever ends the block early, nothing was logged."""
    for error in (ZeroDivisionError, KeyboardInterrupt, GeneratorExit):
        before = db.stats().last_lsn
        with pytest.raises(error), db.batch() as batch:
            batch.put(b"a", b"1")
            raise error
        assert (before, None) == (db.stats().last_lsn, batch.lsn)
    assert not db


def test_an_empty_batch_writes_nothing(db: Store) -> None:
    """No operation, no LSN, no frame."""
    before = db.stats().last_lsn
    with db.batch() as batch:
        pass
    assert (before, None, 0) == (db.stats().last_lsn, batch.lsn, len(batch))


def test_the_last_operation_on_a_key_counts(db: Store) -> None:
    """Within a batch operations apply in order, also after a crash; each has its LSN."""
    with db.batch() as batch:
        batch.put(b"a", b"1")
        batch.put(b"b", b"1")
        batch.delete(b"a")
        batch.put(b"b", b"2")
        batch.delete(b"c")
        batch.put(b"c", b"3")
    expected = {b"b": b"2", b"c": b"3"}
    assert expected == dict(db)
    assert batch.lsn == 6
    db.close(drain=False)
    with open_small(db.path) as again:
        assert expected == dict(again)
        assert again.stats().last_lsn == 6


@pytest.mark.parametrize("unlogged_first", [True, False])
def test_logged_and_unlogged_do_not_mix(db: Store, unlogged_first: bool) -> None:
    """They cannot be atomic together; whoever catches the refusal goes on with the rest."""
    unlogged = db.table("u", logged=False)
    order = [unlogged, db] if unlogged_first else [db, unlogged]
    batch = db.batch()
    with refused(db, InvalidRequestError, "cannot share a batch", "'u'"), batch:
        for table in order:
            batch.table(table).put(b"k", b"v")
    assert not db
    assert not unlogged
    with db.batch() as batch:
        batch.table(order[0]).put(b"k", b"v")
        with pytest.raises(InvalidRequestError, match="cannot share"):
            batch.table(order[1]).delete(b"k")
    assert [1, 0] == [len(table) for table in order]


def test_over_is_over(db: Store) -> None:
    """After its block a batch takes nothing and cannot be begun again."""
    with db.batch() as batch:
        batch.put(b"a", b"1")
    verbs = (
        lambda: batch.put(b"b", b"2"),
        lambda: batch.delete(b"a"),
        lambda: batch.table("").put(b"b", b"2"),
        lambda: batch.__enter__(),
    )
    for verb in verbs:
        with refused(db, InvalidRequestError, "batch is over", "db.batch()"):
            verb()
    assert {b"a": b"1"} == dict(db)
    assert batch.lsn == 1


def test_tables_of_another_store(db: Store, tmp_path: Path) -> None:
    """A batch belongs to one store."""
    with open_small(tmp_path / "other") as other:
        batch = db.batch()
        with refused(db, InvalidRequestError, "another store"), batch:
            batch.put(b"k", b"v")
            batch.table(other).put(b"k", b"v")
        assert not other


def test_a_store_that_closes_meanwhile(db: Store) -> None:
    """A batch that was begun before the close is refused whole at its end."""
    batch = db.batch()
    batch.put(b"k", b"v")
    db.close()
    with pytest.raises(StoreClosedError), batch:
        pass
    with open_small(db.path) as again:
        assert not again


@pytest.mark.parametrize("level", Durability)
@pytest.mark.parametrize("logged", [True, False])
def test_readers_see_whole_batches(tmp_path: Path, level: Durability, logged: bool) -> None:
    """Over two tables, while flushes come and go: one number everywhere, at any moment.

    Snapshots are of all tables, get_many and scans of one.
    """
    stop = threading.Event()
    with open_small(tmp_path / "store", durability=level, flush_strategy=Always()) as db:
        tables = [db.table(name, logged=logged) for name in ("one", "two")]
        keys = [b"%02d" % n for n in range(20)]

        def fill(batch: Batch, number: int) -> None:
            for table in tables:
                for key in keys:
                    batch.table(table).put(key, b"%d" % number)

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                with db.batch() as batch:
                    fill(batch, number)

        with db.batch() as batch:
            fill(batch, 0)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            latest = 0
            for _ in range(60):
                for table in tables:
                    assert len(set(table.get_many(keys).values())) == 1
                    assert len(set(table.values())) == 1
                    assert len(table) == 20
                with db.snapshot() as snapshot:
                    seen = {v for t in tables for _, v in snapshot.table(t).scan()}
                    again = {snapshot.table(t)[key] for t in tables for key in keys}
                assert len(seen) == 1
                assert seen == again
                number = int(seen.pop())
                assert number >= latest
                latest = number
        finally:
            stop.set()
            writer.join()
