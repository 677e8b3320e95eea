"""The way of a write: admitted, given an LSN, queued or made visible, waited for.

    admit      budgets, a full disk, a closed store: no lock is held, nothing is logged yet
    join       under the mutex: one list extension gives the LSN and puts it into the group
    publish    ASYNC at once, BUFFERED when the frame is written, SYNC when it is synced
    wait       on the append lock (BUFFERED) or for the group's sync (SYNC)

Between putting an operation into the group and making it visible or queueing it there
is no call after which the interpreter would look for signals. So a KeyboardInterrupt
finds it done in both places or in neither.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

from strandline.engine.engine import Engine
from strandline.engine.layer import (
    ENTRY_BYTES,
    Entries,
    Entry,
    View,
    linked,
    make_batch,
    weight,
)
from strandline.engine.table_state import Queued, TableState
from strandline.errors import BatchTooLargeError, InvalidRequestError
from strandline.native import native
from strandline.options import Durability
from strandline.wal.group import OPERATION_OVERHEAD, Group, Wake
from strandline.wal.log import GATE_TIMEOUT
from strandline.wal.log_queues import FRAME_SLACK
from strandline.wal.real_disk import RealFile
from strandline.wal.segments import Segment

ASYNC: Final = Durability.ASYNC
BUFFERED: Final = Durability.BUFFERED
SYNC: Final = Durability.SYNC

Parts = list[tuple[TableState, list[bytes], list[bytes | None]]]
"""The operations of a commit by table: keys, and values with None for a delete."""

_ENTRY_COST: Final = ENTRY_BYTES - OPERATION_OVERHEAD
"""What an entry counts for in the memory budget beyond what it needs in the log."""

_APPENDED_KEY_BYTES: Final = 8

_GONE: Final = object()
"""What a delete hands to the short way for a value."""

KEEP: Final = object()
"""What the decision of a read-modify-write gives to leave the key as it is."""

FastPut = Callable[[TableState, Any, Any, Any], Any]
"""From table, key, value and level to the LSN, or for SYNC to what `WritePath.wait` takes. None
where nothing was done: an argument is not acceptable, or something is in the way."""

Decide = Callable[[bytes | None], tuple[Any, Any]]
"""From the newest value to (answer, new value, None to delete, or KEEP)."""


class _Decided(NamedTuple):
    """The answer of a read-modify-write, and what has to be durable before it is given."""

    answer: Any
    level: Durability = ASYNC
    group: Group | None = None
    lsn: int = 0
    gate: Wake | None = None


class WritePath:
    """Writes of one store. Every method may be called by any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = engine.log
        self._index = engine.index
        self._mutex = engine.log.mutex
        self._owned = engine.log.mutex._is_owned
        self._append_owned = engine.log.append_lock._is_owned
        self._sync_owned = engine.log.sync_lock._is_owned
        self._now = engine.runtime.monotonic
        self.fast: FastPut | None = _fast_put(engine)
        """Does a single write weaker than SYNC where nothing is in its way, or gives None."""

    # ---- one operation

    def write(
        self, state: TableState, key: bytes, value: bytes | None, level: Durability
    ) -> int | None:
        """Put a value, or delete the key where it is None; return the LSN."""
        if self.fast is not None:
            done = self.fast(state, key, _GONE if value is None else value, level)
            if done is not None:
                return done if type(done) is int else self.wait(done)
        return self._write(state, key, value, level)

    def wait(self, joined: tuple[int, Group, Wake | None]) -> int:
        """Return the LSN of a SYNC write that has joined a group, when it is on disk."""
        lsn, group, gate = joined
        self._log.wait_synced(group, gate)
        return lsn

    def _write(
        self, state: TableState, key: bytes, value: bytes | None, level: Durability
    ) -> int | None:
        """Go the long way, which is open at every time."""
        engine, log = self._engine, self._log
        need = len(key) + OPERATION_OVERHEAD
        if value is not None:
            need += len(value)
        if self._owned() or (level is not ASYNC and (self._append_owned() or self._sync_owned())):
            self._refuse_reentry()
        if engine.attention:
            engine.admit(need)
        if level is not SYNC and self._now() > log.stall_at:
            log.relieve()
        while True:
            with self._mutex:
                if state.gate is not None:
                    state.gate()
                if not state.logged:
                    self._write_unlogged(state, key, value)
                    return None
                group = log.group
                if group.size + need <= group.limit:
                    if level is ASYNC:
                        return self._join_weak(state, key, value, group, need)
                    lsn = self._join(state, key, value, level, group, need)
                    gate = log.elect(group) if level is SYNC else None
                    break
            log.make_room(need)
        if level is SYNC:
            log.wait_synced(group, gate)
        else:
            log.wait_written(group, lsn)
        return lsn

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
            index.active_bytes += need + _ENTRY_COST
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

    def append(
        self, state: TableState, encode: Callable[[int], bytes], value: bytes, level: Durability
    ) -> int:
        """Put a value under a key made of its own LSN; return that number.

        In an unlogged table, which has no LSNs, the number is one above the last key's.
        """
        engine, log = self._engine, self._log
        need = _APPENDED_KEY_BYTES + OPERATION_OVERHEAD + len(value)
        self._guard(level)
        if engine.attention:
            engine.admit(need)
        if level is not SYNC and self._now() > log.stall_at:
            log.relieve()
        while True:
            with self._mutex:
                if state.gate is not None:
                    state.gate()
                if not state.logged:
                    assert state.append_at is not None, "the table looks for its last key first"
                    state.append_at += 1
                    self._write_unlogged(state, encode(state.append_at), value)
                    return state.append_at
                group = log.group
                if group.size + need <= group.limit:
                    lsn = log.next_lsn()
                    self._join(state, encode(lsn), value, level, group, need)
                    gate = log.elect(group) if level is SYNC else None
                    break
            log.make_room(need)
        if level is SYNC:
            log.wait_synced(group, gate)
        elif level is BUFFERED:
            log.wait_written(group, lsn)
        return lsn

    # ---- several operations, one commit

    def write_batch(self, parts: Parts, level: Durability, size: int | None = None) -> int | None:
        """Write all keys of all parts as one commit; return its last LSN.

        `size` is the length of all keys and values together, for whoever knows it. Either
        all parts are of logged tables or all of unlogged ones. A key that occurs twice in a
        part keeps its last value.
        """
        engine, log = self._engine, self._log
        count = sum(len(keys) for _, keys, _ in parts)
        if not count:
            return None
        if size is None:
            size = sum(
                sum(map(len, keys)) + sum([len(v) for v in values if v is not None])
                for _, keys, values in parts
            )
        need = count * OPERATION_OVERHEAD + OPERATION_OVERHEAD + size
        self._check_batch(count, need)
        self._guard(level)
        if engine.attention:
            engine.admit(need)
        if level is not SYNC and self._now() > log.stall_at:
            log.relieve()
        while True:
            with self._mutex:
                _pass_gates(parts)
                if not parts[0][0].logged:
                    self._batch_unlogged(parts)
                    return None
                group = log.group
                if group.size + need <= group.limit:
                    last = self._join_batch(parts, count, level, group, need)
                    gate = log.elect(group) if level is SYNC else None
                    break
            log.make_room(need)
        if level is SYNC:
            log.wait_synced(group, gate)
        elif level is BUFFERED:
            log.wait_written(group, last)
        return last

    def _check_batch(self, count: int, need: int) -> None:
        options = self._engine.options
        for name, budget, size in (
            ("max_dirty_bytes", options.max_dirty_bytes, need + count * _ENTRY_COST),
            ("max_log_bytes", options.max_log_bytes, need),
        ):
            if size > budget // 2:
                where = "in memory" if name == "max_dirty_bytes" else "in the log"
                raise BatchTooLargeError(
                    f"a batch of {count:,} operations takes {size:,} bytes {where}, more than "
                    f"half of {name} ({budget:,}). Split it, or raise {name}; nothing was logged"
                )
        if count > options.lsn_block // 4:
            raise BatchTooLargeError(
                f"a batch of {count:,} operations needs more LSNs than a quarter of lsn_block "
                f"({options.lsn_block:,}). Split it; nothing was logged"
            )

    def _join_batch(
        self,
        parts: Parts,
        count: int,
        level: Durability,
        group: Group,
        need: int,
    ) -> int:
        if self._log.unfinished is not None:
            self._log.finish_commit()  # only one at a time is noted
        items = group.items
        if len(items) == 1:
            self._first(group)
        index = len(items) // 3
        first = group.first_lsn + index
        last = first + count - 1
        flat: list[Any] = []
        fresh: list[tuple[TableState, Entries]] = []
        lsn = first
        for state, keys, values in parts:
            operations, entries = make_batch(keys, values, lsn, state.put_tag, state.delete_tag)
            flat = flat + operations if flat else operations
            fresh.append((state, entries))
            lsn += len(keys)
        marks = items[0]
        if count > 1:
            marks = [*(marks or ()), index, count]
        commit = (fresh, first, last)
        # An ASYNC commit is noted as unfinished before it is published, so that an interrupt
        # in the middle of publishing is made good by whoever takes the mutex next.
        queue = group.sync if level is SYNC else group.buffered
        queued = [
            {key: Queued(e[0], e[1], group, level) for key, e in part.items()}
            for _, part in (fresh if level is not ASYNC else ())
        ]
        noting = map(dict.update, [state.queued for state, _ in fresh], queued)
        group.size += need
        items += flat
        items[0] = marks
        if level is ASYNC:
            self._log.unfinished = (last, [commit])
            self._log.finish_commit()
            return last
        queue += (commit,)
        deque(noting, 0)  # all of it in one call
        return last

    def _batch_unlogged(self, parts: Parts) -> None:
        for state, keys, values in parts:
            for key, value in zip(keys, values, strict=True):
                self._write_unlogged(state, key, value)

    # ---- read, modify, write

    def update(self, state: TableState, key: bytes, decide: Decide, level: Durability) -> Any:
        """Decide on the newest queued state of `key` and write what was decided, in one step.

        The answer is given only when the state that it was computed from is durable at
        its own level; if that fails, so does this.
        """
        engine, log = self._engine, self._log
        self._guard(SYNC)  # the level can turn out stronger than the one asked for
        if engine.attention:
            engine.admit(OPERATION_OVERHEAD + len(key))
        if level is not SYNC and self._now() > log.stall_at:
            log.relieve()
        fetched: tuple[Any, bytes | None] | None = None
        while True:
            with self._mutex:
                step = self._decide(state, key, decide, level, fetched)
            if isinstance(step, _Decided):
                break
            if isinstance(step, View):
                fetched = (step.below, step.below(key))  # LMDB may read from disk: no lock is held
                del step
            else:
                log.make_room(step)
        if step.level is SYNC and step.group is not None:
            log.wait_synced(step.group, step.gate)
        elif step.level is BUFFERED and step.group is not None:
            log.wait_written(step.group, step.lsn)
        return step.answer

    def _decide(
        self,
        state: TableState,
        key: bytes,
        decide: Decide,
        level: Durability,
        fetched: tuple[Any, bytes | None] | None,
    ) -> _Decided | View | int:
        """Decide and join, under the mutex; or say what has to be done first.

        A view: read the key from below it. A number: make room for so many bytes.
        """
        log = self._log
        log.settle()
        if state.gate is not None:
            state.gate()
        found, base, queued = self._newest(state, key)
        view = state.view
        if not found and view.reads_store:
            if fetched is None or fetched[0] is not view.below:
                return view
            base = fetched[1]
        del view  # an error that is kept would keep its layers with the traceback
        answer, value = decide(base)
        if value is KEEP:
            if queued is None:
                return _Decided(answer)
            gate = log.elect(queued.group) if queued.level is SYNC else None
            return _Decided(answer, queued.level, queued.group, queued.lsn, gate)
        if not state.logged:
            self._write_unlogged(state, key, value)
            return _Decided(answer)
        if queued is not None:
            level = _stronger(level, queued.level)
        group = log.group
        need = len(key) + OPERATION_OVERHEAD + len(value or b"")
        if group.size + need > group.limit:
            return need
        lsn = self._join(state, key, value, level, group, need)
        gate = log.elect(group) if level is SYNC else None
        return _Decided(answer, level, group, lsn, gate)

    def _newest(self, state: TableState, key: bytes) -> tuple[bool, bytes | None, Queued | None]:
        """Return whether memory knows the key, its newest value, and where that is queued."""
        queued = state.queued.get(key)
        for layer in state.view.layers:
            entry = layer.entries.get(key)
            if entry is not None:
                if queued is None or queued.lsn < entry[0]:
                    return True, entry[1], None
                break
        if queued is not None:
            return True, queued.value, queued
        return False, None, None

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


