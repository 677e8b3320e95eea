"""`quarantine/`: names, budget, and that nothing in it is ever lost or written over."""

from __future__ import annotations

import random

import pytest

from strandline.errors import DiskFullError, InvalidRequestError
from strandline.recovery.aside import Aside
from strandline.recovery.quarantine import Quarantine
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.faults import FaultHook, fail
from strandline.wal.runtime import SystemRuntime
from tests.support.logs import DATA, LOG, QUARANTINE, LogBuilder, LogDisk, quarantined

NOW = 1_709_201_700_250_000_000
"""2024-02-29 10:15:00.25 UTC, in nanoseconds."""

PATH = LogBuilder.path(7)
CONTENT = bytes(range(256)) * 12


class Stopped(SystemRuntime):
    """A runtime whose clock stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.time_ns = lambda: NOW


def on_disk() -> LogDisk:
    """Return a disk with one file in the log, durable."""
    disk = LogDisk()
    disk.mkdir(DATA)
    disk.mkdir(LOG)
    disk.put(PATH, CONTENT)
    disk.open(PATH, "rw").fdatasync()
    for path in ("/", DATA, LOG):
        disk.sync_directory(path)
    return disk


def quarantine(disk: SimulatedDisk, budget: int = 1 << 20) -> Quarantine:
    """Return the quarantine of the store on a disk."""
    return Quarantine(disk, QUARANTINE, budget, Stopped())


def aside(offset: int = 1024, end: int = 2000, *, whole: bool = False) -> Aside:
    """Return a part of the file, or all of it."""
    if whole:
        return Aside(PATH, 7, 0, len(CONTENT), 4711, whole=True)
    return Aside(PATH, 7, offset, end, 4711, whole=False)


def test_a_copy_carries_segment_offset_lsn_and_time_in_its_name() -> None:
    """The name says where the bytes are from; the original stays."""
    disk = on_disk()
    path = quarantine(disk).copy(aside())
    name = "0000000000000007-at-1024-lsn-4711-20240229T101500.250000Z.tail"
    assert f"{QUARANTINE}/{name}" == path
    assert CONTENT[1024:2000] == disk.content(path)
    assert CONTENT == disk.content(PATH)


def test_a_whole_segment_keeps_its_suffix() -> None:
    """Moved or copied from its first byte: it can be inspected as a segment."""
    disk = on_disk()
    copied = quarantine(disk).copy(aside(0, len(CONTENT)))
    assert copied.endswith(".wal")
    moved = quarantine(disk).move(aside(whole=True))
    assert moved.endswith(".wal")
    assert [CONTENT, CONTENT] == quarantined(disk)
    assert "absent" == disk.kind(PATH)


def test_a_name_is_never_used_twice() -> None:
    """Two moves of the same place at the same moment give two files."""
    disk = on_disk()
    first = quarantine(disk).move(aside(whole=True))
    disk.put(PATH, b"another")
    second = quarantine(disk).move(aside(whole=True))
    assert first != second
    assert [CONTENT, b"another"] == [disk.content(first), disk.content(second)]


def test_a_copy_is_durable_when_it_is_returned() -> None:
    """Its bytes, its name, and the directory's name."""
    disk = on_disk()
    path = quarantine(disk).copy(aside())
    after = disk.crash("none")
    assert "file" == after.kind(path)
    assert [CONTENT[1024:2000]] == quarantined(after)


def test_a_move_is_durable_and_never_leaves_the_file_without_a_name() -> None:
    """Whatever of it survives a power cut, the bytes are in one place or in both."""
    rng = random.Random(7)
    for operation in range(12):
        disk = on_disk()
        disk.faults = fail_at(operation)
        try:
            path = quarantine(disk).move(aside(whole=True))
        except OSError:
            disk.faults = None
        else:
            assert "file" == disk.crash("none").kind(path)
            assert "absent" == disk.crash("none").kind(PATH)
            return
        for _ in range(8):
            after = disk.crash(rng)
            assert "file" == after.kind(PATH) or [CONTENT] == quarantined(after), operation
    raise AssertionError("a move takes more operations than this test lets happen")


