"""Every setting: its unit, its default and its bounds.

`Options` is checked as a whole before anything is opened, so that a wrong setting
never leaves a half-made store behind.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from strandline.errors import InvalidRequestError, InvalidTypeError

if TYPE_CHECKING:
    from strandline.wal.disk import Disk
    from strandline.wal.runtime import Runtime

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

MAX_KEY_BYTES: Final = 511
"""The longest key, LMDB's own limit."""

RecoveryMode = Literal["tolerate-torn-tail", "strict", "point-in-time", "salvage"]
RECOVERY_MODES: Final = ("tolerate-torn-tail", "strict", "point-in-time", "salvage")


class Durability(enum.Enum):
    """When a write is acknowledged.

    SYNC: its frame is on disk; survives a power cut.
    BUFFERED: its frame is in the page cache; survives SIGKILL, and a power cut after
    `sync_interval`.
    ASYNC: it is in memory, its room in the log reserved; survives a normal exit, and
    SIGKILL after `log_interval`.
    """

    SYNC = "sync"
    BUFFERED = "buffered"
    ASYNC = "async"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of one open store. Sizes are in bytes, times in seconds."""

    durability: Durability = Durability.SYNC
    """The level of a write that names none, in a table that names none."""

    sync_interval: float = 1.0
    """How old a BUFFERED or ASYNC write may grow before it is synced; 0.001 to 3600."""

    log_interval: float = 0.010
    """How old an ASYNC write may grow before it is in the log; 0.0005 to 60."""

    segment_bytes: int = 64 * MIB
    """Length of a log segment; 64 KiB to 1 GiB."""

    group_bytes: int = 1 * MIB
    """Where a commit group closes; 4 KiB to 64 MiB."""

    max_log_bytes: int = 1 * GIB
    """Log that may lie above the watermark; at least four segments."""

    max_dirty_bytes: int = 256 * MIB
    """Memory for writes that are not yet in LMDB, pinned layers included; 64 KiB up."""

    max_value_bytes: int = 64 * MIB
    """The longest value; 1 byte to 1 GiB."""

    max_tables: int = 256
    """Tables that can exist at one time, beside the default one; 1 to 16384."""

    max_readers: int = 512
    """LMDB reader slots, over all processes; 8 to 65536."""

    map_bytes: int = 1 * TIB
    """Address space that LMDB reserves, sparse; 1 MiB up. Less is taken where it is limited."""

    stall_timeout: float = 30.0
    """How long a writer waits for room before `BackpressureError`; 0 up."""

    overload: Literal["block", "reject"] = "block"
    """Whether a writer waits for room in the budgets or is refused at once."""

    flush_strategy: Any = None
    """A `FlushStrategy`; None stands for `HybridFlush()`."""

    recovery: RecoveryMode = "tolerate-torn-tail"
    """What opening does with a damaged log."""

    check: Literal["auto", "always"] = "auto"
    """When LMDB is walked in a child process before it is opened: after an unclean end, or always,
    every value included."""

    quarantine_bytes: int = 1 * GIB
    """Budget of `quarantine/`; what no longer fits is reported and refused, never deleted; 0 up."""

    disk_reserve_bytes: int = 16 * MIB
    """Room kept back so that a checkpoint can finish on a full disk; 0 up."""

    lsn_block: int = 1 << 28
    """How many LSNs IDENTITY reserves at a time; 2**24 to 2**40."""

    progress: Callable[[Any], None] | None = None
    """Called with a `RecoveryProgress` while a log is scanned and replayed."""

    disk: Disk | None = field(default=None, repr=False)
    """Where log and identity files live; None stands for the operating system's files."""

    runtime: Runtime | None = field(default=None, repr=False)
    """Clock, random source, threads and locks; None stands for the process's own."""

    def __post_init__(self) -> None:
        """Check every setting against its bounds."""
        if not isinstance(self.durability, Durability):
            raise InvalidTypeError(
                f"option durability: expected a strandline.Durability, found {self.durability!r}"
            )
        _within("sync_interval", self.sync_interval, 0.001, 3600, float)
        _within("log_interval", self.log_interval, 0.0005, 60, float)
        _within("segment_bytes", self.segment_bytes, 64 * KIB, GIB, int)
        _within("group_bytes", self.group_bytes, 4 * KIB, 64 * MIB, int)
        _within("max_log_bytes", self.max_log_bytes, 4 * self.segment_bytes, 1 << 62, int)
        _within("max_dirty_bytes", self.max_dirty_bytes, 64 * KIB, 1 << 62, int)
        _within("max_value_bytes", self.max_value_bytes, 1, GIB, int)
        _within("max_tables", self.max_tables, 1, 16384, int)
        _within("max_readers", self.max_readers, 8, 65536, int)
        _within("map_bytes", self.map_bytes, MIB, 1 << 47, int)
        _within("stall_timeout", self.stall_timeout, 0, 1e9, float)
        _within("quarantine_bytes", self.quarantine_bytes, 0, 1 << 62, int)
        _within("disk_reserve_bytes", self.disk_reserve_bytes, 0, 1 << 62, int)
        _within("lsn_block", self.lsn_block, 1 << 24, 1 << 40, int)
        _one_of("overload", self.overload, ("block", "reject"))
        _one_of("recovery", self.recovery, RECOVERY_MODES)
        _one_of("check", self.check, ("auto", "always"))
        if self.progress is not None and not callable(self.progress):
            raise InvalidTypeError(f"option progress: expected a function, found {self.progress!r}")
        if self.flush_strategy is not None:
            _strategy(self.flush_strategy)


def make_options(settings: dict[str, Any]) -> Options:
    """Build `Options` from keyword arguments; an unknown name is refused with the nearest one."""
    known = [f.name for f in fields(Options)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(known)}"
            )
            raise InvalidRequestError(f"unknown option {name!r}{hint}")
    return Options(**settings)


def _within(name: str, value: Any, low: float, high: float, kind: type) -> None:
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise InvalidTypeError(
            f"option {name}: expected {kind.__name__}, found {type(value).__name__} {value!r}"
        )
    if not low <= value <= high:
        raise InvalidRequestError(f"option {name}: expected {low:g} to {high:g}, found {value!r}")


def _strategy(value: Any) -> None:
    methods = ("should_flush", "on_flush_complete")
    whole = all(callable(getattr(value, method, None)) for method in methods)
    if not whole or isinstance(value, type):
        raise InvalidTypeError(
            "option flush_strategy: expected an instance that has should_flush(stats) and "
            f"on_flush_complete(stats), found {value!r}"
        )


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise InvalidRequestError(f"option {name}: expected one of {listed}, found {value!r}")
