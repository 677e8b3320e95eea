"""The way of a write: admitted, given an LSN, queued or made visible, waited for.

    admit      budgets, a full disk, a closed store: no lock is held, nothing is logged yet
    join       under the mutex: one list extension gives the LSN and puts it into the group
    publish    ASYNC at once, BUFFERED when the frame is written, SYNC when it is synced
    wait       on the append lock (BUFFERED) or for the group's sync (SYNC)

A single write goes the short way first (`short_way`), which does all of it in one call where
nothing is in its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from strandline.engine.engine import Engine
from strandline.engine.joining import ASYNC, BUFFERED, ENTRY_COST, SYNC
from strandline.engine.layer import Entries, make_batch
from strandline.engine.short_way import GONE, FastPut, short_way
from strandline.engine.table_state import Queued, TableState
from strandline.engine.updates import Updates
from strandline.errors import BatchTooLargeError
from strandline.options import Durability
from strandline.wal.group import OPERATION_OVERHEAD, Group, Wake

Parts = list[tuple[TableState, list[bytes], list[bytes | None]]]
"""The operations of a commit by table: keys, and values with None for a delete."""

_APPENDED_KEY_BYTES: Final = 8


class WritePath(Updates):
    """Writes of one store. Every method may be called by any thread."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.fast: FastPut | None = short_way(engine)

    # ---- one operation

    def write(
        self, state: TableState, key: bytes, value: bytes | None, level: Durability
    ) -> int | None:
        """Put a value, or delete the key where it is None; return the LSN."""
        if self.fast is not None:
            done = self.fast(state, key, GONE if value is None else value, level)
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
            ("max_dirty_bytes", options.max_dirty_bytes, need + count * ENTRY_COST),
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


def _pass_gates(parts: Parts) -> None:
    """Raise where one of the tables takes no writes.

    Not written out where the mutex is held: Python 3.13 leaves a jump back in a loop out of
    what a `with` statement around it covers, and an interrupt there would keep the lock.
    """
    for state, _, _ in parts:
        if state.gate is not None:
            state.gate()
