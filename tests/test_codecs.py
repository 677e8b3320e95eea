"""Table codecs: names, round trips, order, and stored bytes that do not decode."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.codecs import ABSENT, MAX_DEPTH, Absent, get_codec
from strandline.errors import InvalidRequestError, InvalidTypeError, StoreCorruptionError

KEYS = ("bytes", "utf-8", "int64")
VALUES = ("bytes", "utf-8", "msgpack", "json")
ALL_NAMES = [f"{key}/{value}" for key, value in itertools.product(KEYS, VALUES)]

text = st.text(st.characters(exclude_categories=["Cs"]))
int64 = st.integers(-(2**63), 2**63 - 1)


def _nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=20,
    )


msgpack_values = _nested(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | text
    | st.binary(),
    text | st.binary() | int64,
)
json_values = _nested(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    text,
)


def _same(left: Any, right: Any) -> bool:
    """Compare types as well: 1, 1.0 and True are three values."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return repr(left) == repr(right)


# Names


@pytest.mark.parametrize("name", ALL_NAMES)
def test_full_name_is_canonical(name: str) -> None:
    """A codec asked for as KEY/VALUE carries that name."""
    assert name == get_codec(name).name


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("bytes", "bytes/bytes"),
        ("utf-8", "utf-8/utf-8"),
        ("msgpack", "utf-8/msgpack"),
        ("json", "utf-8/json"),
    ],
)
def test_short_name_equals_full_name(short: str, full: str) -> None:
    """A short name stands for its pair, so that a stored description compares equal."""
    assert full == get_codec(short).name
    assert get_codec(full) == get_codec(short)
    assert hash(get_codec(full)) == hash(get_codec(short))


def test_codecs_of_different_names_differ() -> None:
    """No two of the twelve codecs compare equal."""
    assert len(ALL_NAMES) == len({get_codec(name) for name in ALL_NAMES})


@pytest.mark.parametrize(
    "name",
    ["", "int64", "utf8", "UTF-8", "json/json", "pickle", "bytes/", "/json", "a/b/c", "x" * 9999],
)
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    """A wrong name is refused in a message of bounded length that lists what exists."""
    with pytest.raises(InvalidRequestError) as caught:
        get_codec(name)
    message = str(caught.value)
    assert all(known in message for known in (*KEYS, *VALUES, "KEY/VALUE"))
    assert len(message) < 300


@pytest.mark.parametrize("name", [None, 1, b"json", ["json"], json])
def test_name_of_another_type_is_refused(name: Any) -> None:
    """Only a str names a codec; an unhashable argument is no exception."""
    with pytest.raises(InvalidTypeError, match=r"option codec.*msgpack"):
        get_codec(name)


# Round trips and order


@given(st.binary())
def test_bytes_round_trip(data: bytes) -> None:
    """Bytes are stored as they are, as key and as value."""
    codec = get_codec("bytes")
    assert data == codec.encode_key(data) == codec.decode_key(data)
    assert data == codec.encode_value(data) == codec.decode_value(data)


@given(text)
def test_utf8_round_trip(data: str) -> None:
    """Text comes back equal, as key and as value."""
    codec = get_codec("utf-8")
    assert data == codec.decode_key(codec.encode_key(data))
    assert data == codec.decode_value(codec.encode_value(data))


@given(int64)
def test_int64_round_trip(key: int) -> None:
    """Every signed 64-bit integer is eight bytes and comes back equal."""
    codec = get_codec("int64/bytes")
    encoded = codec.encode_key(key)
    assert len(encoded) == 8
    assert key == codec.decode_key(encoded)


@given(msgpack_values)
def test_msgpack_round_trip(value: Any) -> None:
    """What msgpack accepts comes back equal and of the same types."""
    codec = get_codec("msgpack")
    assert _same(value, codec.decode_value(codec.encode_value(value)))


@given(json_values)
def test_json_round_trip(value: Any) -> None:
    """What JSON accepts comes back equal and of the same types."""
    codec = get_codec("json")
    assert _same(value, codec.decode_value(codec.encode_value(value)))


@given(st.lists(st.binary()))
def test_bytes_keys_keep_order(keys: list[bytes]) -> None:
    """Encoded bytes keys sort as the keys do."""
    encode = get_codec("bytes").encode_key
    assert [encode(key) for key in sorted(keys)] == sorted(map(encode, keys))


@given(st.lists(text))
def test_utf8_keys_keep_order(keys: list[str]) -> None:
    """Encoded text keys sort by code point, beyond the basic plane too."""
    encode = get_codec("utf-8").encode_key
    assert [encode(key) for key in sorted(keys)] == sorted(map(encode, keys))


@given(st.lists(int64 | st.integers(-3, 3)))
def test_int64_keys_keep_order(keys: list[int]) -> None:
    """Encoded integer keys sort as the integers do, across the sign too."""
    encode = get_codec("int64/bytes").encode_key
    assert [encode(key) for key in sorted(keys)] == sorted(map(encode, keys))


