"""Reading the environment: views, snapshots, threads, forks, and a map that grows."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine.backing import Backing, MapFullError, ViewRetiredError, Watermark
from strandline.engine.records import Entry
from strandline.errors import (
    BackpressureError,
    DiskFullError,
    SnapshotExpiredError,
    StoreClosedError,
    StoreCorruptionError,
)
from strandline.options import Options

UUID = bytes(range(16))
OPTIONS = Options(map_bytes=1 << 26, max_readers=16, max_tables=8)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    backing = Backing.create(str(tmp_path / "store"), UUID, 1, OPTIONS)
    yield backing
    backing.close()


def put(backing: Backing, state: dict[bytes, bytes | None], lsn: int) -> None:
    """Commit one checkpoint with the given keys."""
    keys = sorted(state)
    entries: list[Entry] = [(lsn, state[key], None) for key in keys]
    with backing.checkpoint() as checkpoint:
        checkpoint.put_slice(1, keys, entries)
        checkpoint.commit(Watermark(UUID, 1, lsn))


# ---- views


def test_a_view_reads_its_commit_and_the_next_view_the_next(backing: Backing) -> None:
    """An old view keeps answering from its commit until it is retired."""
    put(backing, {b"a": b"1", b"b": b"1"}, 1)
    old = backing.view
    put(backing, {b"a": b"2", b"b": None}, 2)
    assert old.get_many(1, [b"a", b"b", b"c"]) == {b"a": b"1", b"b": b"1"}
    assert old.get(1, b"a") == b"1"
    assert backing.view.get(1, b"a") == b"2"
    assert backing.view.get(1, b"b") is None
    assert backing.view.get(99, b"a") is None
    assert backing.view.get_many(99, [b"a"]) == {}


def test_a_retired_view_reads_single_keys_from_the_newest_commit(backing: Backing) -> None:
    """get goes on with newer values; get_many, which promises one commit, says that it is over."""
    put(backing, {b"a": b"1"}, 1)
    old = backing.view
    put(backing, {b"a": b"2"}, 2)
    old.retire()
    assert old.transactions() == 0
    assert old.get(1, b"a") == b"2"
    with pytest.raises(ViewRetiredError):
        old.get_many(1, [b"a"])


def test_a_view_whose_pool_is_empty_never_mixes_commits(backing: Backing) -> None:
    """A transaction that a view begins after the next commit is newer, and never pooled."""
    put(backing, {b"a": b"1"}, 1)
    old = backing.view
    pinned = old._pool.pop()
    put(backing, {b"a": b"2"}, 2)
    assert old.get(1, b"a") == b"2"
    assert old._pool == []
    with pytest.raises(ViewRetiredError):
        old.get_many(1, [b"a"])
    old._pool.append(pinned)
    assert old.get_many(1, [b"a"]) == {b"a": b"1"}


def test_a_damaged_value_is_an_error_and_leaks_no_transaction(backing: Backing) -> None:
    """A value whose checksum fails is never returned, by any way of reading."""
    put(backing, {b"a": b"1", b"b": b"2"}, 1)
    with backing.checkpoint() as checkpoint:
        checkpoint._live().put(b"a", b"garbage", db=backing._databases[1])
        checkpoint.commit(Watermark(UUID, 1, 2))
    snapshot = backing.begin_snapshot()
    for read in (
        lambda: backing.view.get(1, b"a"),
        lambda: backing.view.get_many(1, [b"a", b"b"]),
        lambda: snapshot.get(1, b"a"),
        lambda: snapshot.get_many(1, [b"b", b"a"]),
        lambda: snapshot.chunk(1, None, None, reverse=False, limit=10),
    ):
        for _ in range(20):
            with pytest.raises(StoreCorruptionError, match="key b'a'.*checksum"):
                read()
    assert backing.view.get(1, b"b") == b"2"
    assert backing.view.transactions() == 1
    snapshot.close()


def test_an_exception_in_a_read_leaks_no_transaction(backing: Backing) -> None:
    """Arguments that LMDB refuses cost a transaction of the pool, and it is closed."""
    put(backing, {b"a": b"1"}, 1)
    view = backing.view
    for _ in range(50):
        with pytest.raises(TypeError):
            view.get(1, "a")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            view.get_many(1, [1])  # type: ignore[list-item]
    assert view.get(1, b"a") == b"1"
    assert view.transactions() == 1


def test_readers_in_many_threads_never_go_back(backing: Backing) -> None:
    """While checkpoints commit, no thread sees an older value after a newer one, or a torn pair."""
    put(backing, {b"x": b"0", b"y": b"0"}, 1)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        newest = 0
        while not stop.is_set():
            view = backing.view
            value = view.get(1, b"x")
            try:
                pair = view.get_many(1, [b"x", b"y"])
            except ViewRetiredError:
                continue
            if value is None or int(value) < newest or pair[b"x"] != pair[b"y"]:
                wrong.append((newest, value, pair))
                return
            newest = int(value)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for lsn in range(2, 150):
        old = backing.view
        put(backing, {b"x": b"%d" % lsn, b"y": b"%d" % lsn}, lsn)
        old.retire()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [view for view in backing._views[:-1] if view.transactions()] == []


# ---- snapshots


def test_a_snapshot_stays_what_it_was(backing: Backing) -> None:
    """Later checkpoints, clears included, do not show in a snapshot."""
    put(backing, {b"a": b"1", b"b": b"2"}, 1)
    snapshot = backing.begin_snapshot()
    for lsn in range(2, 20):
        put(backing, {b"a": b"%d" % lsn, b"b": None}, lsn)
    with backing.checkpoint() as checkpoint:
        checkpoint.clear(1)
        checkpoint.commit(Watermark(UUID, 1, 20))
    assert snapshot.get(1, b"a") == b"1"
    assert snapshot.get_many(1, [b"a", b"b", b"c"]) == {b"a": b"1", b"b": b"2"}
    assert snapshot.entries(1) == 2
    assert (snapshot.get(7, b"a"), snapshot.entries(7)) == (None, 0)
    assert snapshot.chunk(7, None, None, reverse=False, limit=5) == []
    snapshot.close()
    snapshot.close()
    with pytest.raises(StoreClosedError, match="snapshot is closed"):
        snapshot.get(1, b"a")


@given(
    st.sets(st.binary(min_size=1, max_size=3), max_size=300),
    st.none() | st.binary(max_size=3),
    st.none() | st.binary(max_size=3),
    st.booleans(),
    st.integers(min_value=1, max_value=400),
)
def test_chunks_are_slices_of_the_sorted_table(
    keys: set[bytes], start: bytes | None, stop: bytes | None, reverse: bool, limit: int
) -> None:
    """A chunk is what a sorted list gives, in both directions, for every range and limit."""
    backing = shared()
    with backing.checkpoint() as checkpoint:
        checkpoint.clear(1)
        ordered = sorted(keys)
        checkpoint.put_slice(1, ordered, [(1, key * 2, None) for key in ordered])
        checkpoint.commit(Watermark(UUID, 1, 1))
    expected = [
        (key, key * 2)
        for key in sorted(keys, reverse=reverse)
        if (start is None or key >= start) and (stop is None or key < stop)
    ]
    snapshot = backing.begin_snapshot()
    try:
        assert snapshot.chunk(1, start, stop, reverse, limit) == expected[:limit]
    finally:
        snapshot.close()


_shared: list[Backing] = []


def shared() -> Backing:
    """Return one environment for all examples of a property."""
    return _shared[0]


@pytest.fixture(autouse=True, scope="module")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("shared") / "store"
    _shared.append(Backing.create(str(path), UUID, 1, OPTIONS))
    yield
    _shared.pop().close()


# ---- reader slots


def test_when_every_reader_slot_is_taken_the_error_says_so(backing: Backing) -> None:
    """More snapshots than max_readers is back-pressure; a closed one makes room again."""
    snapshots = []
    with pytest.raises(BackpressureError, match="max_readers"):
        for _ in range(OPTIONS.max_readers + 1):
            snapshots.append(backing.begin_snapshot())  # noqa: PERF401 - the last one raises
    assert len(snapshots) == OPTIONS.max_readers - 1
    put(backing, {b"a": b"1"}, 1)
    assert backing.watermark.lsn == 1
    snapshots.pop().close()
    assert backing.view.get(1, b"a") == b"1"
    snapshots.pop().close()
    backing.begin_snapshot().close()


def test_slots_of_dead_processes_are_taken_back(backing: Backing) -> None:
    """A process that dies with snapshots open does not use the slots up for ever."""
    program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        import lmdb
        env = lmdb.open({backing.path!r}, readonly=True, max_readers={OPTIONS.max_readers})
        open_for_ever = [env.begin() for _ in range({OPTIONS.max_readers - 1})]
        os._exit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == 7
    snapshots = [backing.begin_snapshot() for _ in range(OPTIONS.max_readers - 1)]
    for snapshot in snapshots:
        snapshot.close()


# ---- growing


def fill(backing: Backing, numbers: Iterator[int], size: int) -> int:
    """Commit `size` new keys of 1000 bytes each, growing the map whenever it is full."""
    keys = [b"%08d" % next(numbers) for _ in range(size)]
    grown = 0
    while True:
        try:
            with backing.checkpoint() as checkpoint:
                checkpoint.put_slice(1, keys, [(1, key * 125, None) for key in keys])
                checkpoint.commit(Watermark(UUID, 1, 1))
        except MapFullError:
            backing.grow()
            grown += 1
        else:
            return grown


def test_a_full_map_grows_and_nothing_is_lost(tmp_path: Path) -> None:
    """A checkpoint that does not fit leaves nothing behind, and fits after grow."""
    backing = Backing.create(str(tmp_path / "store"), UUID, 1, Options(map_bytes=1 << 20))
    numbers = count()
    assert fill(backing, numbers, 100) == 0
    snapshot = backing.begin_snapshot()
    view = backing.view
    assert fill(backing, numbers, 4000) == 4
    assert backing.map_bytes == 16 << 20
    with pytest.raises(SnapshotExpiredError, match="take a new one"):
        snapshot.get(1, b"%08d" % 0)
    for number in (0, 99, 100, 4099):
        key = b"%08d" % number
        assert view.get(1, key) == key * 125
        assert backing.view.get(1, key) == key * 125
    assert backing.entries(1) == 4100
    backing.close()
    # What is larger than map_bytes is opened all the same.
    backing = Backing.open(str(tmp_path / "store"), Options(map_bytes=1 << 20))
    assert backing.entries(1) == 4100
    assert fill(backing, numbers, 100) >= 1
    backing.close()


def test_reads_during_growth_are_right_or_expired(tmp_path: Path) -> None:
    """Threads that read while the map grows see every value, or that a snapshot expired."""
    backing = Backing.create(str(tmp_path / "store"), UUID, 1, Options(map_bytes=1 << 20))
    fill(backing, count(), 300)
    keys = [b"%08d" % number for number in range(300)]
    stop = threading.Event()
    wrong: list[object] = []
    reads = count()

    def read(with_snapshots: bool) -> None:
        while not stop.is_set():
            for key in keys[::7]:
                next(reads)
                try:
                    if with_snapshots:
                        snapshot = backing.begin_snapshot()
                        value = snapshot.get(1, key)
                        snapshot.close()
                    else:
                        value = backing.view.get(1, key)
                except SnapshotExpiredError:
                    continue
                except BaseException as error:
                    wrong.append(error)
                    raise
                if value != key * 125:
                    wrong.append((key, value))
                    return

    threads = [threading.Thread(target=read, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        backing.grow()
        put(backing, {b"zzz": b"1"}, 1)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert next(reads) > 100
    backing.close()


def in_child(program: str) -> str:
    """Run a program that has `path` to itself; return what it prints."""
    head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_less_is_mapped_where_address_space_is_limited(tmp_path: Path) -> None:
    """Under RLIMIT_AS the map is what fits with room to spare, and grows as far as it can."""
    program = f"""
        import resource
        from strandline.engine.backing import Backing, Watermark
        from strandline.errors import DiskFullError
        from strandline.options import Options
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        backing = Backing.create({str(tmp_path / "store")!r}, bytes(16), 1, Options())
        print(backing.map_bytes)
        try:
            while True:
                backing.grow()
        except DiskFullError as error:
            print(backing.map_bytes, error)
        with backing.checkpoint() as checkpoint:
            checkpoint.put_slice(1, [b"k"], [(1, b"v", None)])
            checkpoint.commit(Watermark(bytes(16), 1, 1))
        assert backing.view.get(1, b"k") == b"v"
        backing.close()
    """
    first, rest = in_child(program).splitlines()
    assert 1 << 27 <= int(first) <= 1 << 29
    assert int(rest.split()[0]) >= int(first)
    assert "address space" in rest


def test_a_growth_that_cannot_be_leaves_the_store_usable(
    backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no larger map fits, grow says so and the store goes on with the one it has."""
    put(backing, {b"a": b"1"}, 1)
    monkeypatch.setattr("strandline.engine.backing.can_grow", lambda _size: False)
    with pytest.raises(DiskFullError, match="address space"):
        backing.grow()
    assert backing.view.get(1, b"a") == b"1"
    put(backing, {b"a": b"2"}, 2)


# ---- forks


def test_a_forked_child_lets_go_without_touching_the_parent(backing: Backing) -> None:
    """In the child every use is a StoreClosedError; the parent's snapshot stays protected."""
    put(backing, {b"a": b"1"}, 1)
    snapshot = backing.begin_snapshot()
    view = backing.view
    child = os.fork()
    if child == 0:
        status = 1
        try:
            backing.forget_after_fork()
            refused = 0
            for use in (
                lambda: view.get(1, b"a"),
                lambda: view.get_many(1, [b"a"]),
                lambda: snapshot.get(1, b"a"),
                backing.begin_snapshot,
                backing.checkpoint,
            ):
                try:
                    use()
                except (StoreClosedError, ViewRetiredError):
                    refused += 1
            snapshot.close()
            backing.close()
            status = 0 if refused == 5 else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    for lsn in range(2, 30):
        put(backing, {b"a": b"%d" % lsn}, lsn)
    assert snapshot.get(1, b"a") == b"1"
    snapshot.close()
