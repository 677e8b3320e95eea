"""What every write does at its middle: refuse re-entry, and join the open group.

Between putting an operation into the group and making it visible or queueing it there
is no call after which the interpreter would look for signals. So a KeyboardInterrupt
finds it done in both places or in neither.
"""

from __future__ import annotations

from typing import Final, NoReturn

from strandline.engine.engine import Engine
from strandline.engine.layer import ENTRY_BYTES, Entry, linked, weight
from strandline.engine.table_state import Queued, TableState
from strandline.errors import InvalidRequestError
from strandline.options import Durability
from strandline.wal.group import OPERATION_OVERHEAD, Group

ASYNC: Final = Durability.ASYNC
BUFFERED: Final = Durability.BUFFERED
SYNC: Final = Durability.SYNC

ENTRY_COST: Final = ENTRY_BYTES - OPERATION_OVERHEAD
"""What an entry counts for in the memory budget beyond what it needs in the log."""


class Joining:
    """The group of one store that is open, for those who write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = engine.log
        self._index = engine.index
        self._mutex = engine.log.mutex
        self._owned = engine.log.mutex._is_owned
        self._append_owned = engine.log.append_lock._is_owned
        self._sync_owned = engine.log.sync_lock._is_owned
        self._now = engine.runtime.monotonic

    def _guard(self, level: Durability) -> None:
        """Refuse a call from inside another one on the same thread."""
        if self._owned() or (level is not ASYNC and (self._append_owned() or self._sync_owned())):
            self._refuse_reentry()

    def _refuse_reentry(self) -> NoReturn:
        raise InvalidRequestError(
            f"{self._engine.path}: a write was called from a signal handler, a finalizer or a "
            "garbage-collector callback while the same thread was inside a write. Nothing was "
            "logged; let the handler set a flag, or hand the write to another thread"
        )

    def _join_weak(
        self, state: TableState, key: bytes, value: bytes | None, group: Group, need: int
    ) -> int:
        """Put one ASYNC operation into the open group and make it visible. Under the mutex."""
        items, entries, index = group.items, state.entries, self._index
        count = len(items)
        if count == 1:
            self._first(group)
        lsn = group.first_lsn + count // 3
        entry: Entry = (lsn, value, None)
        old = entries.get(key)
        if old is None:
            index.active_bytes += need + ENTRY_COST
        else:
            index.active_bytes += len(value or b"") - len(old[1] or b"")
            if index.newest_snapshot >= 0:
                entry = linked(entry, old, index.newest_snapshot)
                if entry[2] is old:  # a snapshot still sees it: it goes on taking its room
                    index.active_bytes += weight(key, old)
        group.size += need
        items += (state.delete_tag if value is None else state.put_tag, key, value)
        entries[key] = entry
        if index.active_bytes > self._engine.flush_mark:
            self._engine.crossed()
        return lsn

    def _first(self, group: Group) -> None:
        """Start the clocks when something joins an empty group, and wake who has to see to it."""
        log = self._log
        log.note_first(group)
        if self._engine.dirty_since is None:
            self._engine.note_dirty()
        if not log.draining:
            log.wake_drainer()
            log.draining = True

    def _join(
        self,
        state: TableState,
        key: bytes,
        value: bytes | None,
        level: Durability,
        group: Group,
        need: int,
    ) -> int:
        """Put one operation into the open group. Under the mutex; there is room."""
        if level is ASYNC:
            return self._join_weak(state, key, value, group, need)
        items = group.items
        count = len(items)
        if count == 1:
            self._first(group)
        lsn = group.first_lsn + count // 3
        tag = state.delete_tag if value is None else state.put_tag
        group.size += need
        queue = group.sync if level is SYNC else group.buffered
        queued = Queued(lsn, value, group, level)
        items += (tag, key, value)
        queue += ((state, key, (lsn, value, None)),)  # append would be a call
        state.queued[key] = queued
        return lsn

    def _write_unlogged(self, state: TableState, key: bytes, value: bytes | None) -> None:
        """Write to a table that the log knows nothing of. Under the mutex."""
        engine = self._engine
        self._index.unlogged_version += 1
        engine.unlogged_writes += 1
        self._index.install(state, key, (self._index.unlogged_version, value, None))
        if engine.dirty_since is None:
            engine.note_dirty()
        if self._index.active_bytes > engine.flush_mark:
            engine.crossed()
