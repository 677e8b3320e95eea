"""What `wal-inspect stats` shows a person: a page that fits 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.text import Text

from strandline.tools.cli.terminal import (
    escape,
    harmless,
    note,
    out,
    out_is_terminal,
    show_grid,
    write_line,
)
from strandline.tools.inspect.analysis.bars import PAUSE, bar, series, sparkline
from strandline.tools.inspect.analysis.figures import (
    OTHER,
    Analysis,
    Estimate,
    HotList,
    SyncLag,
    TableFigures,
)
from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.fields import show_key
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.summary import log_line
from strandline.tools.inspect.times import show_bytes, show_span, show_time

_TABLES: Final = 20
_LINES: Final = 5
"""How many tables have a sparkline."""
_PIPE_COLUMNS: Final = 80
_NAME_COLUMNS: Final = 16
_FIGURE_COLUMNS: Final = 17
_TABLE_FIGURES: Final = 64
_LEAST_SHARE: Final = 0.01
"""A prefix of fewer operations than this share of all is not worth a line."""


def show_analysis(log: Examination, found: Analysis, tables: Tables) -> None:
    """Print an analysis as a page."""
    _say(log_line(log))
    if not found.frames:
        _say("no frames to count")
        return
    share = found.frame_bytes - found.payload_bytes
    _say(
        f"counted {found.total.operations:,} operations in {found.frames:,} frames; "
        f"{show_bytes(found.payload_bytes)} of payload, {show_bytes(share)} of headers and padding"
    )
    _tell_undecodable(found)
    if found.total.operations:
        _show_tables(found, tables)
        _say("")
        _say(_coalescing(found.total))
        _show_rates(found, tables)
    _show_spread("operations a frame", found.group_sizes, _number)
    _show_spread("size of a frame", found.frame_sizes, show_bytes)
    _show_hot("hottest keys", found.hot_keys, found, tables, prefixes=False)
    _show_hot("hottest prefixes", found.hot_prefixes, found, tables, prefixes=True)
    _show_sync(found.sync)


def name_of(table_id: int | None, tables: Tables) -> str:
    """Return a table's name for a person, escaped."""
    if table_id is None:
        return "total"
    if table_id == OTHER:
        return "(others)"
    return escape(tables.name(table_id)) or "(default)"


def _show_tables(found: Analysis, tables: Tables) -> None:
    room = max(_NAME_COLUMNS, _width() - _TABLE_FIGURES)
    shown = found.tables[:_TABLES]
    rows = [_table_row(each, _cut(name_of(each.table_id, tables), room)) for each in shown]
    if len(found.tables) > 1:
        rows.append(_table_row(found.total, name_of(None, tables)))
    titles = ("operations", "puts", "deletes", "data", "keys", "saved", "frames")
    _say("")
    show_grid((*titles, "table"), rows, right=len(titles))
    if len(found.tables) > _TABLES:
        _say(f"and {len(found.tables) - _TABLES} more tables, all of which --json has")


def _table_row(table: TableFigures, name: str) -> list[str | Text]:
    puts, deletes = table.kinds.get("put", 0), table.kinds.get("delete", 0)
    about = "" if table.overwritten.exact else "~"
    return [
        _short(table.operations),
        _short(puts),
        _short(deletes),
        show_bytes(table.data_bytes),
        _estimate(table.distinct),
        f"{about}{_percent(table.saved)}" if table.keyed else "",
        _short(table.frames),
        name,
    ]


def _coalescing(total: TableFigures) -> str:
    about = "" if total.overwritten.exact else "about "
    return (
        f"Coalescing would save {about}{_percent(total.saved)}: of {total.keyed:,} puts and "
        f"deletes {_estimate(total.overwritten)} are overwritten by later ones."
    )


def _show_rates(found: Analysis, tables: Tables) -> None:
    rates = found.rates
    room = max(20, _width() - _NAME_COLUMNS - _FIGURE_COLUMNS)
    every, column_ns = series(rates, None, room)
    span = max(1, rates.end_ns - rates.first_ns)
    _title_line(
        f"rate: {show_time(rates.first_ns)[:19]} to {show_time(rates.end_ns)[:19]}, "
        f"{show_span(column_ns)} a column"
    )
    lines = [(name_of(None, tables), every)]
    if len(rates.tables) > 1:
        lines += [
            (name_of(table_id, tables), series(rates, table_id, room)[0])
            for table_id in rates.tables[:_LINES]
        ]
    for name, values in lines:
        most = max((each for each in values if each is not None), default=0.0)
        figure = f"max {_rate(most)}/s"
        _say(
            Text.assemble(
                (_cut(name, _NAME_COLUMNS - 1).ljust(_NAME_COLUMNS - 1), "dim"),
                " ",
                (sparkline(values, most), "cyan"),
                f" {figure}",
            )
        )
    average = found.total.operations / (span / 1e9)
    words = f"{_rate(average)} operations/s on average over {show_span(span)}"
    if None in every:
        words += f"; long pauses are cut out ({PAUSE})"
    if rates.steps_back:
        words += f"; the clock was set back {_times(rates.steps_back)}"
    _say(words)


