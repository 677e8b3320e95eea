"""The LMDB environment: made whole or not at all, opened with care, committed as one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from strandline.engine import catalog
from strandline.engine.backing import (
    Backing,
    TableRow,
    Watermark,
)
from strandline.engine.records import encode
from strandline.errors import (
    ForeignStoreError,
    InvalidRequestError,
    StoreCorruptionError,
    StoreLockedError,
)
from strandline.options import Options
from tests.engine.environments import OPTIONS, UUID, contents, put, put_slice


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a store is to be."""
    return str(tmp_path / "store")


@pytest.fixture
def backing(path: str) -> Iterator[Backing]:
    """An empty store that is open."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    yield backing
    backing.close()


# ---- creation


def test_a_new_store_is_private_and_empty(path: str) -> None:
    """Directory 0700, files 0600, watermark at LSN 0, the default table and nothing in it."""
    backing = Backing.create(path, UUID, 3, OPTIONS)
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        for name in os.listdir(path):
            assert stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode) == 0o600
        assert backing.watermark == Watermark(UUID, 3, 0)
        assert backing.tables == {1: TableRow(1, "", "bytes", True)}
        assert backing.highest_table_id == 1
        assert backing.entries(1) == 0
        assert contents(backing) == {}
    finally:
        backing.close()


@pytest.mark.parametrize("step", ["mkdir", "fsync", "rename"])
def test_a_creation_that_was_cut_short_leaves_no_store(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call fails, nothing is at the path, and the next creation succeeds."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="input/output error"):
            Backing.create(path, UUID, 1, OPTIONS)
    assert not os.path.lexists(path)
    Backing.create(path, UUID, 1, OPTIONS).close()
    assert os.listdir(os.path.dirname(path)) == ["store"]


def test_a_creation_is_synced_before_and_after_it_gets_its_name(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data file, its directory, the rename, the parent: in that order."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_rename(source: str, target: str) -> None:
        calls.append("rename")
        rename(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to name a descriptor")
    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    Backing.create(path, UUID, 1, OPTIONS).close()
    parent = os.path.basename(os.path.dirname(path))
    assert calls == ["data.mdb", "store.new", "rename", parent]


def test_something_at_the_path_is_never_overwritten(path: str) -> None:
    """create refuses a path that is taken and leaves what is there."""
    Path(path).write_bytes(b"mine")
    with pytest.raises(ForeignStoreError, match="expected nothing here"):
        Backing.create(path, UUID, 1, OPTIONS)
    assert Path(path).read_bytes() == b"mine"


# ---- opening


def test_what_was_committed_is_there_after_opening_again(path: str) -> None:
    """Watermark, tables, values and counts survive a close."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    row = TableRow(5, "views", "utf-8/json", False)
    with backing.checkpoint() as checkpoint:
        checkpoint.create_table(row)
        put_slice(checkpoint, 5, [b"a", b"b"], [(0, b"1", None), (0, b"2", None)])
        checkpoint.commit(Watermark(UUID, 2, 77))
    backing.close()
    backing = Backing.open(path, OPTIONS)
    try:
        assert backing.watermark == Watermark(UUID, 2, 77)
        assert backing.tables[5] == row
        assert backing.highest_table_id == 5
        assert (backing.entries(1), backing.entries(5), backing.entries(6)) == (0, 2, 0)
        assert contents(backing, 5) == {b"a": b"1", b"b": b"2"}
    finally:
        backing.close()


def test_one_process_opens_a_store_once(backing: Backing) -> None:
    """A second Backing of the same files is refused; it would share locks with the first."""
    with pytest.raises(StoreLockedError, match="open already") as caught:
        Backing.open(backing.path, OPTIONS)
    assert caught.value.pid == os.getpid()


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "noise"])
def test_a_ruined_data_file_is_an_error_that_names_it(path: str, damage: str) -> None:
    """No data file, an empty one, one cut within its meta pages, one of noise."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    data = Path(path, "data.mdb")
    if damage == "gone":
        data.unlink()
    else:
        data.write_bytes({"empty": b"", "short": data.read_bytes()[:5000]}.get(damage, b"n" * 9999))
    with pytest.raises(StoreCorruptionError, match=r"data\.mdb.*restore a backup"):
        Backing.open(path, OPTIONS)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
@pytest.mark.parametrize("kind", ["link", "directory"])
def test_only_regular_files_are_opened(path: str, name: str, kind: str) -> None:
    """A link or a directory in the place of a file is refused, and never followed."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    file = Path(path, name)
    file.rename(file.with_suffix(".moved"))
    if kind == "link":
        file.symlink_to(file.with_suffix(".moved"))
    else:
        file.mkdir()
    with pytest.raises(ForeignStoreError, match=f"{name}: expected a regular file"):
        Backing.open(path, OPTIONS)


