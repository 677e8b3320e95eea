"""The metadata database of the LMDB environment: what the store knows of itself.

    database  key          payload (inside a record, see records.py, table id 0)
    meta      format       u32 little-endian: STORE_FORMAT
    meta      watermark    16 bytes uuid, u64 epoch, u64 LSN, little-endian
    meta      catalog      msgpack [highest table id, [[id, name, codec, logged], ...]]
    meta      entries      msgpack {table id: number of entries}
    t<id>     the table's keys, with records as values

Every checkpoint commits `watermark` and `entries` in the transaction that holds its data,
so that the watermark can never promise what is not there, and so that a subtree that
rotted away shows as a count that does not fit. Table ids are never reused: `highest`
remembers the greatest ever used, also after its table was dropped.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import lmdb
import msgpack

from strandline.engine.records import Origin, encode, value_of
from strandline.errors import ForeignStoreError, StoreCorruptionError

STORE_FORMAT: Final = 1
DEFAULT_TABLE_ID: Final = 1
META_NAME: Final = b"meta"
META_TABLE_ID: Final = 0

FORMAT_KEY: Final = b"format"
WATERMARK_KEY: Final = b"watermark"
CATALOG_KEY: Final = b"catalog"
ENTRIES_KEY: Final = b"entries"

_U32: Final = struct.Struct("<I")
_WATERMARK: Final = struct.Struct("<16sQQ")


class Watermark(NamedTuple):
    """Up to where the log is in LMDB: every logged operation of `uuid` up to `lsn`."""

    uuid: bytes
    epoch: int
    lsn: int


class TableRow(NamedTuple):
    """What is stored about a table."""

    id: int
    name: str
    codec: str
    logged: bool


DEFAULT_TABLE: Final = TableRow(DEFAULT_TABLE_ID, "", "bytes", True)


class Metadata(NamedTuple):
    """The contents of the metadata database at one commit."""

    watermark: Watermark
    highest_table_id: int
    tables: dict[int, TableRow]
    entries: dict[int, int]
    """Per table id, how many keys it held when the last checkpoint committed."""


def database_name(table_id: int) -> bytes:
    """Return the name of a table's LMDB database."""
    return b"t%d" % table_id


def populate(env: lmdb.Environment, watermark: Watermark) -> None:
    """Describe an empty store in a new environment: the default table and nothing in it."""
    with env.begin(write=True) as txn:
        meta = env.open_db(META_NAME, txn=txn)
        env.open_db(database_name(DEFAULT_TABLE_ID), txn=txn)
        _put(txn, meta, FORMAT_KEY, 0, _U32.pack(STORE_FORMAT))
        write_catalog(txn, meta, 0, DEFAULT_TABLE_ID, {DEFAULT_TABLE_ID: DEFAULT_TABLE})
        write_entries(txn, meta, 0, {DEFAULT_TABLE_ID: 0})
        write_watermark(txn, meta, watermark)


def open_metadata(env: lmdb.Environment, path: str) -> lmdb._Database:
    """Open the metadata database; ForeignStoreError where there is none."""
    try:
        return env.open_db(META_NAME, create=False)
    except lmdb.NotFoundError as error:
        raise ForeignStoreError(
            f"{path}: expected a database {META_NAME!r}, found none; this LMDB environment "
            "was not made by strandline: open another path"
        ) from error


def open_tables(env: lmdb.Environment, metadata: Metadata, path: str) -> dict[int, lmdb._Database]:
    """Open the tables' databases and hold their lengths against what was committed."""
    databases = {}
    for row in metadata.tables.values():
        where = f"{path}: table {row.name!r} (id {row.id})"
        try:
            databases[row.id] = env.open_db(database_name(row.id), create=False)
        except (lmdb.NotFoundError, lmdb.IncompatibleError) as error:
            raise StoreCorruptionError(
                f"{where}: expected a database {database_name(row.id)!r}, found none; "
                "run `strandline check`, then restore a backup"
            ) from error
    with env.begin() as txn:
        for table_id, database in databases.items():
            found = txn.stat(database)["entries"]
            if found != metadata.entries[table_id]:
                name = metadata.tables[table_id].name
                raise StoreCorruptionError(
                    f"{path}: table {name!r} (id {table_id}): expected "
                    f"{metadata.entries[table_id]} entries, as the last checkpoint committed, "
                    f"found {found}; run `strandline check`, then restore a backup"
                )
    return databases


