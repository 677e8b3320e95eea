"""The engine: what belongs to one open store, and how it lives and ends.

Which lock guards what:

    sync lock, append lock   see wal/log.py
    mutex                    the index (entries, layers, views, snapshots), the queued writes of
                             every table, the definitions of tables, `attention`
    a layer's order lock     its sorted runs; nothing else is taken under it
    segments.lock            names and files of segments; taken under the append lock
    a read view's own lock   see read_view.py

`attention` is the one thing that a writer looks at before it goes ahead; it is set
whenever a writer has to do more than write.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from strandline.engine.backing import Backing
from strandline.engine.catalog import TableRow
from strandline.engine.checkpointer import Checkpointer
from strandline.engine.flush_strategy import FlushStrategy, HybridFlush
from strandline.engine.index import Index
from strandline.engine.layer import Layer, View
from strandline.engine.pressure import DELAY_FROM, FLUSH_AT, Pressure
from strandline.engine.reserve import DiskReserve
from strandline.engine.table_state import (
    DEFAULT_TABLE_ID,
    DEFAULT_TABLE_NAME,
    TableState,
)
from strandline.errors import StoreClosedError, StoreFailedError
from strandline.options import Options
from strandline.wal.disk import let_go
from strandline.wal.lockfile import WriterLock
from strandline.wal.log import Log
from strandline.wal.log_threads import LogThreads
from strandline.wal.runtime import Runtime

CALM: Final = 0
HOLD_BACK: Final = 1
"""A budget is more than 60 % full."""
NO_ROOM: Final = 2
"""The log met a full disk."""
SHUT: Final = 4
"""Closed, failed, or in a forked child."""

_STEP: Final = 1 / 64
"""Share of the memory budget after which pressure is looked at again."""


class Engine:
    """Everything of one open store but its public face."""

    # Slots, for native/fast_put.c to find them by their offsets.
    __slots__ = ("__dict__", "__weakref__", "attention", "dirty_since", "flush_mark")

    def __init__(
        self,
        path: str,
        options: Options,
        runtime: Runtime,
        log: Log,
        backing: Backing,
        lock: WriterLock,
        reserve: DiskReserve,
    ) -> None:
        self.path = path
        self.options = options
        self.runtime = runtime
        self.log = log
        self.backing = backing
        self.reserve = reserve
        self.lock = lock
        self.index = Index(runtime, backing.view)
        self.strategy: FlushStrategy = options.flush_strategy or HybridFlush()
        self.pressure = Pressure(self)
        self.checkpointer = Checkpointer(self)
        self.attention = CALM
        self.started = False
        self.closing = False
        self.closed_fully = False
        self.close_lock = runtime.owned_lock()
        """Held by the one who closes; taken before all others."""
        self.first_lsn = log.next_lsn()
        self.replayed_lsn = backing.watermark.lsn
        self.replayed_operations = 0
        self.closed_because: str | None = None
        self.dirty_since: float | None = None
        self.flush_mark = int(options.max_dirty_bytes * _STEP)
        """The size of the active generation at which pressure is looked at again."""
        self.definition_lsn = 0
        """The LSN of the latest definition; no cut is made above one that was not applied."""
        self.definitions: list[TableRow | int] = []
        """Tables created (rows) and dropped (ids) since the last cut, in order."""
        self.highest_table_id = max(backing.highest_table_id, DEFAULT_TABLE_ID)
        self.made_up: set[int] = set()
        """Tables that a salvage made up for operations whose table's creation was lost."""
        self.snapshots: dict[weakref.ref[Any], tuple[int, int]] = {}
        """LSN and unlogged version of every open snapshot."""
        self.abandoned: deque[weakref.ref[Any]] = deque()
        """Snapshots that were dropped; all that a finalizer does is to put them here."""
        self.orphaned = False
        """The store object was dropped without being closed."""
        self.on_orphaned: Callable[[], None] = lambda: None
        """Closes an orphaned store, on the checkpointer's thread."""
        self.unlogged_writes = 0
        self._threads: LogThreads | None = None
        self.add_table(TableRow(DEFAULT_TABLE_ID, DEFAULT_TABLE_NAME, "bytes", logged=True))
        for row in backing.tables.values():
            if row.id != DEFAULT_TABLE_ID:
                self.add_table(row)

    # ---- starting and ending

    def start(self) -> None:
        """Begin to take writes: the log's first segment and the worker threads."""
        self.log.start(self)
        self.started = True
        self._threads = LogThreads(self.log, self.on_tick)
        self.checkpointer.start()
        self.log.wake_ticker()  # segments that an earlier opening left can go
        if self.index.dirty_count() or self.definitions:
            self.note_dirty()

    def shut(self, because: str) -> bool:
        """Let no write in any more; False if that was so already."""
        with self.log.mutex:
            if self.closing:
                return False
            self.closing = True
            self.closed_because = because
            self.attention |= SHUT
            for state in self.index.states.values():
                state.gate = self.check_open
            return True

    def stop_threads(self, timeout: float) -> None:
        """End the worker threads."""
        self.checkpointer.stop(timeout)
        if self._threads is not None:
            self._threads.stop(timeout)

    def forget_after_fork(self) -> None:
        """In a forked child: close what was inherited, touch nothing else.

        Descriptors are closed, never unlocked: the parent's locks stay in force, and
        nothing in the child keeps them alive when the parent dies.
        """
        self.closing = True
        self.closed_because = (
            "this handle was inherited by a forked child process; open the store in a process "
            "that is started anew (spawned, or forked before the store was opened)"
        )
        self.attention = SHUT
        self.closed_fully = True
        # Whoever held one at the fork does not exist here; nobody is to wait for him.
        log = self.log
        for lock in (self.close_lock, log.sync_lock, log.append_lock, log.mutex, log.segments.lock):
            renew = getattr(lock, "_at_fork_reinit", None)
            if renew is not None and not lock._is_owned():
                renew()
        dead = View({}, {}, self._dead, (), reads_store=False)
        for state in self.index.states.values():
            state.gate = self.check_open
            state.view = dead
        self.lock.close()
        for file in self.log.files():
            let_go(file)
        self.backing.forget_after_fork()

    def release_views(self) -> None:
        """After the close: every read through a kept handle says that the store is closed."""
        dead = View({}, {}, self._dead, (), reads_store=False)
        for state in self.index.states.values():
            state.view = dead

    def _dead(self, _key: bytes) -> bytes | None:
        raise StoreClosedError(f"{self.path}: {self.closed_because or 'the store is closed'}")

    def check_open(self) -> None:
        """Raise where the store takes no writes any more."""
        if self.log.failure is not None and self.closed_because is None:
            raise StoreFailedError(
                f"{self.path}: a sync or write failed earlier ({self.log.failure}); reads go "
                "on, writes do not. Close the store and open it anew: recovery keeps all that is "
                "on disk"
            )
        if self.closing:
            self._dead(b"")

    def fail(self, error: BaseException, what: str) -> None:
        """End the store's writing life; reads go on."""
        self.log.fail(error, what)

    # ---- what a writer is told by `attention`

    def admit(self, need: int) -> None:
        """Do what `attention` asks of a writer that brings `need` bytes. No lock is held."""
        self.log.refuse_reentry()
        if self.attention & SHUT:
            self.check_open()
        if self.attention & NO_ROOM:
            self.reserve.release()
            self.log.retry_full()
        self.pressure.admit(need)

    def crossed(self) -> None:
        """The active generation has reached `flush_mark`: look at the budgets. Under the mutex."""
        self.flush_mark = self.index.active_bytes + int(self.options.max_dirty_bytes * _STEP)
        self._look()

    def log_changed(self) -> None:
        """Look at the log's size, room and health again. Under the mutex."""
        if self.log.failure is not None:
            self.attention |= SHUT
            for state in self.index.states.values():
                state.gate = self.check_open
        if self.log.full is not None:
            self.attention |= NO_ROOM
            self.checkpointer.wake()
        else:
            self.attention &= ~NO_ROOM
        self._look()

    def _look(self) -> None:
        ratio = self.pressure.ratio()
        if ratio >= FLUSH_AT:
            self.checkpointer.wake()
        if ratio >= DELAY_FROM:
            self.attention |= HOLD_BACK

    def relax(self) -> None:
        """Stop holding writers back if the budgets allow it."""
        with self.log.mutex:
            self.flush_mark = self.index.active_bytes + int(self.options.max_dirty_bytes * _STEP)
            if self.pressure.ratio() < DELAY_FROM:
                self.attention &= ~HOLD_BACK

    def note_dirty(self) -> None:
        """Something is dirty that was not: start its clock and wake the checkpointer."""
        self.dirty_since = self.runtime.monotonic()
        self.checkpointer.wake()

    def on_tick(self) -> None:
        """Called by the log's housekeeping."""
        if self.dirty_since is not None:
            self.checkpointer.wake()

    # ---- the sink of the log

    def publish(self, queued: list[Any]) -> None:
        """Make queued operations visible."""
        self.index.publish(queued)
        if self.dirty_since is None:
            self.note_dirty()
        if self.index.active_bytes > self.flush_mark:
            self.crossed()

    def withdraw(self, queued: list[Any]) -> Iterable[int]:
        """Forget queued operations that were refused."""
        return self.index.withdraw(queued, self.log.unsynced)

    # ---- tables

    def add_table(self, row: TableRow) -> TableState:
        """Take in a table that exists. Under the mutex, or before the store is shared."""
        state = TableState(
            row.id, row.name, row.codec, logged=row.logged, layer=Layer(self.runtime)
        )
        self.highest_table_id = max(self.highest_table_id, row.id)
        self.index.add(state)
        return state

    def unlogged_tables(self) -> list[TableState]:
        """Return the tables that the log knows nothing of."""
        with self.log.mutex:
            return [state for state in self.index.states.values() if not state.logged]

    def take_definitions(self) -> list[TableRow | int]:
        """Hand the definitions since the last cut to a checkpoint. Under the mutex.

        A table that came and went meanwhile is left out: LMDB never needs to know it, and
        any number of them would ask for as many database handles.
        """
        taken, self.definitions = self.definitions, []
        made = {row.id for row in taken if isinstance(row, TableRow)}
        passing = made.intersection(gone for gone in taken if isinstance(gone, int))
        return [each for each in taken if _table_id(each) not in passing]

    def return_definitions(self, taken: list[TableRow | int]) -> None:
        """Take back the definitions of a checkpoint that failed."""
        with self.log.mutex:
            self.definitions = taken + self.definitions

    # ---- snapshots

    def note_snapshots(self) -> None:
        """See up to where older entries have to be kept. Under the mutex."""
        held = self.snapshots.values()
        self.index.newest_snapshot = max((lsn for lsn, _ in held), default=-1)
        self.index.newest_unlogged_snapshot = max((version for _, version in held), default=-1)

    def release_abandoned(self) -> None:
        """Forget the snapshots that nobody holds any more; what they pinned went with them."""
        if self.abandoned:
            with self.log.mutex:
                while self.abandoned:
                    self.snapshots.pop(self.abandoned[0], None)
                    self.abandoned.popleft()
                self.note_snapshots()


def _table_id(definition: TableRow | int) -> int:
    return definition if isinstance(definition, int) else definition.id
