"""`strandline check`: whether a store is sound, without opening it."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, Final

import typer
from rich.text import Text

from strandline.recovery.check_report import Phase
from strandline.tools.check import CheckProgress, CheckReport, CheckVerdict, Finding, check_store
from strandline.tools.cli.params import AsJson, StorePath
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import (
    ProgressBar,
    harmless,
    out,
    out_is_terminal,
    write_line,
)

EXAMPLES: Final = ("strandline check data", "strandline check data --json")

STATUS: Final = {
    CheckVerdict.SOUND: 0,
    CheckVerdict.UNREADABLE: 1,
    CheckVerdict.TORN_TAIL: 3,
    CheckVerdict.LOG_DAMAGE: 4,
    CheckVerdict.GAP: 5,
    CheckVerdict.FOREIGN: 6,
    CheckVerdict.STORE_DAMAGE: 7,
}
_WORDS: Final = {
    CheckVerdict.SOUND: "sound",
    CheckVerdict.UNREADABLE: "cannot be read",
    CheckVerdict.TORN_TAIL: "a torn tail",
    CheckVerdict.LOG_DAMAGE: "damage in the log",
    CheckVerdict.GAP: "a gap in the log",
    CheckVerdict.FOREIGN: "foreign or unsupported",
    CheckVerdict.STORE_DAMAGE: "damage in LMDB or IDENTITY",
}
_STYLES: Final = {CheckVerdict.SOUND: "bold green", CheckVerdict.TORN_TAIL: "bold yellow"}
_TITLES: Final[dict[Phase, tuple[str, str]]] = {
    "store": ("checking LMDB", "entries"),
    "log": ("checking the log", "bytes"),
    "operations": ("checking what is to be replayed", "bytes"),
}
_LEAST_WIDTH: Final = 30
_LABEL_WIDTH: Final = 10


def check(store: StorePath, *, as_json: AsJson = False) -> None:
    """Check every checksum of the log and of LMDB, and whether the parts fit.

    Reads and never writes; works on a store that cannot be opened, and beside a writer.
    The exit status says what is wrong, the gravest of it: 0 nothing, 1 it cannot be read,
    3 a torn tail only, 4 damage in the log, 5 a gap in the log, 6 foreign or unsupported,
    7 damage in LMDB or IDENTITY.
    """
    with ProgressBar(*_TITLES["store"]) as bar:

        def tell(seen: CheckProgress) -> None:
            bar.begin(*_TITLES[seen.phase])
            bar.advance(seen.done, seen.done, seen.total or None)

        report = check_store(store, progress=tell)
    if as_json:
        write_line(to_json(_plain(report)))
    else:
        _show(report)
    raise typer.Exit(STATUS[report.verdict])


def _plain(report: CheckReport) -> dict[str, Any]:
    """Return a report as JSON has it."""
    found = dataclasses.asdict(report)
    for finding, plain in zip(report.findings, found["findings"], strict=True):
        plain["verdict"] = finding.verdict.value
    return {
        "path": found.pop("path"),
        "verdict": report.verdict.value,
        "status": STATUS[report.verdict],
        "approximate": report.approximate,
        **found,
    }


def _show(report: CheckReport) -> None:
    console = out()
    verdict = report.verdict
    style = _STYLES.get(verdict, "bold red")
    console.print(Text.assemble(harmless(report.path), ": ", (_WORDS[verdict], style)))
    for label, text in _facts(report):
        _say(label, text)
    for finding in report.findings:
        console.print()
        _show_finding(finding)
    for note in report.notes:
        console.print()
        _say("note", note)


def _facts(report: CheckReport) -> list[tuple[str, str]]:
    facts = []
    writer = report.writer
    if writer is not None:
        who = "a process that LOCK does not name" if writer.pid is None else f"pid {writer.pid}"
        since = f" since {writer.started}" if writer.started else ""
        text = (
            f"{who} has the store open{since}: this is as of moments in between, and of the log's "
            "live end nothing is said"
        )
        facts.append(("writer", text))
    log = report.log
    if log is not None:
        span = f"LSN {log.first_lsn} to {log.last_lsn}" if log.first_lsn else "no operations"
        text = (
            f"{log.segments} segments, {log.frames:,} frames, {log.operations:,} operations, {span}"
        )
        facts.append(("log", text))
        fatal = any(finding.fatal for finding in report.findings)
        if not (log.clean or fatal or writer or log.to_replay is None):
            facts.append(("", f"not closed in order: opening replays {log.to_replay:,} operations"))
    lmdb = report.store
    if lmdb is not None:
        depth = "every value checked" if lmdb.values_checked else "values not checked"
        below = "" if lmdb.watermark_lsn is None else f", up to LSN {lmdb.watermark_lsn}"
        facts.append(("LMDB", f"{lmdb.tables} tables, {lmdb.entries:,} entries{below}; {depth}"))
    facts.append(("took", f"{report.seconds:.2f} s"))
    return facts


def _show_finding(finding: Finding) -> None:
    place = finding.path
    if finding.offset is not None:
        place += f", offset {finding.offset}"
    if finding.lsn is not None:
        place += f", LSN {finding.lsn}"
    style = _STYLES.get(finding.verdict, "bold red")
    _say(_WORDS[finding.verdict], place, style=style, below=True)
    _say("expected", finding.expected)
    _say("found", finding.found)
    _say("next", finding.next_step)


def _say(label: str, text: str, *, style: str = "dim", below: bool = False) -> None:
    """Print a label and a text, which is wrapped beside it on a terminal."""
    console = out()
    indent = " " * 2
    label_text = label if below else label.ljust(_LABEL_WIDTH)
    start = indent if below else indent + label_text
    lines = [harmless(text)]
    if out_is_terminal():
        width = max(_LEAST_WIDTH, console.width)
        room = width - len(indent if below else start)
        lines = textwrap.wrap(lines[0], room, break_on_hyphens=False) or [""]
    if below:
        console.print(Text(label, style=style))
        start = indent
    hanging = indent if below else " " * len(start)
    for number, line in enumerate(lines):
        if number == 0 and not below:
            console.print(Text.assemble((start, style), line))
        else:
            console.print(Text(hanging + line))
