"""Looking on behind a place where a segment's frames stop.

The reader stops at the first thing that is not the next frame. Whether that is the torn
end of a log or damage in its middle shows only in what lies behind: here it is searched
for, by the 16 bytes of segment id and salt that every frame of the segment carries at
8-byte aligned places. A frame counts only if its header CRC, epoch, payload CRC and
contents hold too, and if its LSN lies ahead of where the reading stopped.

That last condition is what frames inside values fail: a value can hold a copy of the log
only as it was before the value was written, so every LSN in the copy lies behind. A sync
mark has no LSN of its own and states the next one, so it must lie one further ahead.

Refuses to guess: nothing here says what the bytes in between were.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from strandline.wal.checksum import crc32c
from strandline.wal.damage import DamageKind
from strandline.wal.disk import DiskFile
from strandline.wal.format import (
    ALIGNMENT,
    FRAME_HEADER_BYTES,
    FRAME_IDENTITY_OFFSET,
    MAX_PAYLOAD_BYTES,
    SEGMENT_HEADER_BYTES,
    TYPE_SEAL,
    FrameHeader,
    decode_frame_header,
    frame_identity,
)
from strandline.wal.reader import (
    FIRST_WINDOW_BYTES,
    WINDOW_BYTES,
    FoundSeal,
    Frame,
    Stamp,
    contradiction,
    found_seal,
    frame_bytes,
    read_fully,
)

_ZEROS: Final = bytes(WINDOW_BYTES)
_BEFORE: Final = FRAME_IDENTITY_OFFSET
_BEHIND: Final = FRAME_HEADER_BYTES - FRAME_IDENTITY_OFFSET

_OLDER_BYTES: Final = 4 << 20
_OLDER_IDS: Final = 64
"""How far back the segment lies whose file is used again, at the most that is looked for."""
_OLDER_TRIES: Final = 10_000


class Remains(NamedTuple):
    """What lies in a segment behind its last valid frame."""

    nonzero_end: int
    """Where the last byte that is not zero ends; the start where there is none."""
    own_end: int
    """Where the last trace of a frame of this segment ends; the start where there is none."""
    recycled: bool
    """A frame of an earlier use of the file lies there."""


class FoundStamp(NamedTuple):
    """The first frame of a segment whose header is lost."""

    stamp: Stamp
    offset: int
    lsn: int


def find_later_frames(file: DiskFile, stamp: Stamp, *, offset: int, lsn: int) -> Iterator[Frame]:
    """Yield the valid frames of a segment at or behind `offset` that lie ahead of `lsn`.

    `lsn` is the one that was expected at `offset`. Payloads are read whole. A frame of
    an unknown required type is yielded too: it is as valid a sign as any other.
    """
    size = file.size()
    pattern = frame_identity(stamp.segment_id, stamp.salt)
    adjoining = -1
    for at, header in _candidates(file, pattern, offset):
        if at < offset or header is None or header.epoch != stamp.epoch:
            continue
        if not _ahead(header, lsn) and (at != adjoining or header.first_lsn != lsn):
            continue
        frame = _frame_at(file, size, at, header)
        if frame is not None:
            yield frame
            # What lies inside the frame is its payload, whatever it looks like.
            offset = adjoining = at + frame_bytes(header.payload_length)
            lsn = header.first_lsn + header.count


def find_stamp(file: DiskFile, segment_id: int, *, lsn: int) -> FoundStamp | None:
    """Return the stamp of a segment's frames, and where the first one lies.

    For a segment whose header is lost and with it the salt. A valid frame with this
    segment id and an LSN of at least `lsn` vouches for its own salt and epoch; of several
    stamps the one with the latest epoch counts.
    """
    size = file.size()
    found: FoundStamp | None = None
    for at, header in _candidates(file, struct.pack("<Q", segment_id), SEGMENT_HEADER_BYTES):
        if header is None or header.first_lsn < lsn:
            continue
        newer = found is None or header.epoch > found.stamp.epoch
        if newer and _frame_at(file, size, at, header) is not None:
            stamp = Stamp(segment_id, header.salt, header.epoch)
            found = FoundStamp(stamp, at, header.first_lsn)
    return found


def find_remains(file: DiskFile, stamp: Stamp, offset: int) -> Remains:
    """Return how far a segment's file holds anything from `offset` on."""
    size = file.size()
    nonzero_end = own_end = offset
    for start, data in _windows(file, offset):
        nonzero_end = max(nonzero_end, start + len(data.rstrip(b"\0")))
    for at, header in _candidates(file, frame_identity(stamp.segment_id, stamp.salt), offset):
        if header is not None and header.epoch != stamp.epoch:
            continue
        length = header.payload_length if header else 0
        end = at + frame_bytes(length)
        own_end = max(own_end, end if end <= size else min(size, at + FRAME_HEADER_BYTES))
    recycled = own_end == offset < nonzero_end and _holds_older_frame(file, stamp, offset)
    return Remains(nonzero_end, own_end, recycled)


