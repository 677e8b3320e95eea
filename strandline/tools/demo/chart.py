"""Figures over time as SVG, drawn for a given width so that letters keep their size.

Colours, and which of the widths is shown, are the page's business: shapes carry classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]

_LEFT: Final = 52
_RIGHT: Final = 10
_TOP: Final = 22
_BOTTOM: Final = 26
_HEIGHT: Final = 190
_WIDTH_OF_TICK: Final = 55
_LETTER: Final = 7


@dataclass(frozen=True, slots=True)
class Interruption:
    """A kill, and when the next run began to write. Seconds from the beginning."""

    label: str
    killed: float
    resumed: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over time."""

    title: str
    lines: list[Points]
    """A line for each run: seconds, quantity."""
    marks: list[float] = field(default_factory=list)
    """Seconds at which something happened that is marked on the axis."""


def draw(panel: Panel, until: float, interruptions: list[Interruption], width: int) -> str:
    """Return an `<svg>` element of a panel from second 0 to `until`."""
    inner, base = width - _LEFT - _RIGHT, _HEIGHT - _BOTTOM
    highest = max((y for line in panel.lines for _, y in line), default=0.0)
    step_y = _nice(highest, 3)
    top = step_y * max(1, math.ceil(highest / step_y))
    step_x = _nice(until, max(2, inner // _WIDTH_OF_TICK))

    def at_x(seconds: float) -> float:
        return _LEFT + inner * seconds / until

    def at_y(value: float) -> float:
        return base - (base - _TOP) * value / top

    about = f'role="img" aria-label="{escape(panel.title)} over time"'
    parts = [f'<svg class="w{width}" viewBox="0 0 {width} {_HEIGHT}" {about}>']
    for pause in interruptions:
        x = at_x(pause.killed)
        parts.append(
            f'<rect class="pause" x="{x:.1f}" y="{_TOP}" height="{base - _TOP}" '
            f'width="{at_x(pause.resumed) - x:.1f}"/>'
        )
    for number in range(round(top / step_y) + 1):
        y = at_y(number * step_y)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{inner}"/>')
        parts.append(_text(_LEFT - 7, y + 4, short(number * step_y), "end"))
    for number in range(int(until / step_x) + 1):
        x = at_x(number * step_x)
        room = x + 3 * _LETTER < width
        parts.append(f'<path class="tick" d="M{x:.1f} {base}v4"/>')
        parts.append(_text(x, base + 18, f"{number * step_x:g} s", "middle" if room else "end"))
    parts += [_area(line, at_x, at_y, base) for line in panel.lines if line]
    parts += [
        f'<path class="mark" d="M{at_x(mark):.1f} {base - 7}l4 7h-8z"/>' for mark in panel.marks
    ]
    for pause in interruptions:
        parts.append(_crash(pause, at_x(pause.killed), base, width, pause is interruptions[-1]))
    return "".join([*parts, "</svg>"])


def _area(
    line: Points, at_x: Callable[[float], float], at_y: Callable[[float], float], base: float
) -> str:
    path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in line)
    first, last = at_x(line[0][0]), at_x(line[-1][0])
    return (
        f'<path class="area" d="M{first:.1f} {base}L{path}L{last:.1f} {base}z"/>'
        f'<path class="line" d="M{path}"/>'
    )


def _crash(pause: Interruption, x: float, base: float, width: int, last: bool) -> str:
    # The last label stands to the right of its line and the others to the left of theirs,
    # so that two crashes close to each other keep their labels apart.
    right = last and x + _LETTER * len(pause.label) + 6 < width
    at, anchor = (x - 1, "start") if right else (x + 1, "end")
    return f'<path class="crash" d="M{x:.1f} {_TOP - 5}V{base}"/>' + _text(
        at, _TOP - 9, pause.label, anchor, "label"
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "number") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _nice(reach: float, steps: int) -> float:
    """Return a round step that reaches `reach` in about `steps` steps."""
    if reach <= 0:
        return 1.0
    rough = reach / steps
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)


def short(number: float) -> str:
    """Return a number of an axis as text."""
    if number >= 1e6:
        return f"{number / 1e6:g} M"
    if number >= 1e3:
        return f"{number / 1e3:g} k"
    return f"{number:g}"
