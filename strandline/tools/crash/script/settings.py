"""Options of a store from a seed: every budget small, so that few writes reach every limit."""

from __future__ import annotations

import random
from typing import Any

from strandline import FlushStats, HybridFlush


class NeverFlush:
    """Flush only when the store must, or is asked to."""

    def should_flush(self, stats: FlushStats) -> bool:
        """Never."""
        return False

    def on_flush_complete(self, stats: FlushStats) -> None:
        """Nothing changes."""


class AlwaysFlush:
    """Flush as soon as anything is dirty."""

    def should_flush(self, stats: FlushStats) -> bool:
        """Tell whether anything is dirty."""
        return stats.dirty_count > 0

    def on_flush_complete(self, stats: FlushStats) -> None:
        """Nothing changes."""


def settings_of(seed: int) -> dict[str, Any]:
    """Return the options of the openings of one round."""
    choose = random.Random(f"settings/{seed}")
    return {
        "segment_bytes": 1 << 16,
        "group_bytes": choose.choice([1 << 12, 1 << 14]),
        "max_log_bytes": choose.choice([1 << 18, 1 << 20]),
        "max_dirty_bytes": choose.choice([1 << 17, 1 << 20]),
        "log_interval": choose.choice([0.0005, 0.01]),
        "sync_interval": choose.choice([0.001, 0.05, 1.0]),
        "flush_strategy": choose.choice(
            [AlwaysFlush(), NeverFlush(), HybridFlush(max_count=10, min_interval=0.002)]
        ),
        "map_bytes": 16 << 20,
        "max_tables": 16,
        "max_readers": 16,
        "disk_reserve_bytes": 0,
    }
