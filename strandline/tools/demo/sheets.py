"""The figures as tables of text, the same for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from strandline import Durability
from strandline.tools.demo.messages import LEVELS, Sample
from strandline.tools.demo.run import Crash, Outcome
from strandline.tools.demo.watch import Watched

_KEPT: Final = (Durability.SYNC, Durability.BUFFERED)
"""The levels of which a kill may take nothing."""
_WEAK: Final = (Durability.ASYNC,)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. The first column is text, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    shares: list[float] = field(default_factory=list)
    """The length of a bar for each row, 0 to 1, where the page draws bars."""


def sheets(outcome: Outcome) -> list[Sheet]:
    """Return all tables that the outcome has something to say in."""
    made = [_crashes(outcome), _levels(outcome), _runs(outcome)]
    if outcome.final:
        made += [_spared(outcome), _disk(outcome), _busiest(outcome)]
    return made


def _crashes(outcome: Outcome) -> Sheet:
    crashes = outcome.crashes

    def row(name: str, figure: Callable[[Crash], str]) -> list[str]:
        return [name, *map(figure, crashes)]

    return Sheet(
        "Crashes",
        ["SIGKILL", *(f"at {crash.at - outcome.began:.1f} s" for crash in crashes)],
        [
            row("operations acknowledged", lambda c: _known(c, c.verdict.acknowledged)),
            row("operations recovered", lambda c: _known(c, c.verdict.recovered)),
            row("SYNC or BUFFERED, acknowledged and lost", lambda c: _known(c, _lost(c, _KEPT))),
            row("ASYNC, acknowledged and lost", lambda c: _known(c, _lost(c, _WEAK))),
            row("there, acknowledgement unheard", lambda c: _known(c, c.verdict.unheard)),
            row("reopened in", lambda c: f"{c.open_seconds * 1e3:.0f} ms"),
            row("log scanned", lambda c: in_bytes(c.report.bytes_scanned)),
            row("operations replayed", lambda c: f"{c.report.operations_replayed:,}"),
            row("put aside behind the log's end", _torn),
        ],
        "An ASYNC write is acknowledged before it is in the log: the last 10 ms may be lost. "
        "What lies behind the end of the log may be the rest of a write or, in a segment that is "
        "used again, of its earlier use; it is kept in quarantine.",
    )


def _known(crash: Crash, count: int) -> str:
    """Return a count as text; there is none where what was recovered is no prefix."""
    return f"{count:,}" if crash.verdict.position else "-"


def _lost(crash: Crash, levels: Iterable[Durability]) -> int:
    return sum(crash.verdict.lost.get(level, 0) for level in levels)


def _torn(crash: Crash) -> str:
    tail = crash.report.torn_tail
    return in_bytes(tail.dropped_bytes) if tail else "none"


def _levels(outcome: Outcome) -> Sheet:
    samples = [run.samples[-1] for run in outcome.runs if run.samples]
    rows: list[list[str]] = []
    for at, level in enumerate(LEVELS):
        count = sum(sample.counts[at] for sample in samples)
        mean = sum(sample.seconds[at] for sample in samples) / (count or 1)
        rate = f"{1 / mean:,.0f}" if mean else "-"
        rows.append([level.name, f"{outcome.by_level[level]:,}", rate, f"{mean * 1e6:,.1f} µs"])
    return Sheet(
        "Writes by level",
        ["level", "operations", "per second", "mean"],
        rows,
        "One thread, time within the calls alone. A BUFFERED or SYNC call also writes the ASYNC "
        "operations queued before it. With one writer no two SYNC writes share an fdatasync.",
    )


def _runs(outcome: Outcome) -> Sheet:
    runs = [run for run in outcome.runs if run.samples and run.started]

    def row(name: str, figure: Callable[[Sample], str]) -> list[str]:
        return [name, *(figure(run.samples[-1]) for run in runs)]

    return Sheet(
        "Runs of the writing process",
        ["", *(f"run {number}" for number in range(1, len(runs) + 1))],
        [
            ["ended by", *("SIGKILL" if run.killed_at else "close" for run in runs)],
            ["seconds", *(f"{_seconds(run):.1f}" for run in runs)],
            row("operations", lambda s: f"{s.operations:,}"),
            [
                "per second",
                *(f"{run.samples[-1].operations / _seconds(run):,.0f}" for run in runs),
            ],
            row("fdatasync calls", lambda s: f"{s.fsyncs:,}"),
            row("fdatasync, median", lambda s: f"{s.fsync_p50 * 1e6:,.0f} µs"),
            row("fdatasync, 99 %", lambda s: f"{s.fsync_p99 * 1e6:,.0f} µs"),
            row("group size, mean", lambda s: f"{s.group_mean:.1f}"),
            row("group size, median", lambda s: f"{s.group_p50:.0f}"),
            row("group size, 99 %", lambda s: f"{s.group_p99:.0f}"),
            row("group size, largest", lambda s: f"{s.group_maximum:,.0f}"),
            row("checkpoints", lambda s: str(s.checkpoints)),
            row("checkpoint, mean", lambda s: f"{s.checkpoint_mean * 1e3:.0f} ms"),
        ],
        "A group is the operations of one frame of the log. The figures of a killed run are those "
        "of its last measurement, about a tenth of a second before.",
    )


def _seconds(run: Watched) -> float:
    """Return how long a run wrote, by its own clock."""
    assert run.started is not None
    return max(run.samples[-1].at - run.started.at, 1e-9)


def _spared(outcome: Outcome) -> Sheet:
    written, stored = outcome.operations, outcome.stored
    return Sheet(
        "Coalescing",
        ["", "entries"],
        [
            ["operations written", f"{written:,}"],
            ["entries that LMDB was given", f"{stored:,}"],
            ["writes that LMDB was spared", f"{written - stored:,}"],
            ["share spared", f"{(written - stored) / written:.1%}"],
            ["operations for one entry", f"{written / stored:.1f}" if stored else "-"],
        ],
        "Writes to one key between two checkpoints reach LMDB as one entry. "
        "The log table is never coalesced: each of its keys is new.",
    )


def _disk(outcome: Outcome) -> Sheet:
    names = {"store": "LMDB", "log": "log segments", "reserve": "reserve for a full disk"}
    known = {names[part]: size for part, size in outcome.disk.items() if part in names}
    other = sum(outcome.disk.values()) - sum(known.values())
    return Sheet(
        "Disk use after the close",
        ["", "on disk"],
        [
            *([name, in_bytes(size)] for name, size in sorted(known.items())),
            ["everything else", in_bytes(other)],
            ["together", in_bytes(sum(outcome.disk.values()))],
        ],
    )


def _busiest(outcome: Outcome) -> Sheet:
    return Sheet(
        f"The {len(outcome.busiest)} busiest routes",
        ["route", "flights", "cancelled", "air, min", "late, min"],
        [
            [
                route.name,
                f"{route.flights:,}",
                f"{route.cancelled:,}",
                f"{route.air_minutes:.0f}",
                f"{route.arrival_delay:+.1f}",
            ]
            for route in outcome.busiest
        ],
        "From the store's own counters: mean minutes in the air, and mean delay at arrival, of the "
        "flights that departed.",
        [route.flights / max(outcome.busiest[0].flights, 1) for route in outcome.busiest],
    )


def in_bytes(size: float) -> str:
    """Return a size as text."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
