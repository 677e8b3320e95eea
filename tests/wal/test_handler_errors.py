"""An OSError that no system call raised: a signal handler's TimeoutError, say.

It comes out of the write that it interrupts, and used to be taken for an error of the disk,
which ends the log's life: writers were refused until the store was opened anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline import Durability, HealthState
from strandline.tools.crash.simulation.faults import fail
from strandline.tools.crash.simulation.rig import Rig


@pytest.mark.parametrize("level", [Durability.BUFFERED, Durability.SYNC])
def test_a_handler_s_error_is_not_the_disk_s(tmp_path: Path, level: Durability) -> None:
    """The write is "maybe", and everything goes on."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"before", b"1", durability=level)
        rig.disk.faults = fail("pwrite", TimeoutError("too slow"), path=".wal")
        with pytest.raises(TimeoutError):
            db.put(b"struck", b"2", durability=level)
        rig.disk.faults = None
        db.put(b"after", b"3", durability=level)
        assert db.health().state is not HealthState.FAILED
        again = rig.kill().open()
        assert again[b"before"] == b"1"
        assert again[b"after"] == b"3"
