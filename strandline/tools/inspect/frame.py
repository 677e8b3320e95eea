"""`wal-inspect frame`: the anatomy of one frame."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.text import Text

from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import harmless, out, out_is_terminal, write_line
from strandline.tools.inspect.anatomy import Field, Holds, frame_anatomy, segment_anatomy
from strandline.tools.inspect.examine import Examination, examine
from strandline.tools.inspect.frames import LogFrames, Tables
from strandline.tools.inspect.params import AsJson, LogPath
from strandline.tools.inspect.summary import end_with
from strandline.tools.inspect.target import resolve
from strandline.wal.format import SEGMENT_HEADER_BYTES

EXAMPLES: Final = (
    "wal-inspect frame data 4711",
    "wal-inspect frame data --segment 3 --offset 8192",
    "wal-inspect frame data --segment 3 --offset 0          (the segment's header)",
)

Lsn = Annotated[
    int | None, typer.Argument(metavar="[LSN]", min=0, help="An LSN that the frame holds.")
]
SegmentId = Annotated[int | None, typer.Option("--segment", min=1, help="The segment's id.")]
Offset = Annotated[
    int | None,
    typer.Option("--offset", min=0, max=1 << 62, help="Where in the segment the frame begins."),
]
Most = Annotated[
    int, typer.Option("--operations", metavar="N", min=0, help="Show at most so many operations.")
]

_WIDE: Final = 120
"""Columns of a terminal from which on there is room for 16 bytes on a line, and not for 8."""
_MOST_LINES: Final = 4


class Place(NamedTuple):
    """Where a frame is looked at."""

    scan: SegmentScan
    offset: int
    lsn: int | None
    """What its first LSN should be, None where nothing tells."""


def frame(
    path: LogPath,
    lsn: Lsn = None,
    *,
    segment: SegmentId = None,
    offset: Offset = None,
    operations: Most = 20,
    as_json: AsJson = False,
) -> None:
    """Take one frame apart: every field, its bytes, what it means, whether it checks.

    The frame is the one that holds an LSN, or what lies at an offset of a segment, sound or
    not; an offset below 4096 is the segment's header. Of an LSN that is damaged the place
    is shown where its frame should be.
    """
    if (lsn is None) == (offset is None):
        raise typer.BadParameter("give an LSN, or --offset with --segment")
    target = resolve(path)
    log = examine(target)
    place = _at(log, segment, offset) if offset is not None else _of(log, lsn or 0)
    tables = Tables(log.metadata)
    tables.learn(log, below=place.lsn or 0)
    file = target.disk.open(place.scan.path, "r")
    try:
        if place.offset < SEGMENT_HEADER_BYTES:
            place = place._replace(offset=0)
            fields = segment_anatomy(file, place.scan, target.uuid)
        else:
            fields = frame_anatomy(
                file, place.scan, place.offset, lsn=place.lsn, tables=tables, most=operations
            )
    finally:
        file.close()
    if not fields:
        raise CommandError(
            f"{place.scan.path}: offset {place.offset}: expected a frame, found the end of the file"
        )
    if as_json:
        write_line(to_json(_plain(place, fields)))
    else:
        _show(place, fields)
    end_with(log)


def _at(log: Examination, segment: int | None, offset: int) -> Place:
    """Return the place that a segment and an offset name."""
    found = [scan for scan in log.scans if segment in (None, scan.segment_id) and scan.size]
    if segment is None and len(found) > 1:
        raise typer.BadParameter("there are several segments: give --segment")
    if not found:
        raise CommandError(f"{log.target.path}: there is no segment {segment}")
    scan = found[0]
    for run in scan.runs:
        if run.offset <= offset < run.end:
            part = next(
                (
                    frame
                    for seen, frames in LogFrames(
                        log, from_lsn=run.first_lsn, to_lsn=max(run.first_lsn, run.last_lsn)
                    )
                    if seen is scan
                    for frame in frames
                    if frame[0] == offset
                ),
                None,
            )
            return Place(scan, offset, part[1] if part else None)
    lsn = next((damage.lsn for damage in scan.breaks if damage.offset == offset), None)
    return Place(scan, offset, lsn)


def _of(log: Examination, lsn: int) -> Place:
    """Return the place of the frame that holds an LSN, or should."""
    for scan, frames in LogFrames(log, from_lsn=lsn, to_lsn=lsn):
        for offset, first_lsn, *_ in frames:
            return Place(scan, offset, first_lsn)
    for scan in log.scans:
        for number, damage in enumerate(scan.breaks):
            later = scan.runs[number + 1 : number + 2]
            last = damage.last_lsn or (later[0].first_lsn - 1 if later else damage.lsn)
            if damage.lsn <= lsn <= last and damage.offset < scan.size:
                return Place(scan, damage.offset, damage.lsn)
    span = f"LSN {log.first_lsn} to {log.last_lsn}" if log.first_lsn else "no operations"
    raise CommandError(f"{log.target.path}: expected a frame with LSN {lsn}, found {span}")


def _plain(place: Place, fields: list[Field]) -> dict[str, Any]:
    return {
        "path": place.scan.path,
        "segment": place.scan.segment_id,
        "offset": place.offset,
        "holds": not any(field.holds is Holds.NO for field in fields),
        "fields": [
            {
                "offset": field.offset,
                "length": field.length,
                "hex": field.raw.hex(),
                "name": field.name,
                "value": field.value,
                "meaning": field.meaning,
                "holds": {Holds.YES: True, Holds.NO: False}.get(field.holds),
                "expected": field.expected or None,
            }
            for field in fields
        ],
    }


def _show(place: Place, fields: list[Field]) -> None:
    console = out()
    console.print(Text(harmless(f"{place.scan.path}, offset {place.offset}")))
    step = 16 if console.width >= _WIDE or not out_is_terminal() else 8
    for field in fields:
        lines = [field.raw[at : at + step].hex(" ") for at in range(0, len(field.raw), step)]
        lines = lines[:_MOST_LINES] or [""]
        if field.length > step * _MOST_LINES:
            lines[-1] += " ..."
        style = {Holds.YES: "green", Holds.NO: "bold red"}.get(field.holds, "dim")
        mark = {Holds.YES: "ok", Holds.NO: "BAD"}.get(field.holds, "")
        text = f"{field.value}"
        if field.expected:
            text += f"; expected {field.expected}"
        console.print(
            Text.assemble(
                (f"{field.offset:08x}  {lines[0]:<{3 * step - 1}}  ", "dim"),
                (f"{mark:<3}  ", style),
                (f"{field.name:<17}  ", "bold"),
                harmless(text),
                (f"  ({field.meaning})" if field.meaning else "", "dim"),
            )
        )
        for line in lines[1:]:
            console.print(Text(f"{'':8}  {line}", style="dim"))
