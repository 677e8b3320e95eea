"""The log's tail: frames go here, segment after segment. Everything under the append lock.

`tail` is one tuple, replaced in one store: what is before it is in the log, and what is
not can be written again. Turning to the next segment is a row of steps, each of which
can be done twice: the successor has its name, the seal is written and synced, the header
of the successor is written, the tail moves.
"""

from __future__ import annotations

import errno
from typing import Final, NoReturn

from strandline.errors import DiskFullError, WriteOutcomeUnknownError
from strandline.wal import format as fmt
from strandline.wal.disk import DiskFile
from strandline.wal.group import Group
from strandline.wal.log_queues import FRAME_SLACK, SYNC_EVERY_BYTES, LogQueues
from strandline.wal.segments import SEAL_BYTES, SealedSegment, Segment

OUT_OF_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class LogTail(LogQueues):
    """Appends groups as frames, and turns to the next segment."""

    def _append_pending(self) -> None:
        """Write every queued group, and the open one."""
        closed = self.closed
        while True:
            if not closed:
                with self.mutex:
                    if self.group.is_empty():
                        return
                    self._check()
                    self.close_group()
            try:
                group = closed[0]
            except IndexError:
                continue  # written before, and settled by somebody else a moment ago
            if group.closed_lsn > self.tail[3]:
                self._check()
                try:
                    self._write_group(group)
                except OSError as error:
                    self._write_failed(error)
            with self.mutex:
                self._written(group)
                if not closed and self.group.is_empty():
                    return

    def _write_group(self, group: Group) -> None:
        count = group.closed_lsn - group.first_lsn + 1
        now = self.runtime.time_ns()
        while True:
            segment, offset, frames, _ = self.tail
            synced = self.synced_lsn
            frame = fmt.encode_group(  # by position: every group comes through here
                group.items,
                count,
                group.first_lsn,
                synced,
                self.stored_lsn,
                now,
                segment.id,
                segment.salt,
                self.epoch,
            )
            need = len(frame)
            if offset + need <= segment.usable:
                break
            self._turn(need)
        written = segment.file.pwrite(frame, offset)
        if written != need:
            _finish_write(segment.file, frame, offset, written)
        self.claimed_lsn = synced
        self.tail = (segment, offset + need, frames + 1, group.closed_lsn)
        if self.full is not None:
            self.full = None  # there is room again
        self.unsynced_bytes += need

    def _turn(self, need: int) -> None:
        """Seal the active segment and begin the next one. Each step can be done twice."""
        segment, _, _, lsn = self.tail
        successor = self.segments.successor(need)
        end = self._seal(0)
        self.segments.retire(segment, lsn, end)
        previous = SealedSegment(segment.id, segment.path, segment.first_lsn, lsn, end)
        self._activate(successor, previous, lsn)

    def _seal(self, flags: int) -> int:
        """Write the seal at the tail and sync it; return where it ends."""
        segment, offset, frames, lsn = self.tail
        digest = segment.digest_through(offset)
        seal = fmt.encode_frame(
            fmt.TYPE_SEAL,
            fmt.encode_seal(fmt.Seal(frames, lsn, digest)),
            count=0,
            first_lsn=lsn + 1,
            synced_lsn=self.synced_lsn,
            stored_lsn=self.stored_lsn,
            time_ns=self.runtime.time_ns(),
            segment_id=segment.id,
            salt=segment.salt,
            epoch=self.epoch,
            flags=flags,
        )
        _finish_write(segment.file, seal, offset)
        self._fdatasync(segment.file)
        if self.synced_lsn < lsn:
            self.synced_lsn = lsn
        return offset + len(seal)

    def _activate(self, segment: Segment, previous: SealedSegment | None, last: int) -> None:
        """Write and sync the header of `segment` and let frames go to it."""
        segment.salt = int.from_bytes(self.runtime.random_bytes(8), "little")
        first = self.closed[0].first_lsn if self.closed else self.group.first_lsn
        segment.first_lsn = first
        header = fmt.SegmentHeader(
            uuid=self.uuid,
            segment_id=segment.id,
            salt=segment.salt,
            epoch=self.epoch,
            first_lsn=first,
            allocated=segment.allocated,
            previous_id=previous.id if previous else 0,
            previous_bytes=previous.length if previous else 0,
            previous_last_lsn=last,
            created_ns=self.runtime.time_ns(),
        )
        _finish_write(segment.file, fmt.encode_segment_header(header), 0)
        # Synced before anything relies on it: the predecessor may be recycled, and a
        # checkpoint may commit a watermark below `first`, before any frame here is synced.
        self._fdatasync(segment.file)
        take = self.segments.prepared.popleft
        self.tail = (segment, fmt.SEGMENT_HEADER_BYTES, 0, first - 1)
        take()  # no interrupt can strike between these two: it is nobody's successor any more
        self._wake_at = min(segment.allocated // 4, SYNC_EVERY_BYTES)

    def write_sync_mark(self) -> None:
        """Let the idle log say how far it is synced, so that damage can be told from tearing."""
        with self.append_lock:
            segment, offset, frames, lsn = self.tail
            synced = self.synced_lsn
            if self.failure or self.claimed_lsn >= synced or lsn != synced:
                return
            mark = fmt.encode_frame(
                fmt.TYPE_SYNC_MARK,
                fmt.SYNC_MARK_PAYLOAD,
                count=0,
                first_lsn=lsn + 1,
                synced_lsn=synced,
                stored_lsn=self.stored_lsn,
                time_ns=self.runtime.time_ns(),
                segment_id=segment.id,
                salt=segment.salt,
                epoch=self.epoch,
            )
            if offset + len(mark) > segment.usable + SEAL_BYTES:
                return
            try:
                _finish_write(segment.file, mark, offset)
            except OSError as error:
                self._write_failed(error)
            self.claimed_lsn = synced
            self.tail = (segment, offset + len(mark), frames + 1, lsn)

    def _fdatasync(self, file: DiskFile) -> None:
        # One at a time, a group's and a seal's: the kernel reports an error once, so of two
        # syncs of one file one would return as if nothing had happened.
        with self._one_sync:
            self._check()
            started = self.runtime.monotonic()
            try:
                file.fdatasync()
            except OSError as error:
                self.failure = error
                self._fail(f"{file.path}: fdatasync failed: {error}")
            self.stats.synced(self.runtime.monotonic() - started)

    def make_room(self, need: int) -> None:
        """Write the open group and see to it that `need` more bytes can join one.

        Raises DiskFullError where there is no room; nothing was logged then.
        """
        self.refuse_reentry()
        with self.append_lock:
            self._make_room(need)

    def _make_room(self, need: int) -> None:
        if self.ended:
            return  # whoever wants to write finds the store closed
        with self.append_lock:
            self._append_pending()
            segment, offset, _, lsn = self.tail
            try:
                if lsn + self.lsn_block // 2 > self._ceiling:
                    self.raise_ceiling()
                if offset + need + FRAME_SLACK > segment.usable:
                    self.segments.successor(need + FRAME_SLACK)
            except OSError as error:
                if error.errno in OUT_OF_ROOM and self.failure is None:
                    raise disk_full(error, segment.path) from error
                if error.errno == errno.EIO or self.failure is not None:
                    self.fail(error, f"{segment.path}: making room behind it failed: {error}")
                    self._check()
                raise
            with self.mutex:
                if self.group.is_empty():
                    self.group = self._new_group(self.group.first_lsn, need)

    def raise_ceiling(self) -> None:
        """Make the LSNs of the next block issuable, durably first."""
        with self._one_raising:  # a writer and the housekeeping would write one file
            ceiling = (self.group.first_lsn // self.lsn_block + 2) * self.lsn_block
            if ceiling > self._ceiling:
                self._raise_ceiling(ceiling)
                self._ceiling = ceiling

    def retry_full(self) -> None:
        """Try again after ENOSPC; raises DiskFullError where there still is no room."""
        self.refuse_reentry()
        with self.append_lock:
            self._append_pending()
            self._make_room(self._group_bytes)
            self.full = None
        with self.mutex:
            self.sink.log_changed()

    def _write_failed(self, error: OSError) -> NoReturn:
        """Refuse what is queued for want of room, or fail for good."""
        if error.errno is None:
            raise error  # no system call's: a signal handler raised it, and the disk is sound
        if error.errno not in OUT_OF_ROOM or self.failure is not None:
            self.failure = self.failure or error
            self._fail(f"{self.tail[0].path}: write at {self.tail[1]} failed: {error}")
        self.full = error
        path = self.tail[0].path
        with self.mutex:
            if not self.group.is_empty():
                self.close_group()
            # The newest first: what was computed from an older group goes before it does.
            for group in reversed(tuple(self.closed)):
                gone = [*self.sink.withdraw(group.sync), *self.sink.withdraw(group.buffered)]
                items = group.without(gone)
                # No interrupt can strike from here to `done`: a group that had lost its
                # operations but not what is published of them would acknowledge nothing.
                if group.waiters or group.sync or group.buffered:
                    group.error = lambda: disk_full(error, path)
                group.items = items
                group.sync, group.buffered = [], []
                group.done = True
                group.wake_all()
            self.leading = False
            self.sink.log_changed()
        raise disk_full(error, path) from error

    def finish_frame(self, frame: bytes, offset: int, written: int) -> None:
        """Write the rest of a frame, for native/fast_put.c. Under append lock and mutex."""
        _finish_write(self.tail[0].file, frame, offset, written)

    def refuse_frame(self, error: BaseException) -> NoReturn:
        """Say what becomes of a write whose frame met an error. Under the append lock."""
        if isinstance(error, OSError):
            self._write_failed(error)
        # The frame is written, and what should know of it does not: only the log does.
        what = f"{self.tail[0].path}: {error!r} behind a frame that was written"
        self.fail(error, what)
        raise self._unknown(what) from error

    def raise_failed(self) -> NoReturn:
        """Refuse a write whose frame was written while the log failed."""
        raise self._unknown(f"{self.tail[0].path}: {self.failure}")

    def _fail(self, what: str) -> NoReturn:
        """Tell everybody in the queues that the outcome is unknown, for good."""
        self._tell_all(what)
        raise WriteOutcomeUnknownError(f"{what}. Close the store and open it anew")


def disk_full(error: OSError, path: str) -> DiskFullError:
    """Return what a writer gets when the log has no room."""
    return DiskFullError(
        f"{path}: no room for the log ({error.strerror}). The write was not logged and nothing "
        "else is lost; reads go on. Free some space: writes resume by themselves",
        error.errno or errno.ENOSPC,
    )


def _finish_write(file: DiskFile, data: bytes, offset: int, done: int = 0) -> None:
    """Write all of `data`; a short write is gone on with, and undone if that fails."""
    try:
        while done < len(data):
            done += file.pwrite(data[done:], offset + done)
    except OSError:
        if done:
            file.pwrite(bytes(done), offset)
        raise
