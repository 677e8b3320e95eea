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

    __slots__ = ("group_sizes", "sync_seconds")

    def __init__(self) -> None:
        self.sync_seconds = Samples()
        self.group_sizes = Samples()

    def synced(self, seconds: float) -> None:
        """Count one fdatasync."""
        self.sync_seconds.add(seconds)

    def grouped(self, operations: int) -> None:
        """Count one group that became durable."""
        self.group_sizes.add(operations)
