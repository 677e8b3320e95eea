"""Where the environment meets a limit: reader slots, the map, address space, a fork."""

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

from strandline.engine.backing import Backing, MapFullError, ViewRetiredError, Watermark
from strandline.errors import (
    BackpressureError,
    DiskFullError,
    SnapshotExpiredError,
    StoreClosedError,
)
from strandline.options import Options
from tests.engine.environments import OPTIONS, UUID, put, put_slice

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    """An empty store that is open."""
    backing = Backing.create(str(tmp_path / "store"), UUID, 1, OPTIONS)
    yield backing
    backing.close()


# ---- reader slots


def test_when_every_reader_slot_is_taken_the_error_says_so(backing: Backing) -> None:
    """More snapshots than max_readers is back-pressure; a closed one makes room again."""
    # The view has the one that is missing.
    snapshots = [backing.begin_snapshot() for _ in range(OPTIONS.max_readers - 1)]
    with pytest.raises(BackpressureError, match="max_readers"):
        backing.begin_snapshot()
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
                put_slice(checkpoint, 1, keys, [(1, key * 125, None) for key in keys])
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
    backing.grow()
    # The map is another one, and the commit the same.
    assert view.get_many(1, [b"%08d" % 7, b"no"]) == {b"%08d" % 7: b"%08d" % 7 * 125}
    assert fill(backing, numbers, 7000) == 3
    with pytest.raises(ViewRetiredError):
        view.get_many(1, [b"%08d" % 7])
    assert backing.map_bytes == 16 << 20
    with pytest.raises(SnapshotExpiredError, match="take a new one"):
        snapshot.get(1, b"%08d" % 0)
    for number in (0, 99, 100, 7099):
        key = b"%08d" % number
        assert view.get(1, key) == key * 125
        assert backing.view.get(1, key) == key * 125
    assert backing.entries(1) == 7100
    backing.close()
    # What is larger than map_bytes is opened all the same.
    backing = Backing.open(str(tmp_path / "store"), Options(map_bytes=1 << 20))
    assert backing.entries(1) == 7100
    assert fill(backing, numbers, 9000) >= 1
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
        from tests.engine.environments import put_slice
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
            put_slice(checkpoint, 1, [b"k"], [(1, b"v", None)])
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
