"""Rows that a child process reads: all of them, verified, or an error that says why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

import strandline
from strandline.engine import probe, rows_apart
from strandline.engine.records import encode
from strandline.engine.rows_apart import RowsApart
from strandline.errors import ForeignStoreError, StoreCorruptionError
from tests.api.stores import open_small
from tests.recovery.check_stores import flip, state_of

MARK = b"a value that is easy to find"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three tables, one of them empty."""
    path = tmp_path_factory.mktemp("rows") / "data"
    with open_small(path) as db:
        db.update({b"%05d" % n: b"v" * (n % 300) for n in range(3000)})
        users = db.table("users")
        users.update({b"a": MARK, b"large": bytes(1 << 20)})
        db.table("empty")
    return path


def rows(
    path: Path, table_ids: list[int] | None, *, spooled: bool = False
) -> dict[int, dict[bytes, bytes]]:
    """Read the rows of some tables of a store."""
    found: dict[int, dict[bytes, bytes]] = {}
    with RowsApart(str(path / "store"), table_ids) as apart:
        if spooled:
            apart.spool()
        for table_id, some in apart:
            assert some == sorted(some)
            found.setdefault(table_id, {}).update(some)
    return found


@pytest.mark.parametrize("spooled", [False, True])
def test_all_rows_of_the_tables_asked_for_come_in_that_order(store: Path, spooled: bool) -> None:
    """Table by table as asked for; empty and unknown tables yield nothing; no file changes."""
    before = state_of(store)
    found = rows(store, [2, 7, 3, 1], spooled=spooled)
    assert [2, 1] == list(found)
    assert {b"a": MARK, b"large": bytes(1 << 20)} == found[2]
    assert {b"%05d" % n: b"v" * (n % 300) for n in range(3000)} == found[1]
    assert before == state_of(store)
    assert [1, 2] == list(rows(store, None, spooled=spooled))


def test_a_changed_value_is_refused(store: Path, tmp_path: Path) -> None:
    """A value whose checksum fails is never handed over; the message names table and key."""
    copy = _copy(store, tmp_path)
    data = copy / "store" / "data.mdb"
    flip(data, data.read_bytes().index(MARK))
    with pytest.raises(StoreCorruptionError, match=r"table 'users'.*b'a'.*fails its checksum"):
        rows(copy, [1, 2])


def test_rows_that_are_missing_are_missed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends early, whatever ended it, is an error and not an end."""
    started: list[Any] = []
    start, chunks = probe.start_child, rows_apart._chunks

    def note(*args: Any, **kwargs: Any) -> Any:
        started.append(start(*args, **kwargs))
        return started[-1]

    def killing(pipe: Any) -> Iterator[bytes]:
        for chunk in chunks(pipe):
            # There is more than a pipe holds, so the child is still at it.
            started[-1].kill()
            yield chunk

    monkeypatch.setattr(rows_apart, "start_child", note)
    monkeypatch.setattr(rows_apart, "_chunks", killing)
    with pytest.raises(StoreCorruptionError, match="ended by signal 9"):
        rows(store, [1, 2])
    assert started


@pytest.mark.parametrize("more", [False, True])
def test_rows_are_as_many_as_the_last_checkpoint_committed(
    more: bool, store: Path, tmp_path: Path
) -> None:
    """A row that is gone, or one too many, tells that pages rotted."""
    copy = _copy(store, tmp_path)
    with lmdb.open(str(copy / "store"), max_dbs=8, map_size=1 << 26, lib_version=0) as env:
        table = env.open_db(b"t2", create=False)
        with env.begin(write=True) as txn:
            if more:
                txn.put(b"b", encode(2, b"b", 1, b"v"), db=table)
            else:
                txn.delete(b"a", db=table)
    with pytest.raises(StoreCorruptionError, match="expected 2 entries"):
        rows(copy, [1, 2])


def test_what_is_no_environment_is_refused(store: Path, tmp_path: Path) -> None:
    """A directory without a data file, and an environment of another program."""
    with pytest.raises(StoreCorruptionError, match="found nothing"):
        rows(tmp_path, [1])
    (tmp_path / "store").mkdir()
    lmdb.open(str(tmp_path / "store"), lib_version=0).close()
    with pytest.raises((ForeignStoreError, StoreCorruptionError)):
        rows(tmp_path, [1])


def test_where_no_child_can_be_started_it_says_so(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedded interpreter cannot run itself."""
    monkeypatch.setattr("sys.executable", "/usr/bin/some-program")
    with pytest.raises(StoreCorruptionError, match="no process can be started"):
        rows(store, [1])


def test_it_reads_beside_the_writer(tmp_path: Path) -> None:
    """The transaction's id is that of the commit that was read."""
    with strandline.open(tmp_path / "data") as db:
        db[b"k"] = b"1"
        db.flush()
        with RowsApart(str(tmp_path / "data" / "store"), [1]) as apart:
            db[b"k"] = b"2"
            db.flush()
            assert [(1, [(b"k", b"1")])] == list(apart)
            before = apart.transaction_id
        with RowsApart(str(tmp_path / "data" / "store"), [1]) as apart:
            assert apart.transaction_id == before + 1
            assert apart.metadata.watermark.lsn == 2


def _copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy"))
