"""Which bytes of a log recovery does without, so that quarantine can have them.

A plan only: `strandline.recovery.tail` carries it out, before it changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from strandline.options import RecoveryMode
from strandline.recovery.segment_scan import SegmentScan
from strandline.recovery.verdict import Kept, Verdict

STALE_TAIL_BYTES: Final = 1 << 20
"""How much behind a torn place counts as its own where nothing carries the segment's stamp.

In a recycled file the rest is what an earlier use left there."""


@dataclass(frozen=True, slots=True)
class Aside:
    """Bytes to be put into quarantine."""

    path: str
    segment_id: int
    offset: int
    end: int
    lsn: int
    """The LSN that was expected where they begin."""
    whole: bool
    """What lies at `path` is moved as it is; otherwise the bytes are copied."""
    sweep: bool = False
    """Moved only when everything that was read from it is in LMDB."""

    @property
    def length(self) -> int:
        """Return how much of the quarantine's budget it takes."""
        return self.end - self.offset


def extent(scan: SegmentScan, offset: int, *, full: bool) -> int:
    """Return where the bytes of a segment that lie behind `offset` end, zeros left out.

    Unless `full`, what can only be from an earlier use of the file is left out too.
    """
    end = max(offset, scan.end if scan.runs else 0)
    if scan.remains is None:
        return end
    own, nonzero = max(end, scan.remains.own_end), scan.remains.nonzero_end
    return nonzero if full else min(nonzero, max(own, offset + STALE_TAIL_BYTES))


def plan_asides(verdict: Verdict, mode: RecoveryMode) -> list[Aside]:
    """Return what recovery in this mode puts aside.

    Segments of which nothing is kept are moved, or copied where they are the torn end of
    the log, since the next segment takes their place. Of the last segment, which is
    written anew, what is not kept is copied. Every other segment that salvage found damaged
    is moved too, but only when the replayed operations are in LMDB.
    """
    full = mode in ("point-in-time", "salvage")
    asides = []
    for scan in verdict.unused:
        torn = not full and scan in verdict.dropped
        end = extent(scan, 0, full=False) if torn else scan.size
        lsn = scan.trouble.lsn if scan.trouble else scan.runs[0].first_lsn
        asides.append(Aside(scan.path, scan.segment_id, 0, end, lsn, whole=not torn))
    for kept in verdict.kept:
        scan, last = kept.scan, kept is verdict.kept[-1]
        if mode == "salvage" and (scan.trouble or len(kept.runs) > 1):
            end = extent(scan, 0, full=True) if last else scan.size
            lsn = kept.runs[0].first_lsn
            asides.append(Aside(scan.path, scan.segment_id, 0, end, lsn, not last, not last))
        elif last:
            asides += _parts(kept, full=full)
    return asides


def _parts(kept: Kept, *, full: bool) -> list[Aside]:
    """Return what is not kept of a segment: what lies between its runs and behind them."""
    scan, runs = kept.scan, kept.runs
    asides = []
    for run, damage in zip(runs, scan.breaks, strict=False):
        if run is not runs[-1]:
            end = runs[runs.index(run) + 1].offset
        elif run is scan.runs[-1] and scan.ends_plainly:
            continue
        else:
            end = extent(scan, run.end, full=full)
        if end > run.end:
            asides.append(Aside(scan.path, scan.segment_id, run.end, end, damage.lsn, whole=False))
    return asides
