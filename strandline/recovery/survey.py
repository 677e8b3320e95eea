"""Pass 1 of a recovery: read the whole log, and say what of it is the log.

Writes nothing. The facts come from `segment_scan`, the judgement from `verdict`; here
they are put together for whoever opens a store:

    survey      what is there, what is torn, what is fatal (raised)
    settle      (`strandline.recovery.tail`) puts aside what is dropped, ends the log well
    batches     pass 2: the payloads above the watermark, for the replay

Opening commits nothing to LMDB before it has settled: only then is the log durable. Where
`checkpoint_first` says so, it commits everything that it replayed before the store takes
writes, and then sweeps the damaged segments away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from strandline.errors import ForeignStoreError, LogCorruptionError, StoreCorruptionError
from strandline.options import RecoveryMode
from strandline.recovery.aside import Aside, extent, plan_asides
from strandline.recovery.report import RecoveryProgress, TornTail
from strandline.recovery.segment_scan import SegmentScan, scan_segment
from strandline.recovery.verdict import GIVING_UP, Kept, Verdict, judge
from strandline.wal.damage import GAPS, Damage
from strandline.wal.disk import Disk, let_go
from strandline.wal.format import segment_id_of, segment_name
from strandline.wal.reader import Batch, SegmentReader

OnProgress = Callable[[RecoveryProgress], None]
_REPORT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a log holds, and what of it is kept."""

    disk: Disk
    log_dir: str
    uuid: bytes
    mode: RecoveryMode
    watermark_lsn: int
    segments: list[Kept]
    """The segments that are kept, in order, each with the runs of frames that are.

    `settle` replaces the last one when it writes it anew."""
    first_lsn: int | None
    """The first LSN of an operation in the kept frames."""
    last_lsn: int
    """The last LSN that is there, in the log or in LMDB; the next one must be higher."""
    next_segment_id: int
    anchor_id: int | None
    """A segment that `settle` has to make so that the log goes on from `last_lsn`."""
    max_epoch: int
    """The highest epoch in any header or stamp, kept or not."""
    epoch: int
    """The epoch of the last kept segment, 0 without one. If IDENTITY's is higher, an
    opening came after it and may have issued LSNs, even if `clean`."""
    clean: bool
    """The last segment has the seal of an orderly close, and nothing was torn or missing."""
    torn: TornTail | None
    damages: tuple[Damage, ...]
    gaps: tuple[Damage, ...]
    given_up: tuple[tuple[int, int], ...]
    asides: tuple[Aside, ...]
    checkpoint_first: bool
    """The kept segments are damaged above the watermark. Until a checkpoint has moved it past
    the damage only a salvage can open the log again."""
    frames_scanned: int
    operations_scanned: int
    bytes_scanned: int
    seconds: float

    def batches(self, after_lsn: int, progress: OnProgress | None = None) -> Iterator[Batch]:
        """Yield (first LSN, count, payload) of the data frames that go beyond `after_lsn`.

        In lists, one or more frames at a time. The first frame can begin at or below
        `after_lsn`: the caller leaves those operations out. LSNs only rise. Raises
        LogCorruptionError if a frame that the scan found valid does not read the same again.
        """
        last, operations = after_lsn, 0
        wanted = [kept for kept in self.segments if kept.runs[-1].last_lsn > after_lsn]
        total = sum(kept.runs[-1].end for kept in wanted)
        done = reported = 0
        for kept in wanted:
            for offset, batch in _data_frames(self.disk, kept, after_lsn):
                fresh = batch
                if batch[0][0] <= last:
                    # Only the frame in which `after_lsn` lies may begin at or below it.
                    fresh = [
                        frame
                        for frame in batch
                        if frame[0] + frame[1] - 1 > last and (frame[0] > last or last == after_lsn)
                    ]
                if fresh:
                    first, count, _ = fresh[-1]
                    last = first + count - 1
                    operations += sum([frame[1] for frame in fresh])
                    yield fresh
                if progress is not None and done + offset >= reported + _REPORT_BYTES:
                    reported = done + offset
                    progress(
                        RecoveryProgress(
                            phase="replay",
                            bytes_done=reported,
                            bytes_total=total,
                            operations=operations,
                            lsn=last,
                        )
                    )
            done += kept.runs[-1].end


