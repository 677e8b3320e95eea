"""Checkpoints: committed as one, or without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from strandline.engine import data_file
from strandline.engine.backing import (
    Backing,
    CommitOutcomeUnknown,
    MapFullError,
    TableRow,
    Watermark,
)
from strandline.errors import (
    DiskFullError,
    SnapshotExpiredError,
    StoreClosedError,
    StoreFailedError,
)
from tests.engine.environments import OPTIONS, UUID, contents, put, put_slice

ROOT = Path(__file__).resolve().parents[2]


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

    def stop_midway() -> None:
        with backing.checkpoint() as checkpoint:
            put_slice(checkpoint, 1, [b"a", b"b"], [(2, b"2", None), (3, b"3", None)])
            checkpoint.create_table(TableRow(2, "t", "bytes", True))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_midway()
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
        put_slice(checkpoint, 2, [b"k"], [(2, b"v", None)])
        put_slice(checkpoint, 1, [b"a", b"b"], [(3, b"1", None), (4, b"2", None)])
        checkpoint.commit(Watermark(UUID, 1, 4))
    with backing.checkpoint() as checkpoint:
        checkpoint.clear(1)
        put_slice(checkpoint, 1, [b"c"], [(6, b"3", None)])
        checkpoint.commit(Watermark(UUID, 1, 6))
    assert contents(backing) == {b"c": b"3"}
    assert contents(backing, 2) == {b"k": b"v"}
    assert (backing.entries(1), backing.entries(2)) == (1, 1)


def test_a_dropped_table_is_gone_and_its_id_stays_used(path: str) -> None:
    """After a drop the rows are gone, the greatest id is remembered, and snapshots still read."""
    backing = Backing.create(path, UUID, 1, OPTIONS)
    with backing.checkpoint() as checkpoint:
        checkpoint.create_table(TableRow(9, "t", "bytes", True))
        put_slice(checkpoint, 9, [b"k"], [(2, b"v", None)])
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


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_tables_can_come_and_go_for_ever(backing: Backing, with_snapshot: bool) -> None:
    """Dropped tables do not use up what LMDB has room for; a snapshot lasts as it can."""
    put(backing, {b"k": b"v"}, 1)
    snapshot = backing.begin_snapshot() if with_snapshot else None
    for number in range(2, 302):
        with backing.checkpoint() as checkpoint:
            checkpoint.create_table(TableRow(number, "t", "bytes", True))
            put_slice(checkpoint, number, [b"k"], [(number, b"%d" % number, None)])
            checkpoint.commit(Watermark(UUID, 1, number))
        assert backing.view.get(number, b"k") == b"%d" % number
        with backing.checkpoint() as checkpoint:
            checkpoint.drop_table(number)
            checkpoint.commit(Watermark(UUID, 1, number))
        assert backing.view.get(number, b"k") is None
        if snapshot is not None and number < 200:
            assert snapshot.get(1, b"k") == b"v"
    assert set(backing.tables) == {1}
    if snapshot is not None:
        with pytest.raises(SnapshotExpiredError):
            snapshot.get(1, b"k")


class FailingCommit:
    """A write transaction whose commit fails."""

    def __init__(self, txn: lmdb.Transaction[bytes] | None, error: lmdb.Error) -> None:
        self._txn = txn
        self._error = error

    def __getattr__(self, name: str) -> object:
        return getattr(self._txn, name)

    def commit(self) -> None:
        """Fail as LMDB would."""
        self.abort()  # type: ignore[operator]
        raise self._error


def commit_failing(backing: Backing, error: lmdb.Error, lsn: int) -> None:
    """Make a checkpoint whose commit fails."""
    with backing.checkpoint() as checkpoint:
        put_slice(checkpoint, 1, [b"lost"], [(lsn, b"1", None)])
        checkpoint._txn = FailingCommit(checkpoint._txn, error)  # type: ignore[assignment]
        checkpoint.commit(Watermark(UUID, 1, lsn))


def test_after_a_failed_commit_nothing_more_is_committed(backing: Backing) -> None:
    """The outcome is unknown: no further checkpoint, and reads go on."""
    put(backing, {b"a": b"1"}, 1)
    with pytest.raises(CommitOutcomeUnknown, match="LSN 2"):
        commit_failing(backing, lmdb.Error("mdb_txn_commit", 5), 2)
    with pytest.raises(StoreFailedError, match="open the store anew"):
        backing.checkpoint()
    assert backing.view.get(1, b"a") == b"1"
    assert contents(backing) == {b"a": b"1"}
    assert backing.watermark.lsn == 1


def test_a_map_that_is_full_at_the_commit_is_not_a_failed_commit(backing: Backing) -> None:
    """LMDB finds a full map before it writes, so the next checkpoint may try."""
    with pytest.raises(MapFullError):
        commit_failing(backing, lmdb.MapFullError("mdb_txn_commit", -30792), 2)
    put(backing, {b"a": b"1"}, 3)
    assert contents(backing) == {b"a": b"1"}


def test_a_write_that_the_system_refuses_in_the_commit_stops_checkpoints(path: str) -> None:
    """With a real limit on the file's size the commit fails; reads of many threads go on."""
    program = f"""
        import resource, signal, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from strandline.engine.backing import Backing, CommitOutcomeUnknown, Watermark
        from tests.engine.environments import put_slice
        from strandline.errors import StoreFailedError
        from strandline.options import Options
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        backing = Backing.create({path!r}, bytes(16), 1, Options())
        with backing.checkpoint() as checkpoint:
            put_slice(checkpoint, 1, [b"k"], [(1, b"v", None)])
            checkpoint.commit(Watermark(bytes(16), 1, 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        try:
            with backing.checkpoint() as checkpoint:
                put_slice(checkpoint, 1, [b"l"], [(2, bytes(1 << 20), None)])
                checkpoint.commit(Watermark(bytes(16), 1, 2))
        except CommitOutcomeUnknown as error:
            print(error)
        try:
            backing.checkpoint()
        except StoreFailedError:
            print("refused")
        wrong = []
        def read():
            for _ in range(300):
                if backing.view.get(1, b"k") != b"v" or backing.view.get_many(1, [b"l"]):
                    wrong.append(1)
        threads = [threading.Thread(target=read) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(wrong, backing.watermark.lsn)
        backing.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "up to LSN 2" in first
    assert rest == ["refused", "[] 1"]


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


def test_no_room_is_not_asked_for(backing: Backing, monkeypatch: pytest.MonkeyPatch) -> None:
    """fallocate answers EINVAL to a length of 0, as to one that the file system cannot reserve.

    A checkpoint with nothing dirty asked for that, and took the answer for the second.
    """
    asked: list[int] = []

    def fallocate(descriptor: int, mode: int, offset: int, room: int) -> int:
        asked.append(room)
        return 0

    monkeypatch.setattr(data_file, "_fallocate", lambda: fallocate)
    backing.reserve(0)
    backing.reserve(4096)
    assert asked == [4096]


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
