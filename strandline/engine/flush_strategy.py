"""When to flush: a protocol, and the hybrid strategy that is the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from strandline.options import MIB


class FlushStats(NamedTuple):
    """What a strategy decides by. Times in seconds, sizes in bytes."""

    dirty_count: int
    dirty_bytes: int
    oldest_dirty_age: float
    log_bytes: int
    """Log that would have to be replayed now."""
    last_flush_time: float
    """Seconds since the last flush ended, since opening if there was none."""
    last_flush_duration: float
    consecutive_failures: int


class FlushStrategy(Protocol):
    """Decides when the checkpointer writes dirty state to LMDB.

    Both methods are called on the checkpointer's thread; what they raise is counted in
    the statistics and otherwise ignored. Whatever a strategy says, the store flushes
    at half of the memory or the log budget, when it is asked to, and at close.
    """

    def should_flush(self, stats: FlushStats) -> bool:
        """Return True to flush now. Asked about every 50 ms while anything is dirty."""

    def on_flush_complete(self, stats: FlushStats) -> None:
        """Take note of a flush that ended, well or not (`consecutive_failures`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridFlush:
    """Flush at a number of entries, of bytes, at an age, or at a length of the log.

    Whichever comes first, but never within `min_interval` seconds of the last flush.
    """

    max_count: int = 500_000
    max_bytes: int = 64 * MIB
    max_age: float = 5.0
    max_log_bytes: int = 256 * MIB
    min_interval: float = 0.2

    def should_flush(self, stats: FlushStats) -> bool:
        """Return True at the first limit that is reached."""
        if stats.last_flush_time < self.min_interval:
            return False
        return (
            stats.dirty_count >= self.max_count
            or stats.dirty_bytes >= self.max_bytes
            or stats.oldest_dirty_age >= self.max_age
            or stats.log_bytes >= self.max_log_bytes
        )

    def on_flush_complete(self, stats: FlushStats) -> None:
        """Nothing to learn: the limits are fixed."""
