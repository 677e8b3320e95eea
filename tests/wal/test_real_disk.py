"""The operating system's files behind the `Disk` protocol."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline.tools.crash.simulation.faults import Operation, fail
from strandline.wal import real_disk
from strandline.wal.disk import Disk, DiskFile
from strandline.wal.real_disk import RealDisk, RealFile
from tests.support.fault_disk import FaultDisk


@pytest.fixture
def disk() -> RealDisk:
    """A real disk."""
    return RealDisk()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path with nothing at it."""
    return str(tmp_path / "file")


@pytest.fixture
def file(disk: RealDisk, path: str) -> Iterator[RealFile]:
    """A new, empty file."""
    file = disk.open(path, "create")
    yield file
    file.close()


@pytest.fixture
def no_umask() -> Iterator[None]:
    """The umask that narrows nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_real_disk_satisfies_the_protocol(disk: RealDisk, file: RealFile) -> None:
    """The types fit, which mypy checks here, and a method of the protocol is never missing."""
    as_disk: Disk = disk
    as_file: DiskFile = file
    for protocol, implementation in ((Disk, as_disk), (DiskFile, as_file)):
        names = [name for name in vars(protocol) if not name.startswith("_")]
        assert names
        assert [name for name in names if not hasattr(implementation, name)] == []


def test_bytes_come_back_from_where_they_were_written(file: RealFile) -> None:
    """pwrite and pread take absolute offsets, and a read ends at the end of the file."""
    assert file.pwrite(b"abcdef", 3) == 6
    assert file.pread(100, 0) == b"\0\0\0abcdef"
    assert file.pread(2, 4) == b"bc"
    assert file.pread(5, 9) == b""
    assert file.size() == 9


def test_a_read_that_the_system_cuts_short_is_completed(
    file: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the end of the file makes `pread` return less than was asked for."""
    file.pwrite(b"0123456789", 0)
    system_pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: system_pread(fd, min(n, 3), offset))
    assert file.pread(8, 1) == b"12345678"
    assert file.pread(20, 4) == b"456789"


@pytest.mark.usefixtures("no_umask")
def test_nobody_else_can_read_a_store(disk: RealDisk, tmp_path: Path) -> None:
    """Files are 0600 and directories 0700 under the widest umask."""
    disk.mkdir(str(tmp_path / "d"))
    disk.open(str(tmp_path / "d" / "f"), "create").close()
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "d" / "f").stat().st_mode) == 0o600


def test_create_never_takes_over_a_file(disk: RealDisk, file: RealFile) -> None:
    """What exists is not opened by "create", and a directory that exists is not made."""
    with pytest.raises(FileExistsError):
        disk.open(file.path, "create")
    with pytest.raises(FileExistsError):
        disk.mkdir(os.path.dirname(file.path))


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_only_an_existing_file_is_opened(disk: RealDisk, path: str, mode: Any) -> None:
    """A missing file is an error, and so is a directory."""
    with pytest.raises(FileNotFoundError):
        disk.open(path, mode)
    with pytest.raises(IsADirectoryError):
        disk.open(os.path.dirname(path), mode)


def test_a_file_opened_to_read_cannot_be_written(disk: RealDisk, file: RealFile) -> None:
    """Mode "r" gives a descriptor that refuses writes."""
    file.pwrite(b"x", 0)
    reader = disk.open(file.path, "r")
    with pytest.raises(OSError) as caught:
        reader.pwrite(b"y", 0)
    reader.close()
    assert caught.value.errno == errno.EBADF
    assert file.pread(1, 0) == b"x"


@pytest.mark.parametrize("mode", ["r", "rw", "create"])
def test_links_are_not_followed(disk: RealDisk, file: RealFile, mode: Any) -> None:
    """A link in a file's place is refused, whether it leads somewhere or not."""
    for target in (file.path, file.path + ".absent"):
        link = f"{target}.link"
        os.symlink(target, link)
        with pytest.raises(OSError) as caught:
            disk.open(link, mode)
        assert caught.value.errno == (errno.EEXIST if mode == "create" else errno.ELOOP)
    assert not os.path.exists(file.path + ".absent")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_pipe_is_refused_and_not_waited_for(disk: RealDisk, path: str, mode: Any) -> None:
    """Opening a pipe would wait for its other end; it is refused, and its descriptor closed."""
    os.mkfifo(path)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError) as caught:
        disk.open(path, mode)
    assert caught.value.errno == errno.EINVAL
    assert len(os.listdir("/dev/fd")) == before


