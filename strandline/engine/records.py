"""The stored record: what LMDB holds as the value of a key.

    from the end  bytes  field
                      .  value, from the start of the record
             -25      8  expiry, only where flag 0x01 is set (no writer of this version sets it)
             -17      8  LSN of the operation that wrote it, little-endian; a counter in an
                         unlogged table
              -9      1  flags
              -8      8  digest: xxh3-64, big-endian, over everything before it

The digest's seed is the xxh3-64 of the key, whose own seed is the table id, so that a
record found under another key or in another table does not verify. LMDB has no checksums
of its own: every read goes through here, and a value comes back only if its digest holds.

The value comes first, so that a verified record becomes its value by being cut short.

A record whose digest holds but whose flags this version does not know was written by a
newer one and is refused, never guessed at. Table id 0 is the metadata database's.

Turned down: a CRC (32 bits are few for data that is kept for years), and one hash over
key and record together (joining them copies every value once more).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from xxhash import xxh3_64_digest as _digest
from xxhash import xxh3_64_intdigest as _seed

from strandline.errors import ForeignStoreError, StoreCorruptionError
from strandline.native import native

DIGEST_BYTES: Final = 8
FLAGS_AT: Final = -9
LSN_AT: Final = -17
TRAILER_BYTES: Final = 17
"""What follows the value."""
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


Items = list[tuple[bytes, bytes]]


def encode(table_id: int, key: bytes, lsn: int, value: bytes) -> bytes:
    """Return the record of one value."""
    # Nine little-endian bytes are the LSN and a flags byte of zero.
    head = value + lsn.to_bytes(9, "little")
    return head + _digest(head, _seed(key, table_id))


def encode_slice(table_id: int, keys: list[bytes], entries: list[Entry]) -> Items:
    """Return (key, record) for each entry with a value; tombstones are passed over."""
    return [
        (key, encode(table_id, key, lsn, value))
        for key, (lsn, value, _) in zip(keys, entries, strict=True)
        if value is not None
    ]


def verified(table_id: int, key: bytes, record: bytes) -> bytes | None:
    """Return the value in a record, None where the record must be refused."""
    if len(record) < TRAILER_BYTES or record[FLAGS_AT]:
        return None
    if _digest(record[:-DIGEST_BYTES], _seed(key, table_id)) != record[-DIGEST_BYTES:]:
        return None
    return record[:-TRAILER_BYTES]


def verify_items(table_id: int, items: Items) -> int:
    """Turn a list of (key, record) that nobody else holds into one of (key, value), in place.

    Returns the index of the first that must be refused, which is left as it is; -1 if there
    is none.
    """
    for index, (key, record) in enumerate(items):
        value = verified(table_id, key, record)
        if value is None:
            return index
        items[index] = (key, value)
    return -1


PYTHON: Final = (encode_slice, verified, verify_items)
"""The functions of this module that have twins in C, as they are without them."""

if native is not None:
    encode_slice, verified, verify_items = (
        native.encode_slice,
        native.verified,
        native.verify_items,
    )


def value_of(table_id: int, key: bytes, record: bytes, origin: Origin) -> bytes:
    """Return the value in a record.

    Raises:
        StoreCorruptionError: the digest does not hold.
        ForeignStoreError: it holds, and the record is of a newer format.
    """
    value = verified(table_id, key, record)
    if value is None:
        raise _refusal(table_id, key, record, origin)
    return value


def values_of(table_id: int, items: Items, origin: Origin) -> Items:
    """Turn a list of (key, record) that nobody else holds into one of (key, value).

    Raises as `value_of` does for the first bad one.
    """
    bad = verify_items(table_id, items)
    if bad >= 0:
        raise _refusal(table_id, *items[bad], origin)
    return items


def lsn_and_value_of(table_id: int, key: bytes, record: bytes, origin: Origin) -> tuple[int, bytes]:
    """Return the LSN and the value in a record; raises as `value_of` does."""
    value = value_of(table_id, key, record, origin)
    return int.from_bytes(record[LSN_AT:FLAGS_AT], "little"), value


def _refusal(
    table_id: int, key: bytes, record: bytes, origin: Origin
) -> StoreCorruptionError | ForeignStoreError:
    """Return the error that says why a record is not accepted."""
    where = f"{origin.describe(table_id)}, key {key!r}"
    stated = record[-DIGEST_BYTES:]
    found = _digest(record[:-DIGEST_BYTES], _seed(key, table_id))
    if len(record) < TRAILER_BYTES or found != stated:
        return StoreCorruptionError(
            f"{where}: a record of {len(record)} bytes fails its checksum: expected xxh3-64 "
            f"{stated.hex() or 'of 8 bytes'}, found {found.hex()}; "
            "run `strandline check` to see what else is damaged, then restore a backup"
        )
    return ForeignStoreError(
        f"{where}: expected record flags 0x00, found 0x{record[FLAGS_AT]:02x}; "
        "a newer version of strandline wrote this record: open the store with that version"
    )
