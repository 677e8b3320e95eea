"""The stored record: what it looks like, and that no change of it passes for a value."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine.records import (
    DIGEST_BYTES,
    LSN_LIMIT,
    TRAILER_BYTES,
    Entry,
    Origin,
    encode,
    encode_slice,
    lsn_and_value_of,
    value_of,
    values_of,
)
from strandline.errors import ForeignStoreError, StoreCorruptionError

ORIGIN = Origin("data/store/data.mdb", {7: "views"})

table_ids = st.integers(min_value=0, max_value=1 << 40)
keys = st.binary(min_size=1, max_size=511)
lsns = st.integers(min_value=0, max_value=LSN_LIMIT - 1)
values = st.binary(max_size=600)


def sealed(table_id: int, key: bytes, head: bytes) -> bytes:
    """Return a record of any contents with a digest that holds."""
    seed = xxhash.xxh3_64_intdigest(key, table_id)
    return head + xxhash.xxh3_64_digest(head, seed)


def test_the_layout_is_the_documented_one() -> None:
    """The bytes of a record are those that the module's docstring draws."""
    record = encode(7, b"key", 0x0102, b"value")
    assert record == bytes.fromhex("76616c7565 0201000000000000 00 99ec47947d929f9f")
    assert record == sealed(7, b"key", b"value" + b"\x02\x01\0\0\0\0\0\0" + b"\0")


@given(table_ids, keys, lsns, values)
def test_what_was_encoded_comes_back(table_id: int, key: bytes, lsn: int, value: bytes) -> None:
    """Every LSN and value come back as they went in."""
    record = encode(table_id, key, lsn, value)
    assert value_of(table_id, key, record, ORIGIN) == value
    assert lsn_and_value_of(table_id, key, record, ORIGIN) == (lsn, value)
    assert values_of(table_id, [(key, record)], ORIGIN) == [(key, value)]


@given(table_ids, st.dictionaries(keys, st.tuples(lsns, st.none() | values), max_size=20))
def test_a_slice_is_encoded_as_its_entries_are(
    table_id: int, state: dict[bytes, tuple[int, bytes | None]]
) -> None:
    """encode_slice gives what encode gives, and passes over tombstones."""
    entries: list[Entry] = [(lsn, value, None) for lsn, value in state.values()]
    expected = [
        (key, encode(table_id, key, lsn, value))
        for key, (lsn, value) in state.items()
        if value is not None
    ]
    assert encode_slice(table_id, list(state), entries) == expected


@given(table_ids, keys, lsns, st.binary(max_size=40), st.integers(min_value=1, max_value=255))
def test_every_changed_byte_is_noticed(
    table_id: int, key: bytes, lsn: int, value: bytes, change: int
) -> None:
    """Whatever byte of a record is changed to whatever else, no value comes back."""
    record = encode(table_id, key, lsn, value)
    for offset in range(len(record)):
        damaged = bytearray(record)
        damaged[offset] ^= change
        with pytest.raises(StoreCorruptionError):
            value_of(table_id, key, bytes(damaged), ORIGIN)
        with pytest.raises(StoreCorruptionError):
            values_of(table_id, [(key, record), (key, bytes(damaged))], ORIGIN)


@given(table_ids, keys, lsns, st.binary(max_size=40))
def test_every_length_but_its_own_is_noticed(
    table_id: int, key: bytes, lsn: int, value: bytes
) -> None:
    """A record that was cut or made longer gives no value."""
    record = encode(table_id, key, lsn, value)
    for length in range(len(record)):
        with pytest.raises(StoreCorruptionError):
            value_of(table_id, key, record[:length], ORIGIN)
    with pytest.raises(StoreCorruptionError):
        value_of(table_id, key, record + b"\0", ORIGIN)


@given(table_ids, keys, lsns, values, st.integers(min_value=1, max_value=1 << 40), st.binary())
def test_a_record_belongs_to_its_key_and_table(
    table_id: int, key: bytes, lsn: int, value: bytes, other_id: int, more: bytes
) -> None:
    """A sound record found in another table or under another key gives no value."""
    record = encode(table_id, key, lsn, value)
    if other_id != table_id:
        with pytest.raises(StoreCorruptionError):
            value_of(other_id, key, record, ORIGIN)
    if more:
        with pytest.raises(StoreCorruptionError):
            value_of(table_id, key + more, record, ORIGIN)


@pytest.mark.parametrize("length", range(TRAILER_BYTES - DIGEST_BYTES))
def test_a_digest_over_less_than_a_trailer_is_not_enough(length: int) -> None:
    """A record too short for a trailer is damage, also where its digest holds."""
    record = sealed(7, b"k", bytes(length))
    for read in (value_of, lsn_and_value_of):
        with pytest.raises(StoreCorruptionError):
            read(7, b"k", record, ORIGIN)
    with pytest.raises(StoreCorruptionError):
        values_of(7, [(b"k", record)], ORIGIN)


@pytest.mark.parametrize("flags", [0x01, 0x02, 0x80, 0xFF])
def test_flags_of_a_newer_format_are_refused(flags: int) -> None:
    """A record whose digest holds and whose flags are unknown is never read as a value."""
    record = sealed(7, b"k", b"v" + bytes(8) + bytes([flags]))
    for read in (value_of, lsn_and_value_of):
        with pytest.raises(ForeignStoreError, match=f"found 0x{flags:02x}; a newer version"):
            read(7, b"k", record, ORIGIN)
    with pytest.raises(ForeignStoreError):
        values_of(7, [(b"k", record)], ORIGIN)


def test_the_error_says_where_and_what() -> None:
    """The message names file, table, key, both digests, and the next step."""
    record = encode(7, b"caf\xc3\xa9\n", 1, b"value")
    damaged = b"X" + record[1:]
    with pytest.raises(StoreCorruptionError) as caught:
        value_of(7, b"caf\xc3\xa9\n", damaged, ORIGIN)
    message = str(caught.value)
    found = sealed(7, b"caf\xc3\xa9\n", damaged[:-DIGEST_BYTES])[-DIGEST_BYTES:]
    for part in (
        "data/store/data.mdb",
        "table 'views' (id 7)",
        r"key b'caf\xc3\xa9\n'",
        record[-DIGEST_BYTES:].hex(),
        found.hex(),
        "strandline check",
    ):
        assert part in message
