"""Bugs in tables, batches, updates, and in what the index keeps of them."""

from __future__ import annotations

import itertools
from typing import Any

from strandline.engine import definitions, records, replay
from strandline.engine.catalog import TableRow
from strandline.engine.checkpoint_transaction import CheckpointTransaction
from strandline.engine.definitions import Definitions, forget_table
from strandline.engine.engine import Engine
from strandline.engine.index import Index
from strandline.engine.layer import Entry, weight
from strandline.engine.table_state import Queued, TableState
from strandline.engine.updates import Updates
from strandline.engine.write_path import Parts, WritePath
from strandline.options import Durability
from tests.crash.planted.bug import Planting, bug


@bug(breaks=4)
def drop_not_logged(planting: Planting) -> None:
    """A table is dropped in memory, and the log does not hear of it.

    The next checkpoint makes it true; a crash before that brings the table back.
    """

    def drop(self: Definitions, name: str) -> None:
        state = self.find(name)
        assert state is not None, "scripts drop what is there"
        with self._engine.log.mutex:
            forget_table(self._engine, state)

    planting.replace(Definitions, "drop", drop)


@bug(breaks=4)
def table_ids_reused(planting: Planting) -> None:
    """A new table gets the id of one that was dropped.

    The lowest free number is taken, as for a file descriptor. What LMDB or the log still
    holds of the old table is the new one's.
    """
    add_table, create_table = Engine.add_table, CheckpointTransaction.create_table

    def add(self: Engine, row: TableRow) -> TableState:
        state = add_table(self, row)
        self.highest_table_id = _lowest_free(self.index) - 1
        return state

    def forget(engine: Engine, state: TableState) -> None:
        forget_table(engine, state)
        engine.highest_table_id = _lowest_free(engine.index) - 1

    def create(self: CheckpointTransaction, row: TableRow, *, made_up: bool = False) -> None:
        create_table(self, row, made_up=True)

    planting.replace(Engine, "add_table", add)
    planting.replace(definitions, "forget_table", forget)
    planting.replace(replay, "forget_table", forget)
    planting.replace(CheckpointTransaction, "create_table", create)


@bug(breaks=2)
def batch_in_several_frames(planting: Planting) -> None:
    """A batch is logged operation by operation.

    A helper calls the verb for one key in a loop. A crash in the middle leaves half of it.
    """
    write_batch = WritePath.write_batch

    def one_by_one(
        self: WritePath, parts: Parts, level: Durability, size: int | None = None
    ) -> int | None:
        last = None
        for state, keys, values in parts:
            for key, value in zip(keys, values, strict=True):
                last = write_batch(self, [(state, [key], [value])], level)
        return last

    planting.replace(WritePath, "write_batch", one_by_one)


@bug(breaks=2, in_python=True)
def batch_published_in_part(planting: Planting) -> None:
    """Of a batch over several tables only the first one's keys reach the index.

    The log holds all of it, memory a part, and LMDB what memory holds.
    """
    publish = Index.publish

    def first_only(self: Index, queued: list[Any]) -> None:
        publish(self, [_first_table(item) for item in queued])

    planting.replace(Index, "publish", first_only)


@bug(breaks=4, in_python=True)
def older_write_over_newer(planting: Planting) -> None:
    """What lands last is what is seen, whatever its LSN.

    A SYNC write that lands late replaces a weaker, newer one: in memory until the next
    recovery, in LMDB for good.
    """

    def install(self: Index, state: TableState, key: bytes, entry: Entry) -> None:
        if key not in state.entries:
            self.active_bytes += weight(key, entry)
        state.entries[key] = entry

    planting.replace(Index, "install", install)


@bug(breaks=2)
def update_from_visible_state(planting: Planting) -> None:
    """`incr` and its like compute from what readers see, not from what is queued.

    Two that come before the same sync count as one.
    """

    def newest(
        self: Updates, state: TableState, key: bytes
    ) -> tuple[bool, bytes | None, Queued | None]:
        for layer in state.view.layers:
            entry = layer.entries.get(key)
            if entry is not None:
                return True, entry[1], None
        return False, None, None

    planting.replace(Updates, "_newest", newest)


@bug(breaks=10, in_python=True)
def value_checksum_unchecked(planting: Planting) -> None:
    """What LMDB holds for a key is its value, whatever the digest says.

    LMDB has no checksums of its own: a flipped bit is read in silence.
    """

    def verified(table_id: int, key: bytes, record: bytes) -> bytes | None:
        return record[: -records.TRAILER_BYTES]

    planting.replace(records, "verified", verified)


def _first_table(item: Any) -> Any:
    """Return a queued commit with one table's keys alone, anything else as it is."""
    return (item[0][:1], *item[1:]) if type(item[0]) is list else item


def _lowest_free(index: Index) -> int:
    """Return the lowest table id that no living table has."""
    return next(number for number in itertools.count(1) if number not in index.states)
