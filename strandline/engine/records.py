"""The stored record: what LMDB holds as the value of a key.

    offset  bytes  field
         0      8  digest: xxh3-64, big-endian, over everything from offset 8 on
         8      8  LSN of the operation that wrote it, little-endian; a counter in an unlogged table
        16      1  flags
        17      8  expiry, only where flag 0x01 is set (no writer of this version sets it)
        17      .  value, up to the end of the record

The digest's seed is the xxh3-64 of the key, whose own seed is the table id, so that a
record found under another key or in another table does not verify. LMDB has no checksums
of its own: every read goes through here, and a value comes back only if its digest holds.

A record whose digest holds but whose flags this version does not know was written by a
newer one and is refused, never guessed at. Table id 0 is the metadata database's.

Turned down: a CRC (32 bits are few for data that is kept for years), an integer digest
(`int.from_bytes` on every read costs more than comparing eight bytes), and one hash over
key and record together (joining them copies every value once more).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from xxhash import xxh3_64_digest as _digest
from xxhash import xxh3_64_intdigest as _seed

from strandline.errors import ForeignStoreError, StoreCorruptionError

DIGEST_BYTES: Final = 8
FLAGS_OFFSET: Final = 16
VALUE_OFFSET: Final = 17
LSN_LIMIT: Final = 1 << 64
"""LSNs are below this."""

Entry = tuple[int, bytes | None, Any]
"""What the index holds for a key: its LSN, its value (None is a tombstone), the entry below."""


class Origin(NamedTuple):
    """Where records were read from, for error messages alone."""

    path: str
    """The environment's data file."""
    names: Mapping[int, str]
    """Table id to table name."""

    def describe(self, table_id: int) -> str:
        """Name the file and the table."""
        if table_id == 0:
            return f"{self.path}: metadata"
        return f"{self.path}: table {self.names.get(table_id, '?')!r} (id {table_id})"


def encode(table_id: int, key: bytes, lsn: int, value: bytes) -> bytes:
    """Return the record of one value."""
    # Nine little-endian bytes are the LSN and a flags byte of zero.
    tail = lsn.to_bytes(9, "little") + value
    return _digest(tail, _seed(key, table_id)) + tail


def encode_slice(
    table_id: int, keys: Iterable[bytes], entries: Iterable[Entry]
) -> list[tuple[bytes, bytes]]:
    """Return (key, record) for each entry with a value; tombstones are passed over."""
    return [
        (key, _digest(tail := lsn.to_bytes(9, "little") + value, _seed(key, table_id)) + tail)
        for key, (lsn, value, _) in zip(keys, entries, strict=True)
        if value is not None
    ]


def value_of(table_id: int, key: bytes, record: bytes, origin: Origin) -> bytes:
    """Return the value in a record.

    Raises:
        StoreCorruptionError: the digest does not hold.
        ForeignStoreError: it holds, and the record is of a newer format.
    """
    try:
        if (
            _digest(record[DIGEST_BYTES:], _seed(key, table_id)) == record[:DIGEST_BYTES]
            and not record[FLAGS_OFFSET]
        ):
            return record[VALUE_OFFSET:]
    except IndexError:
        # A digest that holds over less than a header: refused below.
        pass
    raise _refusal(table_id, key, record, origin)


def values_of(
    table_id: int, items: Sequence[tuple[bytes, bytes]], origin: Origin
) -> list[tuple[bytes, bytes]]:
    """Return (key, value) for each (key, record); raises as `value_of` does for the first bad one.

    The same check as there, without a call for each record.
    """
    try:
        found = [
            (key, record[VALUE_OFFSET:])
            for key, record in items
            if _digest(record[DIGEST_BYTES:], _seed(key, table_id)) == record[:DIGEST_BYTES]
            and not record[FLAGS_OFFSET]
        ]
    except IndexError:
        found = []
    if len(found) != len(items):
        for key, record in items:
            value_of(table_id, key, record, origin)
    return found


def lsn_and_value_of(table_id: int, key: bytes, record: bytes, origin: Origin) -> tuple[int, bytes]:
    """Return the LSN and the value in a record; raises as `value_of` does."""
    value = value_of(table_id, key, record, origin)
    return int.from_bytes(record[DIGEST_BYTES:FLAGS_OFFSET], "little"), value


def _refusal(
    table_id: int, key: bytes, record: bytes, origin: Origin
) -> StoreCorruptionError | ForeignStoreError:
    """Return the error that says why a record is not accepted."""
    where = f"{origin.describe(table_id)}, key {key!r}"
    found = _digest(record[DIGEST_BYTES:], _seed(key, table_id))
    if len(record) < VALUE_OFFSET or found != record[:DIGEST_BYTES]:
        return StoreCorruptionError(
            f"{where}: a record of {len(record)} bytes fails its checksum: expected xxh3-64 "
            f"{record[:DIGEST_BYTES].hex() or 'of 8 bytes'}, found {found.hex()}; "
            "run `strandline check` to see what else is damaged, then restore a backup"
        )
    return ForeignStoreError(
        f"{where}: expected record flags 0x00, found 0x{record[FLAGS_OFFSET]:02x}; "
        "a newer version of strandline wrote this record: open the store with that version"
    )
