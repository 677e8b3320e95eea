"""Ending a log well, so that the next segment can follow.

After an unclean end an fdatasync of the old file proves nothing: after an I/O error the
kernel may hold pages that it believes clean. So the last segment is written anew, sealed
or not, unless it has the seal of an orderly close:

    1  what is dropped is copied or moved to quarantine/, durably
    2  the name of the successor is made durable: a sealed segment has one
    3  NAME.recovered gets the header, the valid frames and a seal; fdatasync; it is
       read back through the reader and compared
    4  rename over NAME, sync of the directory

A crash between any two steps leaves a log that a survey reads to the same end; a leftover
NAME.recovered is removed by the next settlement, and a copy that is already in quarantine
is not made twice.

Point-in-time moves the segments behind the stop to quarantine, the last one first, so
that a shorter log is left at every step. Salvage copies damaged segments and leaves them
in place: everything verified in them is replayed and checkpointed, the watermark then
lies above the damage, and the segments are given back like any other.

Where nothing readable is left behind which a segment could follow, an *anchor* is made:
a sealed segment without frames whose header says that all up to its LSN is in LMDB.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from strandline.errors import DiskFullError, LogCorruptionError
from strandline.recovery.aside import Aside
from strandline.recovery.quarantine import Quarantine, write_fully
from strandline.recovery.report import RecoveryReport, TornTail
from strandline.recovery.segment_scan import Run, SegmentScan, scan_segment
from strandline.recovery.survey import Survey
from strandline.recovery.verdict import Kept
from strandline.wal.disk import Disk, DiskFile
from strandline.wal.format import (
    SEGMENT_HEADER_BYTES,
    TYPE_SEAL,
    Seal,
    SegmentHeader,
    encode_frame,
    encode_seal,
    encode_segment_header,
    segment_name,
)
from strandline.wal.reader import read_fully
from strandline.wal.runtime import Runtime
from strandline.wal.segments import SealedSegment

RECOVERED_SUFFIX: Final = ".recovered"
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A log that the next segment can follow."""

    sealed: tuple[SealedSegment, ...]
    """The segments that are there, in order."""
    last_id: int
    """The highest segment id with content; what lies above it may be overwritten."""
    segments: tuple[Kept, ...]
    """What is kept, as it lies now: for `Survey.frames` after the settlement."""
    last_lsn: int
    quarantined: tuple[str, ...]
    unquarantined_bytes: int
    """Bytes that were dropped without a copy, for want of room in the budget."""
    torn: TornTail | None

    @property
    def previous(self) -> SealedSegment | None:
        """The segment that the next one follows."""
        return self.sealed[-1] if self.sealed else None


def settle(survey: Survey, quarantine: Quarantine, runtime: Runtime) -> Settlement:
    """Put aside what is dropped and end the last segment with a seal; durable on return.

    Replay comes after it, from `segments` of what it returns: only what is durable in the
    log may go to LMDB. What it does can be cut short anywhere,
    and is then done by the next survey and settlement.

    Raises:
        InvalidRequestError: point-in-time and salvage, `quarantine_bytes` is too small;
            nothing was changed.
        DiskFullError: no room for the new segment, or for what must not be dropped.
        LogCorruptionError: the new segment does not read back; the old one still stands.
        OSError: as the disk raised it.
    """
    disk = survey.disk
    _remove_leftovers(disk, survey.log_dir)
    quarantine.clear_partial()
    if _must_keep(survey):
        quarantine.require_room(survey.asides)
    sealed = [_sealed(kept) for kept in survey.segments]
    segments = survey.segments
    if survey.anchor_id is not None:
        # First, so that the log reaches the watermark whatever is moved away behind it.
        _make_name(disk, survey.log_dir, survey.next_segment_id)
        sealed.append(_write_anchor(survey, survey.anchor_id, runtime))
    kept, missed = _put_aside(survey, quarantine)
    if survey.anchor_id is None and sealed:
        _make_name(disk, survey.log_dir, survey.next_segment_id)
        if not survey.clean:
            sealed[-1] = _write_last(survey, runtime)
            segments = (*segments[:-1], _moved_up(segments[-1]))
    torn = survey.torn
    if torn is not None:
        copies = [path for aside, path in kept if aside.segment_id == torn.segment_id]
        torn = replace(torn, quarantined=copies[-1] if copies else None)
    return Settlement(
        sealed=tuple(sealed),
        last_id=survey.next_segment_id - 1,
        segments=segments,
        last_lsn=survey.last_lsn,
        quarantined=tuple(path for _, path in kept),
        unquarantined_bytes=missed,
        torn=torn,
    )


