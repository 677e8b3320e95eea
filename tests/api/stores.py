"""Small stores to test with, and what must hold of every request that is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import FlushStats, Store

TINY: dict[str, Any] = {
    "segment_bytes": 1 << 16,
    "group_bytes": 1 << 12,
    "max_log_bytes": 1 << 18,
    "max_dirty_bytes": 1 << 16,
    "disk_reserve_bytes": 0,
}
"""Every size at its least, so that a few writes turn segments and fill budgets."""


class Never:
    """Flush only when the store must, or is asked to."""

    def should_flush(self, stats: FlushStats) -> bool:
        return False

    def on_flush_complete(self, stats: FlushStats) -> None:
        pass


class Always:
    """Flush as soon as anything is dirty."""

    def should_flush(self, stats: FlushStats) -> bool:
        return stats.dirty_count > 0

    def on_flush_complete(self, stats: FlushStats) -> None:
        pass


def open_small(path: Path | str, **options: Any) -> Store:
    """Open a store of ordinary budgets that keeps no ballast and flushes only when asked."""
    settings = {"disk_reserve_bytes": 0, "flush_strategy": Never(), **options}
    return strandline.open(path, **settings)


@contextlib.contextmanager
def refused(
    db: Store, error: type[Exception], *said: str
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error that says `said`, that nothing was logged, and that the store works on."""
    before, size, tables = db.stats().last_lsn, len(db), db.tables()
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    for words in said:
        assert words in str(caught.value)
    assert before == db.stats().last_lsn
    assert (size, tables) == (len(db), db.tables())
    assert before + 1 == db.put(b"afterwards", b"goes on")
    assert db[b"afterwards"] == b"goes on"
    assert before + 2 == db.delete(b"afterwards")
