"""The payload of a frame, applied to tables: `python -m fuzz.payloads`."""

from __future__ import annotations

from typing import Any

from fuzz.harness import run
from strandline.engine.operations import (
    DELETE,
    OPERATION_MASK,
    PUT,
    TAG_SHIFT,
    PayloadError,
    decode_items,
    decode_operations,
)
from strandline.native import native

TABLES = (1, 2)


def decoded(first_lsn: int, payload: bytes, count: int) -> dict[int, dict[bytes, Any]] | None:
    """Return what the Python makes of a frame of plain puts and deletes, None for any other."""
    tables: dict[int, dict[bytes, Any]] = {table_id: {} for table_id in TABLES}
    try:
        operations = decode_operations(first_lsn, payload, count)
    except PayloadError:
        return None
    marks = decode_items(payload, count)[0]
    if marks is not None and not (isinstance(marks, list) and all(map(is_mark, marks))):
        return None  # nothing that a replay looks at, and nothing that was ever written
    for operation in operations:
        plain = operation.op in (PUT, DELETE) and operation.table_id in tables
        if (
            not plain
            or operation.key is None
            or (operation.value is None) != (operation.op == DELETE)
        ):
            return None
        tables[operation.table_id][operation.key] = (operation.lsn, operation.value, None)
    return tables


def is_mark(mark: object) -> bool:
    """Tell whether this can be one of a frame's commit marks."""
    return type(mark) is int and mark >= 0


def target(data: bytes) -> None:
    """Apply one frame in C, and compare with what the Python decodes."""
    if native is None or len(data) < 1:
        return
    count, payload = data[0], data[1:]
    tables: dict[int, dict[bytes, Any]] = {table_id: {} for table_id in TABLES}
    at, _, _, _ = native.replay([(7, count, payload)], 0, 0, tables, 1 << 40)
    expected = decoded(7, payload, count)
    if at == 1:
        assert expected == tables
    else:
        assert not any(tables.values())
        # What the Python takes for plain the C may leave to it, but only in an odd encoding.
        assert expected is None or payload != canonical(payload)


def canonical(payload: bytes) -> bytes:
    """Return a payload as msgpack packs it: what a store writes is so."""
    import msgpack

    packed: bytes = msgpack.packb(msgpack.unpackb(payload))
    return packed


assert OPERATION_MASK == (1 << TAG_SHIFT) - 1

if __name__ == "__main__":
    run(target)
