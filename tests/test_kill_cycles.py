"""SIGKILL at random moments, again and again: what was acknowledged is there, and a prefix.

The short form; `python -m tests.soak` runs thousands.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed import Cycles, Tally


@pytest.mark.parametrize(("threads", "cycles"), [(1, 20), (6, 15)])
def test_killed_again_and_again(tmp_path: Path, threads: int, cycles: int) -> None:
    """One store, killed while it opens, writes, flushes and recovers, loses nothing it promised.

    No acknowledged SYNC or BUFFERED write is lost, no batch is there in half, no value is
    there that was never written, no counter is out of line, and no LSN is issued twice.
    """
    store = Cycles(tmp_path / "store", seed=20_000 + threads, threads=threads)
    for _ in range(cycles):
        store.run()
    assert cycles == store.tally.checks == store.tally.cycles
    assert store.tally.acknowledged > 0
    assert store.tally.recovered > 0


def test_tallies_add_up() -> None:
    """A tally is the sum of those of its cycles."""
    total = Tally(cycles=1, lost=2)
    total += Tally(cycles=2, replayed=3)
    assert Tally(cycles=3, lost=2, replayed=3) == total
