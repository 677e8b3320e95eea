"""Frames larger than the reader's window, with small ones behind them.

The reader reads such a frame with some bytes behind it. Where that window ended between the
payload of a later frame and its padding, the padding was left out of the digest that the
seal is held against: a sound log was reported damaged, and after a crash the segment that
recovery had just written did not read back, so that no mode opened the store again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig

LARGE = 1_500_000


@pytest.mark.parametrize("length", range(LARGE, LARGE + 8))
@pytest.mark.parametrize("small", [41, 128, 333])
def test_small_frames_behind_a_large_one(tmp_path: Path, length: int, small: int) -> None:
    """Whatever the lengths, a log that was cut off and one that was closed open again, sound."""
    with Rig(tmp_path, segment_bytes=4 << 20, durability=Durability.BUFFERED) as rig:
        db = rig.open()
        db.put(b"large", bytes(length))
        for number in range(64_000 // small):
            db.put(b"%04d" % number, bytes(small))
        expected = dict(db)
        killed = rig.kill()
        db.close(drain=False)
        for again in (killed.open(), rig.open()):
            assert again.recovery_report.damages == ()
            assert expected == dict(again)
