"""What a store is in the middle of, as its classes tell it, on a board that outlives it.

    board   one row a phase:  u32 how often it was entered less how often it was left
                              u32 how often it was entered
                              u32 most changing storage calls in one such time
                              u32 most writes among them

The last two are counted by the shim, where it is there. Threads are not told apart: what the
others do while one rotates counts as done in the rotation.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strandline.engine.checkpointer import Checkpointer
from strandline.engine.store import Store
from strandline.recovery import opening
from strandline.recovery.survey import Survey
from strandline.tools.crash.shim import control
from strandline.wal.log import Log
from strandline.wal.segments import Segments


class Phase(enum.IntEnum):
    """What a store can be killed in. A later one is the more telling, if it is in two."""

    WRITING = 1
    """Open, and none of the others."""
    OPENING = 2
    """Anywhere in `open`."""
    CLOSING = 3
    """Anywhere in `close`."""
    CHECKPOINTING = 4
    """A pass of the checkpointer."""
    RELEASING = 5
    """Segments that a checkpoint covers are recycled or removed."""
    ROTATING = 6
    """A segment is sealed, and the next one begun."""
    RECOVERING = 7
    """In `open`, after the log was read and something was found to be done about it."""


@dataclass(frozen=True)
class Target:
    """The beginning of a phase for the `nth` time, from 1."""

    phase: Phase
    nth: int


@dataclass(frozen=True)
class Row:
    """What a board says of one phase."""

    within: int
    entered: int
    calls: int
    writes: int


_ROW: Final = struct.Struct("<iIII")
AHEAD: Final = 0.0005
"""Seconds by which a target is announced ahead: whoever kills has to wake up first, and some
phases are shorter than that takes."""


def read_board(path: Path) -> dict[Phase, Row]:
    """Return what a process was in the middle of when it ended."""
    data = path.read_bytes()
    return {phase: Row(*_ROW.unpack_from(data, phase * _ROW.size)) for phase in Phase}


def innermost(board: dict[Phase, Row]) -> Phase | None:
    """Return the most telling phase that a process ended in, None if it ended before any."""
    return max((phase for phase, row in board.items() if row.within > 0), default=None)


class Board:
    """The board of this process."""

    def __init__(self, path: Path, on_target: Callable[[], object], *, shim: bool) -> None:
        """Make it; `on_target` is called just before the phase that is `aim`ed at begins."""
        path.write_bytes(bytes(_ROW.size * (max(Phase) + 1)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._on_target = on_target
        self._target: Target | None = None
        self._shim = shim
        self._lock = threading.RLock()
        self._rows: dict[Phase, list[int]] = {phase: [0, 0, 0, 0] for phase in Phase}

    def aim(self, target: Target | None) -> None:
        """Have `on_target` called just before this begins."""
        self._target = target

    def enter(self, phase: Phase) -> None:
        """Note that a phase begins."""
        row = self._rows[phase]
        if self._target == Target(phase, row[1] + 1):
            self._target = None
            self._on_target()
            time.sleep(AHEAD)
        with self._lock:
            self._count()
            row[0] += 1
            row[1] += 1
            self._note(phase)
            self._tell_shim()

    def leave(self, phase: Phase) -> None:
        """Note that a phase has ended."""
        with self._lock:
            self._count()
            self._rows[phase][0] -= 1
            self._note(phase)
            self._tell_shim()

    @contextlib.contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Note a phase around a block."""
        self.enter(phase)
        try:
            yield
        finally:
            self.leave(phase)

    def _note(self, phase: Phase) -> None:
        _ROW.pack_into(self._map, phase * _ROW.size, *self._rows[phase])

    def _current(self) -> Phase | None:
        return max((phase for phase, row in self._rows.items() if row[0] > 0), default=None)

    def _tell_shim(self) -> None:
        if self._shim:
            control.enter_phase(self._current() or 0)

    def _count(self) -> None:
        """Take over what the shim counted since the phase last changed."""
        current = self._current()
        if self._shim and current is not None:
            counted = control.counts()
            row = self._rows[current]
            row[2] = max(row[2], counted.count())
            row[3] = max(row[3], counted.counts[control.Kind.WRITE])
            self._note(current)


def watch(board: Board) -> None:
    """Have the store's classes, in this process, note their phases."""
    _around(opening._Opening, "run", board, Phase.OPENING)
    _around(Store, "close", board, Phase.CLOSING)
    _around(Checkpointer, "_pass", board, Phase.CHECKPOINTING)
    _around(Log, "_turn", board, Phase.ROTATING)
    _watch_recovering(board)
    _watch_releasing(board)


def _around(owner: type, name: str, board: Board, phase: Phase) -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def noted(*arguments: Any, **options: Any) -> Any:
        with board.within(phase):
            return inner(*arguments, **options)

    setattr(owner, name, noted)


def _watch_recovering(board: Board) -> None:
    """Recovering begins in the middle of opening: after the survey, if that found work."""
    survey: Callable[..., Survey] = vars(opening)["survey"]
    run = opening._Opening.run
    recovering = threading.local()

    def surveyed(*arguments: Any, **options: Any) -> Survey:
        found = survey(*arguments, **options)
        if found.last_lsn and (not found.clean or found.last_lsn > found.watermark_lsn):
            recovering.begun = True
            board.enter(Phase.RECOVERING)
        return found

    def opened(self: opening._Opening) -> Store:
        recovering.begun = False
        try:
            return run(self)
        finally:
            if recovering.begun:
                board.leave(Phase.RECOVERING)

    setattr(opening, "survey", surveyed)  # noqa: B010
    setattr(opening._Opening, "run", opened)  # noqa: B010


def _watch_releasing(board: Board) -> None:
    """Most calls find nothing to release; only the others count."""
    release = Segments.release

    def released(self: Segments, lsn: int, *, recycle: bool = True) -> None:
        if not self.sealed or self.sealed[0].last_lsn > lsn:
            release(self, lsn, recycle=recycle)
            return
        with board.within(Phase.RELEASING):
            release(self, lsn, recycle=recycle)

    setattr(Segments, "release", released)  # noqa: B010
