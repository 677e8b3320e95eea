"""Replay: the log's operations go into the index again, and to LMDB where they are many.

Runs before the store takes writes. Operations are results, not steps, so replaying one
that LMDB has already changes nothing.
"""

from __future__ import annotations

from itertools import repeat
from types import ModuleType
from typing import Any, Final

from strandline.engine.catalog import TableRow
from strandline.engine.definitions import forget_table
from strandline.engine.engine import Engine
from strandline.engine.layer import ENTRY_BYTES, weight
from strandline.engine.operations import (
    CLEAR,
    CREATE,
    DELETE,
    DROP,
    OPERATION_MASK,
    PUT,
    TAG_SHIFT,
    VOID,
    PayloadError,
    decode_creation,
    decode_items,
)
from strandline.engine.table_state import TableState
from strandline.native import native
from strandline.wal.reader import Batch

_FLUSH_SHARE: Final = 0.5


class Replay:
    """Applies frames in the log's order."""

    def __init__(self, engine: Engine, *, salvage: bool) -> None:
        """Replay into `engine`, which was not started.

        With `salvage` an operation on a table whose creation was lost makes the table
        up; otherwise it is an error.
        """
        self._engine = engine
        self._salvage = salvage
        self._known_id = engine.highest_table_id
        """Ids up to here were given out before: a table that is not there was dropped."""
        self._dropped: set[int] = set()
        self.lsn = 0
        """The first LSN of the frame that was looked at last, operation by operation."""
        self.operations = 0
        self.frames = 0
        self.bytes = 0

    def apply(self, frames: Batch, after_lsn: int) -> None:
        """Apply the operations of frames in a row whose LSN is above `after_lsn`.

        Raises PayloadError where a payload makes no sense although its checksum holds;
        `lsn` is the first LSN of its frame then.
        """
        at = 0
        while at < len(frames):
            if native is not None:
                at = self._apply_plain(native, frames, at, after_lsn)
            if at < len(frames):
                self.lsn, count, payload = frames[at]
                self._apply_frame(self.lsn, count, payload, after_lsn)
                at += 1

    def _apply_plain(self, native: ModuleType, frames: Batch, at: int, after_lsn: int) -> int:
        """Apply puts and deletes until something else comes; return the index of that."""
        engine = self._engine
        entries = {state.id: state.entries for state in engine.index.states.values()}
        room = int(engine.options.max_dirty_bytes * _FLUSH_SHARE) - engine.index.active_bytes
        end, size, fresh, operations = native.replay(frames, at, after_lsn, entries, max(1, room))
        if end > at:
            # An overwritten entry is counted by its new size only, as in `_put_all`.
            engine.index.active_bytes += size + fresh * ENTRY_BYTES
            first_lsn, count, _ = frames[end - 1]
            done = frames[at:end]
            self._note(first_lsn + count - 1, operations, sum([len(f[2]) for f in done]), len(done))
        return int(end)

    def _apply_frame(self, first_lsn: int, count: int, payload: bytes, after_lsn: int) -> None:
        """Apply one frame of any kind."""
        items = decode_items(payload, count)
        if count == 1 and first_lsn > after_lsn:
            self._apply_one(first_lsn, items[1], items[2], items[3])
            self._note(first_lsn, 1, len(payload))
            return
        tags, keys, values = items[1::3], items[2::3], items[3::3]
        skip = max(0, after_lsn - first_lsn + 1)
        if skip:
            tags, keys, values = tags[skip:], keys[skip:], values[skip:]
            first_lsn += skip
        state = self._only_puts(tags, keys, values)
        if state is not None:
            self._put_all(state, first_lsn, keys, values)
        else:
            for lsn, (tag, key, value) in enumerate(
                zip(tags, keys, values, strict=True), first_lsn
            ):
                self._apply_one(lsn, tag, key, value)
        self._note(first_lsn + len(tags) - 1, len(tags), len(payload))

    def _note(self, last_lsn: int, operations: int, length: int, frames: int = 1) -> None:
        """Count frames; flush where replayed entries have become many."""
        self.operations += operations
        self.frames += frames
        self.bytes += length
        engine = self._engine
        engine.replayed_lsn = last_lsn
        if engine.index.active_bytes > engine.options.max_dirty_bytes * _FLUSH_SHARE:
            engine.checkpointer.run_or_raise()
            engine.checkpointer.free_retired()  # its thread, which does so later, is not there yet

    def _only_puts(self, tags: list[Any], keys: list[Any], values: list[Any]) -> TableState | None:
        """Return the table if all operations are puts to it: the common case, done in C."""
        if not tags or tags.count(tags[0]) != len(tags) or type(tags[0]) is not int:
            return None
        if tags[0] & OPERATION_MASK != PUT:
            return None
        if {*map(type, keys), *map(type, values)} != {bytes}:
            return None
        return self._engine.index.states.get(tags[0] >> TAG_SHIFT)

    def _put_all(
        self, state: TableState, first_lsn: int, keys: list[bytes], values: list[bytes]
    ) -> None:
        entries, before = state.entries, len(state.entries)
        lsns = range(first_lsn, first_lsn + len(keys))
        entries.update(zip(keys, zip(lsns, values, repeat(None)), strict=True))
        # An overwritten entry is counted by its new size only: memory is never undercounted
        # by more than what the garbage collector gets back.
        new = len(entries) - before
        size = sum(map(len, keys)) + sum(map(len, values))
        self._engine.index.active_bytes += size + new * weight(b"", (0, None, None))

    def _apply_one(self, lsn: int, tag: Any, key: Any, value: Any) -> None:
        if type(tag) is not int or tag < 0:
            raise PayloadError(f"LSN {lsn}: expected a tag, found {tag!r}")
        op, table_id = tag & OPERATION_MASK, tag >> TAG_SHIFT
        if op == VOID:
            return
        if table_id < 1:
            raise PayloadError(f"LSN {lsn}: an operation on table {table_id}, which never is")
        if op in (CREATE, DROP):
            self._define(lsn, op, table_id, key, value)
            return
        if op not in (CLEAR, PUT, DELETE):
            raise PayloadError(f"LSN {lsn}: unknown operation {op}")
        state = self._engine.index.states.get(table_id)
        if state is None:
            if table_id <= self._known_id or table_id in self._dropped:
                # Ids are never used again: it was dropped. Where the drop was interrupted, writes
                # to the table can lie behind it.
                return
            if not self._salvage:
                raise PayloadError(f"LSN {lsn}: an operation on table {table_id}, which is unknown")
            self._engine.made_up.add(table_id)
            state = self._create(table_id, f"salvaged-{table_id}", "bytes", logged=True)
        if op == CLEAR:
            self._engine.index.clear(state)
        elif type(key) is not bytes or (type(value) is bytes) != (op == PUT):
            raise PayloadError(f"LSN {lsn}: a put or delete without what it needs")
        else:
            self._engine.index.install(state, key, (lsn, value, None))

    def _define(self, lsn: int, op: int, table_id: int, key: Any, value: Any) -> None:
        """Apply the creation or the end of a table; LMDB may have it already."""
        state = self._engine.index.states.get(table_id)
        if op == DROP:
            self._dropped.add(table_id)
            if state is not None:
                forget_table(self._engine, state)
        elif state is None:
            name, codec, logged = self._creation(lsn, key, value)
            self._forget_namesake(name)
            self._create(table_id, name, codec, logged=logged)

    def _creation(self, lsn: int, key: Any, value: Any) -> tuple[str, str, bool]:
        try:
            return decode_creation(key, value)
        except PayloadError as error:
            raise PayloadError(f"LSN {lsn}: {error}") from error

    def _forget_namesake(self, name: str) -> None:
        """Forget a table whose name is given away anew: it was dropped, and that was lost."""
        for state in [*self._engine.index.states.values()]:
            if state.name == name:
                self._dropped.add(state.id)
                forget_table(self._engine, state)

    def _create(self, table_id: int, name: str, codec: str, *, logged: bool) -> TableState:
        row = TableRow(table_id, name, codec, logged)
        state = self._engine.add_table(row)
        self._engine.definitions.append(row)
        return state
