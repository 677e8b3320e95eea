"""What the log keeps under its mutex: the groups, who waits for them, and how far things are.

A group passes from `group` (open) to `closed` (to be written) to `unsynced` (somebody
waits for its sync). It leaves a queue last, after all that follows from it has been
done, and everything here may be done twice: see "Interrupts" in log.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from strandline.errors import InvalidRequestError, StoreFailedError, WriteOutcomeUnknownError
from strandline.wal.format import SEGMENT_HEADER_BYTES
from strandline.wal.group import Group, Wake
from strandline.wal.log_stats import LogStats
from strandline.wal.runtime import Lock, Runtime
from strandline.wal.segments import SealedSegment, Segment, Segments

NEVER: Final = float("inf")
SYNC_EVERY_BYTES: Final = 8 << 20
FRAME_SLACK: Final = 4096
"""Bytes that a group may take beside its operations: frame header, commit marks, padding."""


class Sink(Protocol):
    """The engine, as the log sees it. Every method is called with the mutex held."""

    def publish(self, queued: list[Any]) -> None:
        """Make queued operations visible, in one step. May be called twice."""

    def withdraw(self, queued: list[Any]) -> Iterable[int]:
        """Forget queued operations that were refused; return their LSNs. May be called twice."""

    def log_changed(self) -> None:
        """Look at `full`, `failure` and the log's size again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a log starts from. Sizes in bytes, times in seconds."""

    uuid: bytes
    epoch: int
    next_lsn: int
    previous: SealedSegment | None
    """The segment that the first new one follows."""
    stored_lsn: int
    """The watermark."""
    lsn_ceiling: int
    lsn_block: int
    raise_ceiling: Callable[[int], None]
    """Makes a new ceiling durable before it returns."""
    group_bytes: int
    log_interval: float
    sync_interval: float
    max_log_bytes: int


class LogQueues:
    """The groups of one log, and how far it is. Under the mutex unless it says otherwise."""

    started = False
    ended = False
    """Closed: the files are somebody else's by now."""
    _told = False

    # Slots, for native/fast_put.c to find them by their offsets.
    __slots__ = (
        "__dict__",
        "_ceiling",
        "_wake_at",
        "claimed_lsn",
        "closed",
        "crowd",
        "draining",
        "failure",
        "full",
        "gather_gate",
        "group",
        "leading",
        "stall_at",
        "stored_lsn",
        "synced_lsn",
        "tail",
        "ticking",
        "unsynced",
        "unsynced_bytes",
        "unsynced_since",
    )

    def __init__(  # noqa: PLR0915 - a log has as many fields as it has
        self, runtime: Runtime, segments: Segments, settings: LogSettings
    ) -> None:
        self.runtime = runtime
        self.segments = segments
        self.uuid = settings.uuid
        self.epoch = settings.epoch
        self.sync_lock = runtime.owned_lock()
        self.append_lock = runtime.owned_lock()
        self.mutex = runtime.owned_lock()
        self._one_sync = runtime.owned_lock()
        self._one_raising = runtime.owned_lock()
        self.stats = LogStats()
        segments.on_failure = self._note_failure
        self.log_interval = settings.log_interval
        self.sync_interval = settings.sync_interval

        self.group = Group(settings.next_lsn, 0)
        self.closed: deque[Group] = deque()
        self.unsynced: deque[Group] = deque()
        """Written groups that somebody waits for to be synced."""
        self.leading = False
        """Somebody leads, or was told to."""
        self.draining = False
        """The thread that writes what is queued is awake."""
        self.ticking = False
        """The housekeeping is awake."""
        self.crowd = 0
        """How many writers the latest syncs served at a time: as many are expected again."""
        self.gather_gate: Lock | None = None
        """Opened when all who are expected have joined."""
        self.unfinished: tuple[int, list[Any]] | None = None
        """A commit that is being published as it joins, and its last LSN."""
        self.synced_lsn = settings.next_lsn - 1
        """Everything up to here is on disk; LSNs that were never issued count as such."""
        self.stored_lsn = settings.stored_lsn
        self.claimed_lsn = 0
        """The highest synced LSN that a frame on disk speaks of."""
        self.failure: BaseException | None = None
        self.in_doubt = 0
        """How many acknowledged operations were not known to be on disk when the log failed."""
        self.full: OSError | None = None
        """Set while the file system has no room for the log."""

        self.stall_at = NEVER
        """When writers weaker than SYNC have to help: twice a window after its oldest write."""
        self.unsynced_since = NEVER
        self._syncing_since = NEVER
        self.unsynced_bytes = 0
        self.wake_drainer: Callable[[], None] = _nothing
        self.wake_ticker: Callable[[], None] = _nothing

        self._sink: Sink | None = None
        self._group_bytes = min(settings.group_bytes, segments.segment_bytes // 2)
        self.lsn_block = settings.lsn_block
        self._ceiling = settings.lsn_ceiling
        self._raise_ceiling = settings.raise_ceiling
        self._previous = settings.previous
        self.pressure_bytes = settings.max_log_bytes // 2
        self._wake_at = SYNC_EVERY_BYTES
        self.tail: tuple[Segment, int, int, int]
        """Active segment, offset of the next frame, frames so far, last LSN written."""

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
            group.wake_next()
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
            self._wake_at = self.tail[1] + SYNC_EVERY_BYTES
            self.wake_ticker()
            self.ticking = True
        if self.log_bytes() > self.pressure_bytes:
            self.sink.log_changed()

    def _tell_all(self, what: str) -> None:
        """Let everybody in the queues know that the log has failed."""
        with self.mutex:
            synced = self.synced_lsn
            if not self._told:
                self.in_doubt = self.next_lsn() - 1 - synced
            for group in (*self.unsynced, *self.closed, self.group):
                if not group.done:
                    group.error = lambda: self._unknown(what)
                    # Their writers hear of it.
                    for queued in (group.sync, group.buffered):
                        self.in_doubt -= sum(lsn > synced for lsn in self.sink.withdraw(queued))
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

    def fail(self, error: BaseException, what: str) -> None:
        """End the log's life because of what happened elsewhere, in the database say."""
        self._note_failure(error)
        self._tell_all(what)

    def _note_failure(self, error: BaseException) -> None:
        """Let nothing be acknowledged from here on; whoever met it goes on to tell all."""
        if self.failure is None:
            self.failure = error

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
        if first_lsn > self._ceiling - self.lsn_block // 4:
            return Group(first_lsn, 0)
        segment, offset, _, _ = self.tail
        limit = self._group_bytes
        if need or self.closed or offset + limit + FRAME_SLACK > segment.usable:
            limit = max(limit, need)
            waiting = (*self.closed, closing) if closing is not None else self.closed
            queued = sum(group.size + FRAME_SLACK for group in waiting)
            # What fits into either segment as a whole is sure of a place: an active segment
            # that was made for a large frame can have more room than its successor.
            left = segment.usable - offset
            for prepared in tuple(self.segments.prepared)[:1]:
                left = max(left, prepared.usable - SEGMENT_HEADER_BYTES)
            limit = max(0, min(limit, left - queued - FRAME_SLACK))
        return Group(first_lsn, limit)


def _nothing() -> None:
    """Stand in for a thread that was not started."""
