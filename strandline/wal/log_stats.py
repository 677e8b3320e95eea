"""What the log counts, per group and per sync, never per operation."""

from __future__ import annotations

from collections import deque
from typing import Final

_KEPT: Final = 2048
"""How many of the latest measurements percentiles are taken from."""


class Samples:
    """Count, sum and maximum of a quantity, and its latest values."""

    __slots__ = ("count", "latest", "maximum", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0
        self.latest: deque[float] = deque(maxlen=_KEPT)

    def add(self, value: float) -> None:
        """Take in one measurement."""
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value
        self.latest.append(value)

    def add_many(self, value: float, times: int) -> None:
        """Take in the same measurement several times."""
        self.count += times
        self.total += value * times
        if times and value > self.maximum:
            self.maximum = value
        self.latest.extend([value] * min(times, _KEPT))

    def percentile(self, share: float) -> float:
        """Return the value below which `share` (0 to 1) of the latest ones lie; 0.0 without any."""
        ordered = sorted(self.latest.copy())
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def mean(self) -> float:
        """Return the mean of all measurements; 0.0 without any."""
        return self.total / self.count if self.count else 0.0


class LogStats:
    """Syncs and groups since the store was opened."""

    __slots__ = ("_group_sizes", "singles", "sync_seconds")

    def __init__(self) -> None:
        self.sync_seconds = Samples()
        self.singles = 0
        """Groups of one operation that were written alone and are not in the samples yet."""
        self._group_sizes = Samples()

    def synced(self, seconds: float) -> None:
        """Count one fdatasync."""
        self.sync_seconds.add(seconds)

    def grouped(self, operations: int) -> None:
        """Count one group that was written, or that became durable where somebody waited."""
        self.groups().add(operations)

    def groups(self) -> Samples:
        """Return the sizes of groups, in operations. Under the log's mutex."""
        if self.singles:
            self._group_sizes.add_many(1, self.singles)
            self.singles = 0
        return self._group_sizes