def test_descriptors_are_not_inherited(disk: RealDisk, file: RealFile) -> None:
    """Every mode sets FD_CLOEXEC, so a program that is started never keeps a lock or a file."""
    opened = [file, disk.open(file.path, "r"), disk.open(file.path, "rw")]
    for each in opened:
        assert fcntl.fcntl(each._fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        each.close()


def test_close_twice_leaves_other_files_alone(disk: RealDisk, file: RealFile) -> None:
    """After close the number of the descriptor is another file's, and stays untouched."""
    number = file._fd
    file.close()
    other = disk.open(file.path + ".other", "create")
    assert other._fd == number
    file.close()
    uses: list[Callable[[], object]] = [
        lambda: file.pwrite(b"x", 0),
        lambda: file.pread(1, 0),
        lambda: file.allocate(1),
        lambda: file.truncate(1),
        file.size,
        file.fdatasync,
        file.try_lock,
    ]
    for use in uses:
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert other.pwrite(b"mine", 0) == 4
    assert other.pread(10, 0) == b"mine"
    other.close()


def test_allocate_reserves_blocks_and_never_shortens(file: RealFile) -> None:
    """The length and the blocks are there before the first write, and what is there stays."""
    file.allocate(1 << 20)
    assert file.size() == 1 << 20
    assert os.stat(file.path).st_blocks * 512 >= 1 << 20
    file.pwrite(b"kept", 100)
    file.allocate(4096)
    assert file.size() == 1 << 20
    assert file.pread(4, 100) == b"kept"


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_allocate_extends_where_blocks_cannot_be_reserved(
    file: RealFile, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """A file system, or a system, without fallocate gets the length alone."""

    def refuse(fd: int, offset: int, length: int) -> None:
        assert code is not None
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(real_disk, "_fallocate", refuse if code else None)
    file.allocate(10_000)
    assert file.size() == 10_000
    file.allocate(100)
    assert file.size() == 10_000


def test_allocate_reports_a_full_disk(file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is no reason to fall back: the room that was promised is not there."""

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(real_disk, "_fallocate", full)
    with pytest.raises(OSError) as caught:
        file.allocate(4096)
    assert caught.value.errno == errno.ENOSPC
    assert file.size() == 0


def test_truncate_cuts_and_extends(file: RealFile) -> None:
    """Bytes beyond a cut do not come back when the file grows again."""
    file.pwrite(b"abcdef", 0)
    file.truncate(2)
    file.truncate(4)
    assert file.pread(10, 0) == b"ab\0\0"


class _Syncs:
    """Stands for the sync calls of a system that has F_FULLFSYNC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: int | None) -> None:
        self.calls: list[str] = []
        self.refusal = refusal
        monkeypatch.setattr(real_disk, "_FULL_SYNC", 51)
        monkeypatch.setattr(fcntl, "fcntl", self.full)
        monkeypatch.setattr(real_disk, "_sync_data", lambda fd: self.calls.append("plain"))
        monkeypatch.setattr(os, "fsync", lambda fd: self.calls.append("plain"))

    def full(self, fd: int, command: int) -> None:
        assert command == 51
        self.calls.append("full")
        if self.refusal is not None:
            raise OSError(self.refusal, os.strerror(self.refusal))


@pytest.mark.parametrize(
    ("refusal", "calls"),
    [(None, ["full"]), (errno.ENOTSUP, ["full", "plain"]), (errno.EINVAL, ["full", "plain"])],
)
def test_sync_reaches_through_the_drives_cache(
    disk: RealDisk,
    file: RealFile,
    monkeypatch: pytest.MonkeyPatch,
    refusal: int | None,
    calls: list[str],
) -> None:
    """F_FULLFSYNC is used where it exists; the plain sync only where it is refused."""
    syncs = _Syncs(monkeypatch, refusal)
    file.fdatasync()
    assert syncs.calls == calls
    syncs.calls.clear()
    disk.sync_directory(os.path.dirname(file.path))
    assert syncs.calls == calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_not_tried_in_another_way(
    file: RealFile, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A second sync could succeed without the pages that the first one lost."""
    syncs = _Syncs(monkeypatch, code)
    with pytest.raises(OSError) as caught:
        file.fdatasync()
    assert caught.value.errno == code
    assert syncs.calls == ["full"]


def test_syncs_of_the_system_succeed(disk: RealDisk, file: RealFile) -> None:
    """Files and directories of this file system can be synced."""
    file.pwrite(b"x", 0)
    file.fdatasync()
    disk.sync_directory(os.path.dirname(file.path))
    with pytest.raises(NotADirectoryError):
        disk.sync_directory(file.path)
    with pytest.raises(FileNotFoundError):
        disk.sync_directory(file.path + ".absent")


def test_kind_does_not_follow_links(disk: RealDisk, file: RealFile, tmp_path: Path) -> None:
    """A link is "other" whatever it leads to, and below a file there is nothing."""
    os.symlink(tmp_path, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    assert disk.kind(file.path) == "file"
    assert disk.kind(str(tmp_path)) == "directory"
    assert disk.kind(str(tmp_path / "link")) == "other"
    assert disk.kind(str(tmp_path / "pipe")) == "other"
    assert disk.kind(str(tmp_path / "none")) == "absent"
    assert disk.kind(file.path + "/below") == "absent"


def test_names_are_listed_moved_and_removed(disk: RealDisk, tmp_path: Path) -> None:
    """Names come sorted; a rename replaces its target; an unlinked file is gone."""
    for name in ("b", "a", "c"):
        (tmp_path / name).write_text(name)
    assert disk.listdir(str(tmp_path)) == ["a", "b", "c"]
    disk.rename(str(tmp_path / "c"), str(tmp_path / "a"))
    disk.unlink(str(tmp_path / "b"))
    assert disk.listdir(str(tmp_path)) == ["a"]
    assert (tmp_path / "a").read_text() == "c"


def test_free_bytes_is_what_an_unprivileged_writer_has(disk: RealDisk, tmp_path: Path) -> None:
    """Blocks that only root may use do not count."""
    room = os.statvfs(tmp_path)
    assert abs(disk.free_bytes(str(tmp_path)) - room.f_bavail * room.f_frsize) < 1 << 30
    assert 0 < disk.free_bytes(str(tmp_path)) <= room.f_blocks * room.f_frsize


def test_one_open_file_has_the_lock(disk: RealDisk, file: RealFile) -> None:
    """A second descriptor of the same process is refused; taking it twice is harmless."""
    second = disk.open(file.path, "rw")
    assert file.try_lock()
    assert file.try_lock()
    assert not second.try_lock()
    file.close()
    assert second.try_lock()
    second.close()


def test_fault_disk_traces_and_fails_real_calls(tmp_path: Path) -> None:
    """The wrapper records each call, raises what the hook says, and cuts a write short."""
    disk = FaultDisk()
    as_disk: Disk = disk
    path = str(tmp_path / "f")
    file = as_disk.open(path, "create")
    disk.faults = fail("pwrite", ("short", 2), path="/f", skip=1)
    assert [file.pwrite(b"abcd", 0), file.pwrite(b"abcd", 4), file.pwrite(b"abcd", 4)] == [4, 2, 4]
    disk.faults = fail("fdatasync", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        file.fdatasync()
    file.fdatasync()
    disk.faults = fail("close", OSError(errno.EIO, "planted"))
    with pytest.raises(OSError, match="planted"):
        file.close()
    with pytest.raises(OSError) as caught:
        file.size()
    assert caught.value.errno == errno.EBADF
    assert disk.operations == [
        Operation("create", path),
        Operation("pwrite", path, 0, 4),
        Operation("pwrite", path, 4, 4),
        Operation("pwrite", path, 4, 4),
        Operation("fdatasync", path),
        Operation("fdatasync", path),
        Operation("close", path),
        Operation("size", path),
    ]
    assert (tmp_path / "f").read_bytes() == b"abcdabcd"
