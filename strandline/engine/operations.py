"""What the log's payloads mean: operations on tables.

    payload = [commits, tag, key, value, tag, key, value, ...]     one msgpack array

`tag` is `table id << 3 | operation`. `commits` is nil where every operation is a commit
of its own, else a flat list of (index of the first operation, how many) for each commit
of more than one; every cut at an LSN rounds down to such a boundary.

Flat, because msgpack packs and unpacks a flat list in half the time of pairs.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from strandline.codecs import get_codec
from strandline.errors import InvalidRequestError

VOID: Final = 0
"""Fills the LSN of a write that was refused after its LSN had been given out."""
PUT: Final = 1
DELETE: Final = 2
CLEAR: Final = 3
CREATE: Final = 4
DROP: Final = 5

TAG_SHIFT: Final = 3
OPERATION_MASK: Final = (1 << TAG_SHIFT) - 1
OPERATION_NAMES: Final = {
    VOID: "void",
    PUT: "put",
    DELETE: "delete",
    CLEAR: "clear",
    CREATE: "create",
    DROP: "drop",
}


class Operation(NamedTuple):
    """One operation of the log."""

    lsn: int
    table_id: int
    op: int
    key: bytes | None
    value: bytes | None


class PayloadError(ValueError):
    """A payload whose checksum holds is not a list of operations."""


def tag_of(table_id: int, op: int) -> int:
    """Return the tag of an operation on a table."""
    return table_id << TAG_SHIFT | op


def decode_items(payload: bytes, count: int) -> list[Any]:
    """Return the flat list in a payload of `count` operations; raises PayloadError."""
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:
        raise PayloadError(f"not msgpack: {error}") from error
    if type(items) is not list or len(items) != 1 + 3 * count:
        found = len(items) if isinstance(items, list) else type(items).__name__
        raise PayloadError(f"expected a list of {1 + 3 * count} elements, found {found}")
    return items


def decode_operations(first_lsn: int, payload: bytes, count: int) -> list[Operation]:
    """Return the operations in a payload, each checked; raises PayloadError."""
    items = decode_items(payload, count)
    operations = []
    for index in range(count):
        tag, key, value = items[1 + 3 * index : 4 + 3 * index]
        if type(tag) is not int or tag < 0 or tag & OPERATION_MASK not in OPERATION_NAMES:
            raise PayloadError(f"operation {index}: expected a known tag, found {tag!r}")
        if not (key is None or type(key) is bytes) or not (value is None or type(value) is bytes):
            raise PayloadError(f"operation {index}: key and value must be bytes or nil")
        operations.append(
            Operation(first_lsn + index, tag >> TAG_SHIFT, tag & OPERATION_MASK, key, value)
        )
    return operations


def commit_sizes(items: list[Any], count: int) -> list[int]:
    """Return how many operations each commit of a frame has, in order; raises PayloadError."""
    marks = items[0] or []
    if type(marks) is not list or {*map(type, marks)} - {int} or len(marks) % 2:
        raise PayloadError(f"expected commit marks, found {marks!r:.80}")
    sizes: list[int] = []
    at = 0
    for index, size in zip(marks[::2], marks[1::2], strict=True):
        if not at <= index < index + size <= count:
            raise PayloadError(f"commit marks {marks!r} do not fit {count} operations")
        sizes += [1] * (index - at) + [size]
        at = index + size
    return sizes + [1] * (count - at)


def encode_table_options(codec: str, *, logged: bool) -> bytes:
    """Return the value of a CREATE operation."""
    packed: bytes = msgpack.packb({"codec": codec, "logged": logged})
    return packed


def decode_creation(key: Any, value: Any) -> tuple[str, str, bool]:
    """Return name, codec and `logged` from the key and value of a CREATE; raises PayloadError."""
    if type(key) is not bytes or type(value) is not bytes:
        raise PayloadError("a table's creation without name or options")
    try:
        name = key.decode()
        codec, logged = decode_table_options(value)
        get_codec(codec)
    except (ValueError, InvalidRequestError, msgpack.UnpackException) as error:
        raise PayloadError(f"a table's creation that makes no sense: {error}") from error
    return name, codec, logged


def decode_table_options(value: bytes) -> tuple[str, bool]:
    """Return codec name and `logged` from the value of a CREATE operation."""
    match msgpack.unpackb(value):
        case {"codec": str(codec), "logged": bool(logged)}:
            return codec, logged
    raise PayloadError(f"expected codec and logged, found {value!r}")
