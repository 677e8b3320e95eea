"""The log of one open store: groups in, durable frames out.

Three locks, taken in this order and never the other way:

    sync lock     one fdatasync at a time
    append lock   one frame at a time goes to the tail, and turning to the next segment
    mutex         the open group, the queues, and whatever the sink keeps under it

The mutex is held for microseconds and never across a system call, but for the definition
of a table. All three know their owner, so that re-entry is refused instead of hanging.

**Interrupts.** A KeyboardInterrupt can strike the main thread, which may be the one that
leads, after any call that it makes. So nothing is kept in the leader's frame: a queued
group stays at the head of its queue until all that follows from it has been done, each
step may be done twice, and every step ends in a single store (`tail`, `synced_lsn`)
that says how far things are. Whoever takes the lock next goes on from there. A waiter
whose leader was struck down wakes by itself after `GATE_TIMEOUT` and leads.

**Failure.** The first failed fdatasync, whatever its errno, and the first failed write
that is not for want of room, end it all: `failure` is set before anything else happens,
no sync is ever tried again, and everybody in the queues gets WriteOutcomeUnknownError.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, Protocol

import msgpack

from strandline.errors import (
    DiskFullError,
    InvalidRequestError,
    StoreFailedError,
    WriteOutcomeUnknownError,
)
from strandline.wal import format as fmt
from strandline.wal.disk import DiskFile
from strandline.wal.group import OPERATION_OVERHEAD, Group, Wake
from strandline.wal.log_stats import LogStats
from strandline.wal.runtime import Lock, Runtime
from strandline.wal.segments import SEAL_BYTES, SealedSegment, Segment, Segments

GATE_TIMEOUT: Final = 0.1
"""Seconds after which a waiter looks for itself whether anybody leads."""

OUT_OF_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NEVER: Final = float("inf")
_SYNC_EVERY_BYTES: Final = 8 << 20
_GATHER: Final = 200e-6
"""How long a leader waits for the next of the writers that it expects to join, in seconds."""
_REFUSALS: Final = (DiskFullError, StoreFailedError, WriteOutcomeUnknownError)
_FRAME_SLACK: Final = 4096
"""Bytes that a group may take beside its operations: frame header, commit marks, padding."""


class Sink(Protocol):
    """The engine, as the log sees it. Every method is called with the mutex held."""

    def publish(self, queued: list[Any]) -> None:
        """Make queued operations visible, in one step. May be called twice."""

    def withdraw(self, queued: list[Any]) -> Iterable[int]:
        """Forget queued operations that were refused; return their LSNs. May be called twice."""

    def log_changed(self) -> None:
        """Look at `full`, `failure` and the log's size again."""


