"""The simulated disk: what a crash takes, and what it leaves."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading

import pytest

from strandline.tools.crash.simulation.disk import SimulatedDisk, SimulatedFile
from strandline.tools.crash.simulation.faults import Gate, fail
from strandline.wal.disk import Disk

SEEDS = range(60)


def content(disk: Disk, path: str) -> bytes | None:
    """Return all that a file holds, None where there is none."""
    if disk.kind(path) == "absent":
        return None
    file = disk.open(path, "r")
    data = file.pread(file.size(), 0)
    file.close()
    return data


def durable_file(disk: SimulatedDisk, path: str, data: bytes) -> SimulatedFile:
    """Return a new file whose content and name are durable."""
    file = disk.open(path, "create")
    file.pwrite(data, 0)
    file.fdatasync()
    disk.sync_directory(os.path.dirname(path))
    return file


def outcomes(disk: SimulatedDisk, path: str) -> set[bytes | None]:
    """Return what a file can hold after a random crash."""
    return {content(disk.crash(random.Random(seed)), path) for seed in SEEDS}


@pytest.fixture
def disk() -> SimulatedDisk:
    """An empty disk without a limit."""
    return SimulatedDisk()


# What is lost, and what is kept


def test_synced_data_under_a_synced_name_is_kept(disk: SimulatedDisk) -> None:
    """After fdatasync and sync_directory nothing is pending, and every crash keeps all."""
    durable_file(disk, "/f", b"data")
    assert disk.pending() == 0
    assert outcomes(disk, "/f") == {b"data"}
    assert content(disk.crash("none"), "/f") == b"data"


def test_written_data_is_pending_until_it_is_synced(disk: SimulatedDisk) -> None:
    """Reads see a write at once; a crash can lose it."""
    file = durable_file(disk, "/f", b"old.")
    file.pwrite(b"new.", 0)
    assert content(disk, "/f") == b"new."
    assert content(disk.crash("none"), "/f") == b"old."
    assert content(disk.crash("all"), "/f") == b"new."
    assert outcomes(disk, "/f") == {b"old.", b"new."}


def test_fdatasync_does_not_save_a_name(disk: SimulatedDisk) -> None:
    """A new file is lost with its synced data, if its directory was never synced."""
    file = disk.open("/f", "create")
    file.pwrite(b"data", 0)
    file.fdatasync()
    assert content(disk.crash("none"), "/f") is None
    assert outcomes(disk, "/f") == {None, b"data"}


def test_sync_directory_does_not_save_data(disk: SimulatedDisk) -> None:
    """A durable name without a synced file is an empty file, or zeros, or parts of it."""
    file = disk.open("/f", "create")
    file.pwrite(b"a" * 512 + b"b" * 512, 0)
    disk.sync_directory("/")
    assert content(disk.crash("none"), "/f") == b""
    assert {b"", bytes(1024), bytes(512) + b"b" * 512} < outcomes(disk, "/f")


def test_writes_are_torn_between_sectors_and_never_within(disk: SimulatedDisk) -> None:
    """Each sector is the old or the new one, in every combination, whatever the offset."""
    file = durable_file(disk, "/f", b"-" * 1536)
    file.pwrite(b"+" * 1024, 256)
    old = [b"-" * 512] * 3
    new = [b"-" * 256 + b"+" * 256, b"+" * 512, b"+" * 256 + b"-" * 256]
    found = outcomes(disk, "/f")
    whole = {b"".join((new if kept & 1 << at else old)[at] for at in range(3)) for kept in range(8)}
    assert found == whole


def test_a_later_image_of_a_sector_carries_the_earlier(disk: SimulatedDisk) -> None:
    """Two writes to one sector: neither, the first, or both, but not the second alone."""
    file = durable_file(disk, "/f", b"----")
    file.pwrite(b"1", 0)
    file.pwrite(b"2", 1)
    assert outcomes(disk, "/f") == {b"----", b"1---", b"12--"}


def test_a_prefix_keeps_the_first_events(disk: SimulatedDisk) -> None:
    """Names, lengths and sectors count as they came: name, length, sector, sector."""
    disk.open("/f", "create").pwrite(b"x" * 600, 0)
    assert disk.pending() == 4
    found = [content(disk.crash(kept), "/f") for kept in range(5)]
    partly = b"x" * 512 + bytes(88)
    assert found == [None, b"", bytes(600), partly, b"x" * 600]


def test_a_cut_is_pending_too(disk: SimulatedDisk) -> None:
    """A truncated file can come back in its full length, and what was cut never under a new one."""
    file = durable_file(disk, "/f", b"secret")
    file.truncate(0)
    file.truncate(4)
    assert content(disk, "/f") == bytes(4)
    assert outcomes(disk, "/f") == {b"secret", b"", bytes(4)}
    file.fdatasync()
    assert content(disk.crash("none"), "/f") == bytes(4)


def test_a_pending_write_does_not_survive_a_durable_cut(disk: SimulatedDisk) -> None:
    """Data that was written before a truncation is not seen when the file grows again."""
    file = durable_file(disk, "/f", b"")
    file.pwrite(b"x" * 512, 0)
    file.truncate(0)
    file.truncate(512)
    assert content(disk.crash("all"), "/f") == bytes(512)


def test_a_crash_leaves_the_old_disk_alone(disk: SimulatedDisk) -> None:
    """Images are copies: writing to one changes neither the original nor another image."""
    file = durable_file(disk, "/f", b"old")
    file.pwrite(b"new", 0)
    first = disk.crash("all")
    first.open("/f", "rw").pwrite(b"xxx", 0)
    first.unlink("/f")
    assert content(disk, "/f") == b"new"
    assert content(disk.crash("all"), "/f") == b"new"
    assert content(disk.crash("none"), "/f") == b"old"


def test_a_seed_gives_the_same_crash_again(disk: SimulatedDisk) -> None:
    """Whatever a seed chose can be reproduced."""
    file = durable_file(disk, "/f", bytes(4096))
    for at in range(0, 4096, 512):
        file.pwrite(b"x" * 512, at)
    for seed in SEEDS:
        images = [content(disk.crash(random.Random(seed)), "/f") for _ in range(2)]
        assert images[0] == images[1]


def test_a_kill_keeps_the_page_cache_and_what_is_pending(disk: SimulatedDisk) -> None:
    """After SIGKILL all writes are read, locks are free, and a power cut can still lose data."""
    file = durable_file(disk, "/f", b"old")
    file.pwrite(b"new", 0)
    assert file.try_lock()
    killed = disk.kill()
    assert content(killed, "/f") == b"new"
    assert content(killed.crash("none"), "/f") == b"old"
    again = killed.open("/f", "rw")
    assert again.try_lock()
    again.fdatasync()
    assert content(killed.crash("none"), "/f") == b"new"
    assert content(disk.crash("none"), "/f") == b"old"


# Syncs


def test_a_sync_covers_only_what_came_before_it(disk: SimulatedDisk) -> None:
    """What is written while a sync runs is still pending when it returns."""
    file = durable_file(disk, "/f", b"--" + bytes(510) + b"--")
    file.pwrite(b"1", 0)
    disk.faults = gate = Gate("fdatasync", path="/f")
    syncing = threading.Thread(target=file.fdatasync)
    syncing.start()
    assert gate.reached.wait(10)
    file.pwrite(b"2", 512)
    gate.opened.set()
    syncing.join(10)
    assert not syncing.is_alive()
    assert content(disk.crash("none"), "/f") == b"1-" + bytes(510) + b"--"
    file.fdatasync()
    assert content(disk.crash("none"), "/f") == b"1-" + bytes(510) + b"2-"


def test_a_sync_covers_one_file(disk: SimulatedDisk) -> None:
    """Another file's writes stay pending."""
    one = durable_file(disk, "/1", b"-")
    two = durable_file(disk, "/2", b"-")
    one.pwrite(b"1", 0)
    two.pwrite(b"2", 0)
    one.fdatasync()
    crashed = disk.crash("none")
    assert (content(crashed, "/1"), content(crashed, "/2")) == (b"1", b"-")
    two.fdatasync()
    crashed = disk.crash("none")
    assert (content(crashed, "/1"), content(crashed, "/2")) == (b"1", b"2")


