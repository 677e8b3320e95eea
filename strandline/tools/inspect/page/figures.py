"""The figures of a log as tables with bars: sizes, coalescing, hot keys, sync lag.

A bar never stands without its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from strandline.tools.inspect.analysis.figures import Analysis, Estimate, HotList, TableFigures
from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.fields import show_key
from strandline.tools.inspect.page.charts import table_name
from strandline.tools.inspect.page.words import about, isolated, many, text
from strandline.tools.inspect.times import show_bytes, show_span

_TABLES: Final = 20
_HOT: Final = 20
_PERCENTILES: Final = (50, 95, 99)


class _Line(NamedTuple):
    """A row of a table with a bar; texts are markup."""

    cells: tuple[str, ...]
    share: float


def sizes_section(figures: Analysis) -> str:
    """Return how many operations are in a group and how big a frame is."""
    return _pair(
        _histogram("Operations of a group", "operations", figures.group_sizes, "{:,}".format),
        _histogram("Size of a frame", "bytes", figures.frame_sizes, show_bytes),
    )


def coalescing_section(figures: Analysis) -> str:
    """Return how much a checkpoint is spared because later writes make earlier ones void."""
    shown = [each for each in figures.tables if each.keyed][:_TABLES]
    lines = [_coalesced(table_name(figures, each.table_id), each) for each in shown]
    if len(shown) != 1:
        lines.append(_coalesced("all tables", figures.total))
    more = sum(bool(each.keyed) for each in figures.tables) - len(shown)
    note = f"{many(more, 'more table')} not shown. " if more else ""
    if not _all_exact(figures.tables):
        note += "What is said to be about so many is counted by a sketch. "
    return (
        "<p>A put or delete is made void by a later one of the same key, by a clear or by a drop. "
        "LMDB is spared it if both come before the same checkpoint; the bar is the share that "
        "would be spared if the whole log went to LMDB at once.</p>"
        + _table(("table", "puts, deletes", "keys", "spared", "share"), lines)
        + _note(note)
    )


def hot_section(figures: Analysis) -> str:
    """Return the keys and prefixes that are written most."""
    return _pair(
        f"<h3>Keys</h3>{_hot(figures, figures.hot_keys, 'key')}",
        f"<h3>Prefixes</h3>{_hot(figures, figures.hot_prefixes, 'prefix')}",
    )


def sync_section(figures: Analysis) -> str:
    """Return how far syncs stayed behind writes."""
    sync = figures.sync
    notes = [
        "The delay is an upper bound: a sync shows only in the next data frame that is written."
    ]
    if sync.sampled > 1:
        notes.append(f"One frame in {sync.sampled:,} was looked at for it.")
    if sync.unclaimed:
        notes.append(f"No later frame claims the last {many(sync.unclaimed, 'frame')}.")
    if sync.backward:
        notes.append(f"{many(sync.backward, 'frame')} left out: the clock was set back.")
    return _pair(
        _histogram("Written and not synced", "operations", sync.operations, "{:,}".format),
        _histogram("Until a sync is claimed", "delay", sync.delay_ns, show_span),
    ) + _note(" ".join(notes))


def doubts_section(figures: Analysis) -> str:
    """Return what could not be counted, if there is any of that."""
    said = []
    if figures.undecodable:
        places = "; ".join(
            f"{each.path}, offset {each.offset:,}, LSN {each.lsn}: {each.reason}"
            for each in figures.undecodable_places
        )
        said.append(
            f"The checksums of {many(figures.undecodable, 'frame')} hold, but the payload is no "
            f"list of operations; {figures.undecodable_operations:,} operations are not counted: "
            f"{places}"
        )
    if figures.gone:
        said.append(
            f"{many(len(figures.gone), 'stretch')} of frames were given back by the writer before "
            "they could be read; they are in LMDB and not counted."
        )
    return "".join(f'<p class="doubt">{text(each)}</p>' for each in said)


def _pair(left: str, right: str) -> str:
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'


def _note(note: str) -> str:
    return f'<p class="note">{text(note)}</p>' if note else ""


def _all_exact(tables: Iterable[TableFigures]) -> bool:
    return all(each.distinct.exact and each.overwritten.exact for each in tables)


def _histogram(title: str, what: str, spread: Spread, show: Callable[[float], str]) -> str:
    """Return a table of powers of two."""
    if not spread.count:
        return f"<h3>{title}</h3><p>None.</p>"
    powers = spread.powers()
    most = max(power.count for power in powers)
    lines = []
    for low, high, count in powers:
        span = show(low) if low >= high else f"{show(low)} to {show(high)}"
        lines.append(_Line((span, f"{count:,}"), count / most))
    percentiles = ", ".join(
        f"{percent} %: {show(spread.percentile(percent))}" for percent in _PERCENTILES
    )
    mean = f"{spread.mean:,.1f}" if what == "operations" else show(spread.mean)
    said = f"mean {mean}; {percentiles}; most {show(spread.maximum)}"
    return f"<h3>{title}</h3>{_note(said)}{_table((what, 'frames', ''), lines)}"


def _coalesced(name: str, figures: TableFigures) -> _Line:
    return _Line(
        (
            name,
            f"{figures.keyed:,}",
            about(figures.distinct),
            about(_at_most(figures.overwritten, figures.keyed)),
            f"{min(1.0, figures.saved):.0%}",
        ),
        min(1.0, figures.saved),
    )


def _at_most(estimate: Estimate, most: int) -> Estimate:
    return Estimate(min(estimate.value, most), estimate.exact, estimate.error)


def _hot(figures: Analysis, hot: HotList, thing: str) -> str:
    found = [each for each in hot.found if each.count > 1][:_HOT]
    if not found:
        return f"<p>No {thing} was written more than once.</p>"
    codecs = {each.table_id: each.codec for each in figures.tables}
    lines = []
    for each in found:
        codec = codecs.get(each.table_id, "bytes") if thing == "key" else "bytes"
        count = f"{each.count:,}"
        if each.too_many:
            count = f"{each.count - each.too_many:,} to {count}"
        lines.append(
            _Line(
                (isolated(show_key(codec, each.key)), table_name(figures, each.table_id), count),
                each.count / found[0].count,
            )
        )
    note = ""
    if hot.missed:
        note = f"A {thing} that is not listed was written {many(hot.missed, 'time')} at the most."
    return _table((thing, "table", "writes", ""), lines) + _note(note)


def _table(titles: tuple[str, ...], lines: list[_Line]) -> str:
    """Return rows with a bar in the last column; what is in it stands on the bar."""
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = ""
    for line in lines:
        first, *rest = line.cells
        rest += [""] * (len(titles) - len(line.cells))
        *between, last = rest
        cells = "".join(f"<td>{cell}</td>" for cell in between)
        share = min(1.0, max(0.0, line.share))
        body += (
            f'<tr><th scope="row">{first}</th>{cells}'
            f'<td class="share"><i style="--share:{share:.4f}"></i>{last}</td></tr>'
        )
    return (
        f'<div class="scroll"><table class="bars"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
