"""The medians as one SVG file: a panel for each row, a bar for each contender.

The file stands alone: letters are drawn as paths. Its background is transparent and its
colours are of middle lightness, so that it can be read on white and on black.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.harness import BEST_PEER, SUBJECT, RowResult

_INK = "#7d828a"
_OWN = "#3b8eea"
_PEER = "#8f959e"
_TARGET = "#e0752d"
_COLUMNS = 2
_FEWEST_BARS = 5
_KEY = (
    "blue: strandline, grey: peers, hatched: references. A whisker spans the rounds; "
    "an orange mark is what the design asks for."
)


def draw(results: list[RowResult], path: str) -> None:
    """Write the chart of `results` to `path`."""
    style: dict[Any, object] = {
        "svg.fonttype": "path",
        "svg.hashsalt": SUBJECT,
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    lines = -(-len(results) // _COLUMNS)
    with matplotlib.rc_context(style):
        figure, grid = pyplot.subplots(
            lines, _COLUMNS, figsize=(12, 2.6 * lines), squeeze=False, layout="constrained"
        )
        figure.suptitle(_KEY, fontsize=9)
        panels = list(grid.flat)
        for panel, result in zip(panels, results, strict=False):
            _panel(panel, result)
        for panel in panels[len(results) :]:
            panel.set_visible(False)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def _panel(panel: Axes, result: RowResult) -> None:
    row = result.row
    names = [contender.name for contender in row.contenders]
    medians = [result.median(name) for name in names]
    places = range(len(names))
    spread = [
        [median - min(result.rounds[name]) for name, median in zip(names, medians, strict=True)],
        [max(result.rounds[name]) - median for name, median in zip(names, medians, strict=True)],
    ]
    bars = panel.barh(
        places,
        medians,
        xerr=spread,
        color=[_OWN if name.startswith(SUBJECT) else _PEER for name in names],
        error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2},
        height=0.7,
    )
    for bar, contender in zip(bars, row.contenders, strict=True):
        if contender.reference:
            bar.set(facecolor="none", edgecolor=_PEER, hatch="////")
    marks = _targets(result)
    reach = max([max(numbers) for numbers in result.rounds.values()] + [at for at, _ in marks])
    for place, name, median in zip(places, names, medians, strict=True):
        end = max(result.rounds[name])
        # Past a target's mark where the two would overlap.
        beyond = [at for at, subject in marks if subject == name and end < at < end + reach * 0.15]
        panel.text(max([end, *beyond]), place, f"  {_short(median)}", va="center")
    for wanted, name in marks:
        place = names.index(name)
        panel.plot([wanted, wanted], [place - 0.48, place + 0.48], color=_TARGET, linewidth=2)
    panel.set_yticks(places, names)
    panel.set_ylim(max(len(names), _FEWEST_BARS) - 0.5, -0.5)
    panel.set_xlim(0, reach * 1.15)
    panel.xaxis.set_major_formatter(lambda value, _: _short(value))
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(
        f"{row.title}\n{row.unit}, {row.better} is better", fontsize=9, loc="left", color=_INK
    )


def _targets(result: RowResult) -> list[tuple[float, str]]:
    """Return where a subject's bar should reach to, or stay below."""
    found = []
    for target in result.row.targets:
        against = result.best_peer() if target.against == BEST_PEER else target.against
        if target.subject not in result.rounds:
            continue
        if target.against is None:
            found.append((target.bound, target.subject))
        elif against in result.rounds:
            found.append((target.bound * result.median(str(against)), target.subject))
    return found


def _short(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
