"""Snapshots: the whole store at one LSN, taken in constant time.

A snapshot captures every table's view and begins an LMDB read transaction under the
mutex; from then on writers keep the older entries that it can see. Where writes are
queued below what is already visible, it waits for them to land, so that it holds
exactly the operations up to its LSN.

What is open is known by weak references, so that one that nobody holds any more, because
it was forgotten or because an interrupt came before anybody had it, is noticed without a
finalizer in Python, which could be interrupted itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from strandline.engine.backing import ReadTransaction
from strandline.engine.definitions import refuse_inside
from strandline.engine.engine import Engine
from strandline.engine.index import Views
from strandline.engine.layer import View, visible
from strandline.engine.table_state import TableState
from strandline.errors import DiskFullError, StoreFailedError, WriteOutcomeUnknownError
from strandline.wal.group import Group


class SnapshotState:
    """What an open snapshot holds. Close it: it pins memory and LMDB's pages."""

    __slots__ = ("__weakref__", "_engine", "_key", "lsn", "txn", "unlogged_version", "views")

    def __init__(self, engine: Engine) -> None:
        """Take a snapshot of everything that is visible now."""
        refuse_inside(engine)
        engine.release_abandoned()
        log, index = engine.log, engine.index
        self._engine = engine
        self._key = weakref.ref(self, engine.abandoned.append)
        with log.mutex:
            if engine.closing:
                engine.check_open()
            log.settle()
            self.lsn, wait = cut_point(engine)
            self.unlogged_version = index.unlogged_version
            self.views: Views = index.views
            self.txn: ReadTransaction = engine.backing.begin_snapshot()
            engine.snapshots[self._key] = (self.lsn, self.unlogged_version)
            engine.note_snapshots()
        if wait is not None:
            try:
                wait()
            except (DiskFullError, StoreFailedError, WriteOutcomeUnknownError):
                # What it waited for was refused or has failed; reads go on without it.
                with log.mutex:
                    log.settle()
            except BaseException:
                self.close()
                raise

    def version(self, state: TableState) -> int:
        """Return up to where this snapshot sees entries of a table."""
        return self.lsn if state.logged else self.unlogged_version

    def get(self, state: TableState, key: bytes) -> bytes | None:
        """Return the value of a key as of this snapshot."""
        if self._engine.closed_fully:
            self._engine.check_open()
        view: View | None = self.views.get(state.id)
        if view is None:
            return None
        version = self.version(state)
        for layer in view.layers:
            entry = visible(layer.entries.get(key), version)
            if entry is not None:
                return entry[1]
        return self.txn.get(state.id, key) if view.reads_store else None

    def close(self) -> None:
        """Let go of what is held; a second call does nothing."""
        with self._engine.log.mutex:
            if self._engine.snapshots.pop(self._key, None) is None:
                return
            self._engine.note_snapshots()
        self.txn.close()
        self.views = {}
        if self._engine.index.retired:
            self._engine.checkpointer.wake()


def cut_point(engine: Engine) -> tuple[int, Callable[[], None] | None]:
    """Return the LSN to read at, and what to wait for until all below it has landed."""
    log = engine.log
    last = log.next_lsn() - 1
    queued = [item for group in _groups(engine) for item in (*group.sync, *group.buffered)]
    if not queued:
        return last, None
    bounds = [_bounds(item) for item in queued]
    floor = min(first for first, _ in bounds)
    if last - floor + 1 == sum(end - first + 1 for first, end in bounds):
        return floor - 1, None  # nothing above the oldest queued write is visible
    if any(group.sync for group in _groups(engine)):
        return last, lambda: log.sync_through(last)
    return last, log.drain


def _groups(engine: Engine) -> list[Group]:
    log = engine.log
    # Those that failed or were refused keep nothing that will ever land.
    return [g for g in (*log.unsynced, *log.closed, log.group) if not g.done]


def _bounds(item: tuple) -> tuple[int, int]:  # type: ignore[type-arg]
    """Return first and last LSN of something queued."""
    if isinstance(item[1], int):
        return item[1], item[2]
    return item[2][0], item[2][0]
