"""What lies where in a segment: every byte of the file belongs to one region.

    header | valid | damaged | valid | seal | unused or stale
                                     | torn | ...

A region is a statement of fact about the bytes. Whether what ends a log is a torn tail or
damage depends on the rest of it: `torn_from` says where the judgement put the tail.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from strandline.recovery.segment_scan import SegmentScan
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
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A stretch of a segment file."""

    kind: RegionKind
    offset: int
    end: int
    first_lsn: int | None = None
    last_lsn: int | None = None
    frames: int = 0
    operations: int = 0
    detail: str = ""
    """What is wrong, as expected and found."""

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.end - self.offset


def regions_of(scan: SegmentScan, *, torn_from: int | None = None) -> list[Region]:
    """Return the regions of a segment, in order and without holes.

    `torn_from` is the offset of the torn tail, if the log's judgement put it here.
    """
    if not scan.size:
        return []
    if scan.foreign is not None:
        return [Region(kind=RegionKind.FOREIGN, offset=0, end=scan.size, detail=scan.foreign)]
    found = [_head(scan)]
    at = found[0].end
    for number, run in enumerate(scan.runs):
        if run.offset > at:
            found.append(_between(scan, number, at, run.offset, torn_from))
        if run.end > run.offset:
            found.append(
                Region(
                    kind=RegionKind.VALID,
                    offset=run.offset,
                    end=min(run.end, scan.size),
                    first_lsn=run.first_lsn,
                    last_lsn=run.last_lsn,
                    frames=run.frames,
                    operations=run.operations,
                )
            )
        at = max(at, min(run.end, scan.size))
    if scan.seal is not None:
        sealed = f"{scan.seal.seal.frames} frames, last LSN {scan.seal.seal.last_lsn}"
        if scan.seal.clean:
            sealed += ", closed in order"
        end = min(scan.seal.end, scan.size)
        found.append(Region(kind=RegionKind.SEAL, offset=at, end=end, frames=1, detail=sealed))
        at = end
    return [*found, *_rest(scan, at, torn_from)]


def _head(scan: SegmentScan) -> Region:
    end = min(SEGMENT_HEADER_BYTES, scan.size)
    if scan.header is not None:
        return Region(kind=RegionKind.HEADER, offset=0, end=end)
    if scan.stray is not None:
        detail = f"the header of segment {scan.stray.segment_id}"
        return Region(kind=RegionKind.STALE, offset=0, end=end, detail=detail)
    detail = "" if scan.trouble is None else _said(scan.trouble.expected, scan.trouble.found)
    blank = scan.trouble is not None and scan.trouble.found == "zeros"
    kind = RegionKind.UNUSED if blank and not scan.runs else RegionKind.DAMAGED
    return Region(kind=kind, offset=0, end=end, detail=detail)


def _between(scan: SegmentScan, number: int, start: int, end: int, torn_from: int | None) -> Region:
    torn = torn_from is not None and start >= torn_from
    detail = ""
    if number:
        damage = scan.breaks[number - 1]
        detail = f"{damage.kind.value}: {_said(damage.expected, damage.found)}"
    kind = RegionKind.TORN if torn else RegionKind.DAMAGED
    return Region(kind=kind, offset=start, end=end, detail=detail)


def _rest(scan: SegmentScan, at: int, torn_from: int | None) -> list[Region]:
    """Return what lies behind the last frame."""
    if at >= scan.size:
        return []
    remains = scan.remains
    found: list[Region] = []
    if remains is not None and scan.breaks and not scan.ends_plainly:
        damage = scan.breaks[-1]
        end = max(remains.own_end, at)
        if not remains.recycled:
            end = max(end, remains.nonzero_end)
        end = min(end, scan.size)
        if end > at:
            torn = torn_from is not None and at >= torn_from
            found.append(
                Region(
                    kind=RegionKind.TORN if torn else RegionKind.DAMAGED,
                    offset=at,
                    end=end,
                    first_lsn=damage.lsn,
                    last_lsn=damage.last_lsn,
                    detail=f"{damage.kind.value}: {_said(damage.expected, damage.found)}",
                )
            )
            at = end
    stale_end = at if remains is None else min(max(at, remains.nonzero_end), scan.size)
    if stale_end > at:
        detail = "bytes of an earlier use of the file"
        found.append(Region(kind=RegionKind.STALE, offset=at, end=stale_end, detail=detail))
        at = stale_end
    if at < scan.size:
        found.append(Region(kind=RegionKind.UNUSED, offset=at, end=scan.size))
    return found


def _said(expected: str, found: str) -> str:
    return f"expected {expected}, found {found}"
