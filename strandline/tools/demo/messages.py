"""What the writing process tells the one that watches it, line by line over a pipe.

    17 3            an acknowledgement: three operations of flight 17 have returned, and all
                    before it. Written after the call returned, so that a kill can lose an
                    acknowledgement and never invent one.
    {"kind": ...}   a measurement, in JSON

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from strandline import Durability, Stats
from strandline.tools.demo.workload import Position

CLOSE: Final = b"close\n"
"""What the watching process writes when the other one may close the store and end."""

LEVELS: Final = tuple(Durability)


@dataclass(frozen=True, slots=True)
class Started:
    """The store is open."""

    at: float
    next_lsn: int
    """The LSN that the first operation of this run gets."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The run so far. Counts and seconds by level are in the order of `LEVELS`."""

    at: float
    event: int
    counts: list[int]
    seconds: list[float]
    """Time spent in calls of each level."""
    dirty_entries: int
    log_bytes: int
    checkpoints: int
    checkpoint_mean: float
    stored: int
    """Entries that went to LMDB."""
    fsyncs: int
    fsync_p50: float
    fsync_p99: float
    group_mean: float
    group_p50: float
    group_p99: float
    group_maximum: float

    @classmethod
    def of(
        cls, at: float, event: int, counts: list[int], seconds: list[float], stats: Stats
    ) -> Sample:
        """Put a sample together from the run's own counts and the store's statistics."""
        return cls(
            at=at,
            event=event,
            counts=counts,
            seconds=seconds,
            dirty_entries=stats.dirty_entries,
            log_bytes=stats.log_bytes,
            checkpoints=stats.checkpoints,
            checkpoint_mean=stats.checkpoint_seconds.mean,
            stored=stats.stored_writes,
            fsyncs=stats.fsyncs,
            fsync_p50=stats.fsync_seconds.p50,
            fsync_p99=stats.fsync_seconds.p99,
            group_mean=stats.group_sizes.mean,
            group_p50=stats.group_sizes.p50,
            group_p99=stats.group_sizes.p99,
            group_maximum=stats.group_sizes.maximum,
        )

    @property
    def operations(self) -> int:
        """All operations of this run."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last operation has returned; the store is still open."""

    at: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The store is closed."""

    at: float
    seconds: float


Message = Started | Sample | Finished | Closed
_KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__.lower(): kind for kind in (Started, Sample, Finished, Closed)
}


def encode(message: Message) -> bytes:
    """Return a measurement as one line."""
    kind = type(message).__name__.lower()
    return json.dumps({"kind": kind, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the measurement of a line; raises ValueError where it is none."""
    content = json.loads(line)
    shape = _KINDS.get(content.pop("kind", None))
    if shape is None or {field.name for field in fields(shape)} != content.keys():
        raise ValueError(f"expected a measurement, found {line[:200]!r}")
    message: Message = shape(**content)
    return message


def decode_acknowledgement(line: bytes) -> Position:
    """Return how far an acknowledgement says that the stream has come."""
    event, steps = line.split()
    return Position(int(event), int(steps))
