"""Stored records in C: the bytes that Python writes, its refusals, and nothing shared changed."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine import records
from strandline.engine.records import LSN_LIMIT, TRAILER_BYTES, Entry, Items, encode
from strandline.native import native as loaded

if loaded is None:
    pytest.skip("the functions in C are not there", allow_module_level=True)

native: Any = loaded
python_encode_slice, python_verified, python_verify_items = records.PYTHON

LONGEST_VALUE = 1100
HASH_BORDERS = (0, 1, 3, 4, 8, 9, 16, 17, 32, 64, 96, 128, 129, 240, 241, 512, 1024, 1025, 2048)
"""Lengths around which XXH3 takes another way."""

table_ids = st.one_of(st.integers(0, 9), st.integers(0, (1 << 64) - 1))
keys = st.binary(min_size=1, max_size=511)
lsns = st.one_of(st.integers(0, 300), st.integers(0, LSN_LIMIT - 1))
values = st.one_of(st.binary(max_size=300), st.integers(200, 1100).map(lambda n: b"\xa5" * n))
entries = st.tuples(lsns, st.none() | values, st.none())
states = st.dictionaries(keys, entries, max_size=12)


def noise(length: int, seed: int = 0) -> bytes:
    """Return bytes that look like nothing in particular; the same for the same arguments."""
    return random.Random(length << 8 | seed).randbytes(length)


def with_digest(table_id: int, key: bytes, head: bytes) -> bytes:
    """Return a record of any contents whose digest holds."""
    return head + xxhash.xxh3_64_digest(head, xxhash.xxh3_64_intdigest(key, table_id))


def sole_items(table_id: int, state: dict[bytes, Entry]) -> Items:
    """Return rows as LMDB gives them: nobody else holds a tuple or a record in them."""
    return [
        (key, encode(table_id, key, lsn, value))
        for key, (lsn, value, _) in state.items()
        if value is not None
    ]


# ---- writing


def test_values_of_every_length_become_the_same_record() -> None:
    """Every branch of the hash over the record gives what xxhash gives."""
    all_keys = [noise(1 + length % 40) for length in range(LONGEST_VALUE + 1)]
    state: list[Entry] = [
        (length * 0x0101_0101, noise(length), None) for length in range(LONGEST_VALUE + 1)
    ]
    expected = python_encode_slice(3, all_keys, state)
    assert len(expected) == LONGEST_VALUE + 1
    assert expected == native.encode_slice(3, all_keys, state)


def test_keys_of_every_length_become_the_same_seed() -> None:
    """Every branch of the hash over the key gives what xxhash gives, with and without a seed."""
    all_keys = [noise(length, 1) for length in range(1, 512)]
    state: list[Entry] = [(7, b"value", None) for _ in all_keys]
    for table_id in (0, 1, 1 << 40, (1 << 64) - 1):
        assert python_encode_slice(table_id, all_keys, state) == native.encode_slice(
            table_id, all_keys, state
        )


@pytest.mark.parametrize("border", HASH_BORDERS)
@pytest.mark.parametrize("fill", [0x00, 0xFF])
def test_bytes_that_are_all_the_same_become_the_same_record(border: int, fill: int) -> None:
    """Carries and signs in the hash come out right where all bits are alike."""
    near = [length for length in range(border - 19, border + 3) if length >= 0]
    all_keys = [bytes([fill]) * (1 + length % 511) for length in near]
    state: list[Entry] = [(LSN_LIMIT - 1, bytes([fill]) * length, None) for length in near]
    table_id = (1 << 64) - 1 if fill else 0
    assert python_encode_slice(table_id, all_keys, state) == native.encode_slice(
        table_id, all_keys, state
    )


@given(table_ids, states)
def test_a_slice_is_encoded_as_in_python(table_id: int, state: dict[bytes, Entry]) -> None:
    """The rows, their order, and which tombstones are passed over are the same."""
    arguments = table_id, list(state), list(state.values())
    assert python_encode_slice(*arguments) == native.encode_slice(*arguments)


# ---- reading


def test_records_of_every_length_are_verified() -> None:
    """A record of any length gives its value back, alone and in a list."""
    items: Items = []
    for length in range(LONGEST_VALUE + 1):
        key = noise(1 + length % 511, 2)
        items.append((key, encode(9, key, length, noise(length))))
        assert noise(length) == native.verified(9, *items[-1])
    expected = [(key, noise(length)) for length, (key, _) in enumerate(items)]
    assert native.verify_items(9, items) == -1
    assert expected == items


@given(table_ids, keys, lsns, values, st.data())
def test_damage_is_refused_as_in_python(
    table_id: int, key: bytes, lsn: int, value: bytes, data: st.DataObject
) -> None:
    """One changed byte, another key, another table or fewer bytes: no value comes back."""
    record = encode(table_id, key, lsn, value)
    damaged = bytearray(record)
    damaged[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    cases = [
        (table_id, key, bytes(damaged)),
        (table_id, key, cut),
        (table_id, key + b"\0" if len(key) < 511 else key[:-1], record),
        (table_id ^ 1, key, record),
    ]
    for case in cases:
        assert python_verified(*case) is None
        assert native.verified(*case) is None
    assert value == native.verified(table_id, key, record)


@pytest.mark.parametrize("length", range(TRAILER_BYTES + 3))
def test_what_is_too_short_for_a_record_is_refused(length: int) -> None:
    """Nothing before a short record is read, even where its last bytes are a digest that holds."""
    for head in (bytes(length), b"\xff" * length):
        record = with_digest(5, b"key", head)[-length:] if length else b""
        expected = python_verified(5, b"key", record)
        assert expected == native.verified(5, b"key", record)
        short = with_digest(5, b"key", head[: max(0, length - 8)])[:length]
        expected = python_verified(5, b"key", short)
        assert (expected is None) == (length < TRAILER_BYTES or short[-9] != 0)
        assert expected == native.verified(5, b"key", short)


@pytest.mark.parametrize("flags", [1, 2, 0x80, 0xFF])
def test_newer_flags_are_refused(flags: int) -> None:
    """A record whose digest holds is refused all the same where it states any flag."""
    newer = with_digest(5, b"key", b"value" + bytes(8) + bytes([flags]))
    plain = with_digest(5, b"key", b"value" + bytes(8) + bytes(1))
    assert native.verified(5, b"key", newer) is None
    assert native.verified(5, b"key", plain) == b"value"
    items = [(b"key", plain), (b"key", newer)]
    assert native.verify_items(5, items) == 1
    assert items == [(b"key", b"value"), (b"key", newer)]


@given(table_ids, states, st.data())
def test_a_list_is_verified_up_to_the_first_refusal(
    table_id: int, state: dict[bytes, Entry], data: st.DataObject
) -> None:
    """The index is the first bad row's; those before it are values, the rest is as it was."""
    in_c, in_python = sole_items(table_id, state), sole_items(table_id, state)
    bad = data.draw(st.integers(0, 2 * len(in_c)))
    if bad < len(in_c):
        for items in (in_c, in_python):
            key, record = items[bad]
            items[bad] = key, record[:-1] + bytes([record[-1] ^ 1])
        del record
    expected = python_verify_items(table_id, in_python)
    assert expected == native.verify_items(table_id, in_c)
    assert in_python == in_c