def _fast_put(engine: Engine) -> FastPut | None:
    """Return the short way of a single write, None without C."""
    if native is None:
        return None
    log, runtime = engine.log, engine.runtime
    # The system's own clocks are read without a call, where they are what Python's are.
    of_system = (
        runtime.monotonic is time.monotonic
        and runtime.time_ns is time.time_ns
        and sys.platform == "linux"
    )
    fast: FastPut = native.FastPut(
        engine=engine,
        state_type=TableState,
        group_type=Group,
        segment_type=Segment,
        file_type=RealFile,
        monotonic=None if of_system else runtime.monotonic,
        time_ns=None if of_system else runtime.time_ns,
        async_level=ASYNC,
        buffered_level=BUFFERED,
        sync_level=SYNC,
        gone=_GONE,
        make_lock=runtime.lock,
        queued_type=Queued,
        window=2 * log.log_interval,
        sync_window=2 * log.sync_interval,
        patience=GATE_TIMEOUT,
        finish=log.finish_frame,
        refused=log.refuse_frame,
        failed=log.raise_failed,
        epoch=log.epoch,
        entry_cost=_ENTRY_COST,
        slack=FRAME_SLACK,
        pressure_bytes=log.pressure_bytes,
        lsn_margin=log.lsn_block // 4,
        max_value_bytes=engine.options.max_value_bytes,
    )
    engine.index.publish_singles = fast.publish  # type: ignore[attr-defined]
    return fast


def _pass_gates(parts: Parts) -> None:
    """Raise where one of the tables takes no writes.

    Not written out where the mutex is held: Python 3.13 leaves a jump back in a loop out of
    what a `with` statement around it covers, and an interrupt there would keep the lock.
    """
    for state, _, _ in parts:
        if state.gate is not None:
            state.gate()


def _stronger(one: Durability, other: Durability) -> Durability:
    if SYNC in (one, other):
        return SYNC
    return BUFFERED if BUFFERED in (one, other) else ASYNC
