"""The operating system's files behind the `Disk` protocol: one system call a method.

Promises: a descriptor is never inherited by a program that the process starts
(O_CLOEXEC); the last part of a path is never followed through a link (O_NOFOLLOW), and
only regular files are opened, so that neither a link nor a pipe put in a file's place is
written to or waited for; files are made 0600 and directories 0700, which a umask can
only narrow. `fdatasync` is F_FULLFSYNC on macOS, where the plain call leaves the data in
the drive's volatile cache.

Refuses to retry a failed sync, to interpret an error, and to lock or unlock by anything
but the descriptor: flock belongs to the open file, so a forked child that closes its
copy takes nothing from its parent.

Turned down: mappings (an I/O error there is a signal that ends the process) and fcntl
locks (any other descriptor of the same file that is closed drops them).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable
from typing import Final

from strandline.wal.disk import Kind, OpenMode

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW
# O_NONBLOCK does nothing to a regular file, and keeps the open of a pipe from waiting.
_FLAGS: Final[dict[OpenMode, int]] = {
    "r": os.O_RDONLY | os.O_NONBLOCK | _SAFE,
    "rw": os.O_RDWR | os.O_NONBLOCK | _SAFE,
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE,
}

_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)
_sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)
_fallocate: Final[Callable[[int, int, int], None] | None] = getattr(os, "posix_fallocate", None)

_UNSUPPORTED: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
)


class RealFile:
    """An open descriptor.

    `pwrite` is an attribute bound to the descriptor, without a frame of Python around
    the system call: take it from the file at each use, since `close` replaces it.
    """

    __slots__ = ("_fd", "path", "pwrite")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.pwrite: Callable[[bytes, int], int] = functools.partial(os.pwrite, fd)

    def pread(self, length: int, offset: int, /) -> bytes:
        """Read up to `length` bytes; fewer only at the end of the file."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        missing = length - len(data)
        while missing and (data := os.pread(self._fd, missing, offset + length - missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def fdatasync(self) -> None:
        """Put everything written so far, and the file's length, on stable storage."""
        _sync(self._opened(), _sync_data)

    def allocate(self, length: int) -> None:
        """Reserve blocks for `length` bytes and extend the file to it; never shorten it.

        A file system that cannot reserve blocks only extends the file: there a later
        write can still meet ENOSPC.
        """
        if _fallocate is not None:
            try:
                _fallocate(self._opened(), 0, length)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
            else:
                return
        if self.size() < length:
            os.ftruncate(self._opened(), length)

    def truncate(self, length: int) -> None:
        """Cut or extend the file to `length`."""
        os.ftruncate(self._opened(), length)

    def size(self) -> int:
        """Return the file's length."""
        return os.fstat(self._opened()).st_size

    def try_lock(self) -> bool:
        """Take the exclusive flock without waiting; False if another open file has it."""
        try:
            fcntl.flock(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor; a second call does nothing.

        `pwrite` is cut off first: the number may be another file's a moment later.
        """
        fd, self._fd = self._fd, -1
        self.pwrite = functools.partial(os.pwrite, -1)
        if fd >= 0:
            os.close(fd)

    def _opened(self) -> int:
        """Return the descriptor; some calls answer a closed one with a ValueError."""
        if self._fd < 0:
            raise OSError(errno.EBADF, "the file is closed", self.path)
        return self._fd


class RealDisk:
    """The file systems of this machine."""

    __slots__ = ()

    def open(self, path: str, mode: OpenMode) -> RealFile:
        """Open a regular file: to read, to read and write, or to create it anew (0600)."""
        fd = os.open(path, _FLAGS[mode], FILE_MODE)
        try:
            mode_bits = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode_bits):
                code = errno.EISDIR if stat.S_ISDIR(mode_bits) else errno.EINVAL
                raise OSError(code, "not a regular file", path)
            return RealFile(path, fd)
        except BaseException:
            os.close(fd)
            raise

    def kind(self, path: str) -> Kind:
        """Return what lies at `path`; a link is "other"."""
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "absent"
        if stat.S_ISREG(mode):
            return "file"
        return "directory" if stat.S_ISDIR(mode) else "other"

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        """Create a directory, 0700."""
        os.mkdir(path, DIRECTORY_MODE)

    def rename(self, source: str, target: str) -> None:
        """Move a file over `target`, atomically."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Make the directory's entries durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(fd, os.fsync)
        finally:
            with contextlib.suppress(OSError):  # not taken for the sync's: that one succeeded
                os.close(fd)

    def free_bytes(self, path: str) -> int:
        """Return the room left for unprivileged writers."""
        room = os.statvfs(path)
        return room.f_bavail * room.f_frsize


def _sync(fd: int, plain: Callable[[int], None]) -> None:
    """Sync through the drive's cache, by `plain` where the file system has nothing stronger.

    Only a refusal of the stronger call leads to the plain one. After any other failure a
    second sync would succeed without the pages that the first one lost.
    """
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_SYNC)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    plain(fd)
