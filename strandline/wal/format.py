"""What lies on disk in a log segment: constants and codecs, nothing that does I/O.

    segment  0000000000000001.wal
    ┌────────────────┬─────────┬─────────┬─────┬──────────────┬──────────────────────┐
    │ header, 4096 B │ frame   │ frame   │ ... │ seal frame   │ zeros, or stale bytes │
    └────────────────┴─────────┴─────────┴─────┴──────────────┴──────────────────────┘
    frame, starts 8-byte aligned, padded with zeros to 8
    ┌──────────────┬──────────────────────────┬───────┐
    │ header, 72 B │ payload, one msgpack value │ 0..7 │
    └──────────────┴──────────────────────────┴───────┘

All integers are little-endian. A frame header carries its own CRC-32C, which covers the
payload's CRC, so a valid header vouches for where its payload ends. The segment id, the
segment's random salt and the epoch in each frame keep stale bytes of a recycled segment
from ever validating. docs/format.md gives every offset, with worked examples.

Turned down: fixed 32 KiB blocks (fragments cost a copy per group and the resynchronising
that they buy comes from the salt here), and a rolling CRC over frames (recycled segments
and repair both want frames that stand alone).
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import msgpack

from strandline.native import native
from strandline.wal.checksum import CHECKSUM_CRC32C, crc32c

FORMAT_VERSION: Final = 1
SEGMENT_MAGIC: Final = b"STRANDWL"
SEGMENT_HEADER_BYTES: Final = 4096
SEGMENT_SUFFIX: Final = ".wal"
ALIGNMENT: Final = 8
MAX_PAYLOAD_BYTES: Final = (1 << 31) - 1
LSN_LIMIT: Final = 1 << 63
"""LSNs are below it: no writer comes near, so that adding to one never overflows anywhere."""

TYPE_DATA: Final = 0x01
TYPE_SEAL: Final = 0x02
TYPE_SYNC_MARK: Final = 0x83
SKIPPABLE: Final = 0x80
"""A reader that does not know a frame's type passes over it if this bit is set."""

FLAG_CLEAN: Final = 0x01
"""On a seal: the writer closed the store in order and issued no LSN above this."""

_SEGMENT: Final = struct.Struct("<8sII16sQQIIQQQQQQ")
_FRAME: Final = struct.Struct("<IIIQQQQQQIBBH")
_U32: Final = struct.Struct("<I")

FRAME_HEADER_BYTES: Final = _U32.size + _FRAME.size
SYNC_MARK_PAYLOAD: Final = b"\xc0"


class SegmentHeader(NamedTuple):
    """The first block of a segment."""

    uuid: bytes
    """The store that the segment belongs to; 16 bytes."""
    segment_id: int
    salt: int
    """64 random bits, new each time that the file is used."""
    epoch: int
    """Which opening of the store wrote it."""
    first_lsn: int
    """The LSN that the first operation gets; above `previous_last_lsn` + 1 after an unclean end."""
    allocated: int
    """Length of the file in bytes when the segment became active."""
    previous_id: int
    """The predecessor, 0 if there is none."""
    previous_bytes: int
    """Where the predecessor's seal frame ends."""
    previous_last_lsn: int
    """The last LSN below this segment, 0 if there is none."""
    created_ns: int
    """Wall clock, nanoseconds since 1970."""
    version: int = FORMAT_VERSION
    checksum_id: int = CHECKSUM_CRC32C


class FrameHeader(NamedTuple):
    """The fixed part of a frame, its CRC left out."""

    payload_crc: int
    payload_length: int
    count: int  # type: ignore[assignment]  # a tuple's own count() is not missed here
    """Operations in the payload; they have the LSNs first_lsn to first_lsn + count - 1."""
    first_lsn: int
    synced_lsn: int
    """Known on disk when this frame was written: the claim that tells damage from a torn tail."""
    stored_lsn: int
    """Known in LMDB when this frame was written."""
    time_ns: int
    segment_id: int
    salt: int
    epoch: int
    type: int
    flags: int
    reserved: int


class Seal(NamedTuple):
    """The payload of a segment's last frame."""

    frames: int
    last_lsn: int
    digest: bytes
    """xxh3-128 of the segment from its first frame to this one."""


