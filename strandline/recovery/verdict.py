"""What the facts about a log's segments mean: torn tail or damage, kept or given up.

The log is a chain of runs. Between two of them lie the breaks and missing segments that
the scans found, and the LSNs that those held: up to what the next segment's header says
came before it, or up to the next run. That range decides.

    nothing is missing    the break held no operation, or an earlier recovery ended the
                          segment there: reported
    all at or below W     it is in LMDB; W is the watermark: reported
    above W, claimed      something behind it says that it was on disk: damage
    above W, unclaimed    never acknowledged as on disk: a torn tail, dropped with all
                          that lies behind it

A *claim* is the synced LSN in any later valid frame or seal, in this or a following
segment, the last LSN below a following segment (its header is written after its
predecessor is synced), or the watermark (the log is synced before LMDB commits). A seal
is no claim by its mere existence: the frames before it may share its one fdatasync.

A break within a segment that hides no LSN and that nothing claims is passed over only if
it has the size of sync marks, or is a whole frame out of order; otherwise the frames
behind it could be what is left of a write that was undone.

Recovery modes choose what damage does: raise, stop there (point-in-time), or go on behind
it (salvage). In no mode is a break passed over without being reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from strandline.errors import (
    CorruptionError,
    ForeignStoreError,
    LogCorruptionError,
    LogGapError,
    StoreCorruptionError,
)
from strandline.options import RecoveryMode
from strandline.recovery.chain import Station, is_recycled, link_damage, missing, stations
from strandline.recovery.segment_scan import Run, SegmentScan
from strandline.wal.damage import GAPS, NEVER_TORN, Damage, DamageKind
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SYNC_MARK_PAYLOAD,
    aligned,
    segment_name,
)

GIVING_UP: Final = ("point-in-time", "salvage")
"""The recovery modes that go on although something is lost."""
SYNC_MARK_BYTES: Final = aligned(FRAME_HEADER_BYTES + len(SYNC_MARK_PAYLOAD))


@dataclass(frozen=True, slots=True)
class Kept:
    """The runs of one segment that are part of the recovered log."""

    scan: SegmentScan
    runs: list[Run] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """What is kept of a log, and what is not."""

    kept: list[Kept] = field(default_factory=list)
    last_lsn: int = 0
    """The last LSN that is there, in a kept run or in LMDB."""
    damages: list[Damage] = field(default_factory=list)
    """What was passed over."""
    given_up: list[tuple[int, int]] = field(default_factory=list)
    torn: Damage | None = None
    """Where the torn tail begins."""
    stopped: Damage | None = None
    """Where a point-in-time recovery stopped."""
    lossy: bool = False
    """Salvage kept what no other mode would open with."""
    dropped: list[SegmentScan] = field(default_factory=list)
    """Segments that are part of the torn tail: their header never reached the disk."""
    unused: list[SegmentScan] = field(default_factory=list)
    """Segments with some content of which nothing is kept, `dropped` included."""


def judge(scans: Sequence[SegmentScan], *, watermark_lsn: int, mode: RecoveryMode) -> Verdict:
    """Decide what of the scanned segments, dense by id, is the log.

    Raises:
        LogCorruptionError, LogGapError: damage or a gap above the watermark, in a mode
            that does not stop before it or pass over it.
        StoreCorruptionError: the watermark lies beyond the end of the log.
        ForeignStoreError: a frame is of a newer format.
    """
    for scan in scans:
        for damage in scan.breaks:
            if damage.kind is DamageKind.UNKNOWN_TYPE:
                raise ForeignStoreError(
                    f"{damage}; a newer release wrote this frame: open the store with it"
                )
    return _Judge(scans, watermark_lsn, mode).judge()


class _Judge:
    """The state of one judgement."""

    def __init__(self, scans: Sequence[SegmentScan], watermark: int, mode: RecoveryMode) -> None:
        self.scans = scans
        self.watermark = watermark
        self.mode = mode
        self.verdict = Verdict()
        self.last: int | None = None
        """The last LSN of the kept runs."""
        self.nothing_left = False
        self.explained = False
        """What was passed over or given up can have held LSNs up to the watermark."""

    def judge(self) -> Verdict:
        """Walk the runs in order, then look at how the log ends."""
        verdict = self.verdict
        for station in stations(self.scans, salvage=self.mode == "salvage"):
            if not self._connect(station):
                break
            self._keep(station)
        else:
            self._finish()
        last = self.last or 0
        if last < self.watermark and not self.explained:
            self._refuse_watermark(last)
        verdict.last_lsn = max(last, self.watermark)
        used = {kept.scan.segment_id for kept in verdict.kept}
        # What lies before the last kept segment was one once, whatever is left of it.
        through = max(used, default=0)
        if self.nothing_left:
            through = self.scans[-1].segment_id + 1
        verdict.unused = [
            scan
            for scan in self.scans
            if scan.segment_id not in used
            and (self._holds(scan) or (scan.size and scan.segment_id < through))
        ]
        return verdict

    @property
    def next(self) -> int:
        """The LSN that should come next: behind the watermark as long as nothing is kept."""
        return (self.watermark if self.last is None else self.last) + 1

    # ---- from run to run

    def _connect(self, station: Station) -> bool:
        """Judge what lies before a run; False if the log ends there."""
        kept = self.verdict.kept
        previous = kept[-1].scan if kept else None
        link = None
        if station.opens:
            link = link_damage(station.scan, previous, self.last or 0)
        first, last = self.next, station.floor
        before = [link, *station.before] if link else station.before
        if last < first and link is None:
            if self._hides_a_tear(station, first):
                return self._tear(before[0])
            self._pass(before)
            return True
        before = before or [missing(station.scan, first, last)]
        highest = max(last, station.scan.runs[-1].last_lsn) if link else last
        if highest <= self.watermark:
            self._pass(before)
            return True
        never_torn = any(damage.kind in NEVER_TORN for damage in before)
        if never_torn or max(station.claim, self.watermark) >= first:
            return self._lose(before, first, last, station.claim)
        if self.mode == "salvage":
            return self._lose(before, first, last, 0)
        return self._tear(before[0])

    def _hides_a_tear(self, station: Station, lsn: int) -> bool:
        """Tell whether a break before which no LSN is missing can be the log's torn end."""
        if station.opens or not station.before or self.mode == "salvage":
            return False
        if max(station.claim, self.watermark) >= lsn:
            return False
        damage = station.before[0]
        size = station.run.offset - damage.offset
        return size % SYNC_MARK_BYTES != 0 and damage.kind is not DamageKind.LSN_ORDER

    def _keep(self, station: Station) -> None:
        kept = self.verdict.kept
        if not kept or kept[-1].scan is not station.scan:
            kept.append(Kept(station.scan))
            self._pass(station.scan.findings)
            # Only a salvage keeps a segment without a header; nothing else would open with it.
            self.verdict.lossy |= station.scan.header is None
        kept[-1].runs.append(station.run)
        self.last = max(self.last or 0, station.run.last_lsn)

    # ---- how the log ends

    def _finish(self) -> None:
        """Judge what lies behind the last run."""
        kept = self.verdict.kept
        scan = kept[-1].scan if kept else None
        trailing = [s for s in self.scans if scan is None or s.segment_id > scan.segment_id]
        behind = [s for s in trailing if self._holds(s)]
        gone = self._missing_successor(scan, trailing)
        if scan is None and not behind and self.watermark and self.mode in GIVING_UP:
            # There was a log, and not one valid frame or header is left of it.
            gone = self.scans[0].trouble if self.scans else None
            self.nothing_left = gone is not None
        headless = [s for s in behind if s.runs]
        gaps = [gone] if gone else []
        gaps += [s.trouble for s in behind if s.trouble and not s.runs]
        if gaps and not self._lose(gaps, self.next, self.next - 1, 0):
            return
        if headless and not self._lost_headers(headless, scan):
            return
        if scan is not None and scan.seal is None:
            self._end(scan, scan.breaks[-1])

    def _holds(self, scan: SegmentScan) -> bool:
        """Tell whether a segment is more than the empty successor that its name promises."""
        if scan.header is not None or scan.runs:
            return True
        if scan.trouble is None or scan.trouble.kind is DamageKind.NOT_A_FILE:
            return True
        misplaced = scan.trouble.kind is DamageKind.MISPLACED
        return misplaced and not is_recycled(scan, self.scans, self.watermark)

    def _missing_successor(
        self, scan: SegmentScan | None, trailing: list[SegmentScan]
    ) -> Damage | None:
        """Return what the absence of the file after a sealed segment is.

        Its name is made durable before the seal is written.
        """
        if scan is None or scan.seal is None:
            return None
        if trailing and trailing[0].trouble and trailing[0].trouble.kind is not DamageKind.MISSING:
            return None
        successor = scan.segment_id + 1
        return Damage(
            kind=DamageKind.MISSING,
            path=f"{scan.path[: -len(segment_name(successor))]}{segment_name(successor)}",
            segment_id=successor,
            offset=0,
            lsn=self.next,
            expected=f"the segment after {scan.segment_id}, which is sealed",
            found="nothing",
        )

    def _lost_headers(self, headless: list[SegmentScan], scan: SegmentScan | None) -> bool:
        """Judge segments behind the last one that have frames but no header.

        A writer syncs a header together with the first frames behind it.
        """
        troubles = [s.trouble for s in headless if s.trouble]
        first, last = self.next, max(s.runs[-1].last_lsn for s in headless)
        if last <= self.watermark:
            self.explained = True
            self._pass(troubles)
            return True
        claim = max(s.claimed_lsn for s in headless)
        # A new opening may jump ahead, and its writer calls what it skipped synced.
        jumped = scan is None or scan.stamp.epoch != headless[0].stamp.epoch
        run = headless[0].runs[0]
        # Where first frames are lost with the header, what comes next speaks of them too.
        spoken_of = run.first_lsn - (run.offset > SEGMENT_HEADER_BYTES)
        threshold = max(first, spoken_of) if jumped else first
        # A log that LMDB has something from is never without a synced segment.
        alone = scan is None and self.watermark > 0
        if claim >= threshold or self.watermark >= first or alone:
            return self._lose(troubles, first, last, max(claim, self.watermark))
        self._tear(troubles[0])
        self.verdict.dropped = headless
        return True

    def _end(self, scan: SegmentScan, end: Damage) -> None:
        """Judge why the last segment's frames end without a seal."""
        if scan.ends_plainly:
            return
        if end.kind not in NEVER_TORN and self.watermark < end.lsn:
            self._tear(end)
        elif end.last_lsn is not None and end.last_lsn <= self.watermark:
            self.explained = True
            self._pass([end])
            self.verdict.torn = end
        else:
            self._lose([end], end.lsn, end.last_lsn or end.lsn, self.watermark)

    # ---- what follows from it

    def _pass(self, damages: Sequence[Damage]) -> None:
        """Pass over something and say so; strict recovery does neither."""
        if self.mode == "strict" and damages:
            raise _error(damages[0])(
                f"{damages[0]}; nothing is lost by it, but recovery is strict: open with "
                'recovery="tolerate-torn-tail" to pass over it'
            )
        self.verdict.damages += damages

    def _tear(self, damage: Damage) -> bool:
        """End the log at a torn tail."""
        if self.mode == "strict":
            raise LogCorruptionError(
                f"{damage}; nothing says that it was ever on disk, so it is a torn tail, but "
                'recovery is strict: open with recovery="tolerate-torn-tail" to drop it'
            )
        self.verdict.torn = damage
        return False

    def _lose(self, damages: Sequence[Damage], first: int, last: int, claim: int) -> bool:
        """Raise for damage, stop before it, or go on behind it."""
        self.explained = True
        damage = damages[0]
        if self.mode == "point-in-time":
            self.verdict.stopped = damage
            self.verdict.damages += damages
            last = max([last, *(s.runs[-1].last_lsn for s in self.scans if s.runs)])
            self._give_up(first, last)
            return False
        if self.mode == "salvage":
            self.verdict.lossy = True
            self.verdict.damages += damages
            self._give_up(first, last)
            return True
        said = f" LSN {claim} was on disk, as is said behind it." if claim >= first else ""
        kept = f"up to LSN {self.next - 1}"
        hint = ""
        if damage.kind is DamageKind.MISPLACED:
            hint = " If files were renamed, give each the name of the segment that it holds."
        raise _error(damage)(
            f"{damage}.{said}{hint} Restore a backup, or open with recovery="
            f'"point-in-time" to keep what lies before it, {kept}, or with recovery="salvage" '
            "to keep all that verifies; both put what they drop into quarantine"
        )

    def _give_up(self, first: int, last: int) -> None:
        first = max(first, self.watermark + 1)
        if first <= last:
            self.verdict.given_up.append((first, last))

    def _refuse_watermark(self, last: int) -> NoReturn:
        path = self.scans[-1].path if self.scans else "the log"
        raise StoreCorruptionError(
            f"{path}: expected a log that reaches LSN {self.watermark}, the watermark in LMDB, "
            f"found one that ends at LSN {last}: the parts of this copy do not fit. Restore log "
            "and store/ from the same backup"
        )


def _error(damage: Damage) -> type[CorruptionError]:
    return LogGapError if damage.kind in GAPS else LogCorruptionError
