"""The log's one reader: frames out of a segment, each checked before it is believed.

Recovery, inspection, repair, replicas and `changes` all read through `SegmentReader`. It
takes frames in order from a place, as long as each one is the next: header CRC, segment
id, salt and epoch, length, payload CRC, LSN, type. At the first that is not it stops and
says why in `damage`; it never guesses where the next frame may be (see
`strandline.wal.resync`) and passes no verdict (see `strandline.recovery.verdict`).

Promises bounded memory: it reads windows of 1 MiB, and more only for a frame whose
header's CRC, identity and length within the file have been checked. A length is never
used before that. Nothing is ever written.

The loop in `SegmentReader.__iter__` decides only *whether* a frame is the next one, which
is all that a sound log needs; `_diagnose` then finds out what is wrong, in a fixed order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import xxhash

from strandline.wal.checksum import crc32c
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.disk import DiskFile
from strandline.wal.format import (
    ALIGNMENT,
    FLAG_CLEAN,
    FRAME_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    SEGMENT_HEADER_BYTES,
    SKIPPABLE,
    TYPE_DATA,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
    FrameHeader,
    Seal,
    SegmentHeader,
    aligned,
    decode_frame_header,
    decode_seal,
    decode_segment_header,
)

WINDOW_BYTES: Final = 1 << 20
FIRST_WINDOW_BYTES: Final = 64 << 10
"""What is read at first: where a segment is damaged in many places most runs are short."""

_BEHIND_LARGE_FRAME: Final = 64 << 10
_RAW: Final = struct.Struct("<IIIIQQQQQQIBBH")
_CRC_BYTES: Final = 4

Frame = tuple[int, FrameHeader, bytes]
"""A valid frame: its offset, its header, its payload. A plain tuple: there can be millions."""


class Stamp(NamedTuple):
    """What every frame of one use of a segment file carries."""

    segment_id: int
    salt: int
    epoch: int


class FoundSeal(NamedTuple):
    """A valid seal, and where it lies."""

    offset: int
    end: int
    seal: Seal
    clean: bool
    """The writer closed the store in order and issued no LSN above the seal's."""


def stamp_of(header: SegmentHeader) -> Stamp:
    """Return what the frames of a segment with this header carry."""
    return Stamp(header.segment_id, header.salt, header.epoch)


