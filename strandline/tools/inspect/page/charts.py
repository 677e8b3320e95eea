"""Writes over time: one chart for each table, all with the same time axis.

A chart each, and no stack in colours: which table a line belongs to is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from strandline.tools.inspect.analysis.figures import OTHER, Analysis, Bucket, Rates
from strandline.tools.inspect.page.words import isolated, many, name
from strandline.tools.inspect.times import SECOND, show_span, show_time
from strandline.tools.pages.axes import LETTER, WIDTHS, Axes

_TABLES: Final = 6
_DAY: Final = 86400 * SECOND
_STEPS: Final = (
    *(
        unit * count
        for unit in (1_000, 1_000_000)
        for count in (1, 2, 5, 10, 20, 50, 100, 200, 500)
    ),
    *(SECOND * count for count in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)),
    *(3600 * SECOND * count for count in (1, 2, 3, 6, 12)),
    *(_DAY * count for count in (1, 2, 7, 14, 30, 90, 365, 3650)),
)
_KIB: Final = 1024.0


def writes_section(figures: Analysis) -> str:
    """Return the charts of operations, by table, and of bytes."""
    rates = figures.rates
    if not rates.buckets:
        return "<p>No operation was written in what could be read.</p>"
    about = (
        f"<p>From {show_time(rates.first_ns)} to {show_time(rates.end_ns)}, by the clock of the "
        f"frames, in steps of {show_span(rates.width_ns)}.{_clock_note(rates)}</p>"
    )
    whole = [(bucket, sum(bucket.operations.values())) for bucket in rates.buckets]
    charts = [_chart("All tables", "operations", rates, whole)]
    shown = [table for table in rates.tables if table != OTHER][:_TABLES]
    if len(rates.tables) > 1:
        charts += [
            _chart(
                table_name(figures, table),
                "operations",
                rates,
                [(bucket, bucket.operations.get(table, 0)) for bucket in rates.buckets],
            )
            for table in shown
        ]
        rest = [table for table in rates.tables if table not in shown]
        if rest:
            others = [
                (bucket, sum(bucket.operations.get(table, 0) for table in rest))
                for bucket in rates.buckets
            ]
            charts.append(_chart("All other tables", "operations", rates, others))
    sizes = [(bucket, sum(bucket.data_bytes.values())) for bucket in rates.buckets]
    unit, scale = _unit(max(size for _, size in sizes))
    charts.append(
        _chart(f"Keys and values, {unit}", unit, rates, [(b, size / scale) for b, size in sizes])
    )
    return f'{about}<div class="charts">{"".join(charts)}</div>'


def table_name(figures: Analysis, table_id: int | None) -> str:
    """Return a table's name as markup."""
    if table_id == OTHER:
        return "other tables"
    found = next(
        (each.name for each in figures.tables if each.table_id == table_id), f"#{table_id}"
    )
    return name(found) if found else isolated('"" (the default table)')


def _clock_note(rates: Rates) -> str:
    if not rates.steps_back:
        return ""
    return (
        f" The clock was set back {many(rates.steps_back, 'time')}: what was written then lies "
        "where its own clock put it."
    )


def _unit(highest: int) -> tuple[str, float]:
    for unit, scale in (("GiB", _KIB**3), ("MiB", _KIB**2), ("KiB", _KIB)):
        if highest >= scale:
            return unit, scale
    return "B", 1.0


def _chart(title: str, unit: str, rates: Rates, values: Sequence[tuple[Bucket, float]]) -> str:
    """Return a figure; `title` is markup."""
    total = sum(value for _, value in values)
    highest = max(value for _, value in values)
    if unit == "operations":
        said = many(int(total), "operation")
        said += f"; at most {int(highest):,} in {show_span(rates.width_ns)}"
    else:
        said = f"{total:,.{0 if unit == 'B' else 1}f} {unit} in all"
    drawings = "".join(_draw(rates, values, f"{unit} over time; {said}", width) for width in WIDTHS)
    return f"<figure><figcaption>{title} <small>{said}</small></figcaption>{drawings}</figure>"


def _draw(rates: Rates, values: Sequence[tuple[Bucket, float]], about: str, width: int) -> str:
    first, until = rates.first_ns, rates.end_ns - rates.first_ns
    axes = Axes(width, until, max(value for _, value in values), height=150, top=10)
    path = [f"M{axes.x(0):.1f} {axes.base}"]
    at = 0
    for bucket, value in values:
        start = bucket.start_ns - first
        if start > at:
            path.append(f"V{axes.base}H{axes.x(start):.1f}")
        at = start + rates.width_ns
        path.append(f"V{axes.y(value):.1f}H{axes.x(at):.1f}")
    path.append(f"V{axes.base}z")
    return (
        f"{axes.opening(about)}{axes.levels()}{_ticks(rates, axes)}"
        f'<path class="step" d="{"".join(path)}"/></svg>'
    )


def _ticks(rates: Rates, axes: Axes) -> str:
    first, end = rates.first_ns, rates.end_ns
    letters = len(_clock(first, SECOND, end - first))
    room = max(2, axes.inner // (LETTER * letters + 16))
    step = next((each for each in _STEPS if (end - first) / each <= room), end - first)
    begin = -(-first // step) * step
    # A label that would not fit below its tick would run into the one before.
    last = first + (end - first) * (axes.inner - LETTER * letters // 2 + 8) // axes.inner
    return "".join(
        axes.tick(at - first, _clock(at, step, end - first))
        for at in range(begin, min(end, last) + 1, step)
    )


def _clock(time_ns: int, step: int, span: int) -> str:
    """Return as much of a time as tells one tick from the next."""
    shown = show_time(time_ns)
    if "T" not in shown:
        return ""
    if step >= _DAY:
        return shown[:10]
    if span > _DAY:
        return shown[5:16].replace("T", " ")
    if step >= 60 * SECOND:
        return shown[11:16]
    if step >= SECOND:
        return shown[11:19]
    return shown[14:23] if step >= 1_000_000 else shown[17:26]
