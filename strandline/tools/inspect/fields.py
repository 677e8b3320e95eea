r"""Keys and values of the log as text and as JSON, and keys as a person gives them.

A key is shown as text, escaped where it is not printable (`\n`, `\xNN`, a doubled
backslash); keys of an int64 table are shown as numbers. What is shown can be given back
as an argument. In JSON a key is a string where it is UTF-8, else `{"$base64": "..."}`.

Values are shown in the form that `--values` names. What does not decode in that form is
shown as hexadecimal, marked as such. Nesting is bounded by msgpack's own limits.
"""

from __future__ import annotations

import enum
import re
import sys
from typing import Any, Final

import msgpack

from strandline.codecs import get_codec
from strandline.errors import StrandlineError
from strandline.tools.cli.plain import kinds, to_json, to_plain
from strandline.tools.cli.terminal import escape

_ESCAPED: Final = re.compile(
    rb"\\(?:([ntr\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))"
)
_SHORT: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"\\": b"\\"}
MAX_DEPTH: Final = 64
"""How deep a msgpack value may nest to be shown decoded."""


class Values(enum.Enum):
    """How values are shown."""

    NONE = "none"
    HEX = "hex"
    UTF8 = "utf8"
    MSGPACK = "msgpack"


def show_key(codec: str, key: bytes | None) -> str:
    """Return a key as printable text."""
    if key is None:
        return ""
    number = _int64(codec, key)
    return escape(key) if number is None else str(number)


def plain_key(codec: str, key: bytes | None) -> Any:
    """Return a key as JSON has it."""
    if key is None:
        return None
    number = _int64(codec, key)
    return to_plain("bytes", key) if number is None else number


def parse_key(codec: str, text: str) -> bytes:
    """Return the key that a person means; raises ValueError where it is none."""
    if kinds(get_codec(codec))[0] == "int64":
        return get_codec(codec).encode_key(int(text))
    return _ESCAPED.sub(_unescape, text.encode("utf-8", "surrogateescape"))


def show_value(form: Values, value: bytes | None) -> str:
    """Return a value as printable text."""
    if value is None or form is Values.NONE:
        return ""
    if form is Values.UTF8:
        return escape(value)
    if form is Values.MSGPACK:
        plain = _msgpack(value)
        return f"hex:{value.hex()}" if plain is _NOT else to_json(plain)
    return value.hex()


def plain_value(form: Values, value: bytes | None) -> Any:
    """Return a value as JSON has it; `{"$hex": "..."}` where it is not what it should be."""
    if value is None:
        return None
    if form is Values.UTF8:
        return to_plain("bytes", value)
    if form is Values.MSGPACK:
        plain = _msgpack(value)
        return {"$hex": value.hex()} if plain is _NOT else plain
    return value.hex()


def _unescape(found: re.Match[bytes]) -> bytes:
    short, byte, four, eight = found.groups()
    if short is not None:
        return _SHORT[short]
    if byte is not None:
        return bytes([int(byte, 16)])
    code = int(four or eight, 16)
    if code > sys.maxunicode:
        raise ValueError(f"expected a character, found {found[0].decode()}")
    return chr(code).encode("utf-8", "surrogatepass")


def _int64(codec: str, key: bytes) -> int | None:
    if not codec.startswith("int64") or len(key) != 8:
        return None
    try:
        number: int = get_codec(codec).decode_key(key)
    except StrandlineError:
        return None
    return number


_NOT: Final = object()


def _msgpack(value: bytes) -> Any:
    """Return a msgpack value as JSON can hold it, `_NOT` where it is none or too deep."""
    try:
        decoded = msgpack.unpackb(value, strict_map_key=False)
        if _too_deep(decoded):
            return _NOT
        plain = to_plain("msgpack", decoded)
        to_json(plain)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return _NOT
    return plain


def _too_deep(value: Any) -> bool:
    """Tell whether a value nests deeper than `MAX_DEPTH`."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        inner: list[Any] = []
        for each in level:
            if isinstance(each, list):
                inner += each
            elif isinstance(each, dict):
                inner += each.values()
        level = [each for each in inner if isinstance(each, (list, dict))]
    return False
