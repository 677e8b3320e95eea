"""Reading the environment: views that are shared, and snapshots that last."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine.backing import Backing, ViewRetiredError, Watermark
from strandline.errors import (
    StoreClosedError,
    StoreCorruptionError,
)
from tests.engine.environments import OPTIONS, UUID, put, put_slice

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    """An empty store that is open."""
    backing = Backing.create(str(tmp_path / "store"), UUID, 1, OPTIONS)
    yield backing
    backing.close()


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
            with pytest.raises(StoreCorruptionError, match=r"key b'a'.*checksum"):
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
        put_slice(checkpoint, 1, ordered, [(1, key * 2, None) for key in ordered])
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
