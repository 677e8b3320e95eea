"""`wal-inspect ls`: the segments of a log."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import harmless, out, out_is_terminal, show_grid, write_line
from strandline.tools.inspect.examine import WORDS, Examination, examine
from strandline.tools.inspect.params import AsJson, LogPath
from strandline.tools.inspect.summary import end_with, log_line, log_plain, style_of
from strandline.tools.inspect.target import resolve
from strandline.tools.inspect.times import show_bytes, show_time

EXAMPLES: Final = (
    "wal-inspect ls data",
    "wal-inspect ls data/log/0000000000000007.wal --json",
)


_TITLES: Final = (
    "segment",
    "first LSN",
    "last LSN",
    "frames",
    "operations",
    "used",
    "file",
    "epoch",
    "state",
    "verdict",
    "created",
)

_NUMBERS: Final = _TITLES[:8]
_NEEDS: Final = (
    (120, "created"),
    (100, "epoch"),
    (92, "file"),
    (82, "frames"),
    (70, "used"),
    (66, "operations"),
)
"""Below how many columns of a terminal a column is left out."""


def ls(path: LogPath, *, as_json: AsJson = False) -> None:
    """List the segments: what each holds, and how it is.

    A segment is sealed, open (the last one, or the end of a crash), spare (prepared for
    use, with a file of an earlier use or none), or missing.
    """
    log = examine(resolve(path))
    if as_json:
        write_line(to_json(log_plain(log) | {"segments": [_plain(log, s) for s in log.scans]}))
    else:
        _show(log)
    end_with(log)


def state_of(scan: SegmentScan) -> str:
    """Return what a segment is: sealed, open, spare or missing."""
    if scan.seal is not None:
        return "sealed"
    if scan.runs or scan.header is not None:
        return "open"
    if scan.foreign is not None:
        return "foreign"
    if not scan.size and scan.trouble is not None and scan.trouble.found == "nothing":
        return "missing"
    return "recycled" if scan.stray is not None else "spare"


def verdict_of(log: Examination, scan: SegmentScan) -> CheckVerdict:
    """Return the gravest verdict of what was found in a segment."""
    found = [each.verdict for each in log.findings if each.path == scan.path]
    return max(found, key=lambda each: each.gravity, default=CheckVerdict.SOUND)


def used_bytes(scan: SegmentScan) -> int:
    """Return up to where a segment holds anything of its own."""
    return min(scan.size, scan.end) if scan.runs else 0


def _plain(log: Examination, scan: SegmentScan) -> dict[str, Any]:
    header = scan.header or scan.stray
    operations = [run for run in scan.runs if run.operations]
    return {
        "segment": scan.segment_id,
        "path": scan.path,
        "state": state_of(scan),
        "verdict": verdict_of(log, scan).value,
        "epoch": scan.stamp.epoch if scan.runs else None,
        "first_lsn": operations[0].first_lsn if operations else None,
        "last_lsn": operations[-1].last_lsn if operations else None,
        "frames": scan.frames,
        "operations": scan.operations,
        "used_bytes": used_bytes(scan),
        "file_bytes": scan.size,
        "created": show_time(header.created_ns) if header and scan.header else None,
        "clean": bool(scan.seal and scan.seal.clean),
        "in_lmdb": bool(scan.runs) and scan.runs[-1].last_lsn <= log.watermark_lsn,
    }


def _show(log: Examination) -> None:
    rows: list[list[str | Text]] = []
    for scan in log.scans:
        plain = _plain(log, scan)
        verdict = verdict_of(log, scan)
        rows.append(
            [
                str(scan.segment_id),
                _number(plain["first_lsn"]),
                _number(plain["last_lsn"]),
                f"{scan.frames:,}" if scan.runs else "",
                f"{scan.operations:,}" if scan.runs else "",
                show_bytes(plain["used_bytes"]) if scan.runs else "",
                show_bytes(scan.size),
                _number(plain["epoch"]),
                plain["state"] + (", in LMDB" if plain["in_lmdb"] and log.metadata else ""),
                Text(WORDS[verdict] if scan.runs or verdict.gravity else "", style_of(verdict)),
                (plain["created"] or "")[:19],
            ]
        )
    console = out()
    kept = list(range(len(_TITLES)))
    if out_is_terminal():
        # What tells least goes first where a terminal has no room for all.
        gone = [name for width, name in _NEEDS if console.width < width]
        kept = [at for at in kept if _TITLES[at] not in gone]
    right = sum(_TITLES[at] in _NUMBERS for at in kept)
    show_grid([_TITLES[at] for at in kept], [[row[at] for at in kept] for row in rows], right)
    console.print()
    console.print(log_line(log))
    for note in log.notes:
        console.print(Text(harmless(note), style="dim"))


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
