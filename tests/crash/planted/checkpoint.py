"""Bugs in what a checkpoint writes to LMDB, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lmdb

from strandline.engine import catalog, rows
from strandline.engine.catalog import Watermark
from strandline.engine.checkpoint_transaction import CheckpointTransaction
from strandline.engine.checkpointer import Checkpointer
from strandline.engine.index import Index
from strandline.engine.layer import Layer
from strandline.engine.read_view import ReadView
from strandline.engine.records import Items
from strandline.wal.log import Log
from tests.crash.planted.bug import Planting, bug


@bug(breaks=1)
def watermark_one_too_high(planting: Planting) -> None:
    """A checkpoint's watermark is the next LSN, not the last one that it holds.

    The next operation counts as stored before it is written.
    """
    commit = CheckpointTransaction.commit

    def too_high(self: CheckpointTransaction, watermark: Watermark) -> None:
        commit(self, watermark._replace(lsn=watermark.lsn + 1))

    planting.replace(CheckpointTransaction, "commit", too_high)


@bug(breaks=2)
def committed_before_log_is_synced(planting: Planting) -> None:
    """A checkpoint commits operations whose frames are not on disk yet.

    "It is in the database anyway." After a power cut the database is ahead of the log.
    """

    def written_only(self: Log, lsn: int) -> None:
        self.drain()

    planting.replace(Log, "sync_through", written_only)


@bug(breaks=1)
def watermark_committed_first(planting: Planting) -> None:
    """The watermark is committed in a transaction of its own, before the data.

    As where it is kept in another file, or another table. A crash between the two lets
    recovery pass over what is in neither.
    """
    merge = Checkpointer._merge

    def early(self: Checkpointer) -> None:
        merge(self)
        engine = self._engine
        if engine.started:
            mark = Watermark(engine.log.uuid, engine.log.epoch, engine.index.cut_lsn)
            with engine.backing._live().begin(write=True) as txn:
                catalog.write_watermark(txn, engine.backing._meta, mark)

    planting.replace(Checkpointer, "_merge", early)


@bug(breaks=4)
def tombstones_not_stored(planting: Planting) -> None:
    """A checkpoint writes values and passes over tombstones.

    Deleted keys come back as soon as their tombstone has left memory.
    """
    put_rows = CheckpointTransaction.put_rows

    def values_only(
        self: CheckpointTransaction, table_id: int, items: Items, gone: list[bytes]
    ) -> None:
        put_rows(self, table_id, items, [])

    planting.replace(CheckpointTransaction, "put_rows", values_only)


@bug(breaks=4)
def tombstones_lost_in_merge(planting: Planting) -> None:
    """When a failed generation is merged under a newer one, tombstones drop out.

    A key without a value seems to need no place: what LMDB holds of it comes back.
    """
    replace_frozen = Index.replace_frozen

    def values_only(self: Index, merged: Mapping[int, Layer]) -> None:
        for layer in merged.values():
            for key in [key for key, entry in layer.entries.items() if entry[1] is None]:
                del layer.entries[key]
        replace_frozen(self, merged)

    planting.replace(Index, "replace_frozen", values_only)


@bug(breaks=4)
def clear_not_stored(planting: Planting) -> None:
    """A checkpoint writes what a cleared table holds now, over what it held before.

    The keys that were not written again are still there.
    """

    def without_clear(
        self: Checkpointer, txn: CheckpointTransaction, table_id: int, layer: Layer
    ) -> int:
        stored = 0
        for items, gone in rows.rows_of(layer, table_id, self._pause):
            txn.put_rows(table_id, items, gone)
            stored += len(items) + len(gone)
        return stored

    planting.replace(Checkpointer, "_write", without_clear)


@bug(breaks=1)
def newer_entries_cleared(planting: Planting) -> None:
    """When a flush is done, its keys are taken out of memory, whatever was written meanwhile.

    A dirty set is cleared by key, and a key that became dirty again goes with it.
    """
    drop_frozen = Index.drop_frozen

    def clear(self: Index, read_view: ReadView) -> ReadView:
        for state in self.states.values():
            for layer in state.frozen:
                for key in layer.entries:
                    state.entries.pop(key, None)
        return drop_frozen(self, read_view)

    planting.replace(Index, "drop_frozen", clear)


@bug(breaks=1)
def last_table_not_stored(planting: Planting) -> None:
    """A checkpoint leaves out the last of the tables that have something to be stored.

    A loop over pairs ends one before its end; with one table nobody sees it.
    """
    write = Checkpointer._write

    def all_but_last(
        self: Checkpointer, txn: CheckpointTransaction, table_id: int, layer: Layer
    ) -> int:
        dirty = [s.id for s in self._engine.index.states.values() if s.frozen]
        if len(dirty) > 1 and table_id == dirty[-1]:
            return 0
        return write(self, txn, table_id, layer)

    planting.replace(Checkpointer, "_write", all_but_last)


@bug(breaks=1)
def database_not_synced(planting: Planting) -> None:
    """LMDB is opened with sync=False: a commit is in the page cache, no more.

    It is twenty times faster, and the log seems to make up for it, until its segments go.
    """
    planting.replace(lmdb, "open", _open_with(sync=False))


@bug(breaks=11)
def database_meta_not_synced(planting: Planting) -> None:
    """LMDB is opened with metasync=False: a power cut can undo the last commit.

    The database stays whole. The log's segments were given back for that commit.
    """
    planting.replace(lmdb, "open", _open_with(metasync=False))


def _open_with(**options: bool) -> Any:
    opened = lmdb.open

    def lenient(path: str, **others: Any) -> lmdb.Environment:
        return opened(path, **{**others, **options})

    return lenient
