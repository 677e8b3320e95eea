"""The ballast file: it is there when there is room, and goes when somebody needs it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from strandline.engine.reserve import RESERVE_NAME, DiskReserve
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.faults import fail
from strandline.wal.real_disk import RealDisk

LENGTH = 1 << 20


def reserve_on(disk: SimulatedDisk, length: int = LENGTH) -> DiskReserve:
    """Return a reserve on a simulated disk."""
    return DiskReserve("reserve", length, disk)


def test_filling_takes_the_room_and_releasing_gives_it_back(tmp_path: Path) -> None:
    """On a real file system: blocks are taken, mode 0600, and given back."""
    path = tmp_path / RESERVE_NAME
    reserve = DiskReserve(str(path), LENGTH, RealDisk())
    assert reserve.held == 0
    reserve.fill()
    assert reserve.held == path.stat().st_size == LENGTH
    assert path.stat().st_blocks * 512 >= LENGTH
    assert path.stat().st_mode & 0o777 == 0o600
    reserve.release()
    assert reserve.held == 0
    assert os.listdir(tmp_path) == []
    reserve.release()


def test_what_an_earlier_run_left_counts() -> None:
    """A file of the right length is kept; one of another length is made anew."""
    disk = SimulatedDisk()
    reserve_on(disk).fill()
    reserve = reserve_on(disk)
    assert reserve.held == LENGTH
    reserve_on(disk, 2 * LENGTH).fill()
    assert reserve.held == 2 * LENGTH
    reserve.fill()
    assert reserve.held == LENGTH


def test_nothing_is_kept_back_where_nothing_was_asked_for() -> None:
    """With a length of 0 a file left by another setting is deleted."""
    disk = SimulatedDisk()
    reserve_on(disk).fill()
    reserve_on(disk, 0).fill()
    assert disk.listdir(".") == []
    reserve_on(disk, 0).fill()
    assert reserve_on(disk, 0).held == 0


def test_a_disk_without_room_is_left_alone() -> None:
    """fill on a full disk raises nothing and leaves no part of the file behind."""
    disk = SimulatedDisk(capacity_bytes=LENGTH // 2)
    reserve = reserve_on(disk)
    reserve.fill()
    assert reserve.held == 0
    assert disk.listdir(".") == []


def test_releasing_lets_somebody_else_write() -> None:
    """The room of a released reserve is there for the next writer."""
    disk = SimulatedDisk(capacity_bytes=LENGTH + 4096)
    reserve = reserve_on(disk)
    reserve.fill()
    file = disk.open("log", "create")
    with pytest.raises(OSError) as caught:
        file.allocate(LENGTH // 2)
    assert caught.value.errno == errno.ENOSPC
    reserve.release()
    file.allocate(LENGTH // 2)


@pytest.mark.parametrize("op", ["kind", "open", "size"])
def test_a_file_system_that_does_not_answer_is_no_error(op: str) -> None:
    """Looking at the file fails, and filling goes on without: it promises never to raise.

    It raised, at the end of a checkpoint that had succeeded, and ended the checkpointer's
    thread with it: from then on nothing was flushed, and no segment was given back.
    """
    disk = SimulatedDisk()
    reserve = reserve_on(disk)
    reserve.fill()
    disk.faults = fail(op, OSError(errno.EIO, os.strerror(errno.EIO)))
    assert reserve.held == 0
    disk.faults = fail(op, OSError(errno.EIO, os.strerror(errno.EIO)), times=9)
    reserve.fill()


def test_what_is_not_a_file_is_left_alone(tmp_path: Path) -> None:
    """A directory or a link at the path is neither deleted nor followed."""
    for name in ("directory", "link"):
        path = tmp_path / name
        if name == "directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "target")
        reserve = DiskReserve(str(path), LENGTH, RealDisk())
        reserve.fill()
        reserve.release()
        assert reserve.held == 0
        assert path.is_symlink() or path.is_dir()
    assert not (tmp_path / "target").exists()
