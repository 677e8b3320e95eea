"""Table codecs: what each accepts in more than one form, and everything that it refuses."""

from __future__ import annotations

import datetime
import enum
import sys
from collections import OrderedDict
from typing import Any

import msgpack
import pytest

from strandline.codecs import ABSENT, MAX_DEPTH, get_codec
from strandline.errors import InvalidRequestError, InvalidTypeError


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# The bytes codec


class OddBytes(bytes):
    """A subclass whose conversion is not its content."""

    def __bytes__(self) -> bytes:
        return b"something else"


@pytest.mark.parametrize(
    "data", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a.b.c")[::2], OddBytes(b"abc")]
)
def test_bytes_like_is_copied_to_exact_bytes(data: Any) -> None:
    """Whatever is bytes-like is stored as plain bytes of its own content."""
    codec = get_codec("bytes")
    for encode in (codec.encode_key, codec.encode_value):
        encoded = encode(data)
        assert encoded == b"abc"
        assert type(encoded) is bytes


def test_bytes_copy_is_not_shared() -> None:
    """A buffer that its owner goes on changing does not change what was stored."""
    data = bytearray(b"abc")
    encoded = get_codec("bytes").encode_value(data)
    data[:] = b"xyz"
    assert encoded == b"abc"


def test_released_memoryview_is_refused() -> None:
    """A view without a buffer is refused as a request, not with a stray ValueError."""
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(InvalidRequestError, match="released"):
        get_codec("bytes").encode_value(view)


def test_str_is_refused_by_bytes_and_the_message_names_the_option() -> None:
    """The first mistake that everyone makes is answered with the way out."""
    codec = get_codec("bytes")
    for encode in (codec.encode_key, codec.encode_value):
        with pytest.raises(InvalidTypeError, match=r'db\.table\(name, codec="utf-8"\)'):
            encode("text")


@pytest.mark.parametrize("data", [None, 1, 1.5, [1], (1,), {"a": 1}, object(), ABSENT])
def test_other_types_are_refused_by_bytes(data: Any) -> None:
    """bytes(5) and bytes([1]) would make something of these; the codec does not."""
    with pytest.raises(InvalidTypeError, match=f"found {type(data).__name__}"):
        get_codec("bytes").encode_value(data)


# What the other codecs refuse


class Colour(enum.IntEnum):
    """An int subclass."""

    RED = 1


class Name(str):
    """A str subclass."""

    __slots__ = ()


@pytest.mark.parametrize("data", [None, 1, b"bytes", ["a"], ABSENT])
def test_utf8_refuses_what_is_not_text(data: Any) -> None:
    """Only str is text."""
    codec = get_codec("utf-8")
    for encode in (codec.encode_key, codec.encode_value):
        with pytest.raises(InvalidTypeError, match=f"expected str, found {type(data).__name__}"):
            encode(data)


def test_utf8_refuses_lone_surrogates() -> None:
    """Text that UTF-8 cannot hold is refused."""
    with pytest.raises(InvalidRequestError, match="surrogates"):
        get_codec("utf-8").encode_key("\ud800")


def test_plain_keys_of_subclasses_come_back_as_their_base() -> None:
    """A str or int subclass is accepted as a key and stored as its content."""
    assert get_codec("utf-8").encode_key(Name("a")) == b"a"
    assert get_codec("int64/bytes").encode_key(Colour.RED) == get_codec("int64/bytes").encode_key(1)


@pytest.mark.parametrize("key", [None, True, 1.0, "1", b"1", ABSENT])
def test_int64_refuses_what_is_not_an_integer(key: Any) -> None:
    """A bool, a float or digits are not integer keys."""
    with pytest.raises(InvalidTypeError, match=f"expected an int, found {type(key).__name__}"):
        get_codec("int64/bytes").encode_key(key)


@pytest.mark.parametrize("key", [2**63, -(2**63) - 1, 10**5000], ids=["above", "below", "far"])
def test_int64_refuses_integers_out_of_range(key: int) -> None:
    """An integer that needs more than 64 bits is refused, however large."""
    with pytest.raises(InvalidRequestError, match=r"-2\*\*63 to 2\*\*63 - 1"):
        get_codec("int64/bytes").encode_key(key)


