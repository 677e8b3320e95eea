"""Ending a log well, so that the next segment can follow.

After an unclean end an fdatasync of the old file proves nothing: after an I/O error the
kernel may hold pages that it believes clean. So the last segment is written anew, sealed
or not, unless it has the seal of an orderly close:

    1  what is dropped is copied or moved to quarantine/, durably
    2  the name of the successor is made durable: a sealed segment has one
    3  the valid frames and a seal replace the segment (`strandline.recovery.rewrite`)

A crash between any two steps leaves a log that a survey reads to the same end, and what
is already in quarantine is not copied twice.

Point-in-time moves the segments behind the stop to quarantine, the last one first, so
that a shorter log is left at every step. Salvage leaves damaged segments in place but for
the last, of which a copy is kept: everything verified in them is replayed and
checkpointed, and only then does `sweep_damaged` move them to quarantine.

Where nothing readable is left behind which a segment could follow, an *anchor* is made:
a sealed segment without frames whose header says that all up to its LSN is in LMDB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from strandline.errors import DiskFullError
from strandline.recovery.aside import Aside
from strandline.recovery.quarantine import Quarantine, write_fully
from strandline.recovery.report import TornTail
from strandline.recovery.rewrite import NewSegment, remove_leftovers, rewrite
from strandline.recovery.survey import Survey
from strandline.recovery.verdict import GIVING_UP, SYNC_MARK_BYTES, Kept
from strandline.wal.disk import Disk, let_go
from strandline.wal.format import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    segment_id_of,
    segment_name,
)
from strandline.wal.reader import read_fully, read_segment_header, stamp_of
from strandline.wal.resync import find_last_seal
from strandline.wal.runtime import Runtime
from strandline.wal.segments import SealedSegment


@dataclass(slots=True, kw_only=True)
class Settlement:
    """A log that the next segment can follow."""

    sealed: list[SealedSegment]
    """The segments that are there, in order, those that are to be swept left out."""
    last_id: int
    """The highest segment id with content; what lies above it may be overwritten."""
    torn_tail: TornTail | None
    unquarantined_bytes: int = 0
    """Bytes that were dropped without a copy, for want of room in the budget."""
    moved: list[str] = field(default_factory=list)
    quarantine: Quarantine

    @property
    def quarantined(self) -> tuple[str, ...]:
        """The files that this recovery put into quarantine."""
        return tuple(self.moved)


def settle(
    survey: Survey, *, runtime: Runtime, quarantine_dir: str, quarantine_bytes: int
) -> Settlement:
    """Put aside what is dropped and end the last segment with a seal; durable on return.

    `survey.frames` reads the new segment from then on. What this does can be cut short
    anywhere, and is then done by the next survey and settlement.

    Raises:
        InvalidRequestError: point-in-time and salvage, `quarantine_bytes` is too small;
            nothing was changed.
        DiskFullError: no room for the new segment, or for what must not be dropped.
        LogCorruptionError: the new segment does not read back; the old one still stands.
        OSError: as the disk raised it.
    """
    disk, log_dir = survey.disk, survey.log_dir
    quarantine = Quarantine(disk, quarantine_dir, quarantine_bytes, runtime)
    remove_leftovers(disk, log_dir)
    quarantine.clear_partial()
    if survey.mode in GIVING_UP:
        quarantine.require_room(survey.asides)
    swept = {aside.segment_id for aside in survey.asides if aside.sweep}
    settlement = Settlement(
        sealed=[_sealed(kept) for kept in survey.segments if kept.scan.segment_id not in swept],
        last_id=survey.next_segment_id - 1,
        torn_tail=survey.torn,
        quarantine=quarantine,
    )
    if survey.anchor_id is not None:
        # First, so that the log reaches the watermark whatever is moved away behind it.
        _make_name(disk, log_dir, survey.next_segment_id)
        settlement.sealed.append(_write_anchor(survey, survey.anchor_id, runtime))
        _put_aside(survey, settlement)
        return settlement
    _put_aside(survey, settlement)
    if survey.segments:
        _make_name(disk, log_dir, survey.next_segment_id)
        if survey.clean:
            _sync_last(survey)
        else:
            settlement.sealed[-1] = _write_last(survey, runtime)
    return settlement


def _sync_last(survey: Survey) -> None:
    """Sync a seal that its writer may have been killed before it had synced.

    A segment is followed only when its seal is on disk. What lies before the seal is: an
    orderly close syncs its frames first. The seal itself, and a mark that may stand before it,
    are written once more: after an error the kernel can take their pages for clean.
    """
    scan = survey.segments[-1].scan
    assert scan.seal is not None, "an orderly end has one"
    start = max(SEGMENT_HEADER_BYTES, scan.seal.offset - SYNC_MARK_BYTES)
    file = survey.disk.open(scan.path, "rw")
    try:
        write_fully(file, read_fully(file, scan.seal.end - start, start), start)
        file.fdatasync()
    finally:
        let_go(file)


def sweep_damaged(survey: Survey, settlement: Settlement) -> None:
    """Move the damaged segments that a salvage left in place to quarantine.

    Call it once everything that was replayed is in LMDB, durably.
    """
    for aside in survey.asides:
        if aside.sweep:
            settlement.moved.append(settlement.quarantine.move(aside))


def ended_cleanly(disk: Disk, log_dir: str, uuid: bytes) -> bool:
    """Tell whether the last segment ends in the seal of an orderly close, without a survey.

    A quick look from the end of the log, for whoever decides how much else to check. It
    proves nothing about what lies before the seal.
    """
    if disk.kind(log_dir) != "directory":
        return False
    ids = sorted(found for name in disk.listdir(log_dir) if (found := segment_id_of(name)))
    for segment_id in reversed(ids):
        path = os.path.join(log_dir, segment_name(segment_id))
        if disk.kind(path) != "file":
            return False
        file = disk.open(path, "r")
        try:
            header = read_segment_header(file)
            if header is not None and header.segment_id == segment_id:
                seal = find_last_seal(file, stamp_of(header))
                return header.uuid == uuid and seal is not None and seal.clean
        finally:
            let_go(file)
    return False


# ---- what is dropped


def _put_aside(survey: Survey, settlement: Settlement) -> None:
    """Carry out the plan, but for what is swept later.

    Copies come before anything is moved, and the last segment is moved first.
    """
    plan = [aside for aside in survey.asides if not aside.sweep]
    for aside in sorted(plan, key=lambda a: (a.whole, -a.segment_id, a.offset)):
        path = _put(settlement.quarantine, aside, must=survey.mode in GIVING_UP)
        if path is None:
            settlement.unquarantined_bytes += 0 if aside.whole else aside.length
            continue
        settlement.moved.append(path)
        torn = settlement.torn_tail
        if torn is not None and torn.segment_id == aside.segment_id:
            settlement.torn_tail = replace(torn, quarantined=path)


def _put(quarantine: Quarantine, aside: Aside, *, must: bool) -> str | None:
    """Put something into quarantine; None where there is no room and it need not be."""
    if must or quarantine.fits(aside):
        try:
            return quarantine.move(aside) if aside.whole else quarantine.copy(aside)
        except DiskFullError:
            # A full disk must not keep a store from opening for the sake of a torn tail.
            if must:
                raise
    return None


# ---- what is written


def _make_name(disk: Disk, log_dir: str, segment_id: int) -> None:
    """See to it that a segment's name is there, durably; the file may be empty."""
    path = os.path.join(log_dir, segment_name(segment_id))
    if disk.kind(path) == "absent":
        let_go(disk.open(path, "create"))
    disk.sync_directory(log_dir)


