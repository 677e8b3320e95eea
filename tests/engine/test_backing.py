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
    CommitOutcomeUnknown,
    MapFullError,
    TableRow,
    Watermark,
)
from strandline.engine.records import Entry, encode
from strandline.errors import (
    DiskFullError,
    ForeignStoreError,
    InvalidRequestError,
    StoreClosedError,
    StoreCorruptionError,
    StoreFailedError,
    StoreLockedError,
)
from strandline.options import Options

UUID = bytes(range(16))
OPTIONS = Options(map_bytes=1 << 26, max_readers=16, max_tables=8)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def backing(path: str) -> Iterator[Backing]:
    backing = Backing.create(path, UUID, 1, OPTIONS)
    yield backing
    backing.close()


def put(backing: Backing, state: dict[bytes, bytes | None], lsn: int, table_id: int = 1) -> None:
    """Commit one checkpoint with the given keys."""
    keys = sorted(state)
    entries: list[Entry] = [(lsn, state[key], None) for key in keys]
    with backing.checkpoint() as checkpoint:
        checkpoint.put_slice(table_id, keys, entries)
        checkpoint.commit(Watermark(UUID, 1, lsn))


def contents(backing: Backing, table_id: int = 1) -> dict[bytes, bytes]:
    snapshot = backing.begin_snapshot()
    try:
        return dict(snapshot.chunk(table_id, None, None, reverse=False, limit=1 << 20))
    finally:
        snapshot.close()


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
        checkpoint.put_slice(5, [b"a", b"b"], [(0, b"1", None), (0, b"2", None)])
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
    with pytest.raises(StoreCorruptionError, match="expected 2 entries.*found 1"):
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


# ---- checkpoints


def test_a_slice_may_mix_values_and_tombstones(backing: Backing) -> None:
    """Values are put, tombstones delete, and a tombstone of an absent key does nothing."""
    put(backing, {b"a": b"1", b"b": b"2", b"c": b"3"}, 3)
    put(backing, {b"a": None, b"b": b"B", b"d": b"4", b"x": None}, 7)
    assert contents(backing) == {b"b": b"B", b"c": b"3", b"d": b"4"}
    assert backing.entries(1) == 3
    assert backing.watermark.lsn == 7


def test_an_exception_leaves_no_trace(backing: Backing) -> None:
    """A checkpoint that is left by an exception, or without commit, changes nothing."""
    put(backing, {b"a": b"1"}, 1)
    with pytest.raises(RuntimeError, match="stop"), backing.checkpoint() as checkpoint:
        checkpoint.put_slice(1, [b"a", b"b"], [(2, b"2", None), (3, b"3", None)])
        checkpoint.create_table(TableRow(2, "t", "bytes", True))
        raise RuntimeError("stop")
    with backing.checkpoint() as checkpoint:
        checkpoint.clear(1)
    assert contents(backing) == {b"a": b"1"}
    assert backing.view.get(1, b"a") == b"1"
    assert (set(backing.tables), backing.highest_table_id) == ({1}, 1)
    put(backing, {b"b": b"2"}, 2)
    assert contents(backing) == {b"a": b"1", b"b": b"2"}


def test_clear_empties_one_table(backing: Backing) -> None:
    """clear removes the keys of its table and no others; what is put after it stays."""
    with backing.checkpoint() as checkpoint:
        checkpoint.create_table(TableRow(2, "t", "bytes", True))
        checkpoint.put_slice(2, [b"k"], [(2, b"v", None)])
        checkpoint.put_slice(1, [b"a", b"b"], [(3, b"1", None), (4, b"2", None)])
        checkpoint.commit(Watermark(UUID, 1, 4))
    with backing.checkpoint() as checkpoint:
        checkpoint.clear(1)
        checkpoint.put_slice(1, [b"c"], [(6, b"3", None)])
        checkpoint.commit(Watermark(UUID, 1, 6))
    assert contents(backing) == {b"c": b"3"}
    assert contents(backing, 2) == {b"k": b"v"}
    assert (backing.entries(1), backing.entries(2)) == (1, 1)