def make_report(
    survey: Survey,
    settlement: Settlement,
    *,
    epoch: int,
    frames: int,
    operations: int,
    byte_count: int,
    seconds: float,
) -> RecoveryReport:
    """Return the report of a recovery that replayed so much in so many seconds."""
    return RecoveryReport(
        mode=survey.mode,
        clean=survey.clean,
        epoch=epoch,
        first_lsn=survey.first_lsn,
        last_lsn=survey.last_lsn,
        watermark_lsn=survey.watermark_lsn,
        segments=len(survey.segments),
        frames_scanned=survey.frames_scanned,
        operations_scanned=survey.operations_scanned,
        bytes_scanned=survey.bytes_scanned,
        frames_replayed=frames,
        operations_replayed=operations,
        bytes_replayed=byte_count,
        torn_tail=settlement.torn,
        damages=survey.damages,
        gaps=survey.gaps,
        given_up=survey.given_up,
        quarantined=settlement.quarantined,
        unquarantined_bytes=settlement.unquarantined_bytes,
        scan_seconds=survey.seconds,
        replay_seconds=seconds,
    )


# ---- what is dropped


def _must_keep(survey: Survey) -> bool:
    return survey.mode in ("point-in-time", "salvage")


def _put_aside(survey: Survey, quarantine: Quarantine) -> tuple[list[tuple[Aside, str]], int]:
    """Carry out the plan; return what went where, and the bytes that had no room.

    Copies come before anything is moved, and the last segment is moved first.
    """
    kept: list[tuple[Aside, str]] = []
    missed = 0
    order = sorted(survey.asides, key=lambda aside: (aside.whole, -aside.segment_id, aside.offset))
    for aside in order:
        if _must_keep(survey):
            kept.append((aside, _put(quarantine, aside)))
            continue
        try:
            if quarantine.fits(aside):
                kept.append((aside, _put(quarantine, aside)))
                continue
        except DiskFullError:
            # A full disk must not keep a store from opening for the sake of a torn tail.
            pass
        missed += 0 if aside.whole else aside.length
    return kept, missed


def _put(quarantine: Quarantine, aside: Aside) -> str:
    return quarantine.move(aside) if aside.whole else quarantine.copy(aside)


def _remove_leftovers(disk: Disk, log_dir: str) -> None:
    for name in disk.listdir(log_dir):
        if name.endswith(RECOVERED_SUFFIX):
            disk.unlink(os.path.join(log_dir, name))


# ---- what is written


def _make_name(disk: Disk, log_dir: str, segment_id: int) -> None:
    """See to it that a segment's name is there, durably; the file may be empty."""
    path = os.path.join(log_dir, segment_name(segment_id))
    if disk.kind(path) == "absent":
        disk.open(path, "create").close()
    disk.sync_directory(log_dir)


def _sealed(kept: Kept) -> SealedSegment:
    scan = kept.scan
    first, last = kept.runs[0].first_lsn, kept.runs[-1].last_lsn
    return SealedSegment(scan.segment_id, scan.path, first, last, scan.end)


def _write_last(survey: Survey, runtime: Runtime) -> SealedSegment:
    """Write the last segment anew, with its valid frames and a seal."""
    kept = survey.segments[-1]
    scan = kept.scan
    if scan.stamp is None:
        raise LogCorruptionError(
            f"{scan.path}: kept without frames or a header; nothing was changed"
        )
    source = survey.disk.open(scan.path, "r")
    try:
        if scan.header is not None:
            header = scan.header
        else:
            before = survey.segments[-2].runs[-1].last_lsn if len(survey.segments) > 1 else None
            header = _header(survey, scan.segment_id, kept.runs[0].first_lsn, before, runtime)
            header = header._replace(salt=scan.stamp.salt, epoch=scan.stamp.epoch)
        return _write_segment(survey, header, kept.runs, _frame_bytes(source, kept.runs), runtime)
    finally:
        source.close()


def _moved_up(kept: Kept) -> Kept:
    """Return the runs of a segment that was written anew: they follow one another now."""
    runs: list[Run] = []
    at = SEGMENT_HEADER_BYTES
    for run in kept.runs:
        length = run.end - run.offset
        runs.append(replace(run, offset=at, end=at + length))
        at += length
    return Kept(kept.scan, runs)


