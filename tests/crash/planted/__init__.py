"""Planted bugs: what the crash harness has to catch.

    acknowledging  when a write is acknowledged, and shown
    failures       what is done when a system call fails
    segments       how one segment follows another, and when one may go
    frames         what a frame says, and what is believed of one
    identity       IDENTITY, epoch, LSNs, the lock, the creation of a store
    recovery       how a store is recovered
    checkpoint     what goes to LMDB, and when
    snapshots      what a snapshot holds, and for how long
    tables         tables, batches, updates, the index, stored values

Each is a switch that exists in these tests only. `tests.crash.gate` plants one after the
other and asks every layer of the harness whether it finds something.
"""

from tests.crash.planted import (  # importing them fills BUGS
    acknowledging,
    checkpoint,
    failures,
    frames,
    identity,
    recovery,
    segments,
    snapshots,
    tables,
)
from tests.crash.planted.bug import BUGS, Bug

__all__ = [
    "BUGS",
    "Bug",
    "acknowledging",
    "checkpoint",
    "failures",
    "frames",
    "identity",
    "recovery",
    "segments",
    "snapshots",
    "tables",
]