def survey(
    disk: Disk,
    log_dir: str,
    *,
    uuid: bytes,
    watermark_lsn: int,
    mode: RecoveryMode = "tolerate-torn-tail",
    progress: OnProgress | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Survey:
    """Read the log in `log_dir` of the store `uuid`, whose LMDB holds all up to the watermark.

    Raises:
        LogCorruptionError, LogGapError: as `strandline.recovery.verdict.judge` has it.
        StoreCorruptionError: the watermark lies beyond the log, or there is no log.
        ForeignStoreError: a segment of another store, or of a newer format.
        OSError: a file cannot be read.
    """
    started = monotonic()
    segments = list_segments(disk, log_dir)
    if not segments and watermark_lsn and mode in GIVING_UP:
        # There was a log: whoever asks to go on without it is told that it is missing.
        segments = {1: os.path.join(log_dir, segment_name(1))}
    scans = scan_log(disk, segments, uuid=uuid, progress=progress)
    return replace(
        conclude(disk, log_dir, scans, uuid=uuid, watermark_lsn=watermark_lsn, mode=mode),
        seconds=monotonic() - started,
    )


def list_segments(disk: Disk, log_dir: str) -> dict[int, str]:
    """Return the path of every segment that has a name, by id and in order.

    Of missing ones in a row the first is there too. Raises StoreCorruptionError if there is
    no log.
    """
    if disk.kind(log_dir) != "directory":
        raise StoreCorruptionError(
            f"{log_dir}: expected the directory of the log, found none; restore it together "
            "with the rest of the store from a backup"
        )
    ids = sorted(found for name in disk.listdir(log_dir) if (found := segment_id_of(name)))
    # One place stands for all ids that are missing in a row: a stray name can lie far ahead.
    missing = [low + 1 for low, high in pairwise(ids) if high > low + 1]
    return {i: os.path.join(log_dir, segment_name(i)) for i in sorted(ids + missing)}


def scan_log(
    disk: Disk,
    paths: Mapping[int, str],
    *,
    uuid: bytes,
    ends: Mapping[int, int] | None = None,
    progress: OnProgress | None = None,
) -> list[SegmentScan]:
    """Scan segments, one after the other; raises OSError where one cannot be read.

    `ends` says of some up to where they are looked at, as if the file ended there.
    """
    ends = ends or {}
    total = sum(_size(disk, path) for path in paths.values())
    scans: list[SegmentScan] = []
    done = operations = 0
    next_lsn = 1

    def tell(of_segment: int, ops: int, lsn: int) -> None:
        if progress is not None:
            progress(
                RecoveryProgress(
                    phase="scan",
                    bytes_done=done + of_segment,
                    bytes_total=total,
                    operations=operations + ops,
                    lsn=lsn,
                )
            )

    for segment_id, path in paths.items():
        scan = scan_segment(
            disk,
            path,
            segment_id,
            uuid=uuid,
            next_lsn=next_lsn,
            end=ends.get(segment_id),
            on_progress=tell,
        )
        scans.append(scan)
        if scan.runs:
            next_lsn = max(next_lsn, scan.runs[-1].last_lsn + 1)
        done += scan.size
        operations += scan.operations
        tell(0, 0, next_lsn - 1)
    return scans


def conclude(
    disk: Disk,
    log_dir: str,
    scans: list[SegmentScan],
    *,
    uuid: bytes,
    watermark_lsn: int,
    mode: RecoveryMode,
) -> Survey:
    """Return what scanned segments are worth; raises what `survey` does, but no OSError."""
    for scan in scans:
        if scan.foreign is not None:
            raise ForeignStoreError(scan.foreign)
    verdict = judge(scans, watermark_lsn=watermark_lsn, mode=mode)
    kept = verdict.kept
    last_scan = kept[-1].scan if kept else None
    clean = (
        last_scan is not None
        and last_scan.seal is not None
        and last_scan.seal.clean
        and not last_scan.breaks  # a close that lost power: its seal landed, a mark before it not
        and verdict.last_lsn == kept[-1].runs[-1].last_lsn
        and not (verdict.torn or verdict.stopped or verdict.given_up)
    )
    anchor_id, next_id = _continuation(scans, verdict, mode)
    operations = [run for part in kept for run in part.runs if run.operations]
    return Survey(
        disk=disk,
        log_dir=log_dir,
        uuid=uuid,
        mode=mode,
        watermark_lsn=watermark_lsn,
        segments=kept,
        first_lsn=operations[0].first_lsn if operations else None,
        last_lsn=verdict.last_lsn,
        next_segment_id=next_id,
        anchor_id=anchor_id,
        max_epoch=max((_epoch(scan) for scan in scans), default=0),
        epoch=_epoch(last_scan) if last_scan else 0,
        clean=clean and anchor_id is None,
        torn=_torn_tail(verdict, scans, mode),
        damages=tuple(damage for damage in verdict.damages if damage.kind not in GAPS),
        gaps=tuple(damage for damage in verdict.damages if damage.kind in GAPS),
        given_up=tuple(verdict.given_up),
        asides=tuple(plan_asides(verdict, mode)),
        checkpoint_first=verdict.lossy,
        frames_scanned=sum(scan.frames for scan in scans),
        operations_scanned=sum(scan.operations for scan in scans),
        bytes_scanned=sum(scan.size for scan in scans),
        seconds=0.0,
    )


def _size(disk: Disk, path: str) -> int:
    if disk.kind(path) != "file":
        return 0
    file = disk.open(path, "r")
    try:
        return file.size()
    finally:
        let_go(file)


def _epoch(scan: SegmentScan) -> int:
    return max(scan.stamp.epoch, scan.stray.epoch if scan.stray else 0)


def _continuation(
    scans: list[SegmentScan], verdict: Verdict, mode: RecoveryMode
) -> tuple[int | None, int]:
    """Return the id of the anchor, if one is needed, and of the next segment.

    An anchor is an empty segment that says up to where everything is in LMDB. It stands
    behind segments that are unreadable and not needed, where nothing readable follows.
    """
    last = verdict.kept[-1].scan.segment_id if verdict.kept else 0
    behind = [
        scan.segment_id
        for scan in verdict.unused
        if scan.segment_id > last and scan not in verdict.dropped
    ]
    if (behind and (not last or mode == "tolerate-torn-tail")) or (not last and verdict.last_lsn):
        anchor = max(behind) + 1 if behind else scans[0].segment_id
        return anchor, anchor + 1
    if last:
        return None, last + 1
    return None, scans[0].segment_id if scans else 1


def _torn_tail(verdict: Verdict, scans: list[SegmentScan], mode: RecoveryMode) -> TornTail | None:
    torn = verdict.torn
    if torn is None:
        return None
    scan = next(scan for scan in scans if scan.segment_id == torn.segment_id)
    full = mode in ("point-in-time", "salvage")
    return TornTail(
        path=torn.path,
        segment_id=torn.segment_id,
        offset=torn.offset,
        dropped_bytes=extent(scan, torn.offset, full=full) - torn.offset,
        lsn=torn.lsn,
        reason=torn,
    )


def _data_frames(disk: Disk, kept: Kept, after_lsn: int) -> Iterator[tuple[int, Batch]]:
    """Yield the data frames of the kept runs, and how far in the segment each batch reaches."""
    file = disk.open(kept.scan.path, "r")
    try:
        for run in kept.runs:
            if run.last_lsn <= after_lsn:
                continue
            reader = SegmentReader(
                file, kept.scan.stamp, lsn=run.first_lsn, offset=run.offset, end=run.end
            )
            yield from reader.batches()
            if reader.offset < run.end:
                raise LogCorruptionError(
                    f"{reader.damage}; the same bytes were valid a moment ago: check the "
                    "disk and its logs, then open the store again"
                )
    finally:
        let_go(file)
