"""Small environments to test with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from strandline.engine.backing import Backing, Watermark
from strandline.engine.checkpoint_transaction import CheckpointTransaction
from strandline.engine.records import Entry, encode_slice
from strandline.options import Options

UUID: Final = bytes(range(16))
OPTIONS: Final = Options(map_bytes=1 << 26, max_readers=16, max_tables=8)


def put_slice(
    checkpoint: CheckpointTransaction,
    table_id: int,
    keys: Sequence[bytes],
    entries: Sequence[Entry],
) -> None:
    """Write the entries of sorted keys in a checkpoint."""
    gone = [key for key, entry in zip(keys, entries, strict=True) if entry[1] is None]
    checkpoint.put_rows(table_id, encode_slice(table_id, list(keys), list(entries)), gone)


def put(backing: Backing, state: dict[bytes, bytes | None], lsn: int) -> None:
    """Commit one checkpoint of the default table; None deletes a key."""
    keys = sorted(state)
    entries: list[Entry] = [(lsn, state[key], None) for key in keys]
    with backing.checkpoint() as checkpoint:
        put_slice(checkpoint, 1, keys, entries)
        checkpoint.commit(Watermark(UUID, 1, lsn))


def contents(backing: Backing, table_id: int = 1) -> dict[bytes, bytes]:
    """Return what a table holds as of the newest commit."""
    snapshot = backing.begin_snapshot()
    try:
        return dict(snapshot.chunk(table_id, None, None, reverse=False, limit=1 << 20))
    finally:
        snapshot.close()
