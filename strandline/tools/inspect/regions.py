"""What lies where in a segment: every byte of the file belongs to one region.

    header | valid | damaged | valid | seal | unused or stale
                                     | torn | ...

A region is a statement of fact about the bytes. Whether what ends a log is a torn tail or
damage depends on the rest of it: `torn_from` says where the judgement put the tail.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from strandline.recovery.segment_scan import Run, SegmentScan
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.format import SEGMENT_HEADER_BYTES


class RegionKind(enum.Enum):
    """What the bytes of a region are."""

    HEADER = "header"
    VALID = "valid"
    SEAL = "seal"
    DAMAGED = "damaged"
    TORN = "torn"
    STALE = "stale"
    """Left by an earlier use of the file."""
    UNUSED = "unused"
    """Zeros, or bytes in which nothing says that they were ever this segment's."""
    FOREIGN = "foreign"
    """Of another store, or of a newer format: not read."""


FAULTS = frozenset({RegionKind.DAMAGED, RegionKind.TORN, RegionKind.FOREIGN})
"""What a sound log has none of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A stretch of a segment file."""

    kind: RegionKind
    offset: int
    end: int
    first_lsn: int | None = None
    """Of the LSNs that it holds; of what is no longer valid, those that should be here."""
    last_lsn: int | None = None
    """None as well where nothing tells it."""
    frames: int = 0
    operations: int = 0
    damage: Damage | None = None
    """What was expected here, and what was found."""
    detail: str = ""
    """What else is known of it."""

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.end - self.offset


def regions_of(
    scan: SegmentScan, *, torn_from: int | None = None, live: bool = False
) -> list[Region]:
    """Return the regions of a segment, in order and without holes.

    `torn_from` is the offset of the torn tail, if the log's judgement put it here. `live`
    says that a writer has the store open: what lies behind its last frame was not looked at.
    """
    if not scan.size:
        return []
    if scan.foreign is not None:
        return [Region(kind=RegionKind.FOREIGN, offset=0, end=scan.size, detail=scan.foreign)]
    found = [_head(scan, torn_from)]
    at = found[0].end
    for number, run in enumerate(scan.runs):
        if run.offset > at:
            found.append(_between(scan, number, at, run, torn_from))
        if run.end > run.offset:
            found.append(_valid(scan, run))
        at = max(at, min(run.end, scan.size))
    if scan.seal is not None:
        sealed = f"{scan.seal.seal.frames} frames, last LSN {scan.seal.seal.last_lsn}"
        if scan.seal.clean:
            sealed += ", closed in order"
        end = min(scan.seal.end, scan.size)
        found.append(Region(kind=RegionKind.SEAL, offset=at, end=end, frames=1, detail=sealed))
        at = end
    return [*found, *_rest(scan, at, torn_from, live)]


def _head(scan: SegmentScan, torn_from: int | None) -> Region:
    end = min(SEGMENT_HEADER_BYTES, scan.size)
    if scan.header is not None:
        return Region(kind=RegionKind.HEADER, offset=0, end=end)
    if scan.stray is not None:
        detail = f"the header of segment {scan.stray.segment_id}"
        return Region(kind=RegionKind.STALE, offset=0, end=end, detail=detail)
    blank = scan.trouble is not None and scan.trouble.found == "zeros"
    kind = RegionKind.DAMAGED if torn_from is None else RegionKind.TORN
    if blank and not scan.runs:
        kind = RegionKind.UNUSED
    return Region(kind=kind, offset=0, end=end, damage=scan.trouble)


def _valid(scan: SegmentScan, run: Run) -> Region:
    return Region(
        kind=RegionKind.VALID,
        offset=run.offset,
        end=min(run.end, scan.size),
        first_lsn=run.first_lsn,
        last_lsn=run.last_lsn,
        frames=run.frames,
        operations=run.operations,
    )


def _between(scan: SegmentScan, number: int, start: int, run: Run, torn_from: int | None) -> Region:
    """Return what lies before a run, behind the one before it or behind the header."""
    damage = scan.breaks[number - 1] if number else None
    missing = damage is not None and damage.lsn < run.first_lsn
    return Region(
        kind=_kind_of(damage, start, torn_from),
        offset=start,
        end=run.offset,
        first_lsn=damage.lsn if damage is not None and missing else None,
        last_lsn=run.first_lsn - 1 if missing else None,
        damage=damage,
        detail="" if damage else "before the first frame that could be placed without a header",
    )


def _rest(scan: SegmentScan, at: int, torn_from: int | None, live: bool) -> list[Region]:
    """Return what lies behind the last frame."""
    found: list[Region] = []
    remains = scan.remains
    if at < scan.size and remains is not None and scan.breaks and not scan.ends_plainly:
        damage = scan.breaks[-1]
        end = max(remains.own_end, at)
        if not remains.recycled:
            end = max(end, remains.nonzero_end)
        end = min(end, scan.size)
        if end > at:
            found.append(
                Region(
                    kind=_kind_of(damage, at, torn_from),
                    offset=at,
                    end=end,
                    first_lsn=damage.lsn,
                    last_lsn=damage.last_lsn,
                    damage=damage,
                )
            )
            at = end
    stale_end = at if remains is None else min(max(at, remains.nonzero_end), scan.size)
    if scan.stray is not None and not scan.runs:
        stale_end = scan.size
    if stale_end > at:
        detail = "bytes of an earlier use of the file"
        found.append(Region(kind=RegionKind.STALE, offset=at, end=stale_end, detail=detail))
        at = stale_end
    if at < scan.size:
        detail = ""
        if live and scan.seal is None:
            detail = "not looked at: a writer has the store open"
        elif scan.trouble is not None and not scan.runs:
            detail = "no frame of this segment was found here"
        found.append(Region(kind=RegionKind.UNUSED, offset=at, end=scan.size, detail=detail))
    return found


def _kind_of(damage: Damage | None, offset: int, torn_from: int | None) -> RegionKind:
    """Return what bytes are that no valid frame holds and that are the segment's own."""
    if damage is not None and damage.kind is DamageKind.UNKNOWN_TYPE:
        return RegionKind.FOREIGN
    torn = torn_from is not None and offset >= torn_from
    return RegionKind.TORN if torn else RegionKind.DAMAGED
