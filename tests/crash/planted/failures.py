"""Bugs in what is done when a system call fails, or does less than it was asked for."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

from strandline.engine.backing import Backing, CommitOutcomeUnknown
from strandline.engine.checkpointer import Checkpointer
from strandline.engine.engine import Engine
from strandline.errors import WriteOutcomeUnknownError
from strandline.recovery import quarantine, rewrite, segment_scan
from strandline.wal import log_tail, reader, resync
from strandline.wal.disk import DiskFile
from strandline.wal.format import aligned
from strandline.wal.group import Group
from strandline.wal.log_queues import LogQueues
from strandline.wal.log_tail import OUT_OF_ROOM, LogTail
from strandline.wal.segments import Segments
from tests.crash.planted.bug import Planting, bug


@bug(breaks=8)
def failed_sync_retried(planting: Planting) -> None:
    """A failed fdatasync of the log is tried again, and the second one succeeds.

    The kernel has marked the lost pages clean by then: PostgreSQL did so for twenty years.
    """

    def fdatasync(self: LogTail, file: DiskFile) -> None:
        self._check()
        try:
            file.fdatasync()
        except OSError:
            file.fdatasync()

    planting.replace(LogTail, "_fdatasync", fdatasync)


@bug(breaks=8)
def failed_sync_ignored(planting: Planting) -> None:
    """The error of a failed fdatasync goes to a log file, and the write is acknowledged.

    An `except OSError` meant for one errno takes them all.
    """

    def fdatasync(self: LogTail, file: DiskFile) -> None:
        self._check()
        try:
            file.fdatasync()
        except OSError:
            pass

    planting.replace(LogTail, "_fdatasync", fdatasync)


@bug(breaks=8)
def failed_sync_of_names_retried(planting: Planting) -> None:
    """A failed sync of the log's directory is an error like any other: the next one may succeed.

    A segment is sealed then whose successor may have no durable name.
    """

    def sync_names(self: Segments) -> None:
        self._disk.sync_directory(self._directory)

    planting.replace(Segments, "_sync_names", sync_names)


@bug(breaks=1)
def close_lets_a_failure_pass(planting: Planting) -> None:
    """A close says nothing of a sync that fails in it, or failed before it.

    The log has failed, and whoever wrote was told, one thinks: not those who did not wait.
    """
    tell_all = LogQueues._tell_all

    def told(self: LogQueues, what: str) -> None:
        tell_all(self, what)
        self.in_doubt = 0

    planting.replace(LogQueues, "_tell_all", told)


@bug(breaks=8)
def goes_on_after_failed_sync(planting: Planting) -> None:
    """The writers of the group are told of a failed sync, and the next ones write on.

    The error is one group's, not the store's: what lies below the lost pages is
    acknowledged later as if they were there.
    """

    def fdatasync(self: LogTail, file: DiskFile) -> None:
        self._check()
        try:
            file.fdatasync()
        except OSError as error:
            raise WriteOutcomeUnknownError(f"{file.path}: fdatasync failed: {error}") from error

    planting.replace(LogTail, "_fdatasync", fdatasync)


@bug(breaks=9, in_python=True)
def full_disk_acknowledged(planting: Planting) -> None:
    """A write for which there is no room is acknowledged, though nothing was written.

    The error of the one call that can fail is not looked at, or is cleared on the way up.
    """
    write_group = LogTail._write_group

    def write(self: LogTail, group: Group) -> None:
        try:
            write_group(self, group)
        except OSError as error:
            if error.errno not in OUT_OF_ROOM:
                raise
            segment, offset, frames, _ = self.tail
            self.tail = (segment, offset, frames, group.closed_lsn)

    planting.replace(LogTail, "_write_group", write)


@bug(breaks=9, in_python=True)
def refused_write_logged_later(planting: Planting) -> None:
    """A write that was refused for want of room stays in the queue, and is logged later.

    Its writer was told that it is not there, and may have done something else instead.
    """

    def without(self: Group, lsns: Iterable[int]) -> list[Any]:
        return self.items

    planting.replace(Group, "without", without)


@bug(breaks=9)
def short_write_taken_for_whole(planting: Planting) -> None:
    """A `pwrite` that wrote less than it was given is taken for one that wrote all.

    The number that it returns is not looked at: on a local disk it is nearly always right.
    """

    def finish_write(file: DiskFile, data: bytes, offset: int, done: int = 0) -> None:
        if not done:
            file.pwrite(data, offset)

    planting.replace(log_tail, "_finish_write", finish_write)


@bug(breaks=9)
def short_write_begun_anew(planting: Planting) -> None:
    """What is left of a short write goes to where the whole of it began.

    The offset is not moved on together with the buffer.
    """

    def finish_write(file: DiskFile, data: bytes, offset: int, done: int = 0) -> None:
        while done < len(data):
            done += file.pwrite(data[done:], offset)

    planting.replace(log_tail, "_finish_write", finish_write)


@bug(breaks=9, in_python=True)
def half_a_frame_left_in_the_log(planting: Planting) -> None:
    """A write that the disk had no room for leaves its first half, and the next frame follows it.

    Whoever writes through a file position, as `write` does, has moved it.
    """
    write_group = LogTail._write_group
    halves: list[int] = []

    def write(self: LogTail, group: Group) -> None:
        try:
            write_group(self, group)
        except OSError:
            if halves:
                segment, offset, frames, lsn = self.tail
                self.tail = (segment, offset + aligned(halves.pop()), frames, lsn)
            raise

    def finish_write(file: DiskFile, data: bytes, offset: int, done: int = 0) -> None:
        try:
            while done < len(data):
                done += file.pwrite(data[done:], offset + done)
        except OSError:
            halves.append(done)
            raise

    planting.replace(LogTail, "_write_group", write)
    planting.replace(log_tail, "_finish_write", finish_write)


@bug(breaks=9)
def failed_read_is_the_end(planting: Planting) -> None:
    """A read that fails during recovery is taken for the end of the log.

    Both give no bytes, and the one who asks does not tell them apart: what lies behind is
    dropped as a torn tail, for good.
    """
    read_fully = reader.read_fully

    def read(file: DiskFile, length: int, offset: int) -> bytes:
        try:
            return read_fully(file, length, offset)
        except OSError:
            return b""

    for module in (reader, resync, segment_scan, quarantine, rewrite):
        planting.replace(module, "read_fully", read)


@bug(breaks=9)
def failed_flush_forgotten(planting: Planting) -> None:
    """What a failed checkpoint was to write is let go of, as after one that succeeded.

    The clean-up stands in a `finally`. The next checkpoint's watermark speaks for it too.
    """
    failed = Checkpointer._failed

    def forget(self: Checkpointer, error: BaseException) -> None:
        failed(self, error)
        engine = self._engine
        with engine.log.mutex:
            engine.index.drop_frozen(engine.backing.view)

    planting.replace(Checkpointer, "_failed", forget)


@bug(breaks=8)
def failed_commit_tried_again(planting: Planting) -> None:
    """A commit of LMDB that failed is tried again, like any checkpoint that failed.

    LMDB reports the failed sync once and carries on over pages that never reached the disk.
    """
    fail = Engine.fail

    def pass_over(self: Engine, error: BaseException, what: str) -> None:
        if not (isinstance(error, CommitOutcomeUnknown) or _is_io_error(error)):
            fail(self, error, what)

    planting.replace(Engine, "fail", pass_over)
    planting.replace(Backing, "on_commit_begun", Backing.on_commit_refused)


def _is_io_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EIO
