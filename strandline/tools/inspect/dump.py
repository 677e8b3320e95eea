"""`wal-inspect dump`: the operations of a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import typer

from strandline.engine.operations import CREATE, OPERATION_MASK, PayloadError
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import ProgressBar, note, out_is_terminal
from strandline.tools.inspect.examine import examine
from strandline.tools.inspect.fields import Values
from strandline.tools.inspect.frames import (
    LogFrames,
    Tables,
    flat_operations,
    flat_singles,
    operations_of,
)
from strandline.tools.inspect.lines import Format, Lines
from strandline.tools.inspect.params import AsJson, LogPath, ValuesForm
from strandline.tools.inspect.selection import (
    FromLsn,
    KeyText,
    Limit,
    OpNames,
    PrefixText,
    Selection,
    Since,
    TableNames,
    ToLsn,
    Until,
    selection_of,
)
from strandline.tools.inspect.summary import end_with, tell_findings, tell_gone
from strandline.tools.inspect.target import resolve
from strandline.wal.reader import PlacedFrame

EXAMPLES: Final = (
    "wal-inspect dump data --table users --prefix user: --since 15m",
    "wal-inspect dump data --from-lsn 4711 --limit 20 --values msgpack",
    "wal-inspect dump data --op delete --format csv > deletes.csv",
)

FormatName = Annotated[Format, typer.Option("--format", help="How operations are printed.")]

_LINES: Final = 2000


def dump(  # noqa: PLR0913 - one for each filter
    path: LogPath,
    *,
    from_lsn: FromLsn = None,
    to_lsn: ToLsn = None,
    since: Since = None,
    until: Until = None,
    table: TableNames = None,
    key: KeyText = None,
    prefix: PrefixText = None,
    op: OpNames = None,
    limit: Limit = None,
    values: ValuesForm = Values.UTF8,
    format_name: FormatName = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Print operations, in the order of the log; --json is --format jsonl.

    What does not verify is passed over and told on stderr, and the exit status says how
    grave it is. On a terminal lines are cut to its width.
    """
    wanted = selection_of(
        from_lsn=from_lsn,
        to_lsn=to_lsn,
        since=since,
        until=until,
        tables=table,
        key=key,
        prefix=prefix,
        ops=op,
    )
    log = examine(resolve(path))
    tell_findings(log)
    tables = Tables(log.metadata)
    tables.learn(log, below=wanted.from_lsn)
    lines = Lines(Format.JSONL if as_json else format_name, values, tables)
    lines.begin()
    frames = LogFrames(log, from_lsn=wanted.from_lsn, to_lsn=wanted.to_lsn)
    with ProgressBar("reading", "operations", delay=0.5) as bar:
        # A bar between the lines on one terminal would be in their way.
        watched = not out_is_terminal()
        done = 0
        for some in _in_parts(lines_of(frames, wanted, tables, lines), limit):
            lines.print(some)
            done += len(some)
            if watched:
                bar.advance(done, frames.bytes_done, frames.bytes_total)
    tell_gone(frames)
    if not (done or log.status or limit is not None or wanted.to_lsn is not None):
        _require_tables(wanted, tables)
    end_with(log, senseless=lines.senseless)


def _require_tables(wanted: Selection, tables: Tables) -> None:
    """Refuse a table that neither LMDB nor the log knows, once all of the log was read."""
    known = {info.name for info in tables.known.values()}
    for name in wanted.tables or ():
        if name not in known and not name.startswith("#"):
            raise CommandError(f"there is no table {name!r}; `strandline tables` lists them")


def _in_parts(source: Iterator[list[str]], limit: int | None) -> Iterator[list[str]]:
    """Yield lines, many at a time, and no more than `limit`."""
    part: list[str] = []
    left = limit
    for some in source:
        if left is not None:
            some = some[:left]  # noqa: PLW2901 - cut short
            left -= len(some)
        part += some
        if len(part) >= _LINES or left == 0:
            yield part
            part = []
        if left == 0:
            return
    if part:
        yield part


def lines_of(
    frames: Iterable[tuple[SegmentScan, list[PlacedFrame]]],
    wanted: Selection,
    tables: Tables,
    lines: Lines,
) -> Iterator[list[str]]:
    """Yield the lines of wanted operations, a list for each frame."""
    plain = wanted.takes_all
    for scan, some in frames:
        if plain and (found := _singles(scan, some, lines)):
            yield found
            continue
        for frame in some:
            try:
                if plain:
                    yield _whole(scan, frame, wanted, tables, lines)
                elif wanted.wants_time(frame[3]):
                    operations = operations_of(scan, frame)
                    tables.take(operations)
                    yield lines.of(each for each in operations if wanted.wants(each, tables))
            except PayloadError as error:
                lines.senseless += 1
                note(f"{scan.path}: offset {frame[0]}, LSN {frame[1]}: {error}")


def _singles(scan: SegmentScan, frames: list[PlacedFrame], lines: Lines) -> list[str] | None:
    """Return the lines of frames of one operation each; None where that is not all that it is."""
    flat = flat_singles(frames)
    if flat is None or CREATE in {tag & OPERATION_MASK for tag in flat[0]}:
        return None
    return lines.of_singles(scan.segment_id, frames, *flat)


def _whole(
    scan: SegmentScan, frame: PlacedFrame, wanted: Selection, tables: Tables, lines: Lines
) -> list[str]:
    """Return the lines of a frame of which nothing but LSNs is asked."""
    tags, keys, values = flat_operations(frame)
    if CREATE in {tag & OPERATION_MASK for tag in tags}:
        tables.take(operations_of(scan, frame))
        lines.forget_tables()
    offset, first, count, time_ns = frame[:4]
    place = scan.segment_id, offset, time_ns
    start = max(0, wanted.from_lsn - first)
    end = count if wanted.to_lsn is None else min(count, wanted.to_lsn - first + 1)
    if end - start < count:
        tags, keys, values = tags[start:end], keys[start:end], values[start:end]
    return lines.of_frame(place, first + start, tags, keys, values)
