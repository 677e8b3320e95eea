"""The runs of all segments as one chain, and where its links do not hold.

A segment's header says which segment came before it, where that one's seal ended and
which LSN was its last. So a chain of segments can be checked without trusting the names
or lengths of files, and a first LSN further ahead is a jump that an unclean end left, not
a hole, if the header says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strandline.recovery.segment_scan import Run, SegmentScan
from strandline.wal.damage import Damage, DamageKind


@dataclass(frozen=True, slots=True)
class Station:
    """A run of the chain, and what lies between it and the run before."""

    scan: SegmentScan
    run: Run
    floor: int
    """The last LSN before it: as the segment's header says, or else its first one less 1."""
    before: list[Damage]
    claim: int
    """The highest LSN that it, or anything behind it, says was on disk."""
    opens: bool
    """It is the first of its segment."""


def stations(scans: Sequence[SegmentScan], *, salvage: bool) -> list[Station]:
    """Return the runs in order.

    Segments whose header is lost are part of the chain in a salvage only: nothing says
    that they are this store's. What they claim counts all the same.
    """
    claims: list[list[int]] = []
    claim = 0
    for scan in reversed(scans):
        of_runs = []
        for run in reversed(scan.runs):
            claim = max(claim, run.claimed_lsn)
            if run is scan.runs[0] and scan.header is not None:
                claim = max(claim, scan.header.previous_last_lsn)
            of_runs.append(claim)
        claims.append(of_runs[::-1])
    chain: list[Station] = []
    before: list[Damage] = []
    for scan, of_runs in zip(scans, reversed(claims), strict=True):
        if scan.trouble is not None:
            before.append(scan.trouble)
        if scan.header is None and not salvage:
            continue
        for index, run in enumerate(scan.runs):
            floor = run.first_lsn - 1
            if index == 0 and scan.header is not None:
                floor = scan.header.previous_last_lsn
            chain.append(Station(scan, run, floor, before, of_runs[index], index == 0))
            before = scan.breaks[index : index + 1]
    return chain


def link_damage(scan: SegmentScan, previous: SegmentScan | None, last_lsn: int) -> Damage | None:
    """Return how a segment's header contradicts the one before it, which ends at `last_lsn`."""
    header = scan.header
    if header is None:
        return None
    expected = found = ""
    if header.first_lsn <= header.previous_last_lsn:
        expected, found = f"a first LSN above {header.previous_last_lsn}", f"{header.first_lsn}"
    elif header.previous_id != header.segment_id - 1 and (previous or header.previous_id):
        expected = f"a segment that follows segment {header.segment_id - 1}"
        found = f"one that follows segment {header.previous_id}"
    elif previous is None:
        return None
    elif header.epoch < previous.stamp.epoch:
        expected, found = f"epoch {previous.stamp.epoch} or later", f"epoch {header.epoch}"
    elif header.previous_last_lsn < last_lsn:
        expected = f"a segment that follows LSN {last_lsn}"
        found = f"one that follows LSN {header.previous_last_lsn}"
    elif previous.seal and previous.segment_id == header.previous_id and header.previous_bytes:
        stated = header.previous_bytes, header.previous_last_lsn
        real = previous.seal.end, previous.seal.seal.last_lsn
        if stated != real:
            expected = f"a segment that follows byte {real[0]}, LSN {real[1]}"
            found = f"one that follows byte {stated[0]}, LSN {stated[1]}"
    if not expected:
        return None
    return Damage(
        kind=DamageKind.LINK,
        path=scan.path,
        segment_id=scan.segment_id,
        offset=0,
        lsn=last_lsn + 1,
        expected=expected,
        found=found,
    )


def missing(scan: SegmentScan, first: int, last: int) -> Damage:
    """Return the damage that the absence of LSNs before a segment is."""
    return Damage(
        kind=DamageKind.MISSING,
        path=scan.path,
        segment_id=scan.segment_id,
        offset=0,
        lsn=first,
        expected=f"a log that goes on with LSN {first}",
        found=f"a segment that follows LSN {last}",
    )


def is_recycled(scan: SegmentScan, scans: Sequence[SegmentScan], watermark: int) -> bool:
    """Tell whether a file with another segment's header is that segment's, given back.

    Segments are given back oldest first, once all that they hold is in LMDB, and the
    file's name changes: so its own place is empty, and the next segment that is still
    there says that it ended at or below the watermark.
    """
    if scan.stray is None:
        return False
    for other in scans:
        if other.segment_id == scan.stray.segment_id and other.size:
            return False
        if other.segment_id > scan.stray.segment_id and other.header is not None:
            return other.header.previous_last_lsn <= watermark
    return False