def aligned(length: int) -> int:
    """Return `length` rounded up to the next frame start."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def segment_name(segment_id: int) -> str:
    """Return the file name of a segment."""
    return f"{segment_id:016d}{SEGMENT_SUFFIX}"


def segment_id_of(name: str) -> int | None:
    """Return the segment id in a file name, None if it is not a segment's."""
    stem = name[: -len(SEGMENT_SUFFIX)]
    if (
        not name.endswith(SEGMENT_SUFFIX)
        or len(stem) != 16
        or not (stem.isascii() and stem.isdigit())
    ):
        return None
    return int(stem) or None


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the 4096 bytes that open a segment."""
    body = _SEGMENT.pack(
        SEGMENT_MAGIC,
        header.version,
        SEGMENT_HEADER_BYTES,
        header.uuid,
        header.segment_id,
        header.salt,
        header.epoch,
        header.checksum_id,
        header.first_lsn,
        header.allocated,
        header.previous_id,
        header.previous_bytes,
        header.previous_last_lsn,
        header.created_ns,
    )
    block = body.ljust(SEGMENT_HEADER_BYTES - _U32.size, b"\0")
    return block + _U32.pack(crc32c(block))


def decode_segment_header(block: bytes) -> SegmentHeader | None:
    """Return the header, or None where the block is not a whole and valid one.

    A valid header of a newer version is returned as it is: the caller decides.
    """
    if len(block) < SEGMENT_HEADER_BYTES or block[:8] != SEGMENT_MAGIC:
        return None
    block = bytes(block[:SEGMENT_HEADER_BYTES])
    if _U32.unpack_from(block, SEGMENT_HEADER_BYTES - _U32.size)[0] != crc32c(
        block[: SEGMENT_HEADER_BYTES - _U32.size]
    ):
        return None
    (_, version, _, uuid, segment_id, salt, epoch, checksum_id, *rest) = _SEGMENT.unpack_from(block)
    first_lsn, allocated, previous_id, previous_bytes, previous_last_lsn, created_ns = rest
    if first_lsn >= LSN_LIMIT:
        return None
    return SegmentHeader(
        uuid=uuid,
        segment_id=segment_id,
        salt=salt,
        epoch=epoch,
        first_lsn=first_lsn,
        allocated=allocated,
        previous_id=previous_id,
        previous_bytes=previous_bytes,
        previous_last_lsn=previous_last_lsn,
        created_ns=created_ns,
        version=version,
        checksum_id=checksum_id,
    )


_PADDING: Final = tuple(b"\0" * (-length % ALIGNMENT) for length in range(ALIGNMENT))


def encode_frame(  # noqa: PLR0917 - by name costs as much as the checksums
    kind: int,
    payload: bytes,
    count: int,
    first_lsn: int,
    synced_lsn: int,
    stored_lsn: int,
    time_ns: int,
    segment_id: int,
    salt: int,
    epoch: int,
    flags: int = 0,
) -> bytes:
    """Return a whole frame: header, payload, padding."""
    length = len(payload)
    rest = _FRAME.pack(
        crc32c(payload),
        length,
        count,
        first_lsn,
        synced_lsn,
        stored_lsn,
        time_ns,
        segment_id,
        salt,
        epoch,
        kind,
        flags,
        0,
    )
    padding = _PADDING[(FRAME_HEADER_BYTES + length) % ALIGNMENT]
    return b"".join((_U32.pack(crc32c(rest)), rest, payload, padding))


def encode_group(  # noqa: PLR0917 - as its twin in C takes them
    items: list[Any],
    count: int,
    first_lsn: int,
    synced_lsn: int,
    stored_lsn: int,
    time_ns: int,
    segment_id: int,
    salt: int,
    epoch: int,
) -> bytes:
    """Return the frame of a group: `count` operations as a flat list, `items`."""
    if native is not None:
        frame: bytes | None = native.encode_group(
            items, count, first_lsn, synced_lsn, stored_lsn, time_ns, segment_id, salt, epoch
        )
        if frame is not None:
            return frame
    payload = msgpack.packb(items)
    return encode_frame(
        TYPE_DATA,
        payload,
        count,
        first_lsn,
        synced_lsn,
        stored_lsn,
        time_ns,
        segment_id,
        salt,
        epoch,
    )


def decode_frame_header(block: bytes) -> FrameHeader | None:
    """Return the header at the start of `block`, or None where its CRC does not hold."""
    if len(block) < FRAME_HEADER_BYTES:
        return None
    rest = bytes(block[_U32.size : FRAME_HEADER_BYTES])
    if _U32.unpack_from(block)[0] != crc32c(rest):
        return None
    return FrameHeader._make(_FRAME.unpack(rest))


FRAME_IDENTITY_OFFSET: Final = _U32.size + struct.calcsize("<IIIQQQQ")
"""Where segment id and salt lie in a frame, 16 bytes that a scan for later frames looks for."""


def frame_identity(segment_id: int, salt: int) -> bytes:
    """Return the 16 bytes that every frame of a segment carries at `FRAME_IDENTITY_OFFSET`."""
    return struct.pack("<QQ", segment_id, salt)


def encode_seal(seal: Seal) -> bytes:
    """Return the payload of a seal frame."""
    packed: bytes = msgpack.packb([seal.frames, seal.last_lsn, seal.digest])
    return packed


def decode_seal(payload: bytes) -> Seal | None:
    """Return the seal in a payload, None where it is not one."""
    try:
        fields = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException):
        return None
    match fields:
        case [int(frames), int(last_lsn), bytes(digest)] if len(digest) == 16:
            return Seal(frames, last_lsn, digest)
    return None
