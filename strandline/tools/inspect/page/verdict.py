"""The top of the page: what the log holds, how it is, and everything that was found."""

from __future__ import annotations

import os
from typing import Final

from strandline.recovery.check_report import CheckVerdict, Finding
from strandline.tools.inspect.analysis.figures import Analysis
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.tools.inspect.page.cells import LogMap
from strandline.tools.inspect.page.words import many, text
from strandline.tools.inspect.summary import log_line
from strandline.tools.inspect.times import show_bytes, show_span, show_time

_FINDINGS: Final = 100
"""More are for `wal-inspect verify` to list."""
_OPEN: Final = 6
"""The others are folded away."""
_RANGES: Final = 20


def head_section(log: Examination, figures: Analysis | None, made_ns: int) -> str:
    """Return the title, the verdict and the figures that say how big the log is."""
    line = log_line(log).plain
    return f"""<header>
<h1>wal-inspect report</h1>
<p class="path">{text(os.path.abspath(log.target.path))}</p>
<p class="verdict {_style(log.verdict)}">{text(line)}</p>
</header>
{_tiles(log, figures)}
{_facts(log, made_ns)}"""


def _style(verdict: CheckVerdict) -> str:
    styles = {CheckVerdict.SOUND: "holds", CheckVerdict.TORN_TAIL: "careful"}
    return styles.get(verdict, "failed")


def _tiles(log: Examination, figures: Analysis | None) -> str:
    present = sum(bool(scan.size) for scan in log.scans)
    tiles = [
        (f"{log.operations:,}", "operations"),
        (f"{log.frames:,}", "frames"),
        (f"{present:,}", "segment files"),
        (show_bytes(log.file_bytes), "on disk"),
    ]
    if log.metadata is not None:
        behind = max(0, log.last_lsn - log.watermark_lsn)
        tiles.append((f"{behind:,}", "operations not in LMDB yet"))
    if figures is not None and figures.rates.buckets:
        span = figures.rates.end_ns - figures.rates.first_ns
        tiles.append((show_span(span), "of writes, by the clock"))
    if log.findings:
        tiles.append(
            (f"{len(log.findings):,}", "finding" if len(log.findings) == 1 else "findings")
        )
    cells = "".join(f"<div><dt>{what}</dt><dd>{number}</dd></div>" for number, what in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _facts(log: Examination, made_ns: int) -> str:
    kinds = {"store": "a store", "log": "the folder of a log", "segment": "one segment"}
    facts = [f"The path names {kinds[log.target.kind]}; looked at {show_time(made_ns)[:19]}Z."]
    if any(log.target.uuid):
        facts.append(f"The store is {log.target.uuid.hex()}.")
    if log.first_lsn is not None:
        facts.append(f"The log holds LSN {log.first_lsn} to {log.last_lsn}.")
    if log.metadata is not None:
        stored = f"everything up to LSN {log.watermark_lsn}" if log.watermark_lsn else "nothing yet"
        facts.append(f"LMDB holds {stored}.")
    elif log.watermark_lsn:
        facts.append(f"What lies before LSN {log.watermark_lsn + 1} is not in the log.")
    if log.writer is not None:
        facts.append("A writer was at work: what it wrote meanwhile was not looked at.")
    if log.given_up:
        ranges = [
            f"{first} to {last}" if first < last else f"{first}"
            for first, last in log.given_up[:_RANGES]
        ]
        more = len(log.given_up) - len(ranges)
        rest = f" and {many(more, 'more range')}" if more else ""
        facts.append(f"A salvage would have to do without LSN {', '.join(ranges)}{rest}.")
    facts += log.notes
    return f'<ul class="facts">{"".join(f"<li>{text(each)}</li>" for each in facts)}</ul>'


def findings_section(log: Examination, drawn: LogMap) -> str:
    """Return what is wrong, each with what was expected and found, and what to do."""
    if not log.findings:
        return (
            "<p>Nothing is wrong: every header, frame and seal verifies, and they follow one "
            "another.</p>"
        )
    items = [
        _finding(log, finding, drawn.places.get(number))
        for number, finding in enumerate(log.findings[:_FINDINGS])
    ]
    shown = f'<ol class="findings">{"".join(items[:_OPEN])}</ol>'
    if len(items) > _OPEN:
        shown += (
            f"<details><summary>{many(len(items) - _OPEN, 'more finding')}</summary>"
            f'<ol class="findings" start="{_OPEN + 1}">{"".join(items[_OPEN:])}</ol></details>'
        )
    more = len(log.findings) - _FINDINGS
    if more > 0:
        shown += f"<p>{many(more, 'more finding')}: <code>wal-inspect verify</code> lists all.</p>"
    return shown


def _finding(log: Examination, finding: Finding, cell: int | None) -> str:
    place = ""
    if finding.offset is not None:
        place += f", offset {finding.offset:,}"
    if finding.lsn is not None:
        place += f", LSN {finding.lsn}"
    behind = log.frames_behind(finding)
    rows = (
        ("expected", finding.expected),
        ("found", finding.found),
        ("behind it", many(behind, "valid frame") if behind else "no valid frame"),
        ("next", finding.next_step),
    )
    facts = "".join(f"<div><dt>{label}</dt><dd>{text(said)}</dd></div>" for label, said in rows)
    show = ""
    if cell is not None:
        show = (
            f'<button type="button" class="show" data-cell="{cell}" hidden>show on the map</button>'
        )
    weight = "" if finding.fatal else " <small>keeps no store from opening</small>"
    return (
        f'<li class="{_style(finding.verdict)}"><h3>{WORDS[finding.verdict]}{weight}</h3>'
        f'<p class="path">{text(finding.path + place)}</p>{show}<dl>{facts}</dl></li>'
    )