# ---- in place


def test_a_record_that_nobody_else_holds_is_cut_short_in_place() -> None:
    """The row stays the same tuple and the record the same object, with nothing stale in it."""
    items = sole_items(1, {b"k%d" % n: (n, noise(n), None) for n in range(1, 600)})
    for _, record in items:
        hash(record)  # bytes remember their hash: that of the record must not stay with the value
    del _, record
    places = [id(item) for item in items]
    assert native.verify_items(1, items) == -1
    assert places == [id(item) for item in items]
    for n, (_, value) in enumerate(items, 1):
        assert noise(n) == value
        assert hash(noise(n)) == hash(value)
        assert sys.getsizeof(noise(n)) == sys.getsizeof(value)
    assert {noise(n) for n in range(1, 600)} == {value for _, value in items}


def test_an_empty_value_takes_the_place_of_its_record() -> None:
    """A record without a value becomes the one empty bytes object."""
    items = sole_items(1, {b"a": (1, b"", None), b"b": (2, b"x", None)})
    assert native.verify_items(1, items) == -1
    assert items == [(b"a", b""), (b"b", b"x")]


@given(st.lists(st.tuples(keys, values, st.sampled_from(["sole", "row", "record", "both"]))))
def test_what_somebody_else_holds_is_left_unchanged(
    rows: list[tuple[bytes, bytes, str]],
) -> None:
    """A shared record or row is copied: whoever holds it still sees the whole record."""
    items: Items = []
    held: list[tuple[Any, Any]] = []
    for index, (key, value, shared) in enumerate(rows):
        item = (key, encode(4, key, index, value))
        items.append(item)
        if shared in {"row", "both"}:
            held.append((item, (key, encode(4, key, index, value))))
        if shared in {"record", "both"}:
            held.append((item[1], encode(4, key, index, value)))
        del item
    assert native.verify_items(4, items) == -1
    assert [(key, value) for key, value, _ in rows] == items
    for kept, expected in held:
        assert expected == kept


