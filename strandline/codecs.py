"""Table codecs: how the keys and values of a table become bytes, and come back.

A codec's name is KEY/VALUE, such as "int64/msgpack", and is stored with the table. Four
short names stand for the usual pairs: "bytes" is bytes/bytes, "utf-8" is utf-8/utf-8,
"msgpack" is utf-8/msgpack and "json" is utf-8/json.

    key     accepts                           stored as
    bytes   bytes, bytearray, memoryview      the same bytes
    utf-8   str                               UTF-8
    int64   int, -2**63 to 2**63 - 1          8 bytes, big-endian, the sign bit flipped

    value   accepts                           stored as
    bytes   bytes, bytearray, memoryview      the same bytes
    utf-8   str                               UTF-8
    msgpack None, bool, int (64 bit), float,  one msgpack value, without extension types
            str, bytes, list, dict
    json    None, bool, int, float (finite),  compact UTF-8 with sorted keys
            str, list, dict with str keys

Key codecs keep order: encoded keys sort as the keys do, str by code point. Whatever a
codec accepts it gives back equal and of the same type, but for subclasses of str, int
and the bytes types as a plain key or value, which come back as their base, and mutable
bytes, which are copied. That is why inside msgpack and JSON values only exact types are
accepted: a tuple would come back as a list, and a JSON key 1 as "1".

Refused on purpose: pickle and extension types (reading a store must never run code or
need a class), and the timestamps of msgpack. A refusal is an `InvalidRequestError`,
raised before anything is logged; stored bytes that do not decode are a
`StoreCorruptionError`.
"""

from __future__ import annotations

import enum
import json
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import msgpack

from strandline.errors import InvalidRequestError, InvalidTypeError, StoreCorruptionError

MAX_DEPTH: Final = 200
"""How many lists and dicts may lie inside one another in a msgpack or JSON value."""


class Absent(enum.Enum):
    """The type of `ABSENT`, an enumeration so that type checkers narrow `is ABSENT`."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "strandline.ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT
"""Tells a key that is not there from one whose stored value is None: `get(key, ABSENT)`."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How one table's keys and values are encoded. Codecs of one name are equal.

    The encoders raise `InvalidTypeError` or `InvalidRequestError`, the decoders
    `StoreCorruptionError`.
    """

    name: str
    """The canonical name, KEY/VALUE: what the table's description stores."""
    encode_key: Callable[[Any], bytes] = field(compare=False, repr=False)
    decode_key: Callable[[bytes], Any] = field(compare=False, repr=False)
    encode_value: Callable[[Any], bytes] = field(compare=False, repr=False)
    decode_value: Callable[[bytes], Any] = field(compare=False, repr=False)


def get_codec(name: str) -> Codec:
    """Return the codec of a name, short or KEY/VALUE.

    Raises:
        InvalidTypeError: the name is not a str.
        InvalidRequestError: no codec has this name; the message lists those that exist.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"option codec: expected the name of a codec, found {type(name).__name__}; {_KNOWN}"
        )
    codec = _CODECS.get(name)
    if codec is None:
        raise InvalidRequestError(f"option codec: there is no codec {reprlib.repr(name)}; {_KNOWN}")
    return codec


def _encode_bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            # Through a memoryview: a subclass may define __bytes__ as something else.
            return bytes(memoryview(value))
        except ValueError as error:
            raise InvalidRequestError(f"codec bytes: {error}; pass the bytes themselves") from error
    if isinstance(value, str):
        raise InvalidTypeError(
            "codec bytes: expected bytes, bytearray or memoryview, found str; encode it, or use "
            'a table with the option codec, as in db.table(name, codec="utf-8")'
        )
    raise InvalidTypeError(
        "codec bytes: expected bytes, bytearray or memoryview, found "
        f"{type(value).__name__}; encode it, or use a table with the option codec, "
        'as in db.table(name, codec="msgpack")'
    )


def _encode_utf8(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidTypeError(
            f"codec utf-8: expected str, found {type(value).__name__}; convert it, or use a "
            "table whose option codec fits"
        )
    try:
        return str.encode(value, "utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"codec utf-8: {error}; for text that came from undecodable bytes use a table "
            'with codec="bytes"'
        ) from error


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _raise_corrupt("utf-8", data, error)


_INT64_BIAS: Final = 1 << 63
"""Added to a key so that unsigned big-endian order is the order of the integers."""


def _encode_int64(value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(
            f"codec int64: expected an int, found {type(value).__name__}; convert it, or use a "
            "table whose option codec fits"
        )
    try:
        return (value + _INT64_BIAS).to_bytes(8, "big")
    except OverflowError as error:
        raise InvalidRequestError(
            "codec int64: expected -2**63 to 2**63 - 1, found an integer of "
            f'{value.bit_length()} bits; use a table with codec="bytes" or "utf-8"'
        ) from error


def _decode_int64(data: bytes) -> int:
    if len(data) != 8:
        _raise_corrupt("int64", data, f"expected 8 bytes, found {len(data)}")
    return int.from_bytes(data, "big") - _INT64_BIAS


@dataclass(frozen=True, slots=True)
class _Shape:
    """The exact types that a structured value may be made of, beside list and dict."""

    scalars: frozenset[type]
    keys: frozenset[type]
    expected: str


_MSGPACK: Final = _Shape(
    scalars=frozenset({type(None), bool, int, float, str, bytes}),
    keys=frozenset({int, str, bytes}),
    expected="exactly None, bool, int, float, str, bytes, list or dict with int, str or bytes keys",
)
_JSON: Final = _Shape(
    scalars=frozenset({type(None), bool, int, float, str}),
    keys=frozenset({str}),
    expected="exactly None, bool, int, float, str, list or dict with str keys",
)


def _require(shape: _Shape, value: Any, where: tuple[Any, ...] = ()) -> None:
    """Check that a value is made of the shape's types alone; `where` is the path to it."""
    kind = type(value)
    if kind in shape.scalars:
        return
    if kind is not list and kind is not dict:
        _refuse_type(shape, value, where)
    if len(where) >= MAX_DEPTH:
        raise InvalidRequestError(
            f"expected at most {MAX_DEPTH} lists and dicts inside one another, found more"
        )
    members: Iterable[Any] = value
    if kind is dict:
        if not shape.keys.issuperset(map(type, value)):
            stranger = next(key for key in value if type(key) not in shape.keys)
            _refuse_type(shape, stranger, where, "a key ")
        members = value.values()
    # Most containers hold scalars only; this settles them without a loop in Python.
    if shape.scalars.issuperset(map(type, members)):
        return
    for place, member in value.items() if kind is dict else enumerate(value):
        _require(shape, member, (*where, place))


