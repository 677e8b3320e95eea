"""Figures over time as SVG, with the kills that interrupted them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from strandline.tools.pages.axes import LETTER, Axes, label, round_step

Points = Sequence[tuple[float, float]]


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
    axes = Axes(width, until, max((y for line in panel.lines for _, y in line), default=0.0))
    parts = [axes.opening(f"{panel.title} over time")]
    for pause in interruptions:
        x = axes.x(pause.killed)
        parts.append(
            f'<rect class="pause" x="{x:.1f}" y="{axes.top}" height="{axes.base - axes.top}" '
            f'width="{axes.x(pause.resumed) - x:.1f}"/>'
        )
    parts.append(axes.levels())
    step = round_step(until, axes.ticks)
    parts += [
        axes.tick(number * step, f"{number * step:g} s") for number in range(int(until / step) + 1)
    ]
    parts += [_area(line, axes) for line in panel.lines if line]
    parts += [
        f'<path class="mark" d="M{axes.x(mark):.1f} {axes.base - 7}l4 7h-8z"/>'
        for mark in panel.marks
    ]
    parts += [_crash(pause, axes, pause is interruptions[-1]) for pause in interruptions]
    return "".join([*parts, "</svg>"])


def _area(line: Points, axes: Axes) -> str:
    path = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in line)
    first, last = axes.x(line[0][0]), axes.x(line[-1][0])
    return (
        f'<path class="area" d="M{first:.1f} {axes.base}L{path}L{last:.1f} {axes.base}z"/>'
        f'<path class="line" d="M{path}"/>'
    )


def _crash(pause: Interruption, axes: Axes, last: bool) -> str:
    # The last label stands to the right of its line and the others to the left of theirs,
    # so that two crashes close to each other keep their labels apart.
    x = axes.x(pause.killed)
    right = last and x + LETTER * len(pause.label) + 6 < axes.width
    at, anchor = (x - 1, "start") if right else (x + 1, "end")
    return f'<path class="crash" d="M{x:.1f} {axes.top - 5}V{axes.base}"/>' + label(
        at, axes.top - 9, pause.label, anchor, "label"
    )
