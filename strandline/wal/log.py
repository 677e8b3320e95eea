"""The log of one open store: groups in, durable frames out.

Three locks, taken in this order and never the other way:

    sync lock     log.py          one fdatasync at a time; who leads, and who waits
    append lock   log_tail.py     one frame at a time, and turning to the next segment
    mutex         log_queues.py   the groups, and whatever the sink keeps under it

Two more, taken under any of the first two and around the mutex at most: one fdatasync at
a time (a group's, or a seal's), and one raising of the LSN ceiling.

The mutex is held for microseconds and never across a system call, but for the definition of a
table and for the pwrite of a single write that finds nothing in its way. All three know their
owner, so that re-entry is refused instead of hanging.

**Interrupts.** A KeyboardInterrupt can strike the main thread, which may be the one that
leads, after any call that it makes. So nothing is kept in the leader's frame: a queued
group stays at the head of its queue until all that follows from it has been done, each
step may be done twice, and every step ends in a single store (`tail`, `synced_lsn`)
that says how far things are. Whoever takes the lock next goes on from there. A waiter
whose leader was struck down wakes by itself after `GATE_TIMEOUT` and leads.

**Failure.** The first failed sync, of a file or of the directory, whatever its errno, and the
first failed write that is not for want of room, end it all: `failure` is set before anything
else happens, no sync is ever tried again, and everybody in the queues gets
WriteOutcomeUnknownError.
"""

from __future__ import annotations

from typing import Final

from strandline.errors import DiskFullError, StoreFailedError, WriteOutcomeUnknownError
from strandline.wal import format as fmt
from strandline.wal.disk import DiskFile, let_go
from strandline.wal.group import Group, Wake
from strandline.wal.log_queues import NEVER, SYNC_EVERY_BYTES, LogSettings, Sink
from strandline.wal.log_tail import OUT_OF_ROOM, LogTail, disk_full

__all__ = ["OUT_OF_ROOM", "Log", "LogSettings", "Sink", "disk_full"]

GATE_TIMEOUT: Final = 0.1
"""Seconds after which a waiter looks for itself whether anybody leads."""

_GATHER: Final = 200e-6
"""How long a leader waits for the next of the writers that it expects to join, in seconds."""
_REFUSALS: Final = (DiskFullError, StoreFailedError, WriteOutcomeUnknownError)


