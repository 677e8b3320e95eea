"""How far syncs stay behind writes, from what frames claim.

A frame states up to which LSN all was synced when it was written. What lies between that
and the frame was at risk at that moment. The first later data frame that claims a frame
says when it was synced at the latest.

How long that took is found out for a sample of the frames: for all of the first 65,536,
then for every second of twice as many, and so on. Those that wait for a claim are kept;
where they become too many, every second one is forgotten. Each stands for those that were
left out before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from strandline.tools.inspect.analysis.figures import SyncLag
from strandline.tools.inspect.analysis.spread import Spread
from strandline.wal.reader import PlacedFrame

WAITING: Final = 1 << 13
_ALIKE: Final = 1 << 16
"""How many frames are looked at before fewer are."""


class LagCounter:
    """Follows what frames claim."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._most = waiting
        self._operations = Spread()
        self._delays = Spread()
        self._backward = 0
        self._stride = 1
        self._turn = 0
        """How many frames there were since the last one that was looked at."""
        self._looked = 0
        self._waiting: deque[tuple[int, int, int]] = deque()
        """Last LSN, time, and how many frames it stands for."""

    @property
    def entries(self) -> int:
        """How many frames wait: never more than was said."""
        return len(self._waiting)

    def take(self, frames: Sequence[PlacedFrame]) -> None:
        """Take in frames, in order."""
        self._operations.add(Counter([max(0, frame[1] - 1 - frame[4]) for frame in frames]))
        claims = list(accumulate([frame[4] for frame in frames], max))
        delays: Counter[int] = Counter()
        waiting = self._waiting
        while waiting and waiting[0][0] <= claims[-1]:
            last_lsn, written_ns, weight = waiting.popleft()
            claim = bisect_left(claims, last_lsn)
            delays[frames[claim][3] - written_ns] += weight
        stride = self._stride
        sampled = range(stride - 1 - self._turn, len(frames), stride)
        for at in sampled:
            frame = frames[at]
            last_lsn = frame[1] + frame[2] - 1
            claim = bisect_left(claims, last_lsn, at + 1)
            if claim < len(claims):
                delays[frames[claim][3] - frame[3]] += stride
            else:
                waiting.append((last_lsn, frame[3], stride))
        self._turn = (self._turn + len(frames)) % stride
        self._looked += len(sampled)
        while len(waiting) > self._most:
            self._thin()
        if self._looked >= _ALIKE:
            self._sparser()
        for delay in [each for each in delays if each < 0]:
            self._backward += delays.pop(delay)
        self._delays.add(delays)

    def result(self) -> SyncLag:
        """Return what was found."""
        return SyncLag(
            operations=self._operations,
            delay_ns=self._delays,
            sampled=self._stride,
            unclaimed=sum(weight for _, _, weight in self._waiting) + self._turn,
            backward=self._backward,
        )

    def _thin(self) -> None:
        self._sparser()
        every = list(self._waiting)
        self._waiting.clear()
        # Each that stays stands for the one that goes before it, too.
        for gone, kept in zip(every[::2], every[1::2], strict=False):
            self._waiting.append((kept[0], kept[1], kept[2] + gone[2]))
        if len(every) % 2:
            self._waiting.append(every[-1])

    def _sparser(self) -> None:
        self._stride *= 2
        self._looked = 0