NEVER_STORED = [
    (1, 2),
    {1, 2},
    bytearray(b"a"),
    memoryview(b"a"),
    datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC),
    msgpack.ExtType(1, b"a"),
    msgpack.Timestamp(1),
    OrderedDict(a=1),
    Colour.RED,
    Name("a"),
    OddBytes(b"a"),
    1j,
    object(),
    ABSENT,
]


@pytest.mark.parametrize("name", ["msgpack", "json"])
@pytest.mark.parametrize("value", NEVER_STORED, ids=lambda value: type(value).__name__)
def test_structured_values_take_exact_types_only(name: str, value: Any) -> None:
    """What would come back as another type is refused wherever it lies, with its path."""
    encode = get_codec(name).encode_value
    found = f"found {type(value).__name__} at value"
    with pytest.raises(InvalidTypeError, match=f"codec {name}: .*{found};"):
        encode(value)
    with pytest.raises(InvalidTypeError, match=rf"{found}\['a'\]\[1\];"):
        encode({"a": [0, value]})


@pytest.mark.parametrize("key", [1, None, True, 1.5, b"a", (1,), Name("a")])
def test_json_refuses_keys_that_are_not_text(key: Any) -> None:
    """JSON would turn these keys into text without a word."""
    with pytest.raises(InvalidTypeError, match=f"found a key {type(key).__name__} at value\\[0\\]"):
        get_codec("json").encode_value([{"fine": 1, key: 2}])


@pytest.mark.parametrize("key", [None, True, 1.5, (1,), Name("a"), Colour.RED])
def test_msgpack_refuses_keys_beyond_integers_text_and_bytes(key: Any) -> None:
    """Keys that other languages' maps, or a reader of this one, would not give back."""
    with pytest.raises(InvalidTypeError, match=f"found a key {type(key).__name__} at value"):
        get_codec("msgpack").encode_value({key: 2})


def test_json_refuses_bytes() -> None:
    """JSON has no bytes."""
    with pytest.raises(InvalidTypeError, match=r"found bytes at value\['a'\]"):
        get_codec("json").encode_value({"a": b"b"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_numbers_that_are_not_json(number: float) -> None:
    """NaN and the infinities are no JSON, wherever they lie."""
    for value in (number, [number], {"a": number}):
        with pytest.raises(InvalidRequestError, match="codec json: "):
            get_codec("json").encode_value(value)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_msgpack_refuses_integers_out_of_range(number: int) -> None:
    """msgpack's integers have 64 bits."""
    with pytest.raises(InvalidRequestError, match="codec msgpack: "):
        get_codec("msgpack").encode_value([number])


def test_json_refuses_integers_that_python_would_not_print() -> None:
    """An integer beyond the interpreter's limit on digits is refused, not a stray error."""
    with pytest.raises(InvalidRequestError, match="codec json: "):
        get_codec("json").encode_value(10 ** (sys.get_int_max_str_digits() + 1))


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_structured_text_with_lone_surrogates_is_refused(name: str) -> None:
    """Text that UTF-8 cannot hold is refused as a value and as a key."""
    for value in ("\ud800", ["\ud800"], {"\ud800": 1}):
        with pytest.raises(InvalidRequestError, match="surrogates"):
            get_codec(name).encode_value(value)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_too_deep_and_cyclic_values_are_refused(name: str) -> None:
    """Nesting is bounded, so that whatever is stored can be read; a cycle has no bottom."""
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (_deep(MAX_DEPTH + 1), _deep(100_000), cycle):
        with pytest.raises(InvalidRequestError, match=f"at most {MAX_DEPTH}"):
            get_codec(name).encode_value(value)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_deepest_value_round_trips(name: str) -> None:
    """A value nested as deep as is allowed can be read back."""
    codec = get_codec(name)
    value = _deep(MAX_DEPTH)
    assert value == codec.decode_value(codec.encode_value(value))