def _sealed(kept: Kept) -> SealedSegment:
    scan = kept.scan
    first, last = kept.runs[0].first_lsn, kept.runs[-1].last_lsn
    return SealedSegment(scan.segment_id, scan.path, first, last, scan.end)


def _write_last(survey: Survey, runtime: Runtime) -> SealedSegment:
    """Write the last segment anew, with its valid frames and a seal."""
    scan, runs = survey.segments[-1].scan, survey.segments[-1].runs
    header = scan.header
    if header is None:
        before = [kept.runs[-1].last_lsn for kept in survey.segments[:-1]]
        first = runs[0].first_lsn
        previous_lsn = before[-1] if before else first - 1
        header = _made_up_header(survey, scan.segment_id, first, previous_lsn, runtime)
        header = header._replace(salt=scan.stamp.salt, epoch=scan.stamp.epoch)
    new = NewSegment(
        header=header,
        runs=runs,
        last_lsn=survey.last_lsn,
        stored_lsn=min(survey.watermark_lsn, survey.last_lsn),
        time_ns=runtime.time_ns(),
    )
    rewritten = rewrite(survey.disk, survey.log_dir, new, scan.path)
    survey.segments[-1] = Kept(rewritten, rewritten.runs)
    return _sealed(survey.segments[-1])


def _write_anchor(survey: Survey, segment_id: int, runtime: Runtime) -> SealedSegment:
    """Write a segment without frames that says that all up to the last LSN is in LMDB."""
    last = survey.last_lsn
    new = NewSegment(
        header=_made_up_header(survey, segment_id, last + 1, last, runtime),
        runs=(),
        last_lsn=last,
        stored_lsn=last,
        time_ns=runtime.time_ns(),
    )
    rewritten = rewrite(survey.disk, survey.log_dir, new, None)
    return _sealed(Kept(rewritten, rewritten.runs))


def _made_up_header(
    survey: Survey, segment_id: int, first_lsn: int, previous_last_lsn: int, runtime: Runtime
) -> SegmentHeader:
    """Return a header for a segment that has none; where its predecessor ends is not said."""
    return SegmentHeader(
        uuid=survey.uuid,
        segment_id=segment_id,
        salt=int.from_bytes(runtime.random_bytes(8), "little"),
        epoch=survey.max_epoch,
        first_lsn=first_lsn,
        allocated=SEGMENT_HEADER_BYTES,
        previous_id=segment_id - 1,
        previous_bytes=0,
        previous_last_lsn=previous_last_lsn,
        created_ns=runtime.time_ns(),
    )
