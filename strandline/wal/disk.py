"""The disk protocol: every system call on log and identity files goes through here.

There are two implementations: `RealDisk`, and the simulated one of the crash harness,
which keeps written and durable state apart. A `DiskFile` promises only what section
"Assumptions about the media" of docs/architecture.md states: `fdatasync` makes all that
was written before it durable or fails; anything unsynced may be lost, reordered or torn.
"""

from __future__ import annotations

import contextlib
from typing import Literal, Protocol

OpenMode = Literal["r", "rw", "create"]
Kind = Literal["absent", "file", "directory", "other"]


class DiskFile(Protocol):
    """One open file. All offsets and lengths are in bytes; all methods raise OSError."""

    path: str

    def pwrite(self, data: bytes, offset: int, /) -> int:
        """Write at `offset`; return how many bytes were written, which can be fewer."""

    def pread(self, length: int, offset: int, /) -> bytes:
        """Read up to `length` bytes; fewer at the end of the file."""

    def fdatasync(self) -> None:
        """Put everything written so far, and the file's length, on stable storage."""

    def allocate(self, length: int) -> None:
        """Reserve blocks for `length` bytes and extend the file to it."""

    def truncate(self, length: int) -> None:
        """Cut or extend the file to `length`."""

    def size(self) -> int:
        """Return the file's length."""

    def try_lock(self) -> bool:
        """Take the exclusive advisory lock without waiting; False if somebody has it."""

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""


class Disk(Protocol):
    """A file system as the log sees it. All methods raise OSError."""

    def open(self, path: str, mode: OpenMode) -> DiskFile:
        """Open a file: to read, to read and write, or to create it anew (0600)."""

    def kind(self, path: str) -> Kind:
        """Return what lies at `path` without following links."""

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def mkdir(self, path: str) -> None:
        """Create a directory, 0700."""

    def rename(self, source: str, target: str) -> None:
        """Move a file over `target`, atomically."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def sync_directory(self, path: str) -> None:
        """Make the directory's entries durable."""

    def free_bytes(self, path: str) -> int:
        """Return the room left for unprivileged writers."""


def let_go(file: DiskFile) -> None:
    """Close a file; what close(2) says of it is of no account.

    The descriptor is gone either way, and whatever has to be on disk was synced before: an
    error here must not be told to the writer whose turn it happened to be.
    """
    with contextlib.suppress(OSError):
        file.close()
