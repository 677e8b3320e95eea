"""How far syncs stay behind writes, from what frames claim.

A frame states up to which LSN all was synced when it was written. What lies between that
and the frame was at risk at that moment. The first later data frame that claims a frame
says when it was synced at the latest.

Frames that wait for such a claim are kept. Where they become too many, every second one is
forgotten, and from then on only every second one is looked at: a fair sample.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from strandline.tools.inspect.figures import SyncLag
from strandline.tools.inspect.spread import Spread
from strandline.wal.reader import PlacedFrame

WAITING: Final = 1 << 13


class LagCounter:
    """Follows what frames claim."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._most = waiting
        self._operations = Spread()
        self._delays = Spread()
        self._backward = 0
        self._stride = 1
        self._turn = 0
        self._waiting: deque[tuple[int, int, int]] = deque()
        """Last LSN, time, and how many frames it stands for."""

    @property
    def entries(self) -> int:
        """How many frames wait: never more than was said."""
        return len(self._waiting)

    def take(self, frames: Sequence[PlacedFrame]) -> None:
        """Take in frames, in order."""
        self._operations.add(Counter([max(0, frame[1] - 1 - frame[4]) for frame in frames]))
        waiting = self._waiting
        delays: Counter[int] = Counter()
        for _, first_lsn, count, time_ns, synced_lsn, _ in frames:
            while waiting and waiting[0][0] <= synced_lsn:
                _, written_ns, weight = waiting.popleft()
                if time_ns < written_ns:
                    self._backward += weight
                else:
                    delays[time_ns - written_ns] += weight
            self._turn += 1
            if self._turn >= self._stride:
                self._turn = 0
                waiting.append((first_lsn + count - 1, time_ns, self._stride))
                if len(waiting) > self._most:
                    self._thin()
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
        self._stride *= 2
        every = list(self._waiting)
        self._waiting.clear()
        # Each that stays stands for the one that goes before it, too.
        for gone, kept in zip(every[::2], every[1::2], strict=False):
            self._waiting.append((kept[0], kept[1], kept[2] + gone[2]))
        if len(every) % 2:
            self._waiting.append(every[-1])
