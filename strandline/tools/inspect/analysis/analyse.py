"""A log in figures: what is written, how often, when, and how far behind syncs are.

    analyse(log, Tables(log.metadata)) -> Analysis    see `figures.py` for what is in it

One pass, in bounded memory: what could grow with the log is counted by what states its
error (`sketch.py`, `spread.py`, `rates.py`, `sync_lag.py`). Of a damaged log all that
verifies is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from operator import gt, mul
from typing import Final

from strandline.engine.operations import PayloadError
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.analysis.counting import OperationCounter
from strandline.tools.inspect.analysis.figures import Analysis, Undecodable
from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.analysis.sync_lag import LagCounter
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.frames import LogFrames, Tables, flat_operations, flat_singles
from strandline.wal.reader import PlacedFrame, frame_bytes

OnProgress = Callable[[int, int, int], None]
"""Called with operations, bytes done and bytes in all."""

_PLACES: Final = 8
"""Of how many undecodable frames the place is kept."""


def analyse(
    log: Examination,
    tables: Tables,
    *,
    from_lsn: int = 0,
    to_lsn: int | None = None,
    only: Collection[str] | None = None,
    top: int = 20,
    progress: OnProgress | None = None,
) -> Analysis:
    """Read the operations of a log, from one LSN to another, both included.

    With `only` (names, or `#id`) no operation of another table is counted; what is said
    of frames, of their sizes and of syncs is about all frames. `top` is how many of the
    hottest keys and prefixes are wanted. `tables` learns the tables that the log creates.
    """

    def wanted(table_id: int) -> bool:
        return only is None or tables.name(table_id) in only or f"#{table_id}" in only

    reader = LogFrames(log, from_lsn=from_lsn, to_lsn=to_lsn)
    counter = OperationCounter(tables, None if only is None else wanted)
    counting = _Frames(counter, from_lsn, to_lsn)
    for scan, frames in reader:
        counting.take(scan, frames)
        if progress is not None:
            progress(counter.operations, reader.bytes_done, reader.bytes_total)
    counter.flush()
    by_table, total = counter.result()
    return Analysis(
        tables=by_table,
        total=total,
        frames=counting.group_sizes.count,
        payload_bytes=counting.payload_bytes,
        frame_bytes=counting.frame_sizes.total,
        group_sizes=counting.group_sizes,
        frame_sizes=counting.frame_sizes,
        rates=counter.rates.result(),
        hot_keys=counter.hot_keys.top(top),
        hot_prefixes=counter.hot_prefixes.top(top),
        sync=counting.lag.result(),
        undecodable=counting.undecodable,
        undecodable_operations=counting.undecodable_operations,
        undecodable_places=counting.places,
        gone=reader.gone,
    )


class _Frames:
    """What is counted of frames."""

    def __init__(self, counter: OperationCounter, from_lsn: int, to_lsn: int | None) -> None:
        self.lag = LagCounter()
        self.group_sizes = Spread()
        self.frame_sizes = Spread()
        self.payload_bytes = 0
        self.undecodable = 0
        self.undecodable_operations = 0
        self.places: list[Undecodable] = []
        self._counter = counter
        self._first = from_lsn
        self._last = to_lsn
        self._time = 0

    def take(self, scan: SegmentScan, frames: list[PlacedFrame]) -> None:
        """Take in frames of one segment, in order."""
        self.lag.take(frames)
        self.group_sizes.add(Counter([frame[2] for frame in frames]))
        sizes = Counter([len(frame[5]) for frame in frames])
        payload_bytes = sum(map(mul, sizes, sizes.values()))
        self.payload_bytes += payload_bytes
        padded: Counter[int] = Counter()
        for size, times in sizes.items():
            padded[frame_bytes(size)] += times
        self.frame_sizes.add(padded)
        clock = [self._time, *[frame[3] for frame in frames]]
        self._time = clock[-1]
        self._counter.rates.steps_back += sum(map(gt, clock, clock[1:]))
        singles = flat_singles(frames)
        if singles is not None:
            # One that reaches into the range lies in it.
            self._counter.take_singles(clock[1:], *singles, payload_bytes)
            return
        for frame in frames:
            self._take(scan, frame)

    def _take(self, scan: SegmentScan, frame: PlacedFrame) -> None:
        """Take in the operations of one frame."""
        _, first_lsn, count, time_ns, _, payload = frame
        first, last = self._first, self._last
        try:
            tags, keys, values = flat_operations(frame)
        except PayloadError as error:
            self._miss(scan, frame, error)
            return
        if first_lsn < first or (last is not None and first_lsn + count - 1 > last):
            stop = count if last is None else last - first_lsn + 1
            part = slice(max(0, first - first_lsn), max(0, stop))
            tags, keys, values = tags[part], keys[part], values[part]
        self._counter.take(time_ns, tags, keys, values, len(payload))

    def _miss(self, scan: SegmentScan, frame: PlacedFrame, error: PayloadError) -> None:
        self.undecodable += 1
        self.undecodable_operations += frame[2]
        if len(self.places) < _PLACES:
            self.places.append(Undecodable(scan.path, frame[0], frame[1], str(error)[:200]))