def read_fully(file: DiskFile, length: int, offset: int) -> bytes:
    """Read `length` bytes, fewer only at the end of the file; an OSError names the place."""
    try:
        data = file.pread(length, offset)
        while 0 < len(data) < length:
            more = file.pread(length - len(data), offset + len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise OSError(error.errno, f"cannot read at offset {offset}: {error}", file.path) from error
    return data


def read_segment_header(file: DiskFile) -> SegmentHeader | None:
    """Return a segment's header, None where it is not whole and valid.

    Whether it is of this store, of this file's name and of this format version is for
    the caller to see.
    """
    return decode_segment_header(read_fully(file, SEGMENT_HEADER_BYTES, 0))


class SegmentReader:
    """Iterates the valid frames of one segment, in order, from one place on.

    Yields sync marks, unknown skippable frames and the seal too. The attributes below
    are up to date when the iteration has ended by itself.
    """

    def __init__(
        self,
        file: DiskFile,
        stamp: Stamp,
        *,
        lsn: int,
        offset: int = SEGMENT_HEADER_BYTES,
    ) -> None:
        """Read `file` from `offset`, where the frame with the LSN `lsn` should start.

        Only from the segment's first frame on can the seal's count and digest be checked.
        """
        self.file = file
        self.stamp = stamp
        self.offset = offset
        """Where the valid frames end: at the seal, or at the damage."""
        self.lsn = lsn
        """The LSN that comes next."""
        self.frames = 0
        """Valid frames so far, the seal left out."""
        self.damage: Damage | None = None
        """Why the reading stopped; None after a seal."""
        self.seal: FoundSeal | None = None
        self.findings: list[Damage] = []
        """What is odd although every frame's own checks hold: a seal's count or digest."""
        self.size = file.size()
        self._window_bytes = FIRST_WINDOW_BYTES
        self._from_start = offset == SEGMENT_HEADER_BYTES

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the seal or the first that is not the next valid frame."""
        unpack, crc, header_of = _RAW.unpack_from, crc32c, FrameHeader._make
        segment_id, salt, epoch = self.stamp
        lsn, frames = self.lsn, 0
        data, base, at, need = b"", self.offset, 0, FRAME_HEADER_BYTES
        hasher, hashed = xxhash.xxh3_128(), 0
        while True:
            if at + need > len(data):
                hasher.update(memoryview(data)[hashed:at])
                base += at
                at = hashed = 0
                data = self._window(base, need)
                if len(data) < need:
                    break
            raw = unpack(data, at)
            check, payload_crc, length, count, first, _, _, _, of_id, of_salt, of_epoch = raw[:11]
            body = at + FRAME_HEADER_BYTES
            if (
                check != crc(data[at + _CRC_BYTES : body])
                or first != lsn
                or of_salt != salt
                or of_id != segment_id
                or of_epoch != epoch
            ):
                break
            end = body + length
            if end > len(data):
                if length > MAX_PAYLOAD_BYTES or base + end > self.size:
                    break
                need = end - at
                continue
            need = FRAME_HEADER_BYTES
            payload = data[body:end]
            if crc(payload) != payload_crc:
                break
            header = header_of(raw[1:])
            kind = header.type
            if (kind != TYPE_DATA or not count or raw[-1]) and contradiction(header, payload):
                break
            if kind == TYPE_SEAL and (seal := found_seal(base + at, header, payload)):
                hasher.update(memoryview(data)[hashed:at])
                self.offset, self.lsn, self.frames = base + at, lsn, frames
                self._take_seal(seal, hasher.digest())
                yield base + at, header, payload
                return
            yield base + at, header, payload
            lsn += count
            frames += 1
            at = (end + ALIGNMENT - 1) & -ALIGNMENT
        self.offset, self.lsn, self.frames = base + at, lsn, frames
        self.damage = self._diagnose(data[at:])

    def _window(self, offset: int, need: int) -> bytes:
        """Read on from `offset`: `need` bytes that were checked to be in the file, or more."""
        length = self._window_bytes
        self._window_bytes = WINDOW_BYTES
        return read_fully(self.file, max(length, need + _BEHIND_LARGE_FRAME), offset)

    def _take_seal(self, found: FoundSeal, digest: bytes) -> None:
        """Note a valid seal, and what it says that does not fit the frames before it."""
        self.seal, seal = found, found.seal
        if not self._from_start:
            return
        if seal.frames != self.frames:
            self._find(f"{seal.frames} frames, as the seal says", f"{self.frames}")
        if seal.digest != digest:
            self._find(
                f"digest {seal.digest.hex()}, as the seal says",
                f"{digest.hex()}, although every frame holds: bytes between frames have changed",
            )

    def _find(self, expected: str, found: str) -> None:
        self.findings.append(self._damage(DamageKind.SEAL, expected, found))

    def _diagnose(self, data: bytes) -> Damage:
        """Return what is wrong at `offset`; `data` is what was read there."""
        block = data[:FRAME_HEADER_BYTES]
        blank = not block.strip(b"\0")
        if len(block) < FRAME_HEADER_BYTES:
            found = "the end of the file" if not block else f"{len(block)} bytes to the end"
            return self._damage(DamageKind.END, "a frame or a seal", found)
        header = decode_frame_header(block)
        if header is None:
            if blank:
                return self._damage(DamageKind.ZERO, "a frame or a seal", "zeros")
            return self._damage(
                DamageKind.HEADER_CRC,
                "a frame header whose CRC-32C holds",
                f"{block[:16].hex()}...",
            )
        stamp = Stamp(header.segment_id, header.salt, header.epoch)
        if stamp != self.stamp:
            return self._alien(stamp)
        last = header.first_lsn + header.count - 1
        length = header.payload_length
        if length > MAX_PAYLOAD_BYTES or self.offset + FRAME_HEADER_BYTES + length > self.size:
            return self._damage(
                DamageKind.LENGTH,
                f"a payload that ends within the file's {self.size} bytes",
                f"one of {length} bytes",
                last,
            )
        payload = data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + length]
        computed = crc32c(payload)
        if len(payload) < length or computed != header.payload_crc:
            return self._damage(
                DamageKind.PAYLOAD_CRC,
                f"a payload of {length} bytes with CRC-32C {header.payload_crc:#010x}",
                f"{computed:#010x}",
                last,
            )
        if header.first_lsn != self.lsn:
            return self._damage(
                DamageKind.LSN_ORDER, f"LSN {self.lsn}", f"LSN {header.first_lsn}", last
            )
        kind, expected, found = contradiction(header, payload) or (
            DamageKind.MALFORMED,
            "bytes that stay the same",
            "others when they were looked at again",
        )
        return self._damage(kind, expected, found, last)

    def _alien(self, stamp: Stamp) -> Damage:
        """Return the damage that a whole frame with another stamp is."""
        own = self.stamp
        earlier = stamp.segment_id < own.segment_id or (
            stamp.segment_id == own.segment_id and stamp.epoch <= own.epoch
        )
        return self._damage(
            DamageKind.STALE if earlier else DamageKind.FOREIGN,
            f"segment {own.segment_id}, salt {own.salt:016x}, epoch {own.epoch}",
            f"segment {stamp.segment_id}, salt {stamp.salt:016x}, epoch {stamp.epoch}",
        )

    def _damage(
        self, kind: DamageKind, expected: str, found: str, last_lsn: int | None = None
    ) -> Damage:
        return Damage(
            kind=kind,
            path=self.file.path,
            segment_id=self.stamp.segment_id,
            offset=self.offset,
            lsn=self.lsn,
            expected=expected,
            found=found,
            last_lsn=last_lsn,
        )


def frame_bytes(payload_length: int) -> int:
    """Return how far a frame with this payload reaches, padding included."""
    return aligned(FRAME_HEADER_BYTES + payload_length)


def found_seal(offset: int, header: FrameHeader, payload: bytes) -> FoundSeal | None:
    """Return the seal in a valid frame."""
    seal = decode_seal(payload)
    if seal is None:
        return None
    end = offset + frame_bytes(len(payload))
    return FoundSeal(offset, end, seal, bool(header.flags & FLAG_CLEAN))


def contradiction(header: FrameHeader, payload: bytes) -> tuple[DamageKind, str, str] | None:
    """Return what a frame whose checksums and identity hold contradicts itself in."""
    kind, count = header.type, header.count
    known = kind in (TYPE_DATA, TYPE_SEAL, TYPE_SYNC_MARK)
    if not known and (not kind & SKIPPABLE or count):
        # To pass over operations would leave a hole in the state.
        found = f"type {kind:#04x} with {count} operations"
        return DamageKind.UNKNOWN_TYPE, "a frame type of this format", found
    if header.reserved:
        return DamageKind.MALFORMED, "reserved bits of 0", f"{header.reserved:#06x}"
    if kind == TYPE_DATA and not count:
        return DamageKind.MALFORMED, "a data frame with operations", "one without any"
    if kind in (TYPE_SEAL, TYPE_SYNC_MARK) and count:
        return DamageKind.MALFORMED, "a seal or mark without operations", f"{count} operations"
    if kind == TYPE_SEAL:
        seal = decode_seal(payload)
        if seal is None:
            return DamageKind.SEAL, "a seal's three fields", f"{payload[:16].hex()}"
        if seal.last_lsn != header.first_lsn - 1:
            return DamageKind.SEAL, f"last LSN {header.first_lsn - 1}", f"{seal.last_lsn}"
    return None
