"""Bars and sparklines of block characters, or of plain ones where the output has no others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from strandline.tools.inspect.figures import Rates

_EIGHTHS: Final = "▏▎▍▌▋▊▉█"
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = ".:-=+*%#"
PAUSE: Final = "~"
"""In a sparkline: a long time in which nothing was written, cut out."""


def bar(value: float, most: float, width: int) -> str:
    """Return a bar that is `width` long where `value` is `most`; seen where it is not 0."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * width * 8))
    if not _has_blocks():
        return "#" * max(1, eighths // 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest - 1] if rest else "")


def sparkline(values: Sequence[float | None], most: float) -> str:
    """Return one character for each value; None is a pause, and 0 a blank."""
    levels = _LEVELS if _has_blocks() else _PLAIN_LEVELS
    return "".join(
        PAUSE if each is None else _level(levels, each, most) if each > 0 else " "
        for each in values
    )


def series(rates: Rates, table_id: int | None, columns: int) -> tuple[list[float | None], int]:
    """Return operations per second over time, in few columns, and how long a column is.

    Of one table, or of all. A pause that would take up most of the room is one None.
    """
    slots = _slots(rates)
    join = max(1, -(-len(slots) // max(1, columns)))
    found: list[float | None] = []
    seconds = rates.width_ns * join / 1e9
    for start in range(0, len(slots), join):
        part = slots[start : start + join]
        if all(each is None for each in part):
            found.append(None)
            continue
        amount = sum(
            _of(rates.buckets[each].operations, table_id)
            for each in part
            if each is not None and each >= 0
        )
        found.append(amount / seconds)
    return found, rates.width_ns * join


def _slots(rates: Rates) -> list[int | None]:
    """Return the bucket of each stretch of time, -1 where there is none, None for a pause."""
    slots: list[int | None] = []
    longest = max(10, 2 * len(rates.buckets))
    for number, bucket in enumerate(rates.buckets):
        if number:
            before = rates.buckets[number - 1].start_ns
            empty = (bucket.start_ns - before) // rates.width_ns - 1
            slots += [-1] * empty if empty <= longest else [None]
        slots.append(number)
    return slots


def _of(operations: dict[int, int], table_id: int | None) -> int:
    return sum(operations.values()) if table_id is None else operations.get(table_id, 0)


def _level(levels: str, value: float, most: float) -> str:
    return levels[min(len(levels) - 1, int(value / most * len(levels)))] if most else levels[0]


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
