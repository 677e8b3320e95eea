"""What an analysis of a log says: its figures, as `stats` and the report show them.

Nothing here computes but sums and shares of what is there. Sizes are in bytes, times in
nanoseconds since 1970, durations in nanoseconds. A figure that a bounded counter gave is
an `Estimate`, or states its bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.frames import Gone

OTHER: Final = -1
"""In the place of a table's id: all tables that got no row of their own."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and whether it is exact."""

    value: int
    exact: bool
    error: float = 0.0
    """The relative standard error of one that is not exact: twice that is rarely exceeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFigures:
    """What a log does to one table, or to all of them."""

    table_id: int | None
    """None for all tables together, `OTHER` for those without a row of their own."""
    name: str
    """As the log or LMDB has it, not escaped; `#7` where nothing tells it."""
    codec: str
    kinds: dict[str, int]
    """Operations by kind, in the order put, delete, clear, create, drop, void; none are 0."""
    key_bytes: int
    value_bytes: int
    frames: int
    """Frames that hold an operation of it."""
    distinct: Estimate
    """Keys that were put or deleted."""
    overwritten: Estimate
    """Puts and deletes that a later one of the same key, a clear or a drop makes void."""

    @property
    def operations(self) -> int:
        """Operations of all kinds."""
        return sum(self.kinds.values())

    @property
    def keyed(self) -> int:
        """Puts and deletes."""
        return self.kinds.get("put", 0) + self.kinds.get("delete", 0)

    @property
    def data_bytes(self) -> int:
        """Keys and values together."""
        return self.key_bytes + self.value_bytes

    @property
    def saved(self) -> float:
        """The share of puts and deletes that coalescing saves, from 0 to 1."""
        return self.overwritten.value / self.keyed if self.keyed else 0.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was written in one stretch of time."""

    start_ns: int
    operations: dict[int, int]
    """By table id."""
    data_bytes: dict[int, int]
    """Keys and values, by table id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was written when, by the wall clock of the frames."""

    width_ns: int
    """How long a bucket is. Starts are multiples of it."""
    buckets: list[Bucket]
    """In the order of time; those in which nothing was written are left out."""
    tables: list[int]
    """The ids that occur in the buckets, by operations, most first."""
    steps_back: int
    """How often a frame was older than the one before it: the clock was set back."""

    @property
    def first_ns(self) -> int:
        """Where the first bucket begins, 0 if there is none."""
        return self.buckets[0].start_ns if self.buckets else 0

    @property
    def end_ns(self) -> int:
        """Where the last bucket ends, 0 if there is none."""
        return self.buckets[-1].start_ns + self.width_ns if self.buckets else 0


@dataclass(frozen=True, slots=True)
class Hot:
    """A key, or a prefix of keys, that many operations are on."""

    table_id: int
    key: bytes
    count: int
    """Puts and deletes of it: never more than this, and fewer by `too_many` at the most."""
    too_many: int
    """0 where `count` is exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotList:
    """The hottest keys, or prefixes of keys."""

    found: list[Hot]
    """The highest count first."""
    missed: int
    """What is not in any counter any more was counted so often at the most; 0: all are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncLag:
    """How far syncs stay behind writes."""

    operations: Spread
    """Of each frame: operations that were written and not known synced when it was."""
    delay_ns: Spread
    """How long it took until a later data frame claimed that a frame was synced. An upper
    bound: a log in which nothing is written for a while claims nothing meanwhile."""
    sampled: int
    """One frame in so many was looked at for `delay_ns` where there were many; 1: all."""
    unclaimed: int
    """Frames at the end that no later data frame claims."""
    backward: int
    """Frames left out of `delay_ns` because the clock was set back meanwhile."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A frame whose checksums hold and whose payload is no list of operations."""

    path: str
    offset: int
    lsn: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a log holds, in figures."""

    tables: list[TableFigures]
    """By operations, most first."""
    total: TableFigures
    frames: int
    payload_bytes: int
    frame_bytes: int
    """Headers and padding counted in."""
    group_sizes: Spread
    """Operations of a frame."""
    frame_sizes: Spread
    """Bytes of a frame, header and padding counted in."""
    rates: Rates
    hot_keys: HotList
    hot_prefixes: HotList
    """Up to and including the first separator; see `hot.py`."""
    sync: SyncLag
    undecodable: int
    """Frames whose payload does not decode. They count as frames, with no operations."""
    undecodable_operations: int
    """How many operations their headers state."""
    undecodable_places: Sequence[Undecodable]
    """The first few of them."""
    gone: list[Gone]
    """What a writer gave back before it could be read."""

    def table(self, table_id: int) -> TableFigures:
        """Return the figures of a table; raises KeyError where it has no row."""
        for each in self.tables:
            if each.table_id == table_id:
                return each
        raise KeyError(table_id)
