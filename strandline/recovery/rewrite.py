"""Writing a segment anew: header, valid frames, seal, in the place of the one with its id.

    NAME.recovered   written whole, fdatasynced, read back through the reader, compared
    NAME             replaced by rename; the directory is synced

Nothing is touched before the new file is proven. A leftover NAME.recovered means nothing
and is removed by the next recovery.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from strandline.errors import DiskFullError, LogCorruptionError
from strandline.recovery.quarantine import write_fully
from strandline.recovery.segment_scan import Run, SegmentScan, scan_segment
from strandline.wal.disk import Disk, DiskFile, let_go
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

RECOVERED_SUFFIX: Final = ".recovered"
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSegment:
    """What a segment that is written anew is to hold."""

    header: SegmentHeader
    runs: Sequence[Run]
    """Frames of the segment that it replaces; gaps between their LSNs stay gaps."""
    last_lsn: int
    """What the seal says; everything up to here is in the log or in LMDB."""
    stored_lsn: int
    time_ns: int


def rewrite(disk: Disk, log_dir: str, new: NewSegment, source_path: str | None) -> SegmentScan:
    """Put `new` in its place, durably; return what a scan of it finds.

    Raises:
        DiskFullError: no room; nothing has changed.
        LogCorruptionError: it does not read back; the old segment still stands.
        OSError: as the disk raised it.
    """
    path = os.path.join(log_dir, segment_name(new.header.segment_id))
    new_path = path + RECOVERED_SUFFIX
    source = disk.open(source_path, "r") if source_path is not None else None
    try:
        pieces = _frames_of(source, new.runs) if source is not None else ()
        seal = _write(disk, new_path, new, pieces)
    finally:
        if source is not None:
            let_go(source)
    scan = _read_back(disk, new_path, new, seal)
    disk.rename(new_path, path)
    disk.sync_directory(log_dir)
    return replace(scan, path=path)


def remove_leftovers(disk: Disk, log_dir: str) -> None:
    """Remove what a recovery that was cut short had not finished writing."""
    for name in disk.listdir(log_dir):
        if name.endswith(RECOVERED_SUFFIX):
            disk.unlink(os.path.join(log_dir, name))


def _write(disk: Disk, path: str, new: NewSegment, pieces: Iterable[bytes]) -> Seal:
    file = disk.open(path, "create")
    try:
        seal = _fill(file, new, pieces)
        file.fdatasync()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        let_go(file)
        disk.unlink(path)
        raise DiskFullError(
            f"{path}: no room to write the log's last segment anew ({error.strerror}); nothing "
            "was lost. Free as much space as a segment takes, and open the store again",
            error.errno,
        ) from error
    finally:
        let_go(file)
    return seal


def _frames_of(source: DiskFile, runs: Sequence[Run]) -> Iterator[bytes]:
    """Yield the frames of some runs as they are, in pieces."""
    for run in runs:
        for start in range(run.offset, run.end, _COPY_BYTES):
            length = min(_COPY_BYTES, run.end - start)
            # The file can end within the last frame's padding.
            yield read_fully(source, length, start).ljust(length, b"\0")


def _fill(file: DiskFile, new: NewSegment, pieces: Iterable[bytes]) -> Seal:
    """Write header, frames and seal."""
    header = new.header
    write_fully(file, encode_segment_header(header), 0)
    hasher = xxhash.xxh3_128()
    at = SEGMENT_HEADER_BYTES
    for piece in pieces:
        write_fully(file, piece, at)
        hasher.update(piece)
        at += len(piece)
    seal = Seal(sum(run.frames for run in new.runs), new.last_lsn, hasher.digest())
    frame = encode_frame(
        TYPE_SEAL,
        encode_seal(seal),
        count=0,
        first_lsn=new.last_lsn + 1,
        synced_lsn=new.last_lsn,  # true by the time that the file gets its name
        stored_lsn=new.stored_lsn,
        time_ns=new.time_ns,
        segment_id=header.segment_id,
        salt=header.salt,
        epoch=header.epoch,
    )
    write_fully(file, frame, at)
    return seal


def _read_back(disk: Disk, path: str, new: NewSegment, seal: Seal) -> SegmentScan:
    """Compare what was just written with what was meant, before it replaces anything."""
    header = new.header
    scan = scan_segment(disk, path, header.segment_id, uuid=header.uuid, next_lsn=header.first_lsn)
    operations = sum(run.operations for run in new.runs)
    expected = (header, seal, seal.frames, operations)
    found = (scan.header, scan.seal and scan.seal.seal, scan.frames, scan.operations)
    if found != expected or scan.findings:
        raise LogCorruptionError(
            f"{path}: written anew from valid frames, expected {seal.frames} frames with "
            f"{operations} operations and a seal, found {scan.frames} frames with "
            f"{scan.operations}; the old segment is unchanged: check the disk and its logs, "
            "then open the store again"
        )
    return scan
