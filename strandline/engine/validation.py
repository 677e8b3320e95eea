"""Checks on keys, values and levels: all of them before anything is logged."""

from __future__ import annotations

import reprlib
from typing import Any

from strandline.codecs import get_codec
from strandline.errors import (
    InvalidRequestError,
    InvalidTypeError,
    KeyTooLargeError,
    ValueTooLargeError,
)
from strandline.options import MAX_KEY_BYTES, Durability

_as_bytes = get_codec("bytes")


def check_key(key: Any) -> bytes:
    """Return a key as exact bytes; refuse what is no key."""
    if type(key) is not bytes:
        return check_key(bytes(_as_bytes.encode_key(key)))
    if not key:
        raise InvalidRequestError("a key: expected 1 to 511 bytes, found an empty one")
    if len(key) > MAX_KEY_BYTES:
        raise KeyTooLargeError(
            f"a key: expected 1 to {MAX_KEY_BYTES} bytes, found {len(key):,}: "
            f"{reprlib.repr(key)}. Hash the long part, or keep it in the value"
        )
    return key


def check_value(value: Any, max_value_bytes: int) -> bytes:
    """Return a value as exact bytes; refuse what is none."""
    if type(value) is not bytes:
        return check_value(bytes(_as_bytes.encode_value(value)), max_value_bytes)
    if len(value) > max_value_bytes:
        raise ValueTooLargeError(
            f"a value: expected at most {max_value_bytes:,} bytes (max_value_bytes), found "
            f"{len(value):,}. Raise the option, or split the value"
        )
    return value


def check_bound(bound: Any) -> bytes:
    """Return a scan's bound as bytes; it may be empty or longer than a key."""
    return bytes(_as_bytes.encode_key(bound))


def check_level(level: Any) -> Durability:
    """Return a durability level; refuse anything else."""
    if not isinstance(level, Durability):
        raise InvalidTypeError(
            "durability: expected strandline.Durability.SYNC, BUFFERED or ASYNC, "
            f"found {reprlib.repr(level)}"
        )
    return level


def check_count(name: str, count: Any) -> int:
    """Return a number of things that is not negative."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise InvalidTypeError(f"{name}: expected int, found {type(count).__name__}")
    if count < 0:
        raise InvalidRequestError(f"{name}: expected 0 or more, found {count}")
    return count


def parse_counter(value: bytes | None, key: bytes) -> int:
    """Return the integer that `incr` keeps in a value; absent counts as 0."""
    if value is None:
        return 0
    digits = value[1:] if value[:1] == b"-" else value
    if not digits.isdigit() or len(digits) > 19:
        raise InvalidRequestError(
            f"incr: expected an ASCII decimal integer at key {reprlib.repr(key)}, "
            f"found {reprlib.repr(value)}; nothing was changed"
        )
    return int(value)


def check_counter(number: int, key: bytes) -> bytes:
    """Return a counter as it is stored; refuse what does not fit 64 bits."""
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidRequestError(
            f"incr: expected a signed 64-bit result at key {reprlib.repr(key)}, found {number}; "
            "nothing was changed"
        )
    return b"%d" % number
