"""Which regions of a segment share a cell of the map, and which segments a row.

What is short is merged first, with the shorter of its neighbours, so that what is left has
about the same size each; headers, seals and torn tails are merged last. Segments without a
fault share a row where there are too many for one each.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.regions import Region, RegionKind

_COARSE: Final = 200
"""How many pieces are merged one by one; more are put together by number first."""
_KEPT: Final = frozenset({RegionKind.HEADER, RegionKind.SEAL, RegionKind.TORN, RegionKind.FOREIGN})
_EDGE: Final = 2
"""Segments at the log's beginning and end that have a row of their own."""

Piece = list[Region]


def merge(regions: Sequence[Region], limit: int) -> list[Piece]:
    """Return all regions in order, in `limit` pieces at the most."""
    pieces: list[Piece] = [[region] for region in regions]
    if len(pieces) > _COARSE:
        size = -(-(len(pieces) - 2) // (_COARSE - 2))
        middle = regions[1:-1]
        chunks = [list(middle[at : at + size]) for at in range(0, len(middle), size)]
        pieces = [pieces[0], *chunks, pieces[-1]]
    while len(pieces) > limit:
        at = min(range(len(pieces) - 1), key=lambda at: _cost(pieces[at], pieces[at + 1]))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _cost(left: Piece, right: Piece) -> tuple[int, int]:
    kept = sum(len(each) == 1 and each[0].kind in _KEPT for each in (left, right))
    return kept, right[-1].end - left[0].offset


def group(
    scans: Sequence[SegmentScan], faulty: Container[int], rows: int
) -> list[list[SegmentScan]]:
    """Return the segments in order, in about `rows` rows at the most.

    `faulty` are the ids of segments in which something is wrong. As many of them as there is
    room for stand alone.
    """
    if len(scans) <= rows:
        return [[scan] for scan in scans]
    wrong = [at for at, scan in enumerate(scans) if scan.segment_id in faulty]
    alone = {*range(_EDGE), *range(len(scans) - _EDGE, len(scans)), *wrong[: rows // 2 - 2 * _EDGE]}
    found: list[list[SegmentScan]] = []
    for at, scan in enumerate(scans):
        if not found or at in alone or at - 1 in alone:
            found.append([])
        found[-1].append(scan)
    return found