class Log(LogTail):
    """Appends groups of operations and makes them durable."""

    def start(self, sink: Sink) -> None:
        """Make the first segment of this epoch and begin to take operations."""
        self._sink = sink
        segment = self.segments.first()
        last = self._previous.last_lsn if self._previous else 0
        self._activate(segment, self._previous, last)
        self.group = self._new_group(self.group.first_lsn)
        self.started = True

    def close(self, *, clean: bool) -> None:
        """Write and sync what is queued, seal the log, and let go of its files.

        `clean` also claims that no LSN above the last one was ever issued, so it must
        not be set while anybody can still write. Raises the error that stopped it; after
        an interrupt another call goes on from there.
        """
        with self.sync_lock:
            try:
                if self.failure is None and not self.ended:
                    self._sync_locked()
                    with self.append_lock:
                        self.segments.name_successor()
                        self._seal(fmt.FLAG_CLEAN if clean else 0)
                    self.segments.close_retired(self.tail[0])
                    self.segments.release(self.stored_lsn, recycle=False)
            except Exception:
                self._let_go()
                raise
            self._let_go()

    def _let_go(self) -> None:
        with self.append_lock:
            if self.failure is not None and not self._told:
                self._tell_all(f"{self.tail[0].path}: {self.failure}")
            self.ended = True
            self.segments.close()
            let_go(self.tail[0].file)

    def files(self) -> list[DiskFile]:
        """Return every open file, for a forked child to close."""
        held = [*self.segments.retired, *self.segments.prepared]
        if self.started:
            held.append(self.tail[0])
        return [segment.file for segment in held]

    def wait_written(self, group: Group, lsn: int) -> None:
        """Return when `lsn`, which is in `group`, is in the page cache."""
        with self.append_lock:
            if lsn > self.tail[3] or self.closed:
                try:
                    self._append_pending()
                except _REFUSALS as error:
                    self._pass_over(error, group)
        if self.failure is not None:
            self._pass_over(self.failure, group)  # its pages may be among those that were lost
        if group.error is not None:
            raise group.error()

    def wait_synced(self, group: Group, gate: Wake | None) -> None:
        """Return when `group` is on disk and published. `gate` is what `elect` gave."""
        if gate is None:
            self._lead(group)
        while not group.done:
            if gate is not None:
                gate(True, GATE_TIMEOUT)  # type: ignore[call-arg]
                if group.done:
                    break
            self._lead(group)
        group.wake_next()
        if group.error is not None:
            raise group.error()

    def _lead(self, group: Group) -> None:
        """Sync `group` and hand leadership over."""
        with self.sync_lock:
            if not group.done:
                if self.crowd > 1:
                    self._gather()
                try:
                    self._sync_locked()
                except _REFUSALS as error:
                    self._pass_over(error, group)

    def _pass_over(self, error: BaseException, group: Group) -> None:
        """Let an error be that `group` has no part in: what became of it, it says itself.

        A leader does others' work too, and what they are refused must not be reported for
        a write that has landed. Once the log has failed, no write is known to have.
        """
        if self.failure is not None and group.error is None:
            raise self._unknown(f"{self.tail[0].path}: {self.failure}") from error

    def _gather(self) -> None:
        """Let writers that were woken a moment ago join before the next sync begins."""
        gate = self.runtime.lock()
        gate.acquire()
        with self.mutex:
            joined = len(self.group.waiters)
            if joined + 1 >= self.crowd:
                return
            self.gather_gate = gate
        while not gate.acquire(True, _GATHER):
            before, joined = joined, len(self.group.waiters)
            if joined == before:
                break  # nobody else is coming
        self.gather_gate = None

    def sync(self) -> None:
        """Put everything that was acknowledged before the call on disk."""
        with self.sync_lock:
            self._sync_locked()

    def drain(self) -> None:
        """Write everything that is queued to the page cache."""
        with self.append_lock:
            self._append_pending()

    def sync_through(self, lsn: int) -> None:
        """Return when everything up to `lsn` is on disk and published."""
        with self.sync_lock:
            if self.synced_lsn < lsn or self.unsynced or self.closed:
                self._sync_locked()

    def relieve(self) -> None:
        """Do what is overdue, on behalf of a writer whose window is full."""
        if self.append_lock._is_owned() or self.sync_lock._is_owned():
            return  # called from inside itself: a second writer at the tail would move it back
        now = self.runtime.monotonic()
        self.drain()
        if now > self._oldest_unsynced() + 2 * self.sync_interval:
            self.sync()

    def _sync_locked(self) -> None:
        """Write what is queued, sync it, publish it, wake everybody who waits."""
        self._check()
        refused: DiskFullError | None = None
        with self.append_lock:
            try:
                self._append_pending()
            except DiskFullError as error:
                refused = error
            segment, _, _, lsn = self.tail
            self.unsynced_bytes = 0
            # Under the append lock: the next frame starts the clock anew.
            if self._syncing_since > self.unsynced_since:
                self._syncing_since = self.unsynced_since
            self.unsynced_since = NEVER
        if lsn > self.synced_lsn:
            self._fdatasync(segment.file)
            if self.synced_lsn < lsn:
                self.synced_lsn = lsn
        with self.mutex:
            self._syncing_since = NEVER
            self.settle()
            self._set_stall()
            self._appoint()
        if self.segments.retired:
            self.segments.close_retired(self.tail[0])
        if refused is not None:
            raise refused

    def housekeep(self) -> bool:
        """Do what is due off the write path; True when nothing is left to be done.

        Syncs what is old or much, prepares the next segment, raises the LSN ceiling,
        keeps the running digest close to the tail, and marks an idle log as synced.
        """
        if self.ended:
            return True
        segment, offset, _, lsn = self.tail
        # What is owed to writers and to a full disk comes before what needs room.
        overdue = self.runtime.monotonic() >= self._oldest_unsynced() + self.sync_interval
        if overdue or self.unsynced_bytes > SYNC_EVERY_BYTES:
            self.sync()
        segment.digest_through(offset)
        try:
            self.segments.release(self.stored_lsn)
            if not self.segments.prepared and offset * 4 > segment.allocated:
                self.segments.prepare()
        except OSError as error:
            if self.segments.unsynced is not None:
                self.fail(error, f"{segment.path}: the log's directory was not synced: {error}")
            raise
        if lsn + self.lsn_block // 2 > self._ceiling:
            self.raise_ceiling()
        if self.has_unsynced():
            return False
        self.write_sync_mark()
        return True

    def sync_due(self) -> float:
        """Return in how many seconds the oldest write that is not synced has to be.

        Where there is none, one may come the moment after: it is not due before that.
        """
        now = self.runtime.monotonic()
        return min(self._oldest_unsynced(), now) + self.sync_interval - now

    def has_unsynced(self) -> bool:
        """Tell whether anything is queued or written that is not synced."""
        return bool(self.tail[3] > self.synced_lsn or self.closed or not self.group.is_empty())
