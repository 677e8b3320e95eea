"""`quarantine/`: what recovery and repair put aside, within a budget.

    0000000000000007-at-81920-lsn-4711-20240229T101500.250000Z.tail    bytes of a segment
    0000000000000008-at-0-lsn-4800-20240229T101500.250000Z.wal         a whole segment
    before-repair-20240229T101500.250000Z/                             a repair's originals

A name carries the segment id, the offset and the LSN where the bytes begin, and the time.
Nothing here is ever deleted or written over; a copy that was cut short (`*.partial`) is
none yet, its original still stands, and the next one starts afresh.

Promises that a copy and its name are on stable storage before `copy` returns, so that the
original can be touched; that a recovery which is cut short and run again keeps one copy
of the same bytes, not many; and that the budget holds for all files together.
Directories are a repair's own: they are neither counted nor touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from strandline.errors import DiskFullError, InvalidRequestError
from strandline.recovery.aside import Aside
from strandline.wal.disk import Disk, DiskFile, let_go
from strandline.wal.format import SEGMENT_SUFFIX
from strandline.wal.reader import read_fully
from strandline.wal.runtime import Runtime

QUARANTINE_NAME: Final = "quarantine"
TAIL_SUFFIX: Final = ".tail"
PARTIAL_SUFFIX: Final = ".partial"
_COPY_BYTES: Final = 1 << 20


class Quarantine:
    """The quarantine directory of one store, for whoever holds the store's lock."""

    def __init__(self, disk: Disk, path: str, budget: int, runtime: Runtime) -> None:
        """Use the directory at `path`, which is made when it is first needed.

        `budget` is the option `quarantine_bytes`.
        """
        self.path = path
        self.budget = budget
        self._disk = disk
        self._runtime = runtime

    def require_room(self, asides: Sequence[Aside]) -> None:
        """Raise InvalidRequestError unless the budget has room for all of `asides`.

        For the modes that drop nothing without keeping it. Called before anything is
        touched; what an earlier, interrupted recovery kept already is not counted twice.
        """
        kept = self._files()
        need = sum(aside.length for aside in asides if self._same(aside, kept) is None)
        used = self._used()
        if used + need > self.budget:
            raise InvalidRequestError(
                f"{self.path}: this recovery puts {need} bytes aside, expected room for them in "
                f"quarantine_bytes={self.budget}, found {used} bytes used; nothing was changed. "
                f"Open with quarantine_bytes={used + need} or more, or move files out of the "
                "directory"
            )

    def fits(self, aside: Aside) -> bool:
        """Tell whether the budget has room for `aside`, or it is there already."""
        return (
            self._same(aside, self._files()) is not None
            or self._used() + aside.length <= self.budget
        )

    def copy(self, aside: Aside) -> str:
        """Copy the bytes of `aside`; return the path of the copy, durable with its name."""
        self._make_directory()
        found = self._same(aside, self._files())
        if found is not None:
            # Whoever made it can have died before its name was durable.
            self._disk.sync_directory(self.path)
            return found
        target = self._free_name(aside, TAIL_SUFFIX if aside.offset else SEGMENT_SUFFIX)
        partial = target + PARTIAL_SUFFIX
        source = self._disk.open(aside.path, "r")
        try:
            copy = self._disk.open(partial, "create")
            try:
                copy_bytes(source, aside.offset, aside.end, copy, 0)
                copy.fdatasync()
            finally:
                let_go(copy)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._disk.unlink(partial)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"{self.path}: no room for {aside.length} bytes of {aside.path} from offset "
                    f"{aside.offset} ({error.strerror}); nothing was dropped. Free some space and "
                    "open the store again",
                    error.errno,
                ) from error
            raise
        finally:
            let_go(source)
        self._disk.rename(partial, target)
        self._disk.sync_directory(self.path)
        return target

    def move(self, aside: Aside) -> str:
        """Move what lies at the path of `aside`; return where it is now, durably."""
        self._make_directory()
        target = self._free_name(aside, SEGMENT_SUFFIX)
        self._disk.rename(aside.path, target)
        # The new name first: in between the file has two names rather than none.
        self._disk.sync_directory(self.path)
        self._disk.sync_directory(os.path.dirname(aside.path))
        return target

    def clear_partial(self) -> None:
        """Remove copies that were cut short."""
        for name in self._files():
            if name.endswith(PARTIAL_SUFFIX):
                self._disk.unlink(os.path.join(self.path, name))

    def _files(self) -> list[str]:
        if self._disk.kind(self.path) != "directory":
            return []
        return self._disk.listdir(self.path)

    def _used(self) -> int:
        return sum(self._length(os.path.join(self.path, name)) for name in self._files())

    def _length(self, path: str) -> int:
        if self._disk.kind(path) != "file":
            return 0
        file = self._disk.open(path, "r")
        try:
            return file.size()
        finally:
            let_go(file)

    def _make_directory(self) -> None:
        if self._disk.kind(self.path) == "absent":
            self._disk.mkdir(self.path)
        # Also where it was there: a crash may have come between its making and this.
        self._disk.sync_directory(os.path.dirname(self.path))

    def _stem(self, aside: Aside) -> str:
        return f"{aside.segment_id:016d}-at-{aside.offset}-lsn-{aside.lsn}-"

    def _free_name(self, aside: Aside, suffix: str) -> str:
        seconds, nanoseconds = divmod(self._runtime.time_ns(), 10**9)
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
        stem = os.path.join(self.path, f"{self._stem(aside)}{moment:%Y%m%dT%H%M%S.%fZ}")
        path, number = stem + suffix, 1
        while (
            self._disk.kind(path) != "absent" or self._disk.kind(path + PARTIAL_SUFFIX) != "absent"
        ):
            number += 1
            path = f"{stem}-{number}{suffix}"
        return path

    def _same(self, aside: Aside, names: Sequence[str]) -> str | None:
        """Return a finished copy of the same bytes."""
        if aside.whole:
            return None
        for name in names:
            if not name.startswith(self._stem(aside)) or name.endswith(PARTIAL_SUFFIX):
                continue
            path = os.path.join(self.path, name)
            if self._length(path) == aside.length and self._equal(aside, path):
                return path
        return None

    def _equal(self, aside: Aside, path: str) -> bool:
        source = self._disk.open(aside.path, "r")
        try:
            copy = self._disk.open(path, "r")
            try:
                for done in range(0, aside.length, _COPY_BYTES):
                    length = min(_COPY_BYTES, aside.length - done)
                    original = read_fully(source, length, aside.offset + done)
                    if original != read_fully(copy, length, done):
                        return False
                return True
            finally:
                let_go(copy)
        finally:
            let_go(source)


def copy_bytes(source: DiskFile, start: int, end: int, target: DiskFile, at: int) -> None:
    """Copy the bytes from `start` to `end`; fewer if the source ends before."""
    while start < end:
        data = read_fully(source, min(_COPY_BYTES, end - start), start)
        if not data:
            return
        write_fully(target, data, at)
        start += len(data)
        at += len(data)


def write_fully(file: DiskFile, data: bytes, offset: int) -> None:
    """Write all of `data`; OSError if the file takes nothing more."""
    done = 0
    while done < len(data):
        written = file.pwrite(data[done:] if done else data, offset + done)
        if written <= 0:
            raise OSError(errno.EIO, "the disk takes no bytes and gives no reason", file.path)
        done += written
