"""The metadata of an LMDB environment: `python -m fuzz.catalog`."""

from __future__ import annotations

from typing import Any

from fuzz.harness import run
from strandline.engine.catalog import (
    CATALOG_KEY,
    ENTRIES_KEY,
    FORMAT_KEY,
    META_TABLE_ID,
    STORE_FORMAT,
    WATERMARK_KEY,
    read_metadata,
)
from strandline.engine.records import encode
from strandline.errors import StrandlineError

KEYS = (WATERMARK_KEY, CATALOG_KEY, ENTRIES_KEY, FORMAT_KEY)


class Rows:
    """A transaction that holds what it was given."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def get(self, key: bytes, default: Any, _database: object) -> Any:
        """Return a record."""
        return self._rows.get(key, default)


def parts_of(data: bytes) -> list[bytes]:
    """Return payloads that an input stands for: each after its length."""
    parts: list[bytes] = []
    while data and len(parts) < len(KEYS):
        length = data[0]
        parts.append(data[1 : 1 + length])
        data = data[1 + length :]
    return parts


def rows_of(parts: list[bytes]) -> dict[bytes, bytes]:
    """Return records whose digests hold."""
    rows = {FORMAT_KEY: STORE_FORMAT.to_bytes(4, "little")}
    rows.update(zip(KEYS, parts, strict=False))
    return {key: encode(META_TABLE_ID, key, 0, payload) for key, payload in rows.items()}


def target(data: bytes) -> None:
    """Read metadata: it makes sense, or an error of the tree says that it does not."""
    txn: Any = Rows(rows_of(parts_of(data)))
    meta: Any = None
    try:
        found = read_metadata(txn, meta, "data.mdb")
    except StrandlineError:
        return
    assert found.tables.keys() == found.entries.keys()
    assert all(0 < table_id <= found.highest_table_id for table_id in found.tables)
    assert all(table_id == row.id for table_id, row in found.tables.items())


if __name__ == "__main__":
    run(target)
