"""The frames and operations of a log that was examined, in order.

What lies between valid frames was found before and is passed over. A segment that a
writer gives back meanwhile is told by `gone`: nothing of it is invented, and what it held
is in LMDB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgpack

from strandline.engine.catalog import DEFAULT_TABLE_ID, Metadata
from strandline.engine.operations import (
    CREATE,
    OPERATION_MASK,
    OPERATION_NAMES,
    TAG_SHIFT,
    PayloadError,
    commit_sizes,
    decode_creation,
    decode_items,
    decode_operations,
)
from strandline.recovery.segment_scan import Run, SegmentScan
from strandline.tools.inspect.examine import Examination
from strandline.wal.reader import PlacedFrame, SegmentReader

OPTIONS: Final = msgpack.packb("codec")
"""What every definition of a table holds; it is rare, and decoding all would take long."""
_KINDS: Final = {bytes, type(None)}
_OPERATIONS: Final = set(OPERATION_NAMES)


class Gone(NamedTuple):
    """LSNs of frames that were there at first and could not be read again."""

    first_lsn: int
    last_lsn: int
    path: str


class TableInfo(NamedTuple):
    """What is known of a table."""

    name: str
    codec: str


class LogFrames:
    """The data frames of an examined log that reach into a range of LSNs."""

    def __init__(self, log: Examination, *, from_lsn: int = 0, to_lsn: int | None = None) -> None:
        self.gone: list[Gone] = []
        self.senseless = 0
        """Frames whose content makes no sense, as whoever reads them counts."""
        self.bytes_done = 0
        """Bytes of segments that were read so far, for a progress bar."""
        self._log = log
        self._first = from_lsn
        self._last = to_lsn
        self.runs = [
            (scan, run)
            for scan in log.scans
            for run in scan.runs
            if run.last_lsn >= from_lsn and (to_lsn is None or run.first_lsn <= to_lsn)
        ]
        self.bytes_total = sum(run.end - run.offset for _, run in self.runs)

    def __iter__(self) -> Iterator[tuple[SegmentScan, list[PlacedFrame]]]:
        """Yield frames, some of one segment at a time."""
        for scan, run in self.runs:
            try:
                file = self._log.target.disk.open(scan.path, "r")
            except FileNotFoundError:
                self._miss(scan, run, run.first_lsn)
                continue
            try:
                reader = SegmentReader(
                    file, scan.stamp, lsn=run.first_lsn, offset=run.offset, end=run.end
                )
                for frames in reader.placed():
                    wanted = self._within(frames)
                    if wanted:
                        yield scan, wanted
                    self.bytes_done += sum([len(frame[5]) + 72 for frame in frames])
                    if self._last is not None and reader.lsn > self._last:
                        break
                else:
                    if reader.offset < run.end:
                        self._miss(scan, run, reader.lsn)
            finally:
                file.close()

    def _within(self, frames: list[PlacedFrame]) -> list[PlacedFrame]:
        first, last = self._first, self._last
        if frames[0][1] >= first and (last is None or frames[-1][1] <= last):
            return frames
        return [f for f in frames if f[1] + f[2] > first and (last is None or f[1] <= last)]

    def _miss(self, scan: SegmentScan, run: Run, first_lsn: int) -> None:
        if first_lsn <= run.last_lsn:
            self.gone.append(Gone(first_lsn, run.last_lsn, scan.path))


class Tables:
    """Names and codecs of tables by id: as LMDB has them, and as the log defines them."""

    def __init__(self, metadata: Metadata | None) -> None:
        self.known = {DEFAULT_TABLE_ID: TableInfo("", "bytes")}
        rows = metadata.tables.values() if metadata else ()
        for row in rows:
            self.known[row.id] = TableInfo(row.name, row.codec)

    def define(self, table_id: int, key: bytes | None, value: bytes | None) -> None:
        """Take in a CREATE; one that makes no sense changes nothing."""
        with contextlib.suppress(PayloadError):
            name, codec, _ = decode_creation(key, value)
            self.known[table_id] = TableInfo(name, codec)

    def take(self, operations: Iterable[LogOperation]) -> None:
        """Take in the tables that some operations define."""
        for each in operations:
            if each.op == CREATE:
                self.define(each.table_id, each.key, each.value)

    def learn(self, log: Examination, *, below: int) -> None:
        """Take in the tables that the log defines below an LSN."""
        if not below:
            return
        for scan, frames in LogFrames(log, to_lsn=below - 1):
            for frame in frames:
                if OPTIONS in frame[5]:
                    with contextlib.suppress(PayloadError):
                        self.take(operations_of(scan, frame))

    def name(self, table_id: int) -> str:
        """Return a table's name, `#id` where nothing tells it."""
        info = self.known.get(table_id)
        return info.name if info else f"#{table_id}"

    def codec(self, table_id: int) -> str:
        """Return the name of a table's codec, "bytes" where nothing tells it."""
        info = self.known.get(table_id)
        return info.codec if info else "bytes"


class LogOperation(NamedTuple):
    """An operation, and the frame that it lies in."""

    lsn: int
    table_id: int
    op: int
    key: bytes | None
    value: bytes | None
    time_ns: int
    segment_id: int
    offset: int


def operations_of(scan: SegmentScan, frame: PlacedFrame) -> list[LogOperation]:
    """Return the operations of a frame; raises PayloadError where it holds something else."""
    offset, first_lsn, count, time_ns, _, payload = frame
    segment_id = scan.segment_id
    return [
        LogOperation(*operation, time_ns, segment_id, offset)
        for operation in decode_operations(first_lsn, payload, count)
    ]


def flat_operations(frame: PlacedFrame) -> tuple[list[int], list[bytes | None], list[bytes | None]]:
    """Return the tags, keys and values of a frame's operations, checked at once.

    For whoever passes over millions of them. Raises PayloadError as `operations_of` does.
    """
    _, first_lsn, count, _, _, payload = frame
    items = decode_items(payload, count)
    if items[0] is not None:
        commit_sizes(items, count)
    tags, keys, values = items[1::3], items[2::3], items[3::3]
    if not _sound(tags, keys, values):
        decode_operations(first_lsn, payload, count)  # says what it is
        raise PayloadError(f"LSN {first_lsn}: operations that make no sense")
    return tags, keys, values


def flat_singles(
    frames: list[PlacedFrame],
) -> tuple[list[int], list[bytes | None], list[bytes | None]] | None:
    """Return the tags, keys and values of frames of one operation each, checked at once.

    None where a frame has more operations, or does not hold what it should: then they are
    for `flat_operations`, one by one.
    """
    if {frame[2] for frame in frames} != {1}:
        return None
    try:
        items = [msgpack.unpackb(frame[5]) for frame in frames]
    except (ValueError, msgpack.UnpackException):
        return None
    if {*map(type, items)} != {list} or {*map(len, items)} != {4}:
        return None
    commits, tags, keys, values = zip(*items, strict=True)
    if commits.count(None) != len(commits) or not _sound(tags, keys, values):
        return None
    return list(tags), list(keys), list(values)


def _sound(tags: Iterable[Any], keys: Iterable[Any], values: Iterable[Any]) -> bool:
    kinds = {*map(type, keys), *map(type, values)}
    if not kinds <= _KINDS or {*map(type, tags)} != {int}:
        return False
    distinct = {*tags}
    return min(distinct) >= 0 and {tag & OPERATION_MASK for tag in distinct} <= _OPERATIONS


def table_of(tag: int) -> int:
    """Return the table id in a tag."""
    return tag >> TAG_SHIFT
