"""Every CRC of a log computed anew by crcmod, another implementation of the same polynomial.

What one library calls sound the other must too, and what one calls damaged the other must
too: a fault in either cannot hide behind the other. Raw bytes are read again here; of the
reader only the places of frames are taken over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.examine import Examination
from strandline.wal.checksum import portable_crc32c
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.disk import DiskFile
from strandline.wal.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from strandline.wal.reader import SegmentReader, read_fully

_CRC: Final = struct.Struct("<I")
_CRCS: Final = struct.Struct("<III")
"""Of a frame: its header's CRC, its payload's CRC, the payload's length."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A place of which the two libraries do not say the same."""

    path: str
    offset: int
    what: str
    stored: int
    computed: int
    """By crcmod."""


@dataclass(slots=True)
class SecondOpinion:
    """What crcmod says of a log."""

    headers: int = 0
    """Segment headers whose CRC was computed."""
    frames: int = 0
    """Frames of which both CRCs were."""
    confirmed: int = 0
    """Places called damaged by a CRC that crcmod calls damaged too."""
    disagreements: list[Disagreement] = field(default_factory=list)


def second_opinion(log: Examination, progress: Callable[[int, int], None]) -> SecondOpinion:
    """Compute every CRC of an examined log; `progress` gets the bytes done and to do."""
    opinion = SecondOpinion()
    total = sum(scan.end for scan in log.scans if scan.runs)
    done = 0
    for scan in log.scans:
        if not scan.runs:
            continue
        try:
            file = log.target.disk.open(scan.path, "r")
        except FileNotFoundError:
            continue  # given back by a writer
        try:
            _header(opinion, scan, file)
            for run in scan.runs:
                end = scan.seal.end if scan.seal and run is scan.runs[-1] else run.end
                reader = SegmentReader(
                    file, scan.stamp, lsn=run.first_lsn, offset=run.offset, end=end
                )
                for offset, _, _ in reader:
                    _frame(opinion, scan.path, file, offset)
                    if not opinion.frames % 4096:
                        progress(done + offset, total)
            for damage in scan.breaks:
                _damaged(opinion, file, damage)
        finally:
            file.close()
        done += scan.end
        progress(done, total)
    return opinion


def _header(opinion: SecondOpinion, scan: SegmentScan, file: DiskFile) -> None:
    block = read_fully(file, SEGMENT_HEADER_BYTES, 0)
    if scan.header is None or len(block) < SEGMENT_HEADER_BYTES:
        return
    stored = _CRC.unpack_from(block, SEGMENT_HEADER_BYTES - _CRC.size)[0]
    computed = portable_crc32c(block[: -_CRC.size])
    opinion.headers += 1
    if stored != computed:
        opinion.disagreements.append(Disagreement(scan.path, 0, "segment header", stored, computed))


def _frame(opinion: SecondOpinion, path: str, file: DiskFile, offset: int) -> None:
    opinion.frames += 1
    for what, stored, computed in _crcs(file, offset):
        if stored != computed:
            opinion.disagreements.append(Disagreement(path, offset, what, stored, computed))


def _crcs(file: DiskFile, offset: int) -> list[tuple[str, int, int]]:
    """Return of a frame at a place what its CRCs are said to be, and what they are."""
    head = read_fully(file, FRAME_HEADER_BYTES, offset)
    head_crc, payload_crc, length = _CRCS.unpack_from(head)
    found = [("frame header", head_crc, portable_crc32c(head[_CRC.size :]))]
    if offset + FRAME_HEADER_BYTES + length <= file.size():
        payload = read_fully(file, length, offset + FRAME_HEADER_BYTES)
        found.append(("payload", payload_crc, portable_crc32c(payload)))
    return found


def _damaged(opinion: SecondOpinion, file: DiskFile, damage: Damage) -> None:
    """Look whether a CRC that does not hold does not hold for crcmod either."""
    wanted = {DamageKind.HEADER_CRC: "frame header", DamageKind.PAYLOAD_CRC: "payload"}
    what = wanted.get(damage.kind)
    if what is None or damage.offset + FRAME_HEADER_BYTES > file.size():
        return
    for name, stored, computed in _crcs(file, damage.offset):
        if name == what and stored == computed:
            opinion.disagreements.append(
                Disagreement(damage.path, damage.offset, what, stored, computed)
            )
        elif name == what:
            opinion.confirmed += 1
