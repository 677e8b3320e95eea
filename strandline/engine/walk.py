"""Rows of an LMDB cursor between two keys, in either direction."""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import Final

import lmdb

from strandline.engine.records import Items

_FIRST_STEP: Final = 64
_STEP_GROWTH: Final = 4


def walk(
    cursor: lmdb.Cursor[bytes],
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
    limit: int,
) -> Items:
    """Return up to `limit` rows with start <= key < stop; the greatest first with `reverse`."""
    direction = _backward if reverse else _forward
    return direction(cursor, start, stop, limit)


def _forward(
    cursor: lmdb.Cursor[bytes], start: bytes | None, stop: bytes | None, limit: int
) -> Items:
    """Collect start <= key < stop. Steps grow, so that a short range reads little beyond it."""
    if not (cursor.set_range(start) if start else cursor.first()):
        return []
    found: Items = []
    rows = cursor.iternext()
    step = _FIRST_STEP if stop is not None else limit
    while len(found) < limit:
        part = list(islice(rows, min(step, limit - len(found))))
        if not part:
            break
        found += part
        if stop is not None and part[-1][0] >= stop:
            del found[bisect_left(found, stop, key=_key_of) :]
            break
        step *= _STEP_GROWTH
    return found


def _backward(
    cursor: lmdb.Cursor[bytes], start: bytes | None, stop: bytes | None, limit: int
) -> Items:
    """Collect start <= key < stop, the greatest first."""
    if stop == b"":
        return []
    # A cursor that finds `stop` or a later key stands just after the range.
    after = stop is not None and cursor.set_range(stop)
    if not (cursor.prev() if after else cursor.last()):
        return []
    found: Items = []
    rows = cursor.iterprev()
    step = _FIRST_STEP if start is not None else limit
    while len(found) < limit:
        part = list(islice(rows, min(step, limit - len(found))))
        if not part:
            break
        found += part
        if start is not None and part[-1][0] < start:
            while found and found[-1][0] < start:
                found.pop()
            break
        step *= _STEP_GROWTH
    return found


def _key_of(row: tuple[bytes, bytes]) -> bytes:
    return row[0]
