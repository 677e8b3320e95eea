"""Scales, grids and labels of a chart in SVG, drawn for a width so that letters keep their size.

Colours, and which of the widths is shown, are page.css's business: shapes carry classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTHS: Final = (360, 720, 1080)
"""The widths that a chart is drawn for; page.css shows the one that fits."""
LETTER: Final = 7
"""About how wide a letter is."""

_LEFT: Final = 52
_RIGHT: Final = 10
_BOTTOM: Final = 26
_WIDTH_OF_TICK: Final = 55


@dataclass(frozen=True, slots=True)
class Axes:
    """A chart from (0, 0) to (`until`, the first round number at or above `highest`)."""

    width: int
    until: float
    highest: float
    height: int = 190
    top: int = 22
    """Pixels above the plot."""

    @property
    def inner(self) -> int:
        """How wide the plot is."""
        return self.width - _LEFT - _RIGHT

    @property
    def base(self) -> int:
        """Where the bottom of the plot is."""
        return self.height - _BOTTOM

    @property
    def step(self) -> float:
        """From one level to the next."""
        return round_step(self.highest, 3)

    @property
    def reach(self) -> float:
        """The highest level."""
        return self.step * max(1, math.ceil(self.highest / self.step))

    @property
    def ticks(self) -> int:
        """For how many labels below the plot there is room."""
        return max(2, self.inner // _WIDTH_OF_TICK)

    def x(self, value: float) -> float:
        """Return where a value lies, from the left."""
        return _LEFT + self.inner * value / self.until

    def y(self, value: float) -> float:
        """Return where a value lies, from above."""
        return self.base - (self.base - self.top) * value / self.reach

    def opening(self, about: str) -> str:
        """Return the tag that begins the chart; `about` is its accessible name."""
        return (
            f'<svg class="w{self.width}" viewBox="0 0 {self.width} {self.height}" '
            f'role="img" aria-label="{escape(about)}">'
        )

    def levels(self) -> str:
        """Return the lines of the grid, each with its number."""
        parts = []
        for number in range(round(self.reach / self.step) + 1):
            y = self.y(number * self.step)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{self.inner}"/>')
            parts.append(label(_LEFT - 7, y + 4, short(number * self.step), "end"))
        return "".join(parts)

    def tick(self, value: float, text: str) -> str:
        """Return a mark below the plot, and its label, which stays within the picture."""
        x = self.x(value)
        half = LETTER * len(text) / 2
        anchor = "middle" if x + half < self.width else "end"
        return f'<path class="tick" d="M{x:.1f} {self.base}v4"/>' + label(
            x, self.base + 18, text, anchor
        )


def label(x: float, y: float, text: str, anchor: str, kind: str = "number") -> str:
    """Return a text of a chart."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def round_step(reach: float, steps: int) -> float:
    """Return a round step that reaches `reach` in about `steps` steps."""
    if reach <= 0:
        return 1.0
    rough = reach / steps
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)


def short(number: float) -> str:
    """Return a number of an axis as text."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
