"""A close that is killed between the seal and its sync, and what follows on it.

The next opening found a sealed log, called that a clean start, and began a new segment behind
a seal that was in the page cache only. A power cut then took the seal, and what the store had
shown as an orderly end was told as damage: a segment that ends without one, with another
behind it. Found by the simulation of the crash harness.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig


@pytest.mark.parametrize("stored", [True, False])
def test_the_seal_is_synced_before_it_is_followed(tmp_path: Path, *, stored: bool) -> None:
    """Killed anywhere in a close; opened, written to, cut: even a strict opening takes it."""
    clean: list[bool] = []

    def look(image: Rig) -> None:
        db = image.open()
        clean.append(db.recovery_report.clean)
        db.put(b"more", b"v", durability=Durability.SYNC)
        with image.power_cut("none").open(recovery="strict") as again:
            assert not again.recovery_report.damages
            assert dict(again.items()) == {b"k": b"v", b"more": b"v"}

    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v", durability=Durability.BUFFERED)
        if stored:
            assert rig.checkpoint()
        assert rig.sweep(lambda: db.close(drain=False), look, "kill") > 2
    assert any(clean) == stored, "the kill before the last sync leaves a sealed log"


def test_a_seal_behind_a_lost_mark_is_not_taken_over(tmp_path: Path) -> None:
    """A power cut in a close: the seal landed, and the sync mark before it did not.

    Nothing is lost by that, but the segment was followed as it was, as after an orderly end:
    every later recovery told the hole in it as damage. It is written anew.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v", durability=Durability.SYNC)
        end = db.engine.log.tail[1]
        rig.housekeep()
        mark = range(end, db.engine.log.tail[1])
        assert mark, "an idle log says how far it is synced"
        db.close(drain=False)
        path = db.engine.log.tail[0].path
        file = rig.disk.open(path, "rw")
        file.pwrite(bytes(len(mark)), mark.start)
        file.fdatasync()
        file.close()
        again = rig.open()
        assert not again.recovery_report.clean
        assert dict(again.items()) == {b"k": b"v"}
        again.put(b"more", b"v", durability=Durability.SYNC)
        with rig.power_cut("none").open(recovery="strict") as last:
            assert dict(last.items()) == {b"k": b"v", b"more": b"v"}
