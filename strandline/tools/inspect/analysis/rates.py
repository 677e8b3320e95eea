"""What was written when, in a bounded number of buckets.

Buckets begin at multiples of their width by the wall clock of the frames. Where they
become too many, the width is raised and neighbours are joined: each width divides the
next. Only buckets in which something was written are kept, so that neither a pause nor a
clock that jumps costs the others their width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from strandline.tools.inspect.analysis.figures import OTHER, Bucket, Rates

BUCKETS: Final = 240
SERIES: Final = 64
"""How many tables have figures of their own in the buckets."""

_MS: Final = 1_000_000
_STEPS: Final = (5, 2, 5, 2, 5, 2, 5, 2, 3, 2, 5, 2, 3, 2, 6, 4)
"""1 ms, 5 ms, 10 ms, 50 ms, 0.1 s, 0.5 s, 1 s, 5 s, 10 s, 30 s, 1 min, 5 min, 10 min, 30 min,
1 h, 6 h, 1 d; twice as much after that."""


class RateCounter:
    """Counts operations and bytes by time and table."""

    def __init__(self, buckets: int = BUCKETS, series: int = SERIES) -> None:
        self.width = _MS
        self.steps_back = 0
        self._most = buckets
        self._series = series
        self._steps = iter(_STEPS)
        self._buckets: dict[int, dict[int, list[int]]] = {}
        self._seen: Counter[int] = Counter()

    def window(self, time_ns: int) -> range:
        """Return the times that belong to the same bucket, as wide as they are now."""
        start = time_ns - time_ns % self.width
        return range(start, start + self.width)

    def add(
        self, time_ns: int, operations: Mapping[int, int], data_bytes: Mapping[int, int]
    ) -> None:
        """Take in what was written within one window, by table."""
        if not operations:
            return
        bucket = self._buckets.setdefault(time_ns // self.width, {})
        for table_id, times in operations.items():
            one = table_id
            if one not in self._seen and len(self._seen) >= self._series:
                one = OTHER
            self._seen[one] += times
            cell = bucket.setdefault(one, [0, 0])
            cell[0] += times
            cell[1] += data_bytes.get(table_id, 0)
        while len(self._buckets) > self._most:
            self._widen()

    def result(self) -> Rates:
        """Return what was counted."""
        return Rates(
            width_ns=self.width,
            buckets=[
                Bucket(
                    number * self.width,
                    {table_id: cell[0] for table_id, cell in cells.items()},
                    {table_id: cell[1] for table_id, cell in cells.items()},
                )
                for number, cells in sorted(self._buckets.items())
            ],
            tables=[table_id for table_id, _ in self._seen.most_common()],
            steps_back=self.steps_back,
        )

    def _widen(self) -> None:
        step = next(self._steps, 2)
        self.width *= step
        joined: dict[int, dict[int, list[int]]] = {}
        for number, cells in self._buckets.items():
            into = joined.setdefault(number // step, {})
            for table_id, (operations, data_bytes) in cells.items():
                cell = into.setdefault(table_id, [0, 0])
                cell[0] += operations
                cell[1] += data_bytes
        self._buckets = joined