def test_a_lock_file_of_noise_does_not_matter(path: str) -> None:
    """LMDB's lock file holds nothing that lasts: it is made anew when nobody has it open."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    Path(path, "lock.mdb").write_bytes(os.urandom(10_000))
    Backing.open(path, OPTIONS).close()


def test_an_environment_of_somebody_else_is_refused(path: str) -> None:
    """An LMDB environment without this program's metadata is foreign, and is left alone."""
    os.mkdir(path)
    with lmdb.open(path, max_dbs=1) as env:
        env.open_db(b"theirs")
    before = Path(path, "data.mdb").read_bytes()
    with pytest.raises(ForeignStoreError, match="not made by strandline"):
        Backing.open(path, OPTIONS)
    assert Path(path, "data.mdb").read_bytes() == before


def test_an_environment_of_lmdb_1_is_refused(path: str) -> None:
    """The data format of LMDB 1.0 is another one; the message says so."""
    os.mkdir(path)
    lmdb.open(path, lib_version=1).close()
    with pytest.raises(ForeignStoreError, match=r"found that of LMDB 1\.0"):
        Backing.open(path, OPTIONS)


def tamper(path: str, database: bytes, key: bytes, record: bytes | None) -> None:
    """Change one record as no checkpoint would."""
    with lmdb.open(path, max_dbs=20) as env:
        handle = env.open_db(database, create=False)
        with env.begin(write=True) as txn:
            if record is None:
                txn.delete(key, db=handle)
            else:
                txn.put(key, record, db=handle)


def test_a_newer_store_format_is_refused(path: str) -> None:
    """A format number that this version does not know is never guessed at."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    newer = (catalog.STORE_FORMAT + 1).to_bytes(4, "little")
    tamper(path, b"meta", b"format", encode(0, b"format", 0, newer))
    with pytest.raises(ForeignStoreError, match="expected store format 1, found 2"):
        Backing.open(path, OPTIONS)


@pytest.mark.parametrize("key", [b"watermark", b"catalog", b"entries"])
@pytest.mark.parametrize("payload", [None, b"", b"\xc1", b"\x93\x01\x02\x03", b"\x92\x01\x05"])
def test_metadata_that_makes_no_sense_is_damage(
    path: str, key: bytes, payload: bytes | None
) -> None:
    """Metadata that is missing, or sealed and senseless, is an error and not a traceback."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    tamper(path, b"meta", key, None if payload is None else encode(0, key, 0, payload))
    with pytest.raises(StoreCorruptionError, match="metadata"):
        Backing.open(path, OPTIONS)


def test_entries_that_went_missing_are_noticed(path: str) -> None:
    """A table that does not hold as many keys as its last checkpoint committed is damaged."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    put(backing, {b"a": b"1", b"b": b"2"}, 2)
    backing.close()
    tamper(path, b"t1", b"a", None)
    with pytest.raises(StoreCorruptionError, match=r"expected 2 entries.*found 1"):
        Backing.open(path, OPTIONS)


def test_a_table_without_its_database_is_damage(path: str) -> None:
    """A database that the catalog names must be there."""
    Backing.create(path, UUID, 1, OPTIONS).close()
    with lmdb.open(path, max_dbs=20) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(b"t1", txn=txn))
    with pytest.raises(StoreCorruptionError, match="expected a database b't1'"):
        Backing.open(path, OPTIONS)


def test_more_tables_than_the_setting_allows_are_refused_by_name(path: str) -> None:
    """Opening says which setting has to be larger."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    with backing.checkpoint() as checkpoint:
        for number in range(2, 6):
            checkpoint.create_table(TableRow(number, f"n{number}", "bytes", True))
        checkpoint.commit(Watermark(UUID, 1, 4))
    backing.close()
    with pytest.raises(InvalidRequestError, match="max_tables = 3 tables, found 4"):
        Backing.open(path, Options(max_tables=3))
    Backing.open(path, Options(max_tables=4)).close()
