"""Small environments to test with."""

from __future__ import annotations

from typing import Final

from strandline.engine.backing import Backing, Watermark
from strandline.engine.records import Entry
from strandline.options import Options

UUID: Final = bytes(range(16))
OPTIONS: Final = Options(map_bytes=1 << 26, max_readers=16, max_tables=8)


def put(backing: Backing, state: dict[bytes, bytes | None], lsn: int) -> None:
    """Commit one checkpoint of the default table; None deletes a key."""
    keys = sorted(state)
    entries: list[Entry] = [(lsn, state[key], None) for key in keys]
    with backing.checkpoint() as checkpoint:
        checkpoint.put_slice(1, keys, entries)
        checkpoint.commit(Watermark(UUID, 1, lsn))


def contents(backing: Backing, table_id: int = 1) -> dict[bytes, bytes]:
    """Return what a table holds as of the newest commit."""
    snapshot = backing.begin_snapshot()
    try:
        return dict(snapshot.chunk(table_id, None, None, reverse=False, limit=1 << 20))
    finally:
        snapshot.close()