class Log:
    """Appends groups of operations and makes them durable."""

    def __init__(
        self,
        runtime: Runtime,
        segments: Segments,
        *,
        uuid: bytes,
        epoch: int,
        next_lsn: int,
        lsn_ceiling: int,
        lsn_block: int,
        raise_ceiling: Callable[[int], None],
        previous: SealedSegment | None,
        stored_lsn: int,
        group_bytes: int,
        log_interval: float,
        sync_interval: float,
        max_log_bytes: int,
    ) -> None:
        """Make a log that continues after `previous`; `start` makes its first segment.

        `raise_ceiling(lsn)` must make a new ceiling durable before it returns.
        """
        self.runtime = runtime
        self.segments = segments
        self.uuid = uuid
        self.epoch = epoch
        self.sync_lock = runtime.owned_lock()
        self.append_lock = runtime.owned_lock()
        self.mutex = runtime.owned_lock()
        self.stats = LogStats()
        self.log_interval = log_interval
        self.sync_interval = sync_interval

        self.group = Group(next_lsn, 0)
        self.closed: deque[Group] = deque()
        self.unsynced: deque[Group] = deque()
        """Written groups that somebody waits for to be synced."""
        self.leading = False
        self.crowd = 0
        """How many writers the latest syncs served at a time: as many are expected again."""
        self.gather_gate: Lock | None = None
        """Opened when all who are expected have joined."""
        self.unfinished: tuple[int, list[Any]] | None = None
        """A commit that is being published as it joins, and its last LSN."""
        self.synced_lsn = next_lsn - 1
        """Everything up to here is on disk; LSNs that were never issued count as such."""
        self.stored_lsn = stored_lsn
        self.claimed_lsn = 0
        """The highest synced LSN that a frame on disk speaks of."""
        self.failure: BaseException | None = None
        self.full: OSError | None = None
        """Set while the file system has no room for the log."""

        self.stall_at = _NEVER
        """When writers weaker than SYNC have to help: twice a window after its oldest write."""
        self.unsynced_since = _NEVER
        self._syncing_since = _NEVER
        self.unsynced_bytes = 0
        self.draining = False
        self.ticking = False
        self.wake_drainer: Callable[[], None] = _nothing
        self.wake_ticker: Callable[[], None] = _nothing

        self._sink: Sink | None = None
        self._group_bytes = min(group_bytes, segments.segment_bytes // 2)
        self._lsn_block = lsn_block
        self._ceiling = lsn_ceiling
        self._raise_ceiling = raise_ceiling
        self._previous = previous
        self._pressure_bytes = max_log_bytes // 2
        self._wake_at = _SYNC_EVERY_BYTES
        self._pack = msgpack.packb
        self.tail: tuple[Segment, int, int, int]
        """Active segment, offset of the next frame, frames so far, last LSN written."""
        self.started = False
        self._told = False
        self.ended = False
        """Closed: the files are somebody else's by now."""

    # ---- opening and closing

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
        not be set while anybody can still write. Raises the error that stopped it.
        """
        with self.sync_lock:
            try:
                if self.failure is None:
                    self._sync_locked()
                    with self.append_lock:
                        self.segments.name_successor()
                        self._seal(fmt.FLAG_CLEAN if clean else 0)
            finally:
                with self.append_lock:
                    self.ended = True
                    self.segments.close()
                    self.tail[0].file.close()

    def files(self) -> list[DiskFile]:
        """Return every open file, for a forked child to close."""
        held = [*self.segments.retired, *self.segments.prepared]
        if self.started:
            held.append(self.tail[0])
        return [segment.file for segment in held]

    # ---- joining: what the engine does under the mutex

    def next_lsn(self) -> int:
        """Return the LSN that the next operation gets."""
        return self.group.next_lsn()

    def close_group(self) -> None:
        """Move the open group to the queue and open the next one. Under the mutex."""
        group = self.group
        following = group.next_lsn()
        fresh = self._new_group(following, closing=group)
        group.closed_lsn = following - 1
        self.group = fresh  # no interrupt can strike between these two
        self.closed.append(group)

    def elect(self, group: Group) -> Wake | None:
        """Join the waiters of `group`; None means that the caller leads. Under the mutex."""
        if not self.leading:
            self.leading = True
            return None
        gate = self.runtime.lock()
        gate.acquire()
        group.waiters.append(gate.release)
        if self.gather_gate is not None and len(group.waiters) + 1 >= self.crowd:
            gathered, self.gather_gate = self.gather_gate, None
            gathered.release()
        return gate.acquire

    # ---- waiting: what a writer does after it let go of the mutex

    def wait_written(self, group: Group, lsn: int) -> None:
        """Return when `lsn`, which is in `group`, is in the page cache."""
        with self.append_lock:
            if lsn > self.tail[3] or self.closed:
                try:
                    self._append_pending()
                except _REFUSALS as error:
                    self._pass_over(error, group)
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

    def _pass_over(self, error: Exception, group: Group) -> None:
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
        """Return when everything up to `lsn` is on disk and published; raises in FAILED."""
        with self.sync_lock:
            self._check()
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

    def make_room(self, need: int) -> None:
        """Write the open group and see to it that `need` more bytes can join one.

        Raises DiskFullError where there is no room; nothing was logged then.
        """
        self.refuse_reentry()
        with self.append_lock:
            self._make_room(need)

    def refuse_reentry(self) -> None:
        """Refuse what a signal handler or finalizer asks of the thread that it interrupted.

        The locks are re-entrant, so they would let it in: an append in the middle of an
        append leaves the tail before what the inner one wrote.
        """
        for lock in (self.mutex, self.append_lock, self.sync_lock):
            if lock._is_owned():
                raise InvalidRequestError(
                    f"{self.tail[0].path}: the store was called from a signal handler, a finalizer "
                    "or a garbage-collector callback while the same thread was inside it. Nothing "
                    "was logged; let the handler set a flag, or hand the call to another thread"
                )

    def _make_room(self, need: int) -> None:
        if self.ended:
            return  # whoever wants to write finds the store closed
        with self.append_lock:
            self._append_pending()
            segment, offset, _, lsn = self.tail
            try:
                if lsn + self._lsn_block // 2 > self._ceiling:
                    self.raise_ceiling()
                if offset + need + _FRAME_SLACK > segment.usable:
                    self.segments.successor(need + _FRAME_SLACK)
            except OSError as error:
                if error.errno in OUT_OF_ROOM:
                    raise disk_full(error, segment.path) from error
                if error.errno == errno.EIO:
                    self.fail(error, f"{segment.path}: making room behind it failed: {error}")
                    self._check()
                raise
            with self.mutex:
                if self.group.is_empty():
                    self.group = self._new_group(self.group.first_lsn, need)

    def raise_ceiling(self) -> None:
        """Make the LSNs of the next block issuable, durably first."""
        ceiling = (self.group.first_lsn // self._lsn_block + 2) * self._lsn_block
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

    # ---- appending: under the append lock

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
        payload = self._pack(group.items)
        need = fmt.aligned(fmt.FRAME_HEADER_BYTES + len(payload))
        segment, offset, frames, _ = self.tail
        if offset + need > segment.usable:
            segment, offset, frames, _ = self._turn(need)
        synced = self.synced_lsn
        frame = fmt.encode_frame(
            fmt.TYPE_DATA,
            payload,
            count=group.closed_lsn - group.first_lsn + 1,
            first_lsn=group.first_lsn,
            synced_lsn=synced,
            stored_lsn=self.stored_lsn,
            time_ns=self.runtime.time_ns(),
            segment_id=segment.id,
            salt=segment.salt,
            epoch=self.epoch,
        )
        if segment.file.pwrite(frame, offset) != need:
            _finish_write(segment.file, frame, offset)
        self.claimed_lsn = synced
        self.tail = (segment, offset + need, frames + 1, group.closed_lsn)
        self.unsynced_bytes += need

    def _written(self, group: Group) -> None:
        """Do what follows from a group's being in the page cache. Under the mutex."""
        if group.buffered:
            self.sink.publish(group.buffered)
            group.buffered = []
        if not group.sync and not group.waiters:
            group.done = True
            self.stats.grouped(group.closed_lsn - group.first_lsn + 1)
        elif not self.unsynced or self.unsynced[-1] is not group:
            self.unsynced.append(group)
        if self.unsynced_since > group.opened_at:
            self.unsynced_since = group.opened_at
        if self.closed and self.closed[0] is group:
            self.closed.popleft()
        self._set_stall()
        if not self.ticking or self.tail[1] > self._wake_at:
            self._wake_at = self.tail[1] + _SYNC_EVERY_BYTES
            self.wake_ticker()
            self.ticking = True
        if self.log_bytes() > self._pressure_bytes:
            self.sink.log_changed()

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
        if overdue or self.unsynced_bytes > _SYNC_EVERY_BYTES:
            self.sync()
        segment.digest_through(offset)
        self.segments.release(self.stored_lsn)
        if not self.segments.prepared and offset * 4 > segment.allocated:
            self.segments.prepare()
        if lsn + self._lsn_block // 2 > self._ceiling:
            self.raise_ceiling()
        if self.has_unsynced():
            return False
        self.write_sync_mark()
        return True

    def has_unsynced(self) -> bool:
        """Tell whether anything is queued or written that is not synced."""
        return bool(self.tail[3] > self.synced_lsn or self.closed or not self.group.is_empty())

    def _turn(self, need: int) -> tuple[Segment, int, int, int]:
        """Seal the active segment and begin the next one. Each step can be done twice."""
        segment, _, _, lsn = self.tail
        successor = self.segments.successor(need)
        end = self._seal(0)
        self.segments.retire(segment, lsn, end)
        previous = SealedSegment(segment.id, segment.path, segment.first_lsn, lsn, end)
        self._activate(successor, previous, lsn)
        return self.tail

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
        """Write the header of `segment` and let frames go to it."""
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
        take = self.segments.prepared.popleft
        self.tail = (segment, fmt.SEGMENT_HEADER_BYTES, 0, first - 1)
        take()  # no interrupt can strike between these two: it is nobody's successor any more
        self._wake_at = min(segment.allocated // 4, _SYNC_EVERY_BYTES)

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

    # ---- syncing: under the sync lock

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
            self.unsynced_since = _NEVER
        if lsn > self.synced_lsn:
            self._fdatasync(segment.file)
            if self.synced_lsn < lsn:
                self.synced_lsn = lsn
        with self.mutex:
            self._syncing_since = _NEVER
            self.settle()
            self._set_stall()
            self._appoint()
        if self.segments.retired:
            self.segments.close_retired(self.tail[0])
        if refused is not None:
            raise refused

    def _fdatasync(self, file: DiskFile) -> None:
        self._check()
        started = self.runtime.monotonic()
        try:
            file.fdatasync()
        except OSError as error:
            self.failure = error
            self._fail(f"{file.path}: fdatasync failed: {error}")
        # The kernel reports an error once: of two syncs of one file, one returns as if nothing
        # had happened.
        self._check()
        self.stats.synced(self.runtime.monotonic() - started)

    def settle(self) -> None:
        """Publish what is synced and wake whoever waited for it. Under the mutex."""
        closed, unsynced = self.closed, self.unsynced
        if self.unfinished is not None:
            self.finish_commit()
        while closed and closed[0].closed_lsn <= self.tail[3]:
            self._written(closed[0])
        synced = self.synced_lsn
        while unsynced and unsynced[0].closed_lsn <= synced:
            group = unsynced[0]
            if group.sync:
                self.sink.publish(group.sync)
                group.sync = []
            group.done = True
            self.stats.grouped(group.closed_lsn - group.first_lsn + 1)
            self.crowd = max(len(group.waiters) + 1, self.crowd - 1)
            group.wake_all()
            unsynced.popleft()

    def finish_commit(self) -> None:
        """Publish the commit in `unfinished`, if it did join. Under the mutex."""
        if self.unfinished is not None:
            last_lsn, queued = self.unfinished
            if last_lsn < self.group.next_lsn():
                self.sink.publish(queued)
            self.unfinished = None

    def _appoint(self) -> None:
        """Wake one of those who wait for the next sync, to lead it."""
        for group in (*self.unsynced, *self.closed, self.group):
            if not group.done and group.waiters:
                self.leading = True
                group.waiters.pop(0)()
                return
        self.leading = False

    # ---- failing

    def _write_failed(self, error: OSError) -> None:
        """Refuse what is queued for want of room, or fail for good."""
        if error.errno not in OUT_OF_ROOM:
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

    def _fail(self, what: str) -> NoReturn:
        """Tell everybody in the queues that the outcome is unknown, for good."""
        self._tell_all(what)
        raise WriteOutcomeUnknownError(f"{what}. Close the store and open it anew")

    def fail(self, error: BaseException, what: str) -> None:
        """End the log's life because of what happened elsewhere, in the database say."""
        if self.failure is None:
            self.failure = error
        self._tell_all(what)

    def _tell_all(self, what: str) -> None:
        """Let everybody in the queues know that the log has failed."""
        with self.mutex:
            for group in (*self.unsynced, *self.closed, self.group):
                if not group.done:
                    group.error = lambda: self._unknown(what)
                    self.sink.withdraw(group.sync)
                    self.sink.withdraw(group.buffered)
                    group.sync, group.buffered = [], []
                    group.done = True
                group.wake_all()
            self.leading = False
            self.sink.log_changed()
            self._told = True

    @staticmethod
    def _unknown(what: str) -> WriteOutcomeUnknownError:
        return WriteOutcomeUnknownError(
            f"{what}. The write is there after a reopen or it is not, whole either way. Close the "
            "store and open it anew"
        )

    def _check(self) -> None:
        if self.failure is not None:
            if not self._told:  # an interrupt struck down the one who met the failure
                self._tell_all(f"{self.tail[0].path}: {self.failure}")
            raise StoreFailedError(
                f"{self.tail[0].path}: a sync or write failed earlier ({self.failure}); nothing is "
                "acknowledged any more. Close the store and open it anew: recovery keeps all that "
                "is on disk"
            )

    # ---- bookkeeping

    @property
    def sink(self) -> Sink:
        """The engine that this log was started for."""
        assert self._sink is not None, "the log is used before start()"
        return self._sink

    def log_bytes(self) -> int:
        """Return the bytes of all segments that are kept."""
        return self.segments.sealed_bytes + (self.tail[1] if self.started else 0)

    def unstored_bytes(self) -> int:
        """Return the bytes of the segments that may hold something that is not in LMDB.

        The active one cannot be given back, however long it is: with nothing in it that is
        needed it does not count, or a writer could wait for room for ever.
        """
        if self.started and self.tail[3] <= self.stored_lsn:
            return self.segments.sealed_bytes
        return self.log_bytes()

    def note_first(self, group: Group) -> None:
        """Start the clock of a group that something joins for the first time."""
        now = self.runtime.monotonic()
        group.opened_at = now
        if now + 2 * self.log_interval < self.stall_at:
            self.stall_at = now + 2 * self.log_interval

    def _oldest_unsynced(self) -> float:
        one, other = self.unsynced_since, self._syncing_since
        return min(other, one)

    def _set_stall(self) -> None:
        at = self._oldest_unsynced() + 2 * self.sync_interval
        group = self.closed[0] if self.closed else self.group
        if len(group.items) > 1:
            at = min(at, group.opened_at + 2 * self.log_interval)
        self.stall_at = at

    def _new_group(self, first_lsn: int, need: int = 0, closing: Group | None = None) -> Group:
        """Return an open group that takes no more than the log has room for."""
        if first_lsn > self._ceiling - self._lsn_block // 4:
            return Group(first_lsn, 0)
        segment, offset, _, _ = self.tail
        limit = self._group_bytes
        if need or self.closed or offset + limit + _FRAME_SLACK > segment.usable:
            limit = max(limit, need)
            waiting = (*self.closed, closing) if closing is not None else self.closed
            queued = sum(group.size + _FRAME_SLACK for group in waiting)
            # What fits into either segment as a whole is sure of a place: an active segment
            # that was made for a large frame can have more room than its successor.
            left = segment.usable - offset
            for prepared in tuple(self.segments.prepared)[:1]:
                left = max(left, prepared.usable - fmt.SEGMENT_HEADER_BYTES)
            limit = max(0, min(limit, left - queued - _FRAME_SLACK))
        return Group(first_lsn, limit)


def disk_full(error: OSError, path: str) -> DiskFullError:
    """Return what a writer gets when the log has no room."""
    return DiskFullError(
        f"{path}: no room for the log ({error.strerror}). The write was not logged and nothing "
        "else is lost; reads go on. Free some space: writes resume by themselves",
        error.errno or errno.ENOSPC,
    )


def _finish_write(file: DiskFile, data: bytes, offset: int) -> None:
    """Write all of `data`; a short write is gone on with, and undone if that fails."""
    done = 0
    try:
        while done < len(data):
            done += file.pwrite(data[done:], offset + done)
    except OSError:
        if done:
            file.pwrite(bytes(done), offset)
        raise


def _nothing() -> None:
    """Stand in for a thread that was not started."""


__all__ = ["OPERATION_OVERHEAD", "Log", "Sink", "disk_full"]
