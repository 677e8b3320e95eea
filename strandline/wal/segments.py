"""The segment files of one open log: the active one, its successors, the sealed ones.

Owns creating, preparing, recycling and removing them. A successor is zero-filled off the
write path, synced, given its name, and its directory synced, all before its predecessor
can be sealed. A sealed segment goes only when the checkpoint that covers it is durable;
the log tells so through `release`.

`lock` guards everything here. It is taken under the append lock, never around it, and
never while a file is being filled.

**Failure.** The first failed sync of the directory is remembered in `unsynced`: which names
are durable nobody can say from then on, for the kernel may take lost ones for clean. No
name is made or synced any more, and the log fails, as after a failed fdatasync.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import xxhash

from strandline.wal.disk import Disk, DiskFile, let_go
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    aligned,
    segment_name,
)
from strandline.wal.runtime import Runtime

SEAL_BYTES: Final = aligned(FRAME_HEADER_BYTES + 64)
"""Room at a segment's end that only the seal and a last sync mark may use."""

FIRST_SEGMENT_BYTES: Final = 2 << 20
"""The segment that opening makes is small: it is filled with zeros while the caller waits."""

SPARE_NAME: Final = "prepared.tmp"
_ZEROS: Final = bytes(64 << 10)
"""What files are filled with, a write at a time. Linux keeps the pages of one write together,
and every later write to a larger folio costs more (measured on ext4: 0.9 us for 200 bytes over
zeros written 64 KiB at a time, 2.1 us over those written 1 MiB at a time)."""
_RECYCLED_AT_MOST: Final = 4
_READ_BYTES: Final = 1 << 20
_OF_OPENING: Final = (errno.EMFILE, errno.ENFILE)
"""What open(2) alone can say. ENOMEM is not here: an fsync can come to that."""


class SealedSegment(NamedTuple):
    """A segment that no longer grows."""

    id: int
    path: str
    first_lsn: int
    last_lsn: int
    length: int


class Segment:
    """A file that frames go to, or will go to."""

    __slots__ = ("allocated", "digest", "file", "first_lsn", "id", "path", "salt", "usable")

    def __init__(self, segment_id: int, path: str, file: DiskFile, allocated: int) -> None:
        self.id = segment_id
        self.path = path
        self.file = file
        self.resize(allocated)
        self.salt = 0
        self.first_lsn = 0
        self.digest = (xxhash.xxh3_128(), SEGMENT_HEADER_BYTES)
        """The running digest and how far it has come; replaced whole, never changed."""

    def resize(self, allocated: int) -> None:
        """Note how many bytes the file has room for."""
        self.allocated = allocated
        self.usable = allocated - 2 * SEAL_BYTES

    def digest_through(self, end: int) -> bytes:
        """Read on to `end`, keep the running digest, and return it."""
        hasher, done = self.digest
        hasher = hasher.copy()
        while done < end:
            piece = self.file.pread(min(_READ_BYTES, end - done), done)
            if not piece:
                raise OSError(f"{self.path}: ends at {done}, expected {end} bytes just written")
            hasher.update(piece)
            done += len(piece)
        self.digest = (hasher, done)
        return hasher.digest()


