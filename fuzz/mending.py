"""Makes checksums hold, so that what lies behind them is reached."""

from __future__ import annotations

import struct
from typing import Final

from strandline.wal.checksum import crc32c
from strandline.wal.format import (
    ALIGNMENT,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_segment_header,
)

HEADER: Final = SegmentHeader(
    uuid=bytes(16),
    segment_id=1,
    salt=2,
    epoch=3,
    first_lsn=1,
    allocated=1 << 20,
    previous_id=0,
    previous_bytes=0,
    previous_last_lsn=0,
    created_ns=0,
)
"""Of every segment that is made."""

_COUNTS: Final = struct.Struct("<II")
_FIRST_LSN_AT: Final = 16
_STAMP_AT: Final = 48
_STAMP: Final = struct.Struct("<QQI")
_LEAVE: Final = 0x80
"""In the byte that is a frame's flags: leave the frame as it is."""
_FLAGS_AT: Final = 69


def mended_segment(data: bytes, header: SegmentHeader = HEADER) -> bytes:
    """Return a segment whose frames are `data`, most of them with checksums that hold."""
    body = bytearray(data)
    at, lsn = 0, header.first_lsn
    while at + FRAME_HEADER_BYTES <= len(body):
        length, count = _COUNTS.unpack_from(body, at + 8)
        length = min(length % 4096, len(body) - at - FRAME_HEADER_BYTES)
        if not body[at + _FLAGS_AT] & _LEAVE:
            _mend(body, at, length, lsn, header)
            lsn += count
        at = (at + FRAME_HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT
    return encode_segment_header(header) + bytes(body)


def _mend(body: bytearray, at: int, length: int, lsn: int, header: SegmentHeader) -> None:
    payload = body[at + FRAME_HEADER_BYTES : at + FRAME_HEADER_BYTES + length]
    struct.pack_into("<I", body, at + 8, length)
    struct.pack_into("<Q", body, at + _FIRST_LSN_AT, lsn % (1 << 64))
    _STAMP.pack_into(body, at + _STAMP_AT, header.segment_id, header.salt, header.epoch)
    struct.pack_into("<I", body, at + 4, crc32c(bytes(payload)))
    struct.pack_into("<I", body, at, crc32c(bytes(body[at + 4 : at + FRAME_HEADER_BYTES])))


assert SEGMENT_HEADER_BYTES % ALIGNMENT == 0
