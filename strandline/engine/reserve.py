"""The ballast: a file that keeps some room back for the time when the disk is full.

    <store>/reserve      zeros, `disk_reserve_bytes` of them, or absent

A full disk must not keep the checkpointer from finishing, for it is what gives the log's
segments back. So on ENOSPC the file is deleted, and made again when there is room.

Promises nothing: on a file system that cannot reserve blocks, or that shares a quota
with others, the room may be gone all the same. `fill` never raises and never reports;
`held` says what there is.
"""

from __future__ import annotations

from typing import Final

from strandline.wal.disk import Disk, let_go

RESERVE_NAME: Final = "reserve"


class DiskReserve:
    """The file at `path`, to be `length` bytes long; 0 keeps nothing back."""

    def __init__(self, path: str, length: int, disk: Disk) -> None:
        self._path = path
        self._length = length
        self._disk = disk

    @property
    def held(self) -> int:
        """Return how many bytes are kept back; 0 where the file system does not say."""
        try:
            if self._disk.kind(self._path) != "file":
                return 0
            file = self._disk.open(self._path, "r")
            try:
                return file.size()
            finally:
                let_go(file)
        except OSError:
            return 0

    def fill(self) -> None:
        """Make the file as long as it should be, if there is room. Not on the way of a write.

        Anything at the path that is not a regular file is left alone.
        """
        if self.held == self._length:
            return
        try:
            if self._disk.kind(self._path) == "file":
                self._disk.unlink(self._path)
            if self._length:
                self._make()
        except OSError:
            self.release()

    def release(self) -> None:
        """Delete the file, so that somebody who needs the room gets it."""
        try:
            if self._disk.kind(self._path) == "file":
                self._disk.unlink(self._path)
        except OSError:
            # Gone already, or kept by a file system that fails: there is no more to give.
            pass

    def _make(self) -> None:
        file = self._disk.open(self._path, "create")
        try:
            file.allocate(self._length)
        finally:
            let_go(file)
