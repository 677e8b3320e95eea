"""Two logs held against each other, LSN by LSN.

    A   | frame 7..9 | frame 10 | frame 11..12 |            payloads that are equal, with the
    B   | frame 7..9 | frame 10..11 | frame 12 | ...        same LSNs, are not decoded

What is compared is what both hold: table id, operation, key and value under each LSN. How
operations are grouped into frames, and when they were written, is no difference. An LSN
that one log holds and the other says it never issued (a segment's header states the jump)
is one; an LSN that the other has lost to damage is not, for nobody knows what was there.

Promises to hold a window of each log in memory, and of frames that differ the operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from strandline.engine.operations import OPERATION_MASK, TAG_SHIFT, PayloadError
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.frames import LogFrames, LogOperation, flat_operations
from strandline.wal.reader import PlacedFrame

_BLOCK: Final = 1024


class Held(NamedTuple):
    """The LSNs that a log holds; `last` is `first` - 1 where it holds no operation."""

    first: int
    last: int
    floor: int
    """The last LSN before it, as its first segment's header says."""


def held_by(log: Examination) -> Held | None:
    """Return what a log holds, None where there is no valid frame or header at all."""
    runs = [run for scan in log.scans for run in scan.runs]
    if not runs:
        return None
    last = max(run.last_lsn for run in runs)
    first = log.first_lsn or last + 1
    headers = [scan.header for scan in log.scans if scan.header is not None]
    return Held(first, last, headers[0].previous_last_lsn if headers else first - 1)


def common_to(a: Held, b: Held) -> tuple[int, int] | None:
    """Return the range that both logs span."""
    first, last = max(a.first, b.first), min(a.last, b.last)
    return (first, last) if first <= last else None


def adjoin(a: Held, b: Held) -> bool:
    """Tell whether one log begins where the other ends, or has no operation and lies within it."""
    for empty, other in ((a, b), (b, a)):
        if empty.last < empty.first:
            return other.floor <= empty.last <= other.last
    earlier, later = sorted((a, b), key=lambda each: (each.first, each.last))
    return later.floor <= earlier.last <= later.last and later.first > earlier.last


class Difference(NamedTuple):
    """Where two logs differ."""

    lsn: int
    last_lsn: int
    """Higher than `lsn` where a stretch is missing or is not made of operations."""
    how: tuple[str, ...]
    """Of `table`, `op`, `key`, `value`; or `missing`; or `payload`."""
    a: LogOperation | None
    b: LogOperation | None


@dataclass(slots=True)
class Comparison:
    """What was found up to now."""

    compared: int = 0
    """Operations that both logs hold."""
    differing: int = 0
    """LSNs that differ."""
    first: Difference | None = None
    only_a: int = 0
    """LSNs that A holds and B has lost, or no longer had when it was read."""
    only_b: int = 0

    def note(self, difference: Difference) -> None:
        """Take in a difference."""
        self.first = self.first or difference
        self.differing += difference.last_lsn - difference.lsn + 1


@dataclass(slots=True)
class _Cursor:
    """A place in a log: a frame, and an operation in it."""

    source: Iterator[tuple[SegmentScan, list[PlacedFrame]]]
    first: int
    last: int
    scan: SegmentScan = field(default_factory=lambda: SegmentScan(0, ""))
    frame: PlacedFrame | None = None
    lsn: int = 0
    """The LSN that comes next in the frame."""
    end: int = 0
    """The first LSN behind the frame, or behind what is compared of it."""
    _waiting: list[PlacedFrame] = field(default_factory=list)
    _flat: tuple[list[int], list[bytes | None], list[bytes | None]] | None = None

    def advance(self, lsn: int) -> None:
        """Go to the first operation that has this LSN or a higher one."""
        self.lsn = lsn
        while self.frame is None or self.lsn >= self.end:
            self._flat = None
            while not self._waiting:
                found = next(self.source, None)
                if found is None:
                    self.frame = None
                    self.lsn = self.end = self.last + 1
                    return
                self.scan, frames = found
                self._waiting = frames[::-1]
            self.frame = self._waiting.pop()
            # In a log whose links do not hold LSNs can come again; they count once.
            self.lsn = max(self.frame[1], lsn)
            self.end = min(self.frame[1] + self.frame[2], self.last + 1)

    def slices(
        self, lsn: int, count: int
    ) -> tuple[list[int], list[bytes | None], list[bytes | None]]:
        """Return tags, keys and values of some operations of the frame; raises PayloadError."""
        assert self.frame is not None, "operations lie in a frame"
        if self._flat is None:
            self._flat = flat_operations(self.frame)
        at = lsn - self.frame[1]
        tags, keys, values = self._flat
        return tags[at : at + count], keys[at : at + count], values[at : at + count]

    def operation(self, lsn: int) -> LogOperation:
        """Return an operation of the frame; raises PayloadError."""
        assert self.frame is not None, "operations lie in a frame"
        (tag,), (key,), (value,) = self.slices(lsn, 1)
        offset, _, _, time_ns = self.frame[:4]
        table_id, op = tag >> TAG_SHIFT, tag & OPERATION_MASK
        return LogOperation(lsn, table_id, op, key, value, time_ns, self.scan.segment_id, offset)


