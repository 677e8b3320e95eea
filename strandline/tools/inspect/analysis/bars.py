"""Bars and sparklines of block characters, or of plain ones where the output has no others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from strandline.tools.inspect.analysis.figures import Rates

_EIGHTHS: Final = "▏▎▍▌▋▊▉█"
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = ".:-=+*%#"
_PAUSES: Final = 5
_LONG: Final = 4
"""How much longer than all the rest a pause is that is cut out."""
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
    stretches = _stretches(rates)
    # In buckets. Each stretch can need a column that it does not fill, and has one behind it.
    long = sum(each[-1] - each[0] + 1 for each in stretches)
    join = max(1, -(-long // max(1, columns - 2 * len(stretches))))
    seconds = rates.width_ns * join / 1e9
    found: list[float | None] = []
    buckets = iter(rates.buckets)
    for number, stretch in enumerate(stretches):
        if number:
            found.append(None)
        values = [0.0] * ((stretch[-1] - stretch[0]) // join + 1)
        for at in stretch:
            values[(at - stretch[0]) // join] += _of(next(buckets).operations, table_id) / seconds
        found += values
    return found, rates.width_ns * join


def _stretches(rates: Rates) -> list[list[int]]:
    """Return the numbers of the buckets, apart where there is a long pause between them."""
    numbers = [bucket.start_ns // rates.width_ns for bucket in rates.buckets]
    if not numbers:
        return []
    gaps = sorted((b - a, at) for at, (a, b) in enumerate(pairwise(numbers), 1))
    left = numbers[-1] - numbers[0] + 1
    cuts = []
    for gap, at in gaps[: -_PAUSES - 1 : -1]:
        left -= gap
        if gap <= _LONG * left:
            break
        cuts.append(at)
    ends = [0, *sorted(cuts), len(numbers)]
    return [numbers[start:end] for start, end in pairwise(ends)]


def _of(operations: dict[int, int], table_id: int | None) -> int:
    return sum(operations.values()) if table_id is None else operations.get(table_id, 0)


def _level(levels: str, value: float, most: float) -> str:
    return levels[min(len(levels) - 1, int(value / most * len(levels)))] if most else levels[0]


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
