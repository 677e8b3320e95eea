"""Bugs in what a snapshot holds, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strandline.engine import snapshots
from strandline.engine.backing import Backing
from strandline.engine.engine import Engine
from tests.crash.planted.bug import Planting, bug


@bug(breaks=2)
def snapshot_does_not_wait(planting: Planting) -> None:
    """A snapshot is of the last LSN that was issued, whatever is queued below it.

    What lands a moment later is missing in it, and what was written after that is there.
    """

    def cut_point(engine: Engine) -> tuple[int, Callable[[], None] | None]:
        return engine.log.next_lsn() - 1, None

    planting.replace(snapshots, "cut_point", cut_point)


@bug(breaks=2)
def snapshot_unknown_to_writers(planting: Planting) -> None:
    """Writers do not hear of an open snapshot, and overwrite what it can see.

    The list of snapshots is kept, and the number that writers look at is not.
    """

    def note_snapshots(_self: Engine) -> None:
        """Nothing is noted."""

    planting.replace(Engine, "note_snapshots", note_snapshots)


@bug(breaks=2)
def snapshot_reads_newest_commit(planting: Planting) -> None:
    """A snapshot begins its read transaction when it first reads from LMDB, not when it is taken.

    A checkpoint that commits in between is in what it sees.
    """

    class Late:
        def __init__(self, backing: Backing) -> None:
            self._begin = begin_snapshot.__get__(backing)
            self._begun: Any = None

        def __getattr__(self, name: str) -> Any:
            self._begun = self._begun or self._begin()
            return getattr(self._begun, name)

    begin_snapshot = Backing.begin_snapshot
    planting.replace(Backing, "begin_snapshot", lambda backing: Late(backing))
