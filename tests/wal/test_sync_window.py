"""The window of the weaker levels, on a simulated clock: `sync_interval` is a promise.

The housekeeping looked at the clock every quarter of the interval and never more often than
every 5 ms, so that a write could grow a quarter older than the option says before it was
synced, and with the shortest interval six times as old. A power cut in between lost what
was promised to be safe.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.scheduler import Scheduler


@pytest.mark.parametrize("level", [Durability.BUFFERED, Durability.ASYNC])
@pytest.mark.parametrize("interval", [0.001, 0.005, 0.1, 1.0, 30.0])
def test_a_write_is_on_disk_after_the_interval(
    tmp_path: Path, interval: float, level: Durability
) -> None:
    """A power cut right after the window finds it, wherever in a round of housekeeping it came."""
    scheduler = Scheduler(1)
    with Rig(tmp_path, sync_interval=interval, log_interval=0.0005) as rig:
        db = rig.open(runtime=scheduler)
        for number in range(8):
            # The rounds of housekeeping go on from a write before, which is synced already.
            db.put(b"before", b"v", durability=level)
            scheduler.sleep(interval * number / 8)
            db.sync()
            key = b"%d" % number
            db.put(key, b"v", durability=level)
            # An ASYNC write's age counts from the log on, and what is due is done at once.
            scheduler.sleep(interval + 0.0015)
            assert key in rig.power_cut("none").open()
        db.close()
