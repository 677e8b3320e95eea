"""A power cut before anything in a new segment was synced, while something relies on it.

Found by random crashes: after an unclean end the next opening starts at an LSN J far above
the last one, which only the new segment's header states. Everything below J counted as
synced at once, so a checkpoint of nothing but unlogged writes committed the watermark
J - 1 while that header was in the page cache. A power cut then left a watermark that no
log explained, and the store refused to open. Recycling the predecessor did the same.

Guard: the fdatasync of the header in `LogTail._activate`.
"""

from __future__ import annotations

from pathlib import Path

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig


def test_a_watermark_below_a_jump_is_explained_after_a_power_cut(tmp_path: Path) -> None:
    """Crash, reopen, checkpoint without a logged write, power cut: the store opens."""
    with Rig(tmp_path) as first:
        db = first.open()
        db.put(b"k", b"v", durability=Durability.SYNC)
        second = first.power_cut("none")
    with second:
        db = second.open()
        db.table("cache", logged=False).put(b"x", b"1")
        third = second.power_cut("none")
    with third:
        db = third.open()
        db.table("cache", logged=False).put(b"x", b"2")
        assert third.checkpoint()
        assert db.engine.backing.watermark.lsn > 1 << 20
        fourth = third.power_cut("none")
    with fourth:
        db = fourth.open()
        assert b"v" == db[b"k"]
        assert b"2" == db.table("cache")[b"x"]