def _show_spread(title: str, spread: Spread, said: Callable[[float], str]) -> None:
    _title_line(
        f"{title}: mean {said(spread.mean)}, median {said(spread.percentile(50))}, "
        f"99 % up to {said(spread.percentile(99))}, largest {said(spread.maximum)}"
    )
    powers = spread.powers()
    most = max((each.count for each in powers), default=0)
    room = max(10, _width() - _NAME_COLUMNS - 12)
    for each in powers:
        low, high = said(each.low), said(each.high)
        name = low if low == high or said is show_bytes else f"{low} to {high}"
        _say(
            Text.assemble(
                (name.rjust(_NAME_COLUMNS - 1), "dim"),
                f" {_short(each.count):>8} ",
                (bar(each.count, most, room), "cyan"),
            )
        )


def _show_hot(title: str, hot: HotList, found: Analysis, tables: Tables, *, prefixes: bool) -> None:
    if not found.total.keyed:
        return
    least = found.total.keyed * _LEAST_SHARE if prefixes else 2
    shown = [each for each in hot.found if each.count >= least]
    if not shown:
        if not prefixes and hot.found:
            _title_line(f"{title}: no key was written twice")
        elif not prefixes:
            _title_line(f"{title}: none stands out; no key has more than {2 * hot.missed:,}")
        return
    _title_line(title)
    rows: list[list[str | Text]] = []
    many = len(found.tables) > 1
    inexact = any(each.too_many for each in shown)
    for each in shown:
        codec = "bytes" if prefixes else tables.codec(each.table_id)
        row: list[str | Text] = [f"{each.count:,}", _percent(each.count / found.total.keyed)]
        if inexact:
            row.append(f"{each.too_many:,}" if each.too_many else "exact")
        if many:
            row.append(_cut(name_of(each.table_id, tables), _NAME_COLUMNS))
        rows.append([*row, show_key(codec, each.key)])
    titles = ["operations", "share"]
    titles += ["too many by"] if inexact else []
    right = len(titles)
    titles += ["table"] if many else []
    show_grid([*titles, "prefix" if prefixes else "key"], rows, right=right)


def _show_sync(sync: SyncLag) -> None:
    behind, delay = sync.operations, sync.delay_ns
    _title_line("sync lag")
    if not behind.maximum:
        _say("every frame was written after all before it was synced")
    else:
        _say(
            f"when a frame was written, operations before it not known synced: "
            f"{behind.percentile(50):,} or fewer for half of the frames, "
            f"{behind.percentile(99):,} for 99 %, {behind.maximum:,} at the most"
        )
    if delay.count:
        sampled = f" (one frame in {sync.sampled:,})" if sync.sampled > 1 else ""
        _say(
            f"a later frame says it is synced{sampled}: within {show_span(delay.percentile(50))} "
            f"for half of the frames, {show_span(delay.percentile(99))} for 99 %, "
            f"{show_span(delay.maximum)} at the most; pauses count in"
        )
    if sync.unclaimed:
        _say(f"{sync.unclaimed:,} at the end that no later data frame says is synced")


def _tell_undecodable(found: Analysis) -> None:
    if not found.undecodable:
        return
    for each in found.undecodable_places:
        note(f"{each.path}: offset {each.offset}, LSN {each.lsn}: {each.reason}")
    _say(
        f"{found.undecodable:,} frames with {found.undecodable_operations:,} operations do not "
        "decode and are counted as frames only"
    )


def _say(text: str | Text) -> None:
    """Print a line; what the output's encoding lacks is escaped."""
    console = out()
    with console.capture() as captured:
        console.print(Text(harmless(text)) if isinstance(text, str) else text)
    for line in captured.get().splitlines() or [""]:
        write_line(line)


def _title_line(text: str) -> None:
    _say("")
    _say(Text(harmless(text), "bold"))


def _width() -> int:
    return out().width if out_is_terminal() else _PIPE_COLUMNS


def _cut(text: str, columns: int) -> str:
    if not out_is_terminal() or len(text) <= columns:
        return text
    return text[: columns - 1] + "…"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _estimate(found: Estimate) -> str:
    return _short(found.value) if found.exact else f"~{_short(found.value)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _rate(rate: float) -> str:
    """Return how many a second, with two digits where that is few."""
    return f"{rate:.2g}" if rate < 10 else _short(round(rate))


def _short(count: int) -> str:
    """Return a number in at most five columns, unless it is astronomical."""
    if count < 10_000:
        return str(count)
    for unit, size in (("k", 10**3), ("M", 10**6)):
        if count < 999.5 * size:
            return f"{count / size:.3g}{unit}"
    return f"{count / 10**9:,.3g}G"