class Segments:
    """Names and files in the log directory, for one writer."""

    __slots__ = ("__dict__", "sealed_bytes")  # a slot for native/fast_put.c to find

    def __init__(
        self,
        disk: Disk,
        runtime: Runtime,
        directory: str,
        segment_bytes: int,
        sealed: list[SealedSegment],
        last_id: int,
    ) -> None:
        """Take over a log directory.

        `sealed` are the segments already there, in order. `last_id` is the highest id
        of any segment with content; what lies above it is overwritten.
        """
        self.lock = runtime.owned_lock()
        self.sealed: deque[SealedSegment] = deque(sealed)
        self.prepared: deque[Segment] = deque()
        self.retired: deque[Segment] = deque()
        """Sealed segments whose descriptor a sync may still be using."""
        self.sealed_bytes = sum(segment.length for segment in sealed)
        """Length of all sealed segments that are kept."""
        self.segment_bytes = segment_bytes
        self.unsynced: OSError | None = None
        """The error of the one sync of the directory that failed."""
        self.on_failure: Callable[[OSError], None] = _nobody
        """Told of it at once, under the lock: it may store something and take no lock."""
        self._disk = disk
        self._directory = directory
        self._last_id = last_id
        self._closed = False

    def successor(self, need: int) -> Segment:
        """Return the next segment, its name durable, with room for a frame of `need` bytes.

        Prepared ones come first; without any a file is made here and now. Called under
        the append lock; raises OSError and leaves everything as it was.
        """
        least = max(self.segment_bytes, SEGMENT_HEADER_BYTES + need + 2 * SEAL_BYTES)
        with self.lock:
            self._refuse_names()
            if not self.prepared:
                self._make(self.segment_bytes)
            segment = self.prepared[0]
            if segment.usable < SEGMENT_HEADER_BYTES + need:
                segment.file.allocate(least)
                segment.resize(least)
            return segment

    def first(self) -> Segment:
        """Return a small zero-filled segment for a log that is being opened."""
        with self.lock:
            self._make(min(self.segment_bytes, FIRST_SEGMENT_BYTES), fill=True)
            return self.prepared[0]

    def name_successor(self) -> None:
        """See to it that the next segment has a durable name; the file may be empty."""
        with self.lock:
            if self.prepared:
                return
            path = os.path.join(self._directory, segment_name(self._last_id + 1))
            if self._disk.kind(path) == "absent":
                let_go(self._disk.open(path, "create"))
            self._sync_names()

    def retire(self, segment: Segment, last_lsn: int, length: int) -> None:
        """Note that `segment` is sealed. Calling it twice is harmless."""
        sealed = SealedSegment(segment.id, segment.path, segment.first_lsn, last_lsn, length)
        with self.lock:
            # First, for what is not retired may be recycled as soon as it is sealed.
            if not self.retired or self.retired[-1] is not segment:
                self.retired.append(segment)
            if self.sealed and self.sealed[-1].id == segment.id:
                # Sealed before, but turning away from it failed and it may have grown.
                self.sealed[-1] = sealed
            else:
                self.sealed.append(sealed)
            self.sealed_bytes = sum(each.length for each in self.sealed)

    def close_retired(self, active: Segment | None) -> None:
        """Close descriptors of sealed segments. The caller holds the sync lock.

        The `active` one stays open, though retired: turning away from it failed.
        """
        while self.retired and self.retired[0] is not active:
            let_go(self.retired.popleft().file)

    def prepare(self) -> None:
        """Fill a spare segment and make it the next successor. Off the write path."""
        with self.lock:
            self._refuse_names()
        path = os.path.join(self._directory, SPARE_NAME)
        if self._disk.kind(path) != "absent":
            self._disk.unlink(path)
        file = self._disk.open(path, "create")
        try:
            _fill(file, self.segment_bytes)
            with self.lock:
                if self.prepared:
                    self._disk.unlink(path)
                    let_go(file)
                    return
                self._adopt(path, file, self.segment_bytes)
        except BaseException:
            let_go(file)
            with contextlib.suppress(OSError):
                self._disk.unlink(path)  # it would take the room that the disk lacks
            raise

    def release(self, lsn: int, *, recycle: bool = True) -> None:
        """Recycle or remove the sealed segments whose last LSN is at most `lsn`."""
        changed = False
        while True:
            with self.lock:
                if self._closed or not self.sealed or self.sealed[0].last_lsn > lsn:
                    break
                oldest = self.sealed[0]
                if any(segment.id == oldest.id for segment in self.retired):
                    break
                if self._disk.kind(oldest.path) == "absent":
                    pass  # an interrupt struck behind its removal
                elif recycle and oldest.length and len(self.prepared) < _RECYCLED_AT_MOST:
                    changed = self._recycle(oldest) or changed
                else:
                    self._disk.unlink(oldest.path)
                    changed = True
                self.sealed.popleft()
                self.sealed_bytes = sum(each.length for each in self.sealed)
        if changed:
            with self.lock:
                if not self._closed:
                    self._sync_names()

    def close(self) -> None:
        """Close every descriptor; no name in the directory is made or changed any more.

        A thread that comes late, from a slow disk say, could otherwise rename a file over
        a segment of whoever opened the store next.
        """
        with self.lock:
            self._closed = True
        self.close_retired(None)
        for segment in tuple(self.prepared):
            let_go(segment.file)

    def _refuse_names(self) -> None:
        """Raise where no name may be made any more."""
        if self._closed:
            raise OSError(errno.EBADF, "the log is closed", self._directory)
        if self.unsynced is not None:
            raise OSError(self.unsynced.errno, self.unsynced.strerror, self._directory)

    def _sync_names(self) -> None:
        """Make the directory's entries durable; what fails is not tried again."""
        self._refuse_names()
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:
            # One without a number is a signal handler's. The others that are passed over are
            # of the directory's opening: nothing was synced, and nothing has failed to be.
            if error.errno is not None and error.errno not in _OF_OPENING:
                self.unsynced = error
                self.on_failure(error)
            raise

    def _recycle(self, old: SealedSegment) -> bool:
        file = self._disk.open(old.path, "rw")
        try:
            length = file.size()
            if length != self.segment_bytes:
                let_go(file)
                self._disk.unlink(old.path)
                return True
            self._adopt(old.path, file, length)
        except BaseException:
            let_go(file)
            raise
        return False

    def _make(self, length: int, *, fill: bool = False) -> None:
        path = os.path.join(self._directory, f"{segment_name(self._last_id + 1)}.tmp")
        if self._disk.kind(path) != "absent":
            self._disk.unlink(path)
        file = self._disk.open(path, "create")
        try:
            file.allocate(length)
            if fill:
                _fill(file, length)
            else:
                file.fdatasync()
            self._adopt(path, file, length)
        except BaseException:
            let_go(file)  # the leftover is removed by the next attempt
            raise

    def _adopt(self, path: str, file: DiskFile, length: int) -> None:
        """Give a file the next segment's name and make the name durable."""
        self._refuse_names()
        target = os.path.join(self._directory, segment_name(self._last_id + 1))
        self._disk.rename(path, target)
        self._sync_names()
        file.path = target
        segment = Segment(self._last_id + 1, target, file, length)
        self.prepared += (segment,)  # no interrupt can strike between these two
        self._last_id = segment.id


def _nobody(_error: OSError) -> None:
    """Nobody is to be told."""


def _fill(file: DiskFile, length: int) -> None:
    """Write real zeros: unwritten extents would cost a journal commit at each first write."""
    file.allocate(length)
    for offset in range(0, length, len(_ZEROS)):
        piece = _ZEROS[: length - offset]
        while piece:
            written = file.pwrite(piece, offset)
            piece, offset = piece[written:], offset + written  # noqa: PLW2901
    file.fdatasync()
