"""What one segment file really holds: valid frames, the breaks between them, its claims.

    header | run | break | run | break | run, seal | zeros, or stale bytes

A *run* is a stretch of valid frames whose LSNs follow one another. Where the frames stop
the scan looks on for later ones of the same segment; what lies between is a *break*.
Nothing is believed by a length or a name alone, and no verdict is passed: a break can be
a torn tail or damage, which only the rest of the log and the watermark can tell.

Of a segment of another store, or of a newer format, nothing but the header is read: `foreign`
says why. No mode of recovery could read it rightly, and a survey refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from strandline.wal.checksum import CHECKSUM_CRC32C
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.disk import Disk, DiskFile, let_go
from strandline.wal.format import (
    ALIGNMENT,
    FORMAT_VERSION,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
)
from strandline.wal.reader import (
    FoundSeal,
    SegmentReader,
    Stamp,
    frame_bytes,
    read_fully,
    read_segment_header,
    stamp_of,
)
from strandline.wal.resync import Remains, find_later_frames, find_remains, find_stamp

_TICK_BYTES = 16 << 20

OnProgress = Callable[[int, int, int], None]
"""Called with the bytes, the operations and the last LSN of the segment so far."""


@dataclass(frozen=True, slots=True)
class Run:
    """Valid frames whose LSNs follow one another."""

    offset: int
    end: int
    """Where the last frame ends; a seal is not counted in."""
    first_lsn: int
    last_lsn: int
    """`first_lsn` - 1 where the run holds no operation."""
    frames: int
    operations: int
    claimed_lsn: int
    """The highest LSN that one of its frames, or its seal, says was on disk before it."""


@dataclass(slots=True)
class SegmentScan:
    """The facts about one segment id."""

    segment_id: int
    path: str
    size: int = 0
    header: SegmentHeader | None = None
    """The header, if it is valid and this segment's."""
    stray: SegmentHeader | None = None
    """A valid header of another segment: the file was recycled, or misplaced."""
    trouble: Damage | None = None
    """Why there is no header."""
    foreign: str | None = None
    """Why nothing but the header was read: it is another store's, or of a newer format."""
    stamp: Stamp = field(default_factory=lambda: Stamp(0, 0, 0))
    """What its frames carry: as the header says, or else as the frames themselves do."""
    runs: list[Run] = field(default_factory=list)
    """With a header there is at least one, which starts at the first frame's place."""
    breaks: list[Damage] = field(default_factory=list)
    """breaks[i] follows runs[i]; a sealed segment has one less than runs."""
    seal: FoundSeal | None = None
    findings: list[Damage] = field(default_factory=list)
    remains: Remains | None = None
    """What lies behind the last run of a segment without a seal."""

    @property
    def end(self) -> int:
        """Where the last valid frame ends, the seal counted in."""
        return self.seal.end if self.seal else self.runs[-1].end

    @property
    def ends_plainly(self) -> bool:
        """Whether the frames end without a seal at zeros, or at stale bytes of a recycled file.

        That is how a log ends whose process died between two writes: nothing is torn.
        """
        if self.seal is not None or self.remains is None:
            return False
        end = self.breaks[-1]
        if end.kind is DamageKind.STALE:
            return self.remains.own_end <= end.offset
        if self.remains.recycled:
            return True
        blank = self.remains.nonzero_end <= end.offset
        return blank and end.kind in (DamageKind.END, DamageKind.ZERO)

    @property
    def frames(self) -> int:
        """Valid frames, the seal left out."""
        return sum(run.frames for run in self.runs)

    @property
    def operations(self) -> int:
        """Operations in valid frames."""
        return sum(run.operations for run in self.runs)

    @property
    def claimed_lsn(self) -> int:
        """The highest LSN that anything in the segment says was on disk before it."""
        return max((run.claimed_lsn for run in self.runs), default=0)


def scan_segment(
    disk: Disk,
    path: str,
    segment_id: int,
    *,
    uuid: bytes,
    next_lsn: int,
    end: int | None = None,
    on_progress: OnProgress | None = None,
) -> SegmentScan:
    """Read a whole segment. `next_lsn` is used only where the header does not tell.

    With `end` nothing from there on is looked at, as if the file ended there. Raises OSError
    where it cannot be read.
    """
    scan = SegmentScan(segment_id, path)
    kind = disk.kind(path)
    if kind != "file":
        missing = kind == "absent"
        found = {"absent": "nothing", "directory": "a directory"}.get(
            kind, "a link or special file"
        )
        scan.trouble = Damage(
            kind=DamageKind.MISSING if missing else DamageKind.NOT_A_FILE,
            path=path,
            segment_id=segment_id,
            offset=0,
            lsn=next_lsn,
            expected="a segment file",
            found=found,
        )
        return scan
    file = disk.open(path, "r")
    try:
        scan.size = file.size()
        _scan_file(scan, file, uuid, next_lsn, end, on_progress)
    finally:
        let_go(file)
    return scan