def test_a_record_that_is_in_the_list_twice_is_copied() -> None:
    """One object in several places is held more than once, and so is not cut short."""
    record = encode(1, b"k", 1, b"value")
    items = [(b"k", record), (b"k", record), (record, record)]
    del record
    assert native.verify_items(1, items) == 2
    assert [(b"k", b"value")] * 2 == items[:2]
    assert encode(1, b"k", 1, b"value") == items[2][0] == items[2][1]


def test_no_reference_is_kept_or_lost() -> None:
    """Keys, values and records are held as often after the calls as before."""
    key, value = noise(20), noise(50)
    record, older = encode(1, key, 1, value), noise(30)
    bad = record[:-1] + bytes([record[-1] ^ 1])
    before = [sys.getrefcount(o) for o in (key, value, record, older, bad)]
    for _ in range(50):
        native.encode_slice(1, [key, key], [(1, value, None), (2, None, (1, older, None))])
        native.verified(1, key, record)
        native.verified(1, key, bad)
        native.verify_items(1, [(key, record), (key, bad)])
        with pytest.raises(TypeError):
            native.encode_slice(1, [key, key], [(1, value, None), (2, 3, None)])
        with pytest.raises(TypeError):
            native.verify_items(1, [(key, record), (key, None)])
    assert before == [sys.getrefcount(o) for o in (key, value, record, older, bad)]


def test_no_memory_is_kept() -> None:
    """What the functions make is gone with their results."""
    key, record = noise(20), encode(1, noise(20), 1, noise(50))

    def work() -> None:
        for _ in range(300):
            native.encode_slice(1, [key], [(1, record, None)])
            native.verify_items(1, [(key, record)])
            native.verified(1, key, record)

    work()
    before = sys.getallocatedblocks()
    work()
    assert sys.getallocatedblocks() - before < 100


class Subclass(bytes):
    """Bytes, but not exactly."""


RECORD = encode(1, b"k", 1, b"v")
WRONG: dict[str, list[tuple[Any, ...]]] = {
    "encode_slice": [
        (),
        (1, [b"k"]),
        (1, [b"k"], []),
        (1, (b"k",), [(1, b"v", None)]),
        (1, [b"k"], ((1, b"v", None),)),
        (-1, [], []),
        (1 << 64, [], []),
        (1.0, [], []),
        (True, [], []),
        (1, ["k"], [(1, b"v", None)]),
        (1, [Subclass(b"k")], [(1, b"v", None)]),
        (1, [b"k"], [[1, b"v", None]]),
        (1, [b"k"], [(1,)]),
        (1, [b"k"], [()]),
        (1, [b"k"], [(-1, b"v", None)]),
        (1, [b"k"], [(1 << 64, b"v", None)]),
        (1, [b"k"], [(1, "v", None)]),
        (1, [b"k"], [(1, bytearray(b"v"), None)]),
        (1, None, None),
    ],
    "verified": [
        (),
        (1, b"k"),
        (1, b"k", RECORD, None),
        (None, b"k", RECORD),
        (-1, b"k", RECORD),
        (1, "k", RECORD),
        (1, b"k", bytearray(RECORD)),
        (1, b"k", memoryview(RECORD)),
        (1, b"k", Subclass(RECORD)),
        (1, b"k", None),
    ],
    "verify_items": [
        (),
        (1,),
        (1, [], []),
        (1, ()),
        ("1", []),
        (-1, []),
        (1, [None]),
        (1, [(b"k",)]),
        (1, [(b"k", RECORD, None)]),
        (1, [[b"k", RECORD]]),
        (1, [("k", RECORD)]),
        (1, [(b"k", None)]),
        (1, [(b"k", Subclass(RECORD))]),
    ],
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, cases in WRONG.items() for arguments in cases],
)
def test_wrong_arguments_are_type_errors(name: str, arguments: tuple[Any, ...]) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    with pytest.raises(TypeError):
        getattr(native, name)(*arguments)