def write_watermark(
    txn: lmdb.Transaction[bytes], meta: lmdb._Database, watermark: Watermark
) -> None:
    """Set the watermark that the transaction commits."""
    _put(txn, meta, WATERMARK_KEY, watermark.lsn, _WATERMARK.pack(*watermark))


def write_entries(
    txn: lmdb.Transaction[bytes], meta: lmdb._Database, lsn: int, entries: dict[int, int]
) -> None:
    """Set the entry counts that the transaction commits."""
    _put(txn, meta, ENTRIES_KEY, lsn, msgpack.packb(entries))


def write_catalog(
    txn: lmdb.Transaction[bytes],
    meta: lmdb._Database,
    lsn: int,
    highest: int,
    tables: dict[int, TableRow],
) -> None:
    """Set the tables that the transaction commits."""
    rows = [list(row) for row in tables.values()]
    _put(txn, meta, CATALOG_KEY, lsn, msgpack.packb([highest, rows]))


def read_metadata(txn: lmdb.Transaction[bytes], meta: lmdb._Database, path: str) -> Metadata:
    """Read the metadata database at `path`.

    Raises:
        ForeignStoreError: no store of this program, or one of a newer format.
        StoreCorruptionError: a record is missing or damaged.
    """
    stated = txn.get(FORMAT_KEY, None, meta)
    if stated is None:
        raise ForeignStoreError(
            f"{path}: expected a metadata record {FORMAT_KEY!r}, found none; this LMDB "
            "environment was not made by strandline: open another path"
        )
    payload = value_of(META_TABLE_ID, FORMAT_KEY, stated, Origin(path, {}))
    if payload != _U32.pack(STORE_FORMAT):
        raise ForeignStoreError(
            f"{path}: expected store format {STORE_FORMAT}, found "
            f"{int.from_bytes(payload, 'little')}; open the store with the version of "
            "strandline that wrote it"
        )
    packed_watermark = _get(txn, meta, path, WATERMARK_KEY)
    packed_catalog = _get(txn, meta, path, CATALOG_KEY)
    packed_entries = _get(txn, meta, path, ENTRIES_KEY)
    try:
        watermark = Watermark(*_WATERMARK.unpack(packed_watermark))
        highest, rows = msgpack.unpackb(packed_catalog)
        tables = {row.id: row for row in [_row(*fields) for fields in rows]}
        entries = _counts(msgpack.unpackb(packed_entries, strict_map_key=False))
        if (
            not all(0 < table_id <= highest for table_id in tables)
            or entries.keys() != tables.keys()
        ):
            raise ValueError("table ids do not fit together")
    except (struct.error, TypeError, ValueError, msgpack.UnpackException) as error:
        raise StoreCorruptionError(
            f"{path}: metadata passes its checksum and does not make sense: {error}; "
            "run `strandline check`, then restore a backup"
        ) from error
    return Metadata(watermark, highest, tables, entries)


def _row(table_id: int, name: str, codec: str, logged: bool) -> TableRow:
    row = TableRow(table_id, name, codec, logged)
    if [type(item) for item in row] != [int, str, str, bool]:
        raise ValueError(f"{row} is no table")
    return row


def _counts(entries: Any) -> dict[int, int]:
    if not isinstance(entries, dict) or not all(
        type(item) is int for pair in entries.items() for item in pair
    ):
        raise ValueError("entry counts are not a map of integers")
    return entries


def _get(txn: lmdb.Transaction[bytes], meta: lmdb._Database, path: str, key: bytes) -> bytes:
    record = txn.get(key, None, meta)
    if record is None:
        raise StoreCorruptionError(
            f"{path}: expected a metadata record {key!r}, found none; "
            "run `strandline check`, then restore a backup"
        )
    return value_of(META_TABLE_ID, key, record, Origin(path, {}))


def _put(
    txn: lmdb.Transaction[bytes], meta: lmdb._Database, key: bytes, lsn: int, payload: bytes
) -> None:
    txn.put(key, encode(META_TABLE_ID, key, lsn, payload), db=meta)