def _scan_file(
    scan: SegmentScan,
    file: DiskFile,
    uuid: bytes,
    next_lsn: int,
    end: int | None,
    on_progress: OnProgress | None,
) -> None:
    header = read_segment_header(file)
    if header is not None and (foreign := _foreign(header, scan.path, uuid)):
        scan.stray, scan.foreign = header, foreign
        return
    if header is not None and header.segment_id == scan.segment_id:
        scan.header, scan.stamp = header, stamp_of(header)
        offset, lsn = SEGMENT_HEADER_BYTES, header.first_lsn
    else:
        scan.stray = header
        scan.trouble = _header_damage(scan, file, next_lsn)
        found = find_stamp(file, scan.segment_id, lsn=next_lsn) if end is None else None
        if found is None:
            return
        scan.stamp, offset, lsn = found
    operations = 0
    found_at = -1
    while True:
        reader = SegmentReader(file, scan.stamp, lsn=lsn, offset=offset, end=end)
        scan.runs.append(_read_run(reader, operations, on_progress))
        operations += scan.runs[-1].operations
        scan.findings += reader.findings
        if reader.damage is None:
            scan.seal = reader.seal
            return
        scan.breaks.append(reader.damage)
        if end is not None and reader.offset >= end:
            scan.remains = Remains(end, end, recycled=False)
            return
        later = None
        if reader.damage.kind is not DamageKind.UNKNOWN_TYPE:
            # Where what was found a moment ago does not read again, it is not looked for twice.
            at = reader.offset + (ALIGNMENT if reader.offset == found_at else 0)
            later = next(find_later_frames(file, scan.stamp, offset=at, lsn=reader.lsn), None)
        if later is not None and end is not None and later[0] + frame_bytes(len(later[2])) > end:
            later = None
        if later is None:
            scan.remains = find_remains(file, scan.stamp, reader.offset)
            return
        offset, lsn = later[0], later[1].first_lsn
        found_at = offset


def _read_run(reader: SegmentReader, before: int, on_progress: OnProgress | None) -> Run:
    """Read frames until they stop."""
    start, first = reader.offset, reader.lsn
    claimed = 0
    tick = start + _TICK_BYTES
    for stride in reader.strides():
        claimed = max(claimed, stride.claimed_lsn)
        if stride.offset >= tick and on_progress is not None:
            tick = stride.offset + _TICK_BYTES
            on_progress(stride.offset, before + stride.lsn - first, stride.lsn - 1)
    return Run(
        offset=start,
        end=reader.offset,
        first_lsn=first,
        last_lsn=reader.lsn - 1,
        frames=reader.frames,
        operations=reader.lsn - first,
        claimed_lsn=claimed,
    )


def _foreign(header: SegmentHeader, path: str, uuid: bytes) -> str | None:
    """Return why a segment is not one that this program may read here, None if it is."""
    if header.version != FORMAT_VERSION or header.checksum_id != CHECKSUM_CRC32C:
        return (
            f"{path}: offset 0: expected format version {FORMAT_VERSION} with checksum "
            f"{CHECKSUM_CRC32C}, found version {header.version} with checksum "
            f"{header.checksum_id}; open this store with the release of strandline that wrote it"
        )
    if header.uuid != uuid:
        return (
            f"{path}: offset 0: expected a segment of store {uuid.hex()}, found one of store "
            f"{header.uuid.hex()}; move the file out of the log, and put this store's own in its "
            "place if it was overwritten"
        )
    return None


def _header_damage(scan: SegmentScan, file: DiskFile, next_lsn: int) -> Damage:
    """Return what is wrong with the header of a segment."""
    if scan.stray is not None:
        kind, found = DamageKind.MISPLACED, f"the header of segment {scan.stray.segment_id}"
    else:
        kind = DamageKind.SEGMENT_HEADER
        block = read_fully(file, SEGMENT_HEADER_BYTES, 0)
        if len(block) < SEGMENT_HEADER_BYTES:
            found = f"a file of {len(block)} bytes"
        elif not block.strip(b"\0"):
            found = "zeros"
        else:
            found = f"{block[:16].hex()}..."
    return Damage(
        kind=kind,
        path=scan.path,
        segment_id=scan.segment_id,
        offset=0,
        lsn=next_lsn,
        expected=f"a header of segment {scan.segment_id} whose CRC-32C holds",
        found=found,
    )
