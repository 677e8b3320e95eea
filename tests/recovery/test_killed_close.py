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
