"""What opening a store found and did, for whoever asks, and how far it has come meanwhile.

Only shapes and their text; what they say is found out by `strandline.recovery.survey`
and `strandline.recovery.tail`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from strandline.options import RecoveryMode
from strandline.wal.damage import Damage

Phase = Literal["scan", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryProgress:
    """How far a recovery has come; what the option `progress` is called with."""

    phase: Phase
    bytes_done: int
    bytes_total: int
    operations: int
    """Operations seen so far in this phase."""
    lsn: int
    """The last LSN seen so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """The end of the log that was being written when the process or the power went."""

    path: str
    segment_id: int
    offset: int
    """Where it begins."""
    dropped_bytes: int
    """How much of it may be from the last writer; zeros at its end are not counted."""
    lsn: int
    """The LSN that would have come next."""
    reason: Damage
    """What the reader stopped at."""
    quarantined: str | None = None
    """Where the bytes are now; None if the budget of `quarantine/` did not allow a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What opening found in the log and did about it. LSN ranges include both ends."""

    mode: RecoveryMode
    clean: bool
    """The last writer closed the store in order; nothing was replayed or repaired."""
    epoch: int
    first_lsn: int | None
    """The first LSN in the log, None if it holds no operation."""
    last_lsn: int
    """The last LSN that was recovered, in the log or in LMDB."""
    watermark_lsn: int
    """Everything up to here was in LMDB before the recovery."""
    segments: int
    frames_scanned: int
    operations_scanned: int
    bytes_scanned: int
    frames_replayed: int
    operations_replayed: int
    bytes_replayed: int
    torn_tail: TornTail | None
    damages: tuple[Damage, ...]
    """Damage that was found, gaps left out. What is fatal raises instead."""
    gaps: tuple[Damage, ...]
    """Segments that are missing or out of order."""
    given_up: tuple[tuple[int, int], ...]
    """LSNs above the watermark that point-in-time or salvage did without."""
    quarantined: tuple[str, ...]
    """Files that this recovery put into `quarantine/`."""
    unquarantined_bytes: int
    """Bytes of a torn tail that the budget of `quarantine/` had no room for."""
    scan_seconds: float
    replay_seconds: float

    def summary(self) -> str:
        """Return the report as text, a fact a line, the most important first."""
        span = f"LSN {self.first_lsn} to {self.last_lsn}" if self.first_lsn else "no operations"
        start = "clean start" if self.clean else "recovered after an unclean end"
        scanned = f"{self.frames_scanned} frames, {self.operations_scanned} operations"
        replayed = f"{self.frames_replayed} frames, {self.operations_replayed} operations"
        lines = [
            f"{start}, mode {self.mode}, epoch {self.epoch}",
            f"log: {self.segments} segments, {span}; watermark {self.watermark_lsn}",
            f"scanned {scanned}, {self.bytes_scanned} bytes in {self.scan_seconds:.3f} s",
            f"replayed {replayed}, {self.bytes_replayed} bytes in {self.replay_seconds:.3f} s",
        ]
        lines += [f"given up: LSN {first} to {last}" for first, last in self.given_up]
        if self.torn_tail:
            tail = self.torn_tail
            kept = f"kept as {tail.quarantined}" if tail.quarantined else "not kept"
            lines.append(
                f"torn tail: {tail.path} from offset {tail.offset}, LSN {tail.lsn}: "
                f"{tail.dropped_bytes} bytes dropped, {kept} ({tail.reason.kind.value})"
            )
        if self.unquarantined_bytes:
            lines.append(
                f"not quarantined: {self.unquarantined_bytes} bytes, for want of room in the budget"
            )
        lines += [f"damage: {damage}" for damage in self.damages]
        lines += [f"gap: {damage}" for damage in self.gaps]
        lines += [f"quarantined: {path}" for path in self.quarantined]
        return "\n".join(lines)
