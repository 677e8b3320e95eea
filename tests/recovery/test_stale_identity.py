"""An IDENTITY from an earlier opening in the place of the newest.

A disk wrote the block elsewhere, or the file was restored alone. Its LSN ceiling is that of long
ago. An unclean start took it for the newest, and went on at LSNs that had been issued, where the
tail that held them was lost. Found by the damage layer of the crash harness.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig


@pytest.mark.parametrize("openings", [1, 2, 5])
@pytest.mark.parametrize("orderly", [True, False])
def test_no_lsn_is_issued_twice(tmp_path: Path, openings: int, orderly: bool) -> None:
    """Whatever openings came since, ended in order or not, are above what it says."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"v")
        file = rig.disk.open(f"{rig.directory}/IDENTITY", "r")
        old = file.pread(file.size(), 0)
        current = rig
        for _ in range(openings):
            if orderly:
                current.store.close()
            else:
                current = current.power_cut("none")
            db = current.open()
            db.put(b"k", b"w")
        last = max(db.put(b"lost", b"%d" % n, durability=Durability.ASYNC) or 0 for n in range(9))
        image = current.power_cut("none")
        image.disk.open(f"{image.directory}/IDENTITY", "rw").pwrite(old, 0)
        again = image.open()
        assert b"lost" not in again
        assert (again.put(b"k", b"x") or 0) > last
        image.store.close()
        assert image.open()[b"k"] == b"x"