def test_a_dropped_table_is_gone_and_its_id_stays_used(path: str) -> None:
    """After a drop the rows are gone, the greatest id is remembered, and snapshots still read."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    with backing.checkpoint() as checkpoint:
        checkpoint.create_table(TableRow(9, "t", "bytes", True))
        checkpoint.put_slice(9, [b"k"], [(2, b"v", None)])
        checkpoint.commit(Watermark(UUID, 1, 2))
    snapshot = backing.begin_snapshot()
    with backing.checkpoint() as checkpoint:
        checkpoint.drop_table(9)
        checkpoint.commit(Watermark(UUID, 1, 3))
    assert snapshot.get(9, b"k") == b"v"
    assert backing.view.get(9, b"k") is None
    assert (set(backing.tables), backing.highest_table_id) == ({1}, 9)
    backing.close()
    for _ in range(2):
        # The second opening finds that the first one's checkpoint deleted the empty database.
        backing = Backing.open(path, OPTIONS)
        assert (set(backing.tables), backing.highest_table_id) == ({1}, 9)
        with pytest.raises(AssertionError), backing.checkpoint() as checkpoint:
            checkpoint.create_table(TableRow(9, "again", "bytes", True))
        put(backing, {b"k": b"v"}, 4)
        backing.close()
    with lmdb.open(path, max_dbs=4) as env:
        assert sorted(env.dbs()) == [b"meta", b"t1"]


def test_tables_can_come_and_go_for_ever(backing: Backing) -> None:
    """Dropped tables do not use up what LMDB has room for."""
    for number in range(2, 302):
        with backing.checkpoint() as checkpoint:
            checkpoint.create_table(TableRow(number, "t", "bytes", True))
            checkpoint.put_slice(number, [b"k"], [(number, b"%d" % number, None)])
            checkpoint.commit(Watermark(UUID, 1, number))
        assert backing.view.get(number, b"k") == b"%d" % number
        with backing.checkpoint() as checkpoint:
            checkpoint.drop_table(number)
            checkpoint.commit(Watermark(UUID, 1, number))
        assert backing.view.get(number, b"k") is None
    assert set(backing.tables) == {1}


class FailingCommit:
    """A transaction whose commit fails."""

    def __init__(self, txn: lmdb.Transaction[bytes], error: lmdb.Error) -> None:
        self._txn = txn
        self._error = error

    def __getattr__(self, name: str) -> object:
        return getattr(self._txn, name)

    def commit(self) -> None:
        self._txn.abort()
        raise self._error


def test_after_a_failed_commit_nothing_more_is_committed(backing: Backing) -> None:
    """The outcome is unknown: no further checkpoint, and reads go on."""
    put(backing, {b"a": b"1"}, 1)
    with pytest.raises(CommitOutcomeUnknown, match="LSN 2"), backing.checkpoint() as checkpoint:
        failing = FailingCommit(checkpoint._txn, lmdb.Error("mdb_txn_commit", 5))  # type: ignore[arg-type]
        checkpoint._txn = failing  # type: ignore[assignment]
        checkpoint.commit(Watermark(UUID, 1, 2))
    with pytest.raises(StoreFailedError, match="open the store anew"):
        backing.checkpoint()
    assert backing.view.get(1, b"a") == b"1"
    assert contents(backing) == {b"a": b"1"}
    assert backing.watermark.lsn == 1


def test_a_map_that_is_full_at_the_commit_is_not_a_failed_commit(backing: Backing) -> None:
    """LMDB finds a full map before it writes, so the next checkpoint may try."""
    with pytest.raises(MapFullError), backing.checkpoint() as checkpoint:
        failing = FailingCommit(checkpoint._txn, lmdb.MapFullError("mdb_txn_commit", -30792))  # type: ignore[arg-type]
        checkpoint._txn = failing  # type: ignore[assignment]
        checkpoint.commit(Watermark(UUID, 1, 2))
    put(backing, {b"a": b"1"}, 3)
    assert contents(backing) == {b"a": b"1"}


def test_room_is_reserved_without_making_the_file_longer(backing: Backing) -> None:
    """reserve takes blocks behind the file's end, and less room than asked for is an error."""
    data = Path(backing.path, "data.mdb")
    before = data.stat()
    backing.reserve(1 << 20)
    after = data.stat()
    assert after.st_size == before.st_size
    assert after.st_blocks * 512 in (before.st_blocks * 512, before.st_blocks * 512 + (1 << 20))
    state = os.statvfs(backing.path)
    with pytest.raises(DiskFullError, match="free some space"):
        backing.reserve(2 * state.f_blocks * state.f_frsize)
    assert data.stat().st_size == before.st_size


def test_a_closed_store_answers_nothing(backing: Backing) -> None:
    """After close, which may be called twice, every use is a StoreClosedError."""
    put(backing, {b"a": b"1"}, 1)
    view, snapshot = backing.view, backing.begin_snapshot()
    backing.close()
    backing.close()
    for use in (
        lambda: view.get(1, b"a"),
        lambda: backing.view.get(1, b"a"),
        lambda: snapshot.get(1, b"a"),
        backing.begin_snapshot,
        backing.checkpoint,
        lambda: backing.reserve(1),
        backing.grow,
    ):
        with pytest.raises(StoreClosedError):
            use()