def test_a_failed_sync_drops_the_dirty_state(disk: SimulatedDisk) -> None:
    """The data is read as written, the next sync succeeds, and the crash loses it all the same."""
    file = durable_file(disk, "/f", b"old" + bytes(509) + b"old")
    file.pwrite(b"new", 0)
    disk.faults = fail("fdatasync", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        file.fdatasync()
    file.fdatasync()
    assert content(disk, "/f") == b"new" + bytes(509) + b"old"
    assert outcomes(disk, "/f") == {b"old" + bytes(509) + b"old"}
    file.pwrite(b"new", 512)
    file.fdatasync()
    assert content(disk.crash("none"), "/f") == b"old" + bytes(509) + b"new"


def test_a_failed_sync_leaves_zeros_where_a_file_grew(disk: SimulatedDisk) -> None:
    """The new length becomes durable with the next sync, without the data."""
    file = durable_file(disk, "/f", b"")
    file.pwrite(b"data", 0)
    disk.faults = fail("fdatasync", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        file.fdatasync()
    file.fdatasync()
    assert content(disk.crash("none"), "/f") == bytes(4)


# Names


def test_a_rename_is_atomic_and_pending(disk: SimulatedDisk) -> None:
    """The target is the old file or the new one, and the source is there exactly if it is old."""
    durable_file(disk, "/f", b"old")
    durable_file(disk, "/g", b"new")
    disk.rename("/g", "/f")
    images = [disk.crash(random.Random(seed)) for seed in SEEDS]
    found = {(content(image, "/f"), content(image, "/g")) for image in images}
    assert found == {(b"old", b"new"), (b"new", None)}
    disk.sync_directory("/")
    assert content(disk.crash("none"), "/f") == b"new"


def test_a_renamed_file_can_be_empty(disk: SimulatedDisk) -> None:
    """The classic mistake: a rename before the data was synced."""
    durable_file(disk, "/f", b"old")
    disk.open("/g", "create").pwrite(b"new", 0)
    disk.rename("/g", "/f")
    disk.sync_directory("/")
    assert content(disk.crash("none"), "/f") == b""


def test_an_unlinked_file_can_come_back(disk: SimulatedDisk) -> None:
    """An unlink is pending until its directory is synced; an open file is still readable."""
    file = durable_file(disk, "/f", b"data")
    disk.unlink("/f")
    assert disk.kind("/f") == "absent"
    assert file.pread(10, 0) == b"data"
    assert outcomes(disk, "/f") == {b"data", None}
    disk.sync_directory("/")
    assert outcomes(disk, "/f") == {None}


def test_names_are_lost_in_any_order(disk: SimulatedDisk) -> None:
    """Who has not synced a directory is promised no order, over directories too."""
    disk.mkdir("/d")
    disk.sync_directory("/")
    for path in ("/a", "/d/b", "/c"):
        disk.open(path, "create")
    images = [disk.crash(random.Random(seed)) for seed in SEEDS]
    found = {tuple(image.kind(path) for path in ("/a", "/d/b", "/c")) for image in images}
    assert found == set(itertools.product(("file", "absent"), repeat=3))


def test_sync_directory_covers_one_directory(disk: SimulatedDisk) -> None:
    """Names of another directory, and the directory's own name, stay pending."""
    disk.mkdir("/d")
    disk.open("/d/f", "create")
    disk.sync_directory("/d")
    assert disk.crash("none").kind("/d") == "absent"
    disk.open("/d/g", "create")
    disk.sync_directory("/")
    assert disk.crash("none").listdir("/d") == ["f"]


def test_a_move_between_directories_is_synced_with_either(disk: SimulatedDisk) -> None:
    """The file has one name after any crash, and what it was made by does not bring it back."""
    for synced in ("/a", "/b"):
        disk = SimulatedDisk()
        disk.mkdir("/a")
        disk.mkdir("/b")
        disk.sync_directory("/")
        disk.open("/a/f", "create")
        disk.rename("/a/f", "/b/f")
        disk.sync_directory(synced)
        for seed in SEEDS:
            image = disk.crash(random.Random(seed))
            assert (image.kind("/a/f"), image.kind("/b/f")) == ("absent", "file")


def test_a_failed_directory_sync_makes_nothing_durable(disk: SimulatedDisk) -> None:
    """Names stay pending if the sync was made to fail."""
    disk.open("/f", "create")
    disk.faults = fail("sync_directory", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        disk.sync_directory("/")
    assert disk.crash("none").listdir("/") == []
