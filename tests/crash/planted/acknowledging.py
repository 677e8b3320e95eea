"""Bugs in when a write is acknowledged, and shown."""

from __future__ import annotations

from typing import Any

from strandline.engine import store
from strandline.engine.definitions import Definitions
from strandline.engine.engine import Engine
from strandline.engine.joining import Joining
from strandline.engine.stats import FlushReport
from strandline.engine.store import Store
from strandline.engine.table_state import TableState
from strandline.options import Durability
from strandline.wal.disk import DiskFile
from strandline.wal.group import Group, Wake
from strandline.wal.log import Log
from strandline.wal.log_tail import LogTail
from tests.crash.planted.bug import Planting, bug


@bug(breaks=1)
def log_never_synced(planting: Planting) -> None:
    """No fdatasync of the log: what was acknowledged as durable is lost at a power cut.

    So it is in every store whose sync was taken out for a benchmark, or stands behind a flag
    that the default does not set.
    """

    def fdatasync(self: LogTail, file: DiskFile) -> None:
        self._check()

    planting.replace(LogTail, "_fdatasync", fdatasync)


@bug(breaks=1)
def acknowledged_before_sync(planting: Planting) -> None:
    """A group's leader wakes everybody once the frame is written; the sync comes later.

    A refactoring moves the wake-up before the slow call, for the latency.
    """

    def lead(self: Log, group: Group) -> None:
        with self.sync_lock:
            if group.done:
                return
            self.drain()
            with self.mutex:
                for each in self.unsynced:
                    self.sink.publish(each.sync)
                    each.sync, each.done = [], True
                    each.wake_all()
                self.leading = False

    planting.replace(Log, "_lead", lead)


@bug(breaks=1)
def sync_covers_later_frames(planting: Planting) -> None:
    """How far the log is synced is read after the fdatasync, not before it.

    What is written while the sync runs counts as synced then. One line in the wrong place,
    and no test with one thread sees it.
    """
    fdatasync = LogTail._fdatasync

    def too_far(self: LogTail, file: DiskFile) -> None:
        fdatasync(self, file)
        if self.started:
            self.synced_lsn = max(self.synced_lsn, self.tail[3])

    planting.replace(LogTail, "_fdatasync", too_far)


@bug(breaks=6, in_python=True)
def buffered_acknowledged_unwritten(planting: Planting) -> None:
    """A BUFFERED write is acknowledged while its frame is in the process only.

    A buffered file object between the log and the system call does that.
    """

    def wait_written(self: Log, group: Group, lsn: int) -> None:
        if self.failure is not None:
            self._pass_over(self.failure, group)
        with self.mutex:
            self.sink.publish(group.buffered)

    planting.replace(Log, "wait_written", wait_written)


@bug(breaks=6)
def async_written_when_asked(planting: Planting) -> None:
    """An ASYNC write stays in memory until something else writes the log.

    The thread that drains the log died of an exception, or was never started.
    """

    def drain(self: Log) -> None:
        self._check()

    planting.replace(Log, "drain", drain)


@bug(breaks=1)
def sync_returns_at_once(planting: Planting) -> None:
    """`sync()` promises what it did not do.

    It asks the background thread for a sync, and does not wait for it.
    """

    def sync(self: Store) -> None:
        self.engine.log.wake_ticker()

    planting.replace(Store, "sync", sync)


@bug(breaks=1)
def flush_returns_at_once(planting: Planting) -> None:
    """`flush()` returns before the checkpoint that it asked for has committed.

    The request is queued, and the wait for it was lost in a rewrite to threads.
    """

    def flush(engine: Engine, timeout: float) -> FlushReport:
        engine.checkpointer.request()
        return FlushReport(0, 0, 0)

    planting.replace(store, "flush", flush)


@bug(breaks=1)
def close_does_not_sync(planting: Planting) -> None:
    """A clean close writes the log's last frames and its seal, and syncs neither.

    `close()` of a file is often taken for a sync of it.
    """
    close = Log.close

    def unsynced(self: Log, *, clean: bool) -> None:
        self.__dict__["_fdatasync"] = lambda file: None
        close(self, clean=clean)

    planting.replace(Log, "close", unsynced)


@bug(breaks=1)
def table_made_without_sync(planting: Planting) -> None:
    """A table's creation, clearing or end is written to the log and not synced.

    Definitions take a way of their own through the log, and that one forgot the sync.
    """
    define = Definitions._define

    def unsynced(self: Definitions, items: Any, apply: Any) -> int | None:
        fields: dict[str, Any] = self._engine.log.__dict__
        fields["_fdatasync"] = lambda file: None
        try:
            return define(self, items, apply)
        finally:
            del fields["_fdatasync"]

    planting.replace(Definitions, "_define", unsynced)


@bug(breaks=8, in_python=True)
def undurable_write_visible(planting: Planting) -> None:
    """Readers see a SYNC write from the moment that it joins a group, before it is on disk.

    The index is filled where the write is made, and the log only later: what was read is
    undone by a crash, or by a failed sync.
    """
    join = Joining._join

    def visible(
        self: Joining,
        state: TableState,
        key: bytes,
        value: bytes | None,
        level: Durability,
        group: Group,
        need: int,
    ) -> int:
        lsn = join(self, state, key, value, level, group, need)
        self._index.install(state, key, (lsn, value, None))
        return lsn

    planting.replace(Joining, "_join", visible)


@bug(breaks=13)
def waiters_not_woken(planting: Planting) -> None:
    """Of those who wait for a group nobody is woken, and nobody looks for himself.

    A wake-up is lost between two states, and the time-out that would have made it good is
    long or missing.
    """

    def wait_synced(self: Log, group: Group, gate: Wake | None) -> None:
        if gate is None:
            self._lead(group)
        while not group.done:
            self.runtime.sleep(3600.0)
        if group.error is not None:
            raise group.error()

    planting.replace(Log, "wait_synced", wait_synced)