def _holds_older_frame(file: DiskFile, stamp: Stamp, offset: int) -> bool:
    """Tell whether a frame of one of the segments before this one lies behind `offset`."""
    data = read_fully(file, _OLDER_BYTES, offset)
    tries = 0
    for older in range(stamp.segment_id - 1, max(0, stamp.segment_id - _OLDER_IDS) - 1, -1):
        pattern = older.to_bytes(8, "little")
        found = data.find(pattern, _BEFORE)
        while found >= 0 and tries < _OLDER_TRIES:
            tries += 1
            start = found - _BEFORE
            if (offset + start) % ALIGNMENT == 0:
                header = decode_frame_header(data[start : start + FRAME_HEADER_BYTES])
                if header is not None and header.epoch <= stamp.epoch:
                    return True
            found = data.find(pattern, found + 1)
    return False


def find_last_seal(file: DiskFile, stamp: Stamp) -> FoundSeal | None:
    """Return the seal that is the last trace of a segment in its file; None if that is no seal.

    Looks from the end, and at nothing before the seal.
    """
    size = file.size()
    pattern = frame_identity(stamp.segment_id, stamp.salt)
    end = size
    while end > SEGMENT_HEADER_BYTES:
        start = max(SEGMENT_HEADER_BYTES, end - WINDOW_BYTES)
        data = read_fully(file, end - start, start)
        at = data.rfind(pattern) - _BEFORE
        if at >= 0 and (start + at) % ALIGNMENT == 0:
            header = decode_frame_header(read_fully(file, FRAME_HEADER_BYTES, start + at))
            frame = _frame_at(file, size, start + at, header) if header else None
            if frame is None or frame[1].type != TYPE_SEAL or frame[1].epoch != stamp.epoch:
                return None
            return found_seal(start + at, frame[1], frame[2])
        if start == SEGMENT_HEADER_BYTES:
            return None
        end = start + FRAME_HEADER_BYTES
    return None


def _windows(file: DiskFile, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield what is not all zeros from `offset` on, with windows that overlap by a header."""
    length = FIRST_WINDOW_BYTES
    while True:
        data = read_fully(file, length, offset)
        if data != _ZEROS[: len(data)]:
            yield offset, data
        if len(data) < length:
            return
        offset += length - FRAME_HEADER_BYTES
        length = WINDOW_BYTES


def _candidates(
    file: DiskFile, pattern: bytes, offset: int
) -> Iterator[tuple[int, FrameHeader | None]]:
    """Yield the places that carry `pattern` as a frame would, with the header if it is valid."""
    last = -1
    for start, data in _windows(file, offset):
        limit = len(data) - _BEHIND + len(pattern)
        at = data.find(pattern, _BEFORE, limit)
        while at >= 0:
            begin = at - _BEFORE
            if (start + begin) % ALIGNMENT == 0 and start + begin > last:
                last = start + begin
                yield last, decode_frame_header(data[begin : begin + FRAME_HEADER_BYTES])
            at = data.find(pattern, at + 1, limit)


def _frame_at(file: DiskFile, size: int, offset: int, header: FrameHeader) -> Frame | None:
    """Return the frame at `offset` with this valid header, None if its payload does not hold."""
    body = offset + FRAME_HEADER_BYTES
    if header.payload_length > MAX_PAYLOAD_BYTES or body + header.payload_length > size:
        return None
    payload = read_fully(file, header.payload_length, body)
    if len(payload) < header.payload_length or crc32c(payload) != header.payload_crc:
        return None
    fault = contradiction(header, payload)
    if fault is not None and fault[0] is not DamageKind.UNKNOWN_TYPE:
        return None
    return offset, header, payload


def _ahead(header: FrameHeader, lsn: int) -> bool:
    own = header.count > 0 or header.type == TYPE_SEAL
    return header.first_lsn > lsn or (own and header.first_lsn == lsn)
