"""A log without any segment beside an LMDB that has something from one.

The error advises `recovery="point-in-time"`, and that mode refused as well: the watermark
lay beyond a log that ends at 0. Found by the damage layer of the crash harness.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

import strandline
from strandline import LogGapError
from tests.api.stores import open_small


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A closed store whose log is gone."""
    path = tmp_path / "store"
    with open_small(path) as db:
        db[b"k"] = b"v"
    for segment in (path / "log").iterdir():
        segment.unlink()
    return path


def test_it_is_refused_with_advice(store: Path) -> None:
    """Whatever was written after the last checkpoint is gone, and nobody is to overlook it."""
    with pytest.raises(LogGapError, match=r'at least one segment.*recovery="point-in-time"'):
        open_small(store)


@pytest.mark.parametrize("mode", ["point-in-time", "salvage"])
def test_the_advice_can_be_taken(store: Path, mode: Literal["point-in-time", "salvage"]) -> None:
    """What LMDB holds is there, the missing log is told, and the store goes on for good."""
    with open_small(store, recovery=mode) as db:
        (gap,) = db.recovery_report.gaps
        assert "0000000000000001.wal" in str(gap)
        assert db[b"k"] == b"v"
        lsn = db.put(b"l", b"w")
        assert lsn is not None
        assert lsn > db.recovery_report.watermark_lsn
    with strandline.open(store) as db:
        assert dict(db.items()) == {b"k": b"v", b"l": b"w"}
        assert not db.recovery_report.gaps