def fail_at(operation: int) -> FaultHook:
    """Return a hook that fails every operation from the n-th on."""
    left = operation

    def hook(op: str, path: str) -> OSError | None:
        nonlocal left
        left -= 1
        return OSError(5, "I/O error") if left < 0 else None

    return hook


def test_the_same_bytes_are_kept_once() -> None:
    """A recovery that is run again finds its copy; other bytes get another file."""
    disk = on_disk()
    first = quarantine(disk).copy(aside())
    assert first == quarantine(disk).copy(aside())
    disk.poke(PATH, 1500, b"changed")
    assert first != quarantine(disk).copy(aside())
    assert 2 == len(quarantined(disk))


def test_a_copy_that_is_found_is_durable_too() -> None:
    """Whoever made it was killed before its name was on disk; the original goes all the same."""
    disk = on_disk()
    disk.faults = fail("sync_directory", OSError(5, "I/O error"), path=QUARANTINE)
    with pytest.raises(OSError, match="I/O error"):
        quarantine(disk).copy(aside())
    killed = disk.kill()
    path = quarantine(killed).copy(aside())
    assert "file" == killed.crash("none").kind(path)


def test_the_budget_counts_all_files_together() -> None:
    """What is there already takes its share, and what is kept already needs none."""
    disk = on_disk()
    store = quarantine(disk, budget=1500)
    assert store.fits(aside())
    store.copy(aside())
    assert store.fits(aside()), "it is there"
    assert not store.fits(aside(0, 525))
    assert store.fits(aside(0, 524))


def test_too_small_a_budget_is_refused_before_anything_is_touched() -> None:
    """The error says which setting helps, and how much it takes."""
    disk = on_disk()
    store = quarantine(disk, budget=1500)
    parts = [aside(0, 900), aside(1000, 1700)]
    with pytest.raises(InvalidRequestError, match="quarantine_bytes=1600 or more"):
        store.require_room(parts)
    assert "absent" == disk.kind(QUARANTINE)
    quarantine(disk, budget=1600).require_room(parts)
    quarantine(disk).copy(parts[0])
    with pytest.raises(InvalidRequestError, match=r"found 900 bytes used.*=1600 or more"):
        store.require_room(parts)


def test_no_room_on_the_disk_leaves_no_half_copy() -> None:
    """The error is the disk's, and says that nothing was dropped."""
    disk = on_disk()
    disk.faults = fail("pwrite", OSError(28, "No space left on device"), path=".partial")
    with pytest.raises(DiskFullError, match="nothing was dropped"):
        quarantine(disk).copy(aside())
    assert [] == disk.listdir(QUARANTINE)


def test_only_copies_that_were_cut_short_are_removed() -> None:
    """Everything else stays, whoever put it there."""
    disk = on_disk()
    store = quarantine(disk)
    store.copy(aside())
    disk.put(f"{QUARANTINE}/0000000000000007-at-0.tail.partial", b"half")
    disk.put(f"{QUARANTINE}/notes", b"a user's own")
    store.clear_partial()
    assert {b"a user's own", CONTENT[1024:2000]} == set(quarantined(disk))


def test_a_source_that_ends_early_is_copied_as_far_as_it_goes() -> None:
    """The end of a torn file can lie before the end of what was planned."""
    disk = on_disk()
    path = quarantine(disk).copy(aside(3000, 5000))
    assert CONTENT[3000:] == disk.content(path)


def test_large_parts_are_copied_in_pieces() -> None:
    """No read or write is larger than a mebibyte, and short ones are gone on with."""
    disk = on_disk()
    content = bytes(range(251)) * 13000
    disk.put(PATH, content)
    disk.operations.clear()
    disk.faults = fail("pwrite", ("short", 1000), times=3)
    path = quarantine(disk, 1 << 30).copy(aside(8, len(content)))
    assert content[8:] == disk.content(path)
    copied = [op for op in disk.operations if op.op in ("pread", "pwrite")][:-1]
    assert max(op.length for op in copied) <= 1 << 20