def _write_anchor(survey: Survey, segment_id: int, runtime: Runtime) -> SealedSegment:
    """Write a segment without frames that says that all up to the last LSN is in LMDB."""
    header = _header(survey, segment_id, survey.last_lsn + 1, survey.last_lsn, runtime)
    return _write_segment(survey, header, (), (), runtime)


def _header(
    survey: Survey, segment_id: int, first_lsn: int, before: int | None, runtime: Runtime
) -> SegmentHeader:
    """Return a header for a segment that recovery makes up; its predecessor may be missing."""
    return SegmentHeader(
        uuid=survey.uuid,
        segment_id=segment_id,
        salt=int.from_bytes(runtime.random_bytes(8), "little"),
        epoch=survey.max_epoch,
        first_lsn=first_lsn,
        allocated=SEGMENT_HEADER_BYTES,
        previous_id=segment_id - 1,
        previous_bytes=0,
        previous_last_lsn=first_lsn - 1 if before is None else before,
        created_ns=runtime.time_ns(),
    )


def _write_segment(
    survey: Survey,
    header: SegmentHeader,
    runs: Sequence[Run],
    pieces: Iterable[bytes],
    runtime: Runtime,
) -> SealedSegment:
    """Put a whole segment in the place of the one with its id."""
    disk, path = survey.disk, os.path.join(survey.log_dir, segment_name(header.segment_id))
    new_path = path + RECOVERED_SUFFIX
    file = disk.open(new_path, "create")
    try:
        seal, end = _fill(file, header, runs, pieces, survey, runtime)
        file.fdatasync()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            file.close()
            disk.unlink(new_path)
            raise DiskFullError(
                f"{new_path}: no room to write the log's last segment anew ({error.strerror}); "
                "nothing was lost. Free as much space as a segment takes, and open the store again",
                error.errno,
            ) from error
        raise
    finally:
        file.close()
    _read_back(disk, new_path, header, seal, runs, survey)
    disk.rename(new_path, path)
    disk.sync_directory(survey.log_dir)
    return SealedSegment(header.segment_id, path, header.first_lsn, survey.last_lsn, end)


def _frame_bytes(source: DiskFile, runs: Sequence[Run]) -> Iterator[bytes]:
    """Yield the frames of some runs as they are, in pieces."""
    for run in runs:
        for start in range(run.offset, run.end, _COPY_BYTES):
            length = min(_COPY_BYTES, run.end - start)
            # The file can end within the last frame's padding.
            yield read_fully(source, length, start).ljust(length, b"\0")


def _fill(
    file: DiskFile,
    header: SegmentHeader,
    runs: Sequence[Run],
    pieces: Iterable[bytes],
    survey: Survey,
    runtime: Runtime,
) -> tuple[Seal, int]:
    """Write header, frames and seal; return the seal and where it ends."""
    write_fully(file, encode_segment_header(header), 0)
    hasher = xxhash.xxh3_128()
    at = SEGMENT_HEADER_BYTES
    for piece in pieces:
        write_fully(file, piece, at)
        hasher.update(piece)
        at += len(piece)
    seal = Seal(sum(run.frames for run in runs), survey.last_lsn, hasher.digest())
    frame = encode_frame(
        TYPE_SEAL,
        encode_seal(seal),
        count=0,
        first_lsn=survey.last_lsn + 1,
        synced_lsn=survey.last_lsn,
        stored_lsn=min(survey.watermark_lsn, survey.last_lsn),
        time_ns=runtime.time_ns(),
        segment_id=header.segment_id,
        salt=header.salt,
        epoch=header.epoch,
    )
    write_fully(file, frame, at)
    return seal, at + len(frame)


def _read_back(
    disk: Disk,
    path: str,
    header: SegmentHeader,
    seal: Seal,
    runs: Sequence[Run],
    survey: Survey,
) -> None:
    """Compare what was just written with what was meant, before it replaces anything."""
    scan: SegmentScan = scan_segment(
        disk, path, header.segment_id, uuid=survey.uuid, next_lsn=header.first_lsn
    )
    operations = sum(run.operations for run in runs)
    expected = (header, seal, operations)
    found = (scan.header, scan.seal and scan.seal.seal, scan.operations)
    if found != expected or scan.frames != seal.frames or scan.findings:
        raise LogCorruptionError(
            f"{path}: written anew from valid frames, expected {seal.frames} frames with "
            f"{operations} operations and a seal, found {scan.frames} frames with "
            f"{scan.operations}; the old segment is unchanged: check the disk and its logs, "
            "then open the store again"
        )
