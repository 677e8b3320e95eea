"""How much of everything a run does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VALUE_BYTES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of a run. Times are in seconds, the rest are counts."""

    seconds: float
    """The longest that one contender's timed part lasts in one round."""
    puts: int
    """The most puts in it."""
    records: int
    """Records in a store that is read."""
    dirty: int
    """Records on top of it that have not been checkpointed."""
    replayed: int
    """Records in the log of a store that crashed."""
    flushed: int
    """Records in a checkpoint."""
    remembered: int
    """Dirty records whose memory is measured."""
    ycsb_records: int
    ycsb_operations: int


FULL: Final = Scale(
    seconds=2.0,
    puts=1_000_000,
    records=200_000,
    dirty=100_000,
    replayed=1_000_000,
    flushed=1_000_000,
    remembered=500_000,
    ycsb_records=100_000,
    ycsb_operations=200_000,
)

QUICK: Final = Scale(
    seconds=0.4,
    puts=100_000,
    records=20_000,
    dirty=10_000,
    replayed=100_000,
    flushed=100_000,
    remembered=50_000,
    ycsb_records=5_000,
    ycsb_operations=20_000,
)
