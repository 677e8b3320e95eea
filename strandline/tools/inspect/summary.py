"""The line that says how a log is, and what ends a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import typer
from rich.text import Text

from strandline.recovery.check_report import CheckVerdict, Finding
from strandline.tools.cli.terminal import harmless, note
from strandline.tools.inspect.examine import STATUS, WORDS, Examination
from strandline.tools.inspect.frames import Gone


def style_of(verdict: CheckVerdict) -> str:
    """Return the style that a verdict is shown in."""
    styles = {CheckVerdict.SOUND: "bold green", CheckVerdict.TORN_TAIL: "bold yellow"}
    return styles.get(verdict, "bold red")


def log_line(log: Examination) -> Text:
    """Return in one line what a log holds and how it is."""
    verdict = log.verdict
    span = f"LSN {log.first_lsn} to {log.last_lsn}" if log.first_lsn else "no operations"
    text = f"{log.frames:,} frames, {log.operations:,} operations, {span}"
    if log.metadata is not None:
        behind = max(0, log.last_lsn - log.watermark_lsn)
        text += f"; {behind:,} operations not in LMDB yet"
    if log.writer is not None:
        pid = "a process" if log.writer.pid is None else f"pid {log.writer.pid}"
        text += f"; {pid} has it open"
    return Text.assemble(
        f"{harmless(log.target.path)}: ", (WORDS[verdict], style_of(verdict)), f"; {text}"
    )


def log_plain(log: Examination) -> dict[str, Any]:
    """Return what every JSON document about a log begins with."""
    return {
        "path": log.target.path,
        "kind": log.target.kind,
        "uuid": log.target.uuid.hex(),
        "verdict": log.verdict.value,
        "status": log.status,
        "writer": None if log.writer is None else {"pid": log.writer.pid},
        "watermark_lsn": log.watermark_lsn if log.metadata else None,
        "first_lsn": log.first_lsn,
        "last_lsn": log.last_lsn,
        "frames": log.frames,
        "operations": log.operations,
        "file_bytes": log.file_bytes,
        "notes": log.notes,
    }


def finding_plain(log: Examination, finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON has it."""
    return {
        "verdict": finding.verdict.value,
        "path": finding.path,
        "offset": finding.offset,
        "lsn": finding.lsn,
        "expected": finding.expected,
        "found": finding.found,
        "frames_behind": log.frames_behind(finding),
        "fatal": finding.fatal,
        "next": finding.next_step,
    }


def tell_findings(log: Examination) -> None:
    """Say on stderr what is wrong with a log of which something else is shown."""
    for text in log.notes:
        note(text)
    for finding in log.findings:
        where = f", offset {finding.offset}" if finding.offset is not None else ""
        lsn = f", LSN {finding.lsn}" if finding.lsn is not None else ""
        note(
            f"{finding.path}{where}{lsn}: {WORDS[finding.verdict]}: expected {finding.expected}, "
            f"found {finding.found}"
        )


class _Read(Protocol):
    """What was read: frames, or an analysis of them."""

    @property
    def gone(self) -> Sequence[Gone]: ...


def tell_gone(read: _Read) -> None:
    """Say on stderr what a writer gave back before it could be read again."""
    for gone in read.gone:
        note(
            f"{gone.path}: given back by the writer meanwhile; LSN {gone.first_lsn} to "
            f"{gone.last_lsn} are in LMDB and not shown"
        )


def end_with(log: Examination, *, senseless: int = 0) -> None:
    """End the command with the log's exit status; frames that make no sense are damage too."""
    status = log.status or (STATUS[CheckVerdict.LOG_DAMAGE] if senseless else 0)
    if status:
        raise typer.Exit(status)