def _refuse_type(shape: _Shape, value: Any, where: tuple[Any, ...], role: str = "") -> NoReturn:
    path = "".join(f"[{reprlib.repr(step)}]" for step in where)
    raise InvalidTypeError(
        f"expected {shape.expected}, found {role}{type(value).__name__} at value{path}"
    )


def _encoder(name: str, shape: _Shape, pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        try:
            _require(shape, value)
            return pack(value)
        except InvalidTypeError as error:
            raise InvalidTypeError(f"codec {name}: {error}; convert it first") from None
        except (ValueError, OverflowError) as error:
            raise InvalidRequestError(f"codec {name}: {error}; change the value") from error

    return encode


def _decoder(name: str, shape: _Shape, unpack: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        try:
            value = unpack(data)
            _require(shape, value)
        except (ValueError, TypeError) as error:
            _raise_corrupt(name, data, error)
        except RecursionError as error:
            # Only a value that no encoder writes is to blame for itself; below that many
            # brackets it is the caller's stack that had no room.
            if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
                _raise_corrupt(name, data, error)
            raise
        return value

    return decode


def _raise_corrupt(name: str, data: bytes, reason: object) -> NoReturn:
    cause = reason if isinstance(reason, BaseException) else None
    found = data[:16].hex(" ") + (" ..." if len(data) > 16 else "")
    why = str(reason) or type(reason).__name__
    raise StoreCorruptionError(
        f"codec {name}: {len(data)} stored bytes ({found}) do not decode: {why}; "
        "check the store, and restore the key from a backup"
    ) from cause


def _pack_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, strict_types=True)
    return packed


def _unpack_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False)


# Cycles cannot get this far: they are deeper than any value may be.
_JSON_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    allow_nan=False,
    sort_keys=True,
    separators=(",", ":"),
)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _pack_json(value: Any) -> bytes:
    return _JSON_ENCODER.encode(value).encode("utf-8")


def _unpack_json(data: bytes) -> Any:
    return _JSON_DECODER.decode(data.decode("utf-8"))


_Pair = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]

_KEYS: Final[dict[str, _Pair]] = {
    "bytes": (_encode_bytes, bytes),
    "utf-8": (_encode_utf8, _decode_utf8),
    "int64": (_encode_int64, _decode_int64),
}
_VALUES: Final[dict[str, _Pair]] = {
    "bytes": (_encode_bytes, bytes),
    "utf-8": (_encode_utf8, _decode_utf8),
    "msgpack": (
        _encoder("msgpack", _MSGPACK, _pack_msgpack),
        _decoder("msgpack", _MSGPACK, _unpack_msgpack),
    ),
    "json": (_encoder("json", _JSON, _pack_json), _decoder("json", _JSON, _unpack_json)),
}
_SHORT: Final = {
    "bytes": "bytes/bytes",
    "utf-8": "utf-8/utf-8",
    "msgpack": "utf-8/msgpack",
    "json": "utf-8/json",
}
_KNOWN: Final = (
    f"use {', '.join(_SHORT)}, or KEY/VALUE with a KEY of {', '.join(_KEYS)} "
    f"and a VALUE of {', '.join(_VALUES)}"
)
_CODECS: Final[dict[str, Codec]] = {
    f"{key}/{value}": Codec(f"{key}/{value}", *_KEYS[key], *_VALUES[value])
    for key in _KEYS
    for value in _VALUES
}
_CODECS.update({short: _CODECS[full] for short, full in _SHORT.items()})
