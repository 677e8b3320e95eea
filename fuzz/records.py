"""A stored value: `python -m fuzz.records`."""

from __future__ import annotations

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from fuzz.harness import run
from strandline.engine import records
from strandline.engine.records import DIGEST_BYTES, FLAGS_AT, LSN_AT, PYTHON, encode

_, python_verified, python_verify_items = PYTHON
TABLE_ID = 7


def target(data: bytes) -> None:
    """Verify a record in C and in Python, as it is and with a digest that holds."""
    length = data[0] % 32 if data else 0
    key, record = data[1 : 1 + length] or b"k", data[1 + length :]
    compare(key, record)
    head = record[:-DIGEST_BYTES]
    compare(key, head + xxh3_64_digest(head, xxh3_64_intdigest(key, TABLE_ID)))


def compare(key: bytes, record: bytes) -> None:
    """Hold the two against each other, and what they give against the encoding."""
    value = records.verified(TABLE_ID, key, record)
    assert python_verified(TABLE_ID, key, record) == value
    one, other = [(key, bytes(bytearray(record)))], [(key, record)]
    assert records.verify_items(TABLE_ID, one) == python_verify_items(TABLE_ID, other)
    assert one == other
    if value is not None:
        lsn = int.from_bytes(record[LSN_AT:FLAGS_AT], "little")
        assert encode(TABLE_ID, key, lsn, value) == record


if __name__ == "__main__":
    run(target)
