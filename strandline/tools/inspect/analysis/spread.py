"""How values spread: a histogram of bounded size that still tells percentiles.

    0 1 2 ... 63 | 64 66 68 ... 126 | 128 132 136 ... 252 | 256 ...

Below 64 each value has a bucket of its own; above, each power of two is cut into 32. So a
percentile is exact below 64 and never more than 1/32 too low above. Count, sum, least and
greatest are exact. Values are integers from 0 on; 64-bit ones need 1,920 buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

_BITS: Final = 6
"""Values of so many bits have a bucket each."""


class Power(NamedTuple):
    """How many values lie from `low` to `high`, both included."""

    low: int
    high: int
    count: int  # type: ignore[assignment]  # a tuple's own count() is not missed here


class Spread:
    """Values, counted in buckets."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.minimum = 0
        self.maximum = 0
        self._buckets: Counter[int] = Counter()

    def add(self, counts: Mapping[int, int]) -> None:
        """Take in values that are not negative, and how often each occurs."""
        if not counts:
            return
        least = min(counts)
        self.minimum = min(self.minimum, least) if self.count else least
        self.maximum = max(self.maximum, *counts)
        buckets = self._buckets
        for value, times in counts.items():
            self.count += times
            self.total += value * times
            buckets[_lowest(value)] += times

    @property
    def mean(self) -> float:
        """The average, 0 of none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the value below which, or at which, so many of a hundred are; 0 of none."""
        if not self.count:
            return 0
        left = max(1, -(-self.count * percent // 100))
        for low in sorted(self._buckets):
            left -= self._buckets[low]
            if left <= 0:
                return max(low, self.minimum)
        return self.maximum

    def powers(self) -> list[Power]:
        """Return the counts of 0, 1, 2 to 3, 4 to 7 and so on, without a hole between them."""
        bits: Counter[int] = Counter()
        for low, times in self._buckets.items():
            bits[low.bit_length()] += times
        span = range(min(bits), max(bits) + 1) if bits else range(0)
        return [Power(1 << b >> 1, (1 << b) - 1, bits[b]) for b in span]

    @property
    def buckets(self) -> int:
        """How many buckets are in use."""
        return len(self._buckets)


def _lowest(value: int) -> int:
    """Return the least value of the bucket that a value belongs to."""
    drop = value.bit_length() - _BITS
    return value if drop <= 0 else value >> drop << drop
