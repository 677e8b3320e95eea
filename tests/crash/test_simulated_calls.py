"""The simulated disk: room, hooks, the trace, and answers like the real disk's."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strandline.tools.crash.simulation.disk import UNLIMITED, SimulatedDisk
from strandline.tools.crash.simulation.faults import Gate, Operation, fail
from strandline.wal.disk import Disk, DiskFile
from strandline.wal.real_disk import RealDisk
from tests.crash.test_simulated_disk import content, durable_file


@pytest.fixture
def disk() -> SimulatedDisk:
    """An empty disk without a limit."""
    return SimulatedDisk()


# Room


def test_writes_meet_the_end_of_the_disk(disk: SimulatedDisk) -> None:
    """A write is short where room ends, then ENOSPC; rewriting needs no room."""
    disk.capacity_bytes = 8192
    file = disk.open("/f", "create")
    assert file.pwrite(b"x" * 10_000, 0) == 8192
    with pytest.raises(OSError) as caught:
        file.pwrite(b"y", 8192)
    assert caught.value.errno == errno.ENOSPC
    assert file.pwrite(b"z" * 8192, 0) == 8192
    assert disk.free_bytes("/") == 0
    disk.capacity_bytes = 12_288
    assert file.pwrite(b"y", 8192) == 1
    assert disk.free_bytes("/") == 0


def test_reserved_blocks_are_there_when_they_are_needed(disk: SimulatedDisk) -> None:
    """Allocation takes all or nothing; what was reserved can be written on a full disk."""
    disk.capacity_bytes = 12_288
    file = disk.open("/f", "create")
    file.allocate(8192)
    assert (file.size(), disk.free_bytes("/")) == (8192, 4096)
    other = disk.open("/g", "create")
    with pytest.raises(OSError) as caught:
        other.allocate(8192)
    assert caught.value.errno == errno.ENOSPC
    assert (other.size(), disk.free_bytes("/")) == (0, 4096)
    other.pwrite(b"x" * 4096, 0)
    assert file.pwrite(b"x" * 8192, 0) == 8192


def test_room_comes_back(disk: SimulatedDisk) -> None:
    """Truncation frees blocks; so does an unlink, once the file is closed."""
    disk.capacity_bytes = 16_384
    file = disk.open("/f", "create")
    file.pwrite(b"x" * 8192, 0)
    file.truncate(1)
    assert disk.free_bytes("/") == 12_288
    disk.unlink("/f")
    assert disk.free_bytes("/") == 12_288
    file.close()
    assert disk.free_bytes("/") == 16_384
    disk.capacity_bytes = None
    assert disk.free_bytes("/") == UNLIMITED


# Hooks and the trace


def test_every_call_is_traced(disk: SimulatedDisk) -> None:
    """The trace names each call, its path, offset and length, those that failed included."""
    disk.mkdir("d")
    file = disk.open("/d/f", "create")
    file.allocate(4096)
    file.pwrite(b"abc", 10)
    file.pread(5, 7)
    file.truncate(100)
    file.size()
    file.try_lock()
    file.fdatasync()
    disk.faults = fail("rename", OSError(errno.EIO, "planted"), path="/g")
    with pytest.raises(OSError, match="planted"):
        disk.rename("/d/f", "/d/g")
    disk.rename("/d/f", "/d/g")
    disk.sync_directory("/d")
    file.close()
    disk.open("/d/g", "r").close()
    disk.kind("/d/g")
    disk.listdir("/d")
    disk.unlink("/d/g")
    disk.free_bytes("/")
    assert disk.operations == [
        Operation("mkdir", "/d"),
        Operation("create", "/d/f"),
        Operation("allocate", "/d/f", 0, 4096),
        Operation("pwrite", "/d/f", 10, 3),
        Operation("pread", "/d/f", 7, 5),
        Operation("truncate", "/d/f", 0, 100),
        Operation("size", "/d/f"),
        Operation("try_lock", "/d/f"),
        Operation("fdatasync", "/d/f"),
        Operation("rename", "/d/g"),
        Operation("rename", "/d/g"),
        Operation("sync_directory", "/d"),
        Operation("close", "/d/f"),
        Operation("open", "/d/g"),
        Operation("close", "/d/g"),
        Operation("kind", "/d/g"),
        Operation("listdir", "/d"),
        Operation("unlink", "/d/g"),
        Operation("free_bytes", "/"),
    ]


def test_a_hook_shortens_reads_and_writes(disk: SimulatedDisk) -> None:
    """("short", n) writes or reads n bytes, and means nothing to other calls."""
    file = disk.open("/f", "create")
    disk.faults = fail("pwrite", ("short", 2), skip=1)
    assert [file.pwrite(b"abcd", at) for at in (0, 4, 8)] == [4, 2, 4]
    disk.faults = fail("pread", ("short", 3), times=2)
    assert [file.pread(10, 0) for _ in range(3)] == [b"abc", b"abc", b"abcdab\0\0ab"]
    disk.faults = fail("size", ("short", 1))
    with pytest.raises(AssertionError, match="short size means nothing"):
        file.size()


def test_a_failed_call_has_no_effect(disk: SimulatedDisk) -> None:
    """An exception comes in the operation's stead, except that a file is closed all the same."""
    file = durable_file(disk, "/f", b"data")
    calls: dict[str, Callable[[], object]] = {
        "pwrite": lambda: file.pwrite(b"x", 0),
        "truncate": lambda: file.truncate(0),
        "unlink": lambda: disk.unlink("/f"),
        "create": lambda: disk.open("/g", "create"),
        "mkdir": lambda: disk.mkdir("/d"),
    }
    for op, call in calls.items():
        disk.faults = fail(op, OSError(errno.EIO, "planted"))
        with pytest.raises(OSError, match="planted"):
            call()
    assert content(disk, "/f") == b"data"
    assert disk.listdir("/") == ["f"]
    assert disk.pending() == 0
    disk.faults = fail("close", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        file.close()
    with pytest.raises(OSError) as caught:
        file.size()
    assert caught.value.errno == errno.EBADF


def test_a_hook_may_cut_the_power(disk: SimulatedDisk) -> None:
    """A hook holds no lock of the disk, so it can take an image before any operation."""
    images: list[SimulatedDisk] = []

    def cut(op: str, path: str) -> None:
        images.append(disk.crash("all"))

    disk.faults = cut
    disk.open("/f", "create").pwrite(b"x", 0)
    assert [content(image, "/f") for image in images] == [None, b""]


def test_other_calls_go_on_while_one_is_held_up(disk: SimulatedDisk) -> None:
    """A call that waits in its hook keeps nobody else waiting."""
    file = durable_file(disk, "/f", b"-")
    disk.faults = gate = Gate("pwrite", path="/f")
    waiting = threading.Thread(target=file.pwrite, args=(b"+", 0))
    waiting.start()
    assert gate.reached.wait(10)
    durable_file_of_others = disk.open("/g", "create")
    durable_file_of_others.fdatasync()
    assert file.pread(1, 0) == b"-"
    gate.opened.set()
    waiting.join(10)
    assert file.pread(1, 0) == b"+"


def test_threads_lose_no_write_of_each_other(disk: SimulatedDisk) -> None:
    """Concurrent writes and syncs leave every byte durable."""
    file = durable_file(disk, "/f", bytes(4096))

    def work(start: int) -> None:
        for at in range(start, 4096, 4):
            file.pwrite(b"x", at)
            if at % 64 == start:
                file.fdatasync()

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    file.fdatasync()
    assert content(disk.crash("none"), "/f") == b"x" * 4096


# Like the real one


def test_the_lock_goes_to_one_open_file(disk: SimulatedDisk) -> None:
    """As flock: taken twice by one, refused to another, free at close and after a crash."""
    first = durable_file(disk, "/f", b"")
    second = disk.open("/f", "rw")
    assert first.try_lock()
    assert first.try_lock()
    assert not second.try_lock()
    assert disk.crash("all").open("/f", "rw").try_lock()
    second.close()
    third = disk.open("/f", "rw")
    assert not third.try_lock()
    first.close()
    first.close()
    assert third.try_lock()


def _attempt(disk: Disk, root: str, step: tuple[Any, ...], files: list[DiskFile]) -> Any:
    op, *args = step
    args = [os.path.join(root, arg[1:]) if str(arg).startswith("/") else arg for arg in args]
    try:
        if op == "open":
            files.append(disk.open(args[0], args[1]))
            return "opened"
        if op == "use":
            return getattr(files[args[0]], args[1])(*args[2:])
        return getattr(disk, op)(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


STEPS: list[tuple[Any, ...]] = [
    ("kind", "/a"),
    ("mkdir", "/d"),
    ("mkdir", "/d"),
    ("mkdir", "/x/y"),
    ("open", "/a", "r"),
    ("open", "/d", "rw"),
    ("open", "/d", "r"),
    ("open", "/d", "create"),
    ("open", "/a", "create"),
    ("open", "/a", "create"),
    ("open", "/a", "r"),
    ("open", "/a/b", "r"),
    ("use", 0, "pwrite", b"hello", 3),
    ("use", 0, "pwrite", b"", 50),
    ("use", 0, "pwrite", b"x", -1),
    ("use", 0, "size"),
    ("use", 1, "pread", 100, 0),
    ("use", 1, "pwrite", b"x", 0),
    ("use", 0, "truncate", 5),
    ("use", 0, "allocate", 20),
    ("use", 0, "allocate", 10),
    ("use", 1, "pread", 100, 2),
    ("use", 0, "fdatasync"),
    ("kind", "/a"),
    ("kind", "/d"),
    ("kind", "/a/b"),
    ("listdir", "/a"),
    ("listdir", "/none"),
    ("unlink", "/none"),
    ("unlink", "/d"),
    ("rename", "/none", "/a"),
    ("rename", "/a", "/d"),
    ("rename", "/d", "/a"),
    ("rename", "/a", "/a"),
    ("rename", "/a", "/d/a"),
    ("rename", "/d", "/e"),
    ("listdir", "/"),
    ("listdir", "/e"),
    ("sync_directory", "/e"),
    ("sync_directory", "/e/a"),
    ("sync_directory", "/none"),
    ("unlink", "/e/a"),
    ("use", 1, "pread", 4, 3),
    ("use", 0, "close"),
    ("use", 0, "close"),
    ("use", 0, "size"),
    ("use", 0, "pwrite", b"x", 0),
    ("use", 0, "try_lock"),
]


def test_answers_are_those_of_the_real_disk(disk: SimulatedDisk, tmp_path: Path) -> None:
    """The same calls give the same values and the same errors on both disks."""
    real, real_files = RealDisk(), list[DiskFile]()
    simulated_files = list[DiskFile]()
    for step in STEPS:
        expected = _attempt(real, str(tmp_path), step, real_files)
        assert (step, _attempt(disk, "/", step, simulated_files)) == (step, expected)
    for file in real_files:
        file.close()
