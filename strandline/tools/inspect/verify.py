"""`wal-inspect verify`: every header, frame, chain and seal of a log."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from strandline.recovery.check_report import Finding
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import ProgressBar, harmless, out, write_line
from strandline.tools.inspect.examine import WORDS, Examination, examine
from strandline.tools.inspect.independent import SecondOpinion, second_opinion
from strandline.tools.inspect.params import AsJson, LogPath
from strandline.tools.inspect.summary import end_with, finding_plain, log_line, log_plain, style_of
from strandline.tools.inspect.target import resolve
from strandline.tools.inspect.times import show_bytes

EXAMPLES: Final = (
    "wal-inspect verify data",
    "wal-inspect verify data --independent --json",
)

Independent = Annotated[
    bool, typer.Option("--independent", help="Compute every CRC with a second library too.")
]
Operations = Annotated[
    bool, typer.Option("--operations", help="Decode what an opening would replay, too.")
]

_DISAGREE: Final = 4


def verify(
    path: LogPath,
    *,
    independent: Independent = False,
    operations: Operations = False,
    as_json: AsJson = False,
) -> None:
    """Check every header, frame and seal, and that segments follow one another.

    Of each thing that is wrong it says where it is, what was expected and found, and how
    many valid frames lie behind it. The exit status says how grave it is: 0 sound, 3 a torn
    tail, 4 damage in mid-log, 5 a gap, 6 foreign or unsupported.
    """
    log = examine(resolve(path), operations=operations)
    opinion = None
    if independent:
        with ProgressBar("computing every CRC with crcmod", "bytes", delay=0.3) as bar:
            opinion = second_opinion(log, lambda done, total: bar.advance(done, done, total))
    if as_json:
        write_line(to_json(_plain(log, opinion)))
    else:
        _show(log, opinion)
    if opinion is not None and opinion.disagreements and not log.status:
        raise typer.Exit(_DISAGREE)
    end_with(log)


def _plain(log: Examination, opinion: SecondOpinion | None) -> dict[str, Any]:
    return log_plain(log) | {
        "seals": sum(scan.seal is not None for scan in log.scans),
        "findings": [finding_plain(log, finding) for finding in log.findings],
        "given_up": [list(each) for each in log.given_up],
        "independent": None if opinion is None else dataclasses.asdict(opinion),
    }


def _show(log: Examination, opinion: SecondOpinion | None) -> None:
    console = out()
    console.print(log_line(log))
    headers = sum(scan.header is not None for scan in log.scans)
    seals = sum(scan.seal is not None for scan in log.scans)
    console.print(
        Text(
            f"checked {headers} segment headers, {log.frames:,} frames, {seals} seals, and how "
            f"they follow one another; {show_bytes(log.file_bytes)}",
            style="dim",
        )
    )
    if opinion is not None:
        _show_opinion(opinion)
    for finding in log.findings:
        console.print()
        _show_finding(log, finding)
    for note in log.notes:
        console.print(Text(f"note: {harmless(note)}", style="dim"))


def _show_opinion(opinion: SecondOpinion) -> None:
    console = out()
    confirmed = f"; {opinion.confirmed} that do not hold, confirmed" if opinion.confirmed else ""
    console.print(
        Text(
            f"crcmod computed {opinion.headers} segment headers and {opinion.frames:,} frames"
            f"{confirmed}: {len(opinion.disagreements)} disagreements",
            style="bold red" if opinion.disagreements else "dim",
        )
    )
    for each in opinion.disagreements:
        text = (
            f"{each.path}, offset {each.offset}: {each.what}: crcmod computes "
            f"{each.computed:#010x} where {each.stored:#010x} is stored, and google-crc32c says "
            "otherwise: one of the two libraries is at fault, or the memory of this machine"
        )
        console.print(Text(harmless(text), style="bold red"))


def _show_finding(log: Examination, finding: Finding) -> None:
    console = out()
    place = harmless(finding.path)
    if finding.offset is not None:
        place += f", offset {finding.offset}"
    if finding.lsn is not None:
        place += f", LSN {finding.lsn}"
    console.print(Text.assemble((WORDS[finding.verdict], style_of(finding.verdict)), f": {place}"))
    behind = log.frames_behind(finding)
    for label, text in (
        ("expected", finding.expected),
        ("found", finding.found),
        ("behind it", f"{behind:,} valid frames" if behind else "no valid frame"),
        ("next", finding.next_step),
    ):
        console.print(Text.assemble((f"  {label:<10}", "dim"), harmless(text)))
