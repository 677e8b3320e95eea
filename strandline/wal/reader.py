"""The log's one reader: frames out of a segment, each checked before it is believed.

Recovery, inspection, repair, replicas and `changes` all read through `SegmentReader`. It
takes frames in order from a place, as long as each one is the next: header CRC, segment
id, salt and epoch, length, payload CRC, LSN, type. At the first that is not it stops and
says why in `damage`; it never guesses where the next frame may be (see
`strandline.wal.resync`) and passes no verdict (see `strandline.recovery.verdict`).

Promises bounded memory: it reads windows of 1 MiB, and more only for a frame whose
header's CRC, identity and length within the file have been checked. A length is never
used before that. Nothing is ever written.

`SegmentReader._next` decides only *whether* a frame is the next one, which is all that a
sound log needs; `_diagnose` then finds out what is wrong, in a fixed order. A log is read in
one of four ways: frame by frame by iterating; by `strides`, for whoever only counts; by
`batches`, for whoever wants only what the data frames hold; by `placed`, for whoever also
wants to know where and when. The last three take ordinary data frames in C, many at a time,
and leave all others to `_next`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import xxhash

from strandline.native import native
from strandline.wal.checksum import crc32c
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.disk import DiskFile
from strandline.wal.format import (
    ALIGNMENT,
    FLAG_CLEAN,
    FRAME_HEADER_BYTES,
    LSN_LIMIT,
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


Batch = list[tuple[int, int, bytes]]
"""Data frames in a row: of each the first LSN, the number of operations, and the payload."""

PlacedFrame = tuple[int, int, int, int, int, bytes]
"""A data frame as a log is looked at: its offset, first LSN and number of operations, when it
was written (wall clock, nanoseconds since 1970), the LSN that it claims is synced, the payload."""


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


class Stride(NamedTuple):
    """Valid frames that were passed over, and how far the reading is behind them."""

    offset: int
    lsn: int
    """The LSN that comes next."""
    claimed_lsn: int
    """The highest LSN that one of them claims was on disk before it."""


class SegmentReader:
    """Reads the valid frames of one segment, in order, from one place on.

    Iterating yields sync marks, unknown skippable frames and the seal too. A reader reads
    once, in one of its four ways. The attributes below are up to date when that has ended
    by itself.
    """

    def __init__(
        self,
        file: DiskFile,
        stamp: Stamp,
        *,
        lsn: int,
        offset: int = SEGMENT_HEADER_BYTES,
        end: int | None = None,
    ) -> None:
        """Read `file` from `offset`, where the frame with the LSN `lsn` should start.

        Only from the segment's first frame on can the seal's count and digest be checked.
        With `end` nothing from there on is looked at, as if the file ended there.
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
        size = file.size()
        self.size = size if end is None else min(end, size)
        self._from_start = offset == SEGMENT_HEADER_BYTES
        self._window_bytes = FIRST_WINDOW_BYTES
        self._data = b""
        """The window: what was read at `offset` in the file."""
        self._at = 0
        """Where in the window the next frame starts."""
        self._hasher, self._hashed = xxhash.xxh3_128(), 0
        """The digest for the seal, and up to where in the window it has come."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the seal or the first that is not the next valid frame."""
        while (frame := self._next()) is not None:
            yield frame

    def strides(self) -> Iterator[Stride]:
        """Pass over the frames that iterating would yield."""
        while True:
            if native is not None:
                at, lsn, frames, claimed = native.skim(self._data, self._at, *self.stamp, self.lsn)
                if frames:
                    self._passed(at, lsn, frames)
                    yield Stride(self.offset + at, lsn, claimed)
            frame = self._next()
            if frame is None:
                return
            _, header, _ = frame
            # No frame can know that it is on disk itself: such a claim is not believed.
            claimed = header.synced_lsn if header.synced_lsn < header.first_lsn else 0
            at = self._at if self.seal is None else 0  # behind the seal nothing comes
            yield Stride(self.offset + at, self.lsn, claimed)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Yield the data frames that iterating would yield, and where the reading is then."""
        while True:
            if native is not None:
                at, lsn, batch = native.split(self._data, self._at, *self.stamp, self.lsn)
                if batch:
                    self._passed(at, lsn, len(batch))
                    yield self.offset + at, batch
            frame = self._next()
            if frame is None:
                return
            _, header, payload = frame
            if header.type == TYPE_DATA:
                yield self.offset + self._at, [(header.first_lsn, header.count, payload)]

    def placed(self) -> Iterator[list[PlacedFrame]]:
        """Yield the data frames that iterating would yield, some at a time."""
        while True:
            if native is not None:
                at, lsn, frames = native.split_placed(
                    self._data, self._at, *self.stamp, self.lsn, self.offset
                )
                if frames:
                    self._passed(at, lsn, len(frames))
                    yield frames
            frame = self._next()
            if frame is None:
                return
            offset, header, payload = frame
            if header.type == TYPE_DATA:
                first, count, synced = header.first_lsn, header.count, header.synced_lsn
                yield [(offset, first, count, header.time_ns, synced, payload)]

    def _passed(self, at: int, lsn: int, frames: int) -> None:
        """Note that so many frames of the window were taken, and which comes next."""
        self._at, self.lsn = at, lsn
        self.frames += frames

    def _next(self) -> Frame | None:
        """Take the next valid frame; None behind the seal and where there is none."""
        if self.seal is not None or self.damage is not None:
            return None
        raw = self._raw_header()
        if raw is None:
            return self._stop()
        check, payload_crc, length, count, first, _, _, _, of_id, of_salt, of_epoch = raw[:11]
        head = self._data[self._at + _CRC_BYTES : self._at + FRAME_HEADER_BYTES]
        if (
            check != crc32c(head)
            or first != self.lsn
            or first + count > LSN_LIMIT
            or (of_id, of_salt, of_epoch) != self.stamp
        ):
            return self._stop()
        end = self._at + FRAME_HEADER_BYTES + length
        if end > len(self._data):
            if length > MAX_PAYLOAD_BYTES or self.offset + end > self.size:
                return self._stop()
            self._move(end - self._at)
            end = self._at + FRAME_HEADER_BYTES + length
        payload = self._data[self._at + FRAME_HEADER_BYTES : end]
        if crc32c(payload) != payload_crc:
            return self._stop()
        header = FrameHeader._make(raw[1:])
        kind = header.type
        if (kind != TYPE_DATA or not count or raw[-1]) and contradiction(header, payload):
            return self._stop()
        offset = self.offset + self._at
        if kind == TYPE_SEAL and (seal := found_seal(offset, header, payload)):
            self._hasher.update(memoryview(self._data)[self._hashed : self._at])
            self.offset = offset
            self._take_seal(seal, self._hasher.digest())
        else:
            self._passed((end + ALIGNMENT - 1) & -ALIGNMENT, self.lsn + count, 1)
        return offset, header, payload

    def _raw_header(self) -> tuple[Any, ...] | None:
        """Return the fields of what may be a frame's header, None where the file ends before."""
        if self._at + FRAME_HEADER_BYTES > len(self._data):
            self._move(FRAME_HEADER_BYTES)
            if len(self._data) < FRAME_HEADER_BYTES:
                return None
        return _RAW.unpack_from(self._data, self._at)

    def _move(self, need: int) -> None:
        """Let the window begin where the next frame does, with `need` bytes or more in it."""
        self._hasher.update(memoryview(self._data)[self._hashed : self._at])
        self.offset += self._at
        self._at = self._hashed = 0
        self._data = self._window(self.offset, need)

    def _stop(self) -> Frame | None:
        """Say what is wrong at the next frame's place; there is no frame then."""
        self.offset += self._at
        self.damage = self._diagnose(self._data[self._at :])
        return None

    def _window(self, offset: int, need: int) -> bytes:
        """Read on from `offset`: `need` bytes that were checked to be in the file, or more."""
        length = self._window_bytes
        self._window_bytes = WINDOW_BYTES
        # A multiple of the alignment, so that a frame that ends in it ends with its padding: the
        # seal's digest covers that too.
        wanted = max(length, aligned(need) + _BEHIND_LARGE_FRAME)
        wanted = min(wanted, max(0, self.size - offset))
        return read_fully(self.file, wanted, offset)

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
        if header.first_lsn != self.lsn or last >= LSN_LIMIT:
            expected = f"LSN {self.lsn}" if last < LSN_LIMIT else f"LSNs below {LSN_LIMIT}"
            return self._damage(DamageKind.LSN_ORDER, expected, f"LSN {header.first_lsn}", last)
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