def compare(
    a: Examination, b: Examination, common: tuple[int, int]
) -> Iterator[tuple[Comparison, tuple[LogFrames, LogFrames]]]:
    """Compare two logs within a range; yield how far it is, now and then and at the end.

    The caller may stop at any time; `first` is the first difference.
    """
    return _Comparing(a, b, common).run()


class _Comparing:
    """The state of one comparison."""

    def __init__(self, a: Examination, b: Examination, common: tuple[int, int]) -> None:
        first, last = common
        self.frames = (
            LogFrames(a, from_lsn=first, to_lsn=last),
            LogFrames(b, from_lsn=first, to_lsn=last),
        )
        self.a, self.b = (_Cursor(iter(each), first, last) for each in self.frames)
        self.jumps_a, self.jumps_b = _jumps(a), _jumps(b)
        self.first, self.last = common
        self.found = Comparison()

    def run(self) -> Iterator[tuple[Comparison, tuple[LogFrames, LogFrames]]]:
        """Go through both logs."""
        a, b, found = self.a, self.b, self.found
        a.advance(self.first)
        b.advance(self.first)
        steps = 0
        while a.frame is not None or b.frame is not None:
            if a.lsn < b.lsn:
                self._only(a, b, self.jumps_b)
            elif b.lsn < a.lsn:
                self._only(b, a, self.jumps_a)
            else:
                self._both()
            steps += 1
            if steps % _BLOCK == 0 or found.first is not None:
                yield found, self.frames
        yield found, self.frames

    def _both(self) -> None:
        """Compare what follows under the same LSNs."""
        a, b, found = self.a, self.b, self.found
        assert a.frame is not None, "a cursor at an LSN has a frame"
        assert b.frame is not None, "a cursor at an LSN has a frame"
        end = min(a.end, b.end)
        lsn, count = a.lsn, end - a.lsn
        same = a.frame[1:3] == b.frame[1:3] and a.frame[5] == b.frame[5]
        try:
            if not same and a.slices(lsn, count) != b.slices(lsn, count):
                for each in range(lsn, end):
                    self._one(each)
        except PayloadError:
            found.note(Difference(lsn, end - 1, ("payload",), None, None))
        found.compared += count
        a.advance(end)
        b.advance(end)

    def _one(self, lsn: int) -> None:
        """Compare the operations of one LSN."""
        if self.a.slices(lsn, 1) == self.b.slices(lsn, 1):
            return
        if self.found.first is not None:
            self.found.differing += 1  # what it is has been said of the first alone
            return
        a, b = self.a.operation(lsn), self.b.operation(lsn)
        fields = (
            ("table", a.table_id, b.table_id),
            ("op", a.op, b.op),
            ("key", a.key, b.key),
            ("value", a.value, b.value),
        )
        how = tuple(name for name, left, right in fields if left != right)
        self.found.note(Difference(lsn, lsn, how, a, b))

    def _only(self, has: _Cursor, lacks: _Cursor, jumps: list[tuple[int, int]]) -> None:
        """Take operations that one log holds and the other does not."""
        end = min(has.end, lacks.lsn)
        for first, last in jumps:
            low, high = max(first, has.lsn), min(last, end - 1)
            if low <= high:
                self.found.note(self._missing(has, low, high))
        skipped = sum(max(0, min(y, end - 1) - max(x, has.lsn) + 1) for x, y in jumps)
        lost = end - has.lsn - skipped
        if has is self.a:
            self.found.only_a += lost
        else:
            self.found.only_b += lost
        has.advance(end)

    def _missing(self, has: _Cursor, low: int, high: int) -> Difference:
        operation = None
        if self.found.first is None:
            try:
                operation = has.operation(low)
            except PayloadError:
                operation = None
        sides = (operation, None) if has is self.a else (None, operation)
        return Difference(low, high, ("missing",), *sides)


def _jumps(log: Examination) -> list[tuple[int, int]]:
    """Return the stretches of LSNs that a log says were never issued, in order."""
    headers = [scan.header for scan in log.scans if scan.header is not None]
    found = [(each.previous_last_lsn + 1, each.first_lsn - 1) for each in headers]
    return [(first, last) for first, last in found if first <= last]
