"""Keys and values as JSON, and back to exactly what they were.

JSON knows no bytes. By codec, a key or value reads

    bytes     a string where it is UTF-8, else {"$base64": "..."}
    utf-8     a string
    int64     an integer
    json      the value itself
    msgpack   the value itself, where within it
                  {"$base64": "..."}        stands for bytes
                  {"$float": "nan"}         for nan, inf and -inf
                  {"$map": [[KEY, VALUE]]}  for a map with keys that are not strings, or
                                            one of which begins with "$"

The JSON is ASCII: nothing in it acts on a terminal.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, Final, NoReturn

from strandline.codecs import Codec

BASE64: Final = "$base64"
FLOAT: Final = "$float"
MAP: Final = "$map"
_TOO_DEEP: Final = "expected JSON, found more brackets inside one another than fit"
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class PlainError(ValueError):
    """JSON that is not what it should be; says what was expected and found."""


def kinds(codec: Codec) -> tuple[str, str]:
    """Return the kinds of a codec's keys and values."""
    key, _, value = codec.name.partition("/")
    return key, value


def to_plain(kind: str, value: Any) -> Any:
    """Return a decoded key or value as what JSON can hold."""
    if kind == "bytes":
        return _bytes_to_plain(value)
    return _msgpack_to_plain(value) if kind == "msgpack" else value


def from_plain(kind: str, plain: Any) -> Any:
    """Return the key or value that `to_plain` gave; raises PlainError.

    Whether a codec takes it is for the codec to say.
    """
    if kind == "bytes":
        if isinstance(plain, str):
            try:
                return plain.encode()
            except UnicodeEncodeError as error:
                raise PlainError(f"expected valid Unicode, found {plain!r}") from error
        match plain:
            case {"$base64": str(text)} if len(plain) == 1:
                return decode_base64(text)
        raise PlainError(f"expected a string or {{{BASE64!r}: ...}}, found {_short(plain)}")
    try:
        return _msgpack_from_plain(plain) if kind == "msgpack" else plain
    except RecursionError:
        raise PlainError(_TOO_DEEP) from None


def to_json(plain: Any) -> str:
    """Return compact JSON in ASCII, on one line."""
    return _ENCODER.encode(plain)


def from_json(text: str | bytes) -> Any:
    """Return what a JSON text says; raises PlainError."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise PlainError(_TOO_DEEP) from None
    except ValueError as error:
        raise PlainError(f"expected JSON, found something else: {error}") from None


def decode_base64(text: str | bytes) -> bytes:
    """Return the bytes of a base64 text; raises PlainError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PlainError(f"expected base64, found {_short(text)}: {error}") from error


def decode_hex(text: bytes) -> bytes:
    """Return the bytes of a hexadecimal text; raises PlainError."""
    try:
        return bytes.fromhex(text.decode())
    except ValueError as error:
        raise PlainError(f"expected hexadecimal digits, found {_short(text)}: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")
)
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _bytes_to_plain(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {BASE64: base64.b64encode(value).decode()}


def _msgpack_to_plain(value: Any) -> Any:
    match value:
        case bytes():
            return {BASE64: base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return {FLOAT: str(value)}
        case list():
            return [_msgpack_to_plain(each) for each in value]
        case dict():
            if all(type(key) is str and not key.startswith("$") for key in value):
                return {key: _msgpack_to_plain(each) for key, each in value.items()}
            pairs = value.items()
            return {MAP: [[_msgpack_to_plain(key), _msgpack_to_plain(each)] for key, each in pairs]}
    return value


def _msgpack_from_plain(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_msgpack_from_plain(each) for each in plain]
    if not isinstance(plain, dict):
        return plain
    if not any(key.startswith("$") for key in plain):
        return {key: _msgpack_from_plain(each) for key, each in plain.items()}
    match plain:
        case {"$base64": str(text)} if len(plain) == 1:
            return decode_base64(text)
        case {"$float": "nan" | "inf" | "-inf" as text} if len(plain) == 1:
            return _FLOATS[text]
        case {"$map": [*pairs]} if len(plain) == 1 and all(map(_is_pair, pairs)):
            return {_msgpack_from_plain(key): _msgpack_from_plain(each) for key, each in pairs}
    raise PlainError(
        f"expected {{{BASE64!r}: ...}}, {{{FLOAT!r}: ...}} or {{{MAP!r}: ...}}, found "
        f"{_short(plain)}"
    )


def _is_pair(plain: Any) -> bool:
    """Tell whether this is a key and a value, the key one that can be a key."""
    if not isinstance(plain, list) or len(plain) != 2:
        return False
    return isinstance(plain[0], (str, int)) or (isinstance(plain[0], dict) and BASE64 in plain[0])


def _short(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 40 else f"{text[:37]}..."
