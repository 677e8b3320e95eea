"""What has to be known of a log before it is followed: its tables, and its last operations.

Read from the log's end towards its start, a segment at a time, and no further than needed.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator

from strandline.engine.operations import PayloadError
from strandline.engine.probe import read_metadata_apart
from strandline.errors import CorruptionError, ForeignStoreError
from strandline.recovery.opening import STORE_NAME
from strandline.recovery.segment_scan import SegmentScan, scan_segment
from strandline.tools.inspect.frames import OPTIONS, Tables, operations_of
from strandline.tools.inspect.selection import Selection
from strandline.tools.inspect.target import Target
from strandline.wal.reader import PlacedFrame, SegmentReader


def tables_of(target: Target) -> Tables:
    """Return the tables that LMDB and the log define; ids are never used again."""
    metadata = None
    if target.store is not None:
        try:
            metadata = read_metadata_apart(os.path.join(target.store, STORE_NAME))
        except ForeignStoreError:
            raise
        except (CorruptionError, OSError):
            pass  # names that LMDB alone knows are shown as #id
    tables = Tables(metadata)
    watermark = metadata.watermark.lsn if metadata else 0
    for scan, frames in segments_back(target):
        for frame in frames:
            if OPTIONS in frame[5]:
                with contextlib.suppress(PayloadError):
                    tables.take(operations_of(scan, frame))
        if scan.runs and scan.runs[0].first_lsn <= watermark + 1:
            break
    return tables


def lsn_of_last(target: Target, count: int, wanted: Selection, tables: Tables) -> int | None:
    """Return the LSN from which on there are `count` wanted operations, or as many as there are.

    None if there is none.
    """
    begin: int | None = None
    for scan, frames in segments_back(target):
        if not count:
            break
        last: deque[int] = deque(maxlen=count)
        for frame in frames:
            last.extend(_wanted_in(scan, frame, wanted, tables))
        if last:
            begin = last[0]
            count -= len(last)
    return begin


def _wanted_in(
    scan: SegmentScan, frame: PlacedFrame, wanted: Selection, tables: Tables
) -> Iterator[int]:
    first, count = frame[1:3]
    if wanted.takes_all:
        last = first + count - 1
        stop = last if wanted.to_lsn is None else min(last, wanted.to_lsn)
        yield from range(max(first, wanted.from_lsn), stop + 1)
        return
    with contextlib.suppress(PayloadError):
        for each in operations_of(scan, frame):
            if wanted.wants(each, tables):
                yield each.lsn


def segments_back(target: Target) -> Iterator[tuple[SegmentScan, Iterator[PlacedFrame]]]:
    """Yield the segments from the last to the first, each with the valid frames in it."""
    for segment_id, path in reversed(target.segments().items()):
        try:
            scan = scan_segment(target.disk, path, segment_id, uuid=target.uuid, next_lsn=1)
        except FileNotFoundError:
            continue  # given back
        yield scan, _frames_of(target, scan)


def _frames_of(target: Target, scan: SegmentScan) -> Iterator[PlacedFrame]:
    for run in scan.runs:
        try:
            file = target.disk.open(scan.path, "r")
        except FileNotFoundError:
            return
        try:
            reader = SegmentReader(
                file, scan.stamp, lsn=run.first_lsn, offset=run.offset, end=run.end
            )
            for frames in reader.placed():
                yield from frames
        finally:
            file.close()
