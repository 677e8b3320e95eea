"""What can be wrong with a log, said in one shape.

`Damage` is a statement of fact, made by whoever reads: what was expected at a place, and
what was found. Whether that ends a recovery, or is the harmless end of a log whose
process died, is not decided here: `strandline.recovery.verdict` weighs it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DamageKind(enum.Enum):
    """What is wrong."""

    END = "end"
    """The file has no room for another frame header."""
    ZERO = "zero"
    """Zeros where a frame header should be."""
    HEADER_CRC = "header-crc"
    PAYLOAD_CRC = "payload-crc"
    LENGTH = "length"
    """A valid header states a payload that passes the end of the file."""
    STALE = "stale"
    """A whole frame of an earlier use of the file."""
    FOREIGN = "foreign"
    """A whole frame of another segment, or of a later epoch."""
    LSN_ORDER = "lsn-order"
    """A frame of this segment, but not the next one."""
    MALFORMED = "malformed"
    """Every checksum holds and the fields contradict each other."""
    UNKNOWN_TYPE = "unknown-type"
    """A newer format: a frame that this reader may not pass over."""
    SEAL = "seal"
    """A seal that does not describe the frames before it."""
    SEGMENT_HEADER = "segment-header"
    MISSING = "missing"
    """A segment that its neighbours speak of is not there."""
    NOT_A_FILE = "not-a-file"
    MISPLACED = "misplaced"
    """A file that holds another segment than its name says."""
    LINK = "link"
    """A segment that does not continue the one before it."""


GAPS = frozenset({DamageKind.MISSING, DamageKind.NOT_A_FILE, DamageKind.MISPLACED, DamageKind.LINK})
"""Kinds that speak of whole segments."""

NEVER_TORN = frozenset({*GAPS, DamageKind.MALFORMED, DamageKind.UNKNOWN_TYPE, DamageKind.SEAL})
"""Kinds that no interrupted write leaves behind: the frame is whole, or it is about segments."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the log is not what it should be."""

    kind: DamageKind
    path: str
    segment_id: int
    offset: int
    lsn: int
    """The LSN that was expected at this place."""
    expected: str
    found: str
    last_lsn: int | None = None
    """The last LSN of the damaged frame, where its header is intact and tells."""

    def __str__(self) -> str:
        return (
            f"{self.path}: offset {self.offset}, LSN {self.lsn}: {self.kind.value}: "
            f"expected {self.expected}, found {self.found}"
        )
