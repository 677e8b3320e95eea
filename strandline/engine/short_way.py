"""The short way of a single write, in C: what it is made of, and what it leaves to Python.

See native/fast_put.c. It takes the same locks and changes the same objects as the long way in
`strandline.engine.write_path`, and gives None, nothing changed, where something is in its way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from strandline.engine.engine import Engine
from strandline.engine.joining import ASYNC, BUFFERED, ENTRY_COST, SYNC
from strandline.engine.table_state import Queued, TableState
from strandline.native import native
from strandline.wal.group import Group
from strandline.wal.log import GATE_TIMEOUT
from strandline.wal.log_queues import FRAME_SLACK
from strandline.wal.real_disk import RealFile
from strandline.wal.segments import Segment

GONE: Final = object()
"""What a delete hands over for a value."""

FastPut = Callable[[TableState, Any, Any, Any], Any]
"""From table, key, value and level to the LSN, or for SYNC to what `WritePath.wait` takes. None
where nothing was done: an argument is not acceptable, or something is in the way."""


def short_way(engine: Engine) -> FastPut | None:
    """Return the short way of a single write, None without C."""
    if native is None:
        return None
    log, runtime = engine.log, engine.runtime
    # The system's own clocks are read without a call, where they are what Python's are.
    of_system = (
        runtime.monotonic is time.monotonic
        and runtime.time_ns is time.time_ns
        and sys.platform == "linux"
    )
    fast: FastPut = native.FastPut(
        engine=engine,
        state_type=TableState,
        group_type=Group,
        segment_type=Segment,
        file_type=RealFile,
        monotonic=None if of_system else runtime.monotonic,
        time_ns=None if of_system else runtime.time_ns,
        async_level=ASYNC,
        buffered_level=BUFFERED,
        sync_level=SYNC,
        gone=GONE,
        make_lock=runtime.lock,
        queued_type=Queued,
        window=2 * log.log_interval,
        sync_window=2 * log.sync_interval,
        patience=GATE_TIMEOUT,
        finish=log.finish_frame,
        refused=log.refuse_frame,
        failed=log.raise_failed,
        epoch=log.epoch,
        entry_cost=ENTRY_COST,
        slack=FRAME_SLACK,
        pressure_bytes=log.pressure_bytes,
        lsn_margin=log.lsn_block // 4,
        max_value_bytes=engine.options.max_value_bytes,
    )
    engine.index.publish_singles = fast.publish  # type: ignore[attr-defined]
    return fast
