"""Arming the shim from within the process that it lies under, and reading what it counted.

The board is a small file that the shim maps: its owner reads it while the process runs and
after its death.

    0  u32 fired         how many calls met the plan
    4  u32 phase
    8  u64 unsupported   how many calls were seen that cannot be replayed
    16 u64 counts[14]    calls of each kind in this phase, in the order of `Kind`

An armed process is watched over its forks: what a child, or a program that it starts with
the same environment, changes below the root is recorded as unsupported.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strandline.engine.data_file import LOCK_NAME
from strandline.tools.crash.shim.record import MAGIC

WATCH: Final = "STRANDLINE_SHIM_WATCH"
PRELOAD: Final = "LD_PRELOAD"


class Kind(enum.IntEnum):
    """Kinds of storage calls, as they are counted and planned for."""

    OPEN = 0
    """Of what exists, and stays as it is."""
    CREATE = 1
    """An open that makes or empties a file."""
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    RENAME = 5
    UNLINK = 6
    RMDIR = 7
    MKDIR = 8
    LINK = 9
    FSYNC = 10
    FDATASYNC = 11
    SYNC_DIRECTORY = 12
    """Either sync, of a directory."""
    CLOSE = 13


ALL: Final = frozenset(Kind)
CHANGES: Final = ALL - {Kind.OPEN, Kind.CLOSE}
"""The calls that a crash can come before and find something else than after."""
SYNCS: Final = frozenset({Kind.FSYNC, Kind.FDATASYNC, Kind.SYNC_DIRECTORY})


class Action(enum.IntEnum):
    """What becomes of the call that the plan means."""

    FAIL_ONCE = 1
    """It does nothing and fails."""
    FAIL_ON = 2
    """As FAIL_ONCE, and so do all that come after it."""
    SHORT_ONCE = 3
    """It writes only its first bytes, and says so."""
    KILL_BEFORE = 4
    """SIGKILL before it."""
    KILL_WITHIN = 5
    """SIGKILL when it has written its first bytes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault: the `nth` call of `kinds` in `phase`, counted from 1."""

    action: Action
    kinds: frozenset[Kind] = CHANGES
    nth: int = 1
    error: int = errno.EIO
    """For FAIL_ONCE and FAIL_ON: the errno."""
    bytes: int = 0
    """For SHORT_ONCE and KILL_WITHIN: how many are really written, at most."""
    phase: int = 0

    def __post_init__(self) -> None:
        partial = self.action in (Action.SHORT_ONCE, Action.KILL_WITHIN)
        if self.nth < 1:
            raise ValueError(f"calls are counted from 1, not from {self.nth}")
        if partial and self.kinds != {Kind.WRITE}:
            raise ValueError(
                f"{self.action.name} means something for writes only; got {self.kinds}"
            )
        if self.bytes < 0 or (self.bytes and not partial):
            raise ValueError(f"{self.bytes} bytes mean nothing to {self.action.name}")
        if not 0 < self.error < 1 << 12:
            raise ValueError(f"{self.error} is no errno")


@dataclass(frozen=True, slots=True)
class Board:
    """What the shim has counted."""

    fired: int
    phase: int
    unsupported: int
    counts: dict[Kind, int]

    def count(self, kinds: frozenset[Kind] = CHANGES) -> int:
        """Return how many calls of these kinds there were: the last `nth` that is one."""
        return sum(self.counts[kind] for kind in kinds)


_BOARD: Final = struct.Struct(f"<IIQ{len(Kind)}Q")


def environment(library: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that is to have the shim under it."""
    before = base.get(PRELOAD)
    preload = f"{library}:{before}" if before else str(library)
    return {**{name: value for name, value in base.items() if name != WATCH}, PRELOAD: preload}


def make_board(path: Path) -> None:
    """Make an empty board, before the process is armed with it."""
    path.write_bytes(bytes(_BOARD.size))


def read_board(path: Path) -> Board:
    """Read a board, during the process's life or after it."""
    return _board(path.read_bytes())


def arm(
    root: Path,
    *,
    record: Path | None = None,
    board: Path | None = None,
    marks: int | None = None,
    mapped: str = LOCK_NAME,
) -> None:
    """Look at all that happens below `root` from now on, in phase 0, without a plan.

    What is written to the file, pipe or socket behind the descriptor `marks` is recorded
    as marks. Files named `mapped` may be mapped and written to by anybody: LMDB's table of
    readers, which means nothing after a crash. The record file is made here; it may not lie
    below the root.

    Raises:
        OSError: A file cannot be opened, the record file exists, or the process is armed.
        ValueError: The record file lies below the root.
        RuntimeError: The shim is not under this process.
    """
    if record is not None and record.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"the record file {record} lies below {root}, and would record itself")
    function = _function("arm", ctypes.c_int)
    if record is not None:
        with record.open("xb") as file:
            file.write(MAGIC)
    code = function(
        os.fsencode(root),
        None if record is None else os.fsencode(record),
        None if board is None else os.fsencode(board),
        ctypes.c_int(-1 if marks is None else marks),
        os.fsencode(mapped),
    )
    if code:
        raise OSError(code, f"the shim was not armed: {os.strerror(code)}", str(root))
    if record is not None:
        os.environ[WATCH] = f"{record.resolve()}\n{root.resolve()}\n{mapped}"


def plan(fault: Plan) -> None:
    """Have this happen; counting begins anew."""
    _function("plan")(
        ctypes.c_uint32(sum(1 << kind for kind in fault.kinds)),
        ctypes.c_uint32(fault.phase),
        ctypes.c_uint64(fault.nth),
        ctypes.c_uint32(fault.action),
        ctypes.c_int(fault.error),
        ctypes.c_int64(fault.bytes),
    )


def enter_phase(phase: int) -> None:
    """Enter a phase: counting begins anew, and only plans for it come true."""
    _function("phase")(ctypes.c_uint32(phase))


def counts() -> Board:
    """Return what was counted in this phase so far."""
    raw = ctypes.create_string_buffer(_BOARD.size)
    _function("board")(raw)
    return _board(raw.raw)


def disarm() -> None:
    """Look at nothing any more; the record is complete."""
    _function("disarm")()
    os.environ.pop(WATCH, None)


def _board(raw: bytes) -> Board:
    fired, phase, unsupported, *numbers = _BOARD.unpack(raw)
    return Board(fired, phase, unsupported, dict(zip(Kind, numbers, strict=True)))


def _function(name: str, result: type[ctypes.c_int] | None = None) -> Callable[..., int]:
    try:
        function: Callable[..., int] = ctypes.CDLL(None)[f"strandline_shim_{name}"]
    except AttributeError:
        raise RuntimeError(
            "the shim is not under this process: start it with control.environment()"
        ) from None
    function.restype = result  # type: ignore[attr-defined]
    return function