def test_int64_layout() -> None:
    """The stored form is big-endian with the sign bit flipped, at the edges too."""
    encode = get_codec("int64/bytes").encode_key
    assert bytes(8) == encode(-(2**63))
    assert b"\x7f" + b"\xff" * 7 == encode(-1)
    assert b"\x80" + bytes(7) == encode(0)
    assert b"\xff" * 8 == encode(2**63 - 1)


def test_json_layout() -> None:
    """JSON is stored compact, in UTF-8, its keys sorted: equal values give equal bytes."""
    encode = get_codec("json").encode_value
    expected = '{"a":[1,2.5,null,true],"é":"\u20ac"}'.encode()
    assert expected == encode({"é": "\u20ac", "a": [1, 2.5, None, True]})


def test_msgpack_keeps_not_a_number() -> None:
    """A NaN, which JSON refuses, is a float like others to msgpack."""
    codec = get_codec("msgpack")
    assert _same(float("nan"), codec.decode_value(codec.encode_value(float("nan"))))


# Stored bytes that do not decode


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("utf-8", b"\xff"),
        ("utf-8", b"\xed\xa0\x80"),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x92\x01"),
        ("msgpack", b"\x01\x01"),
        ("msgpack", b"\xa1\xff"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\x81\x91\x01\x01"),
        ("msgpack", b"\xd4\x01a"),
        ("msgpack", b"\xd6\xff\x00\x00\x00\x01"),
        ("msgpack", b"\x91" * (MAX_DEPTH + 1) + b"\x01"),
        ("msgpack", b"\x91" * 100_000),
        ("json", b""),
        ("json", b"{"),
        ("json", b"1 2"),
        ("json", b"NaN"),
        ("json", b'"\xff"'),
        ("json", b"\xff\xfe1\x00"),
        ("json", b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)),
        ("json", b"[" * 100_000),
    ],
)
def test_damaged_value_is_corruption(name: str, data: bytes) -> None:
    """Stored bytes that no encoder wrote are reported with their length and first bytes."""
    with pytest.raises(StoreCorruptionError) as caught:
        get_codec(name).decode_value(data)
    message = str(caught.value)
    assert f"codec {name}: {len(data)} stored bytes ({data[:16].hex(' ')}" in message
    assert len(message) < 400


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_damaged_int64_key_is_corruption(data: bytes) -> None:
    """An integer key has eight bytes."""
    with pytest.raises(StoreCorruptionError, match=f"expected 8 bytes, found {len(data)}"):
        get_codec("int64/bytes").decode_key(data)


def test_damaged_utf8_key_is_corruption() -> None:
    """A text key that is not UTF-8 was not written by the table."""
    with pytest.raises(StoreCorruptionError, match="codec utf-8: 1 stored bytes"):
        get_codec("utf-8").decode_key(b"\x80")


def _decodes_to_plain_types_or_is_corruption(name: str, data: bytes) -> None:
    try:
        value = get_codec(name).decode_value(data)
    except StoreCorruptionError:
        return
    for member in _members(value):
        assert type(member) in {type(None), bool, int, float, str, bytes, list, dict}


def _members(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from _members(member)


@pytest.mark.parametrize("name", ["msgpack", "json"])
@given(data=st.binary())
def test_any_bytes_decode_to_plain_types_or_are_corruption(name: str, data: bytes) -> None:
    """A decoder lets no foreign type through, and no other error out."""
    _decodes_to_plain_types_or_is_corruption(name, data)


@pytest.mark.parametrize("name", ["msgpack", "json"])
@given(value=json_values, place=st.integers(0), byte=st.integers(0, 255))
def test_one_changed_byte_decodes_to_plain_types_or_is_corruption(
    name: str, value: Any, place: int, byte: int
) -> None:
    """The same holds for what was once a value and is damaged in one place."""
    try:
        data = bytearray(get_codec(name).encode_value(value))
    except InvalidRequestError:
        return  # an integer that msgpack cannot hold
    data[place % len(data)] = byte
    _decodes_to_plain_types_or_is_corruption(name, bytes(data))


def test_a_full_stack_is_not_taken_for_corruption() -> None:
    """A shallow value read where the caller's stack has no room raises RecursionError."""
    codec = get_codec("json")
    stored = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

    def read_at_the_bottom(room: int) -> Any:
        if room == 0:
            return codec.decode_value(stored)
        return read_at_the_bottom(room - 1)

    with pytest.raises(RecursionError):
        read_at_the_bottom(sys.getrecursionlimit())


# ABSENT


def test_absent_is_one_object() -> None:
    """Copying, deep copying and pickling give back the same object."""
    assert copy.copy(ABSENT) is ABSENT
    assert copy.deepcopy({"a": [ABSENT]})["a"][0] is ABSENT
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
    assert isinstance(ABSENT, Absent)
    assert list(Absent) == [ABSENT]


def test_absent_is_false_and_says_its_name() -> None:
    """`if not value` holds for it, and a log line shows where it comes from."""
    assert not ABSENT
    assert repr(ABSENT) == "strandline.ABSENT"
    assert ABSENT != None  # noqa: E711
