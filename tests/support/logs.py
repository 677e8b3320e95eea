"""Synthetic logs, built frame by frame with the codecs of `strandline.wal.format`.

A `LogBuilder` keeps what a writer would keep: the next LSN, what is synced, the chain of
segments. Nothing is checked: a test that wants a contradiction in the log writes it.

    log = LogBuilder()
    log.open(); log.data(); log.data(); log.seal()
    log.open(); last = log.data()
    log.spare()
    disk = log.on_disk()
    disk.flip(log.path(2), last.offset)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
import xxhash

from strandline.errors import CorruptionError
from strandline.options import RecoveryMode
from strandline.recovery.survey import Survey, survey
from strandline.recovery.tail import Settlement, settle
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.wal.damage import DamageKind
from strandline.wal.format import (
    FLAG_CLEAN,
    SEGMENT_HEADER_BYTES,
    SYNC_MARK_PAYLOAD,
    TYPE_DATA,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
    Seal,
    SegmentHeader,
    encode_frame,
    encode_seal,
    encode_segment_header,
    segment_name,
)
from strandline.wal.runtime import SystemRuntime

UUID = bytes(range(16))
DATA = "/data"
LOG = f"{DATA}/log"
QUARANTINE = f"{DATA}/quarantine"
ALLOCATED = SEGMENT_HEADER_BYTES + 1024


@dataclass(frozen=True)
class BuiltFrame:
    """A frame in a segment that was built."""

    kind: int
    offset: int
    end: int
    first_lsn: int
    count: int
    payload: bytes

    @property
    def operations(self) -> tuple[int, int, bytes]:
        """What `Survey.frames` yields for it."""
        return self.first_lsn, self.count, self.payload


@dataclass
class BuiltSegment:
    """A segment file as it will be written, before its zeros."""

    header: SegmentHeader
    content: bytearray
    frames: list[BuiltFrame] = field(default_factory=list)
    background: bytes = b""
    """What an earlier use of the file left in it."""

    @property
    def data(self) -> list[BuiltFrame]:
        return [frame for frame in self.frames if frame.kind == TYPE_DATA]


class LogDisk(SimulatedDisk):
    """A simulated disk whose files a test can damage."""

    def content(self, path: str) -> bytes:
        file = self.open(path, "r")
        try:
            return file.pread(file.size(), 0)
        finally:
            file.close()

    def put(self, path: str, content: bytes) -> None:
        """Make a file hold exactly `content`."""
        file = self.open(path, "rw" if self.kind(path) == "file" else "create")
        file.truncate(0)
        file.pwrite(content, 0)
        file.close()

    def poke(self, path: str, offset: int, data: bytes) -> None:
        file = self.open(path, "rw")
        file.pwrite(data, offset)
        file.close()

    def flip(self, path: str, offset: int, mask: int = 0x10) -> None:
        byte = self.content(path)[offset]
        self.poke(path, offset, bytes([byte ^ mask]))

    def cut(self, path: str, length: int) -> None:
        file = self.open(path, "rw")
        file.truncate(length)
        file.close()


class LogBuilder:
    """Builds a log, segment after segment."""

    def __init__(self, *, first_id: int = 1, next_lsn: int = 1, epoch: int = 1) -> None:
        self.segments: dict[int, BuiltSegment] = {}
        self.spares: dict[int, bytes] = {}
        self.next_id = first_id
        self.next_lsn = next_lsn
        self.epoch = epoch
        self.synced = next_lsn - 1
        self.active: BuiltSegment

    def open(self, *, jump: int = 0, background: bytes = b"", **fields: Any) -> BuiltSegment:
        """Begin the next segment; `jump` LSNs are skipped, as after an unclean end."""
        previous = self.segments.get(self.next_id - 1)
        last = self.next_lsn - 1
        self.next_lsn += jump
        self.synced = self.next_lsn - 1
        header = SegmentHeader(
            uuid=UUID,
            segment_id=self.next_id,
            salt=0x5A17_0000_0000_0001 * (self.next_id + 16 * self.epoch) % (1 << 64),
            epoch=self.epoch,
            first_lsn=self.next_lsn,
            allocated=ALLOCATED,
            previous_id=self.next_id - 1,
            previous_bytes=previous.frames[-1].end if previous else 0,
            previous_last_lsn=last,
            created_ns=1,
        )._replace(**fields)
        content = bytearray(encode_segment_header(header))
        self.active = BuiltSegment(header, content, background=background)
        self.segments[self.next_id] = self.active
        self.next_id += 1
        return self.active

    def frame(self, kind: int, payload: bytes, *, count: int, **fields: Any) -> BuiltFrame:
        """Append a frame; `fields` replace those of its header."""
        header = self.active.header
        frame = encode_frame(
            kind,
            payload,
            **{
                "count": count,
                "first_lsn": self.next_lsn,
                "synced_lsn": self.synced,
                "stored_lsn": 0,
                "time_ns": 1,
                "segment_id": header.segment_id,
                "salt": header.salt,
                "epoch": header.epoch,
            }
            | fields,
        )
        offset = len(self.active.content)
        self.active.content += frame
        built = BuiltFrame(kind, offset, offset + len(frame), self.next_lsn, count, payload)
        self.active.frames.append(built)
        self.next_lsn += count
        return built

    def data(
        self, count: int = 1, payload: bytes | None = None, *, synced: bool = True, **fields: Any
    ) -> BuiltFrame:
        """Append operations, and sync them unless told otherwise."""
        if payload is None:
            payload = b"operations from %d " % self.next_lsn * count
        built = self.frame(TYPE_DATA, payload, count=count, **fields)
        if synced:
            self.synced = self.next_lsn - 1
        return built

    def mark(self, **fields: Any) -> BuiltFrame:
        """Append a sync mark."""
        return self.frame(TYPE_SYNC_MARK, SYNC_MARK_PAYLOAD, count=0, **fields)

    def seal(self, *, clean: bool = False, seal: Seal | None = None, **fields: Any) -> BuiltFrame:
        """Append the seal of the active segment."""
        frames = self.active.content[SEGMENT_HEADER_BYTES:]
        if seal is None:
            digest = xxhash.xxh3_128_digest(bytes(frames))
            seal = Seal(len(self.active.frames), self.next_lsn - 1, digest)
        flags = FLAG_CLEAN if clean else 0
        return self.frame(TYPE_SEAL, encode_seal(seal), count=0, **({"flags": flags} | fields))

    def spare(self, content: bytes = b"") -> None:
        """Add the name of a prepared successor; `content` is what a recycled file holds."""
        used = [*self.segments, *self.spares, self.next_id - 1]
        self.spares[max(used) + 1] = content

    @staticmethod
    def path(segment_id: int) -> str:
        return f"{LOG}/{segment_name(segment_id)}"

    @property
    def data_frames(self) -> list[BuiltFrame]:
        return [frame for segment in self.segments.values() for frame in segment.data]

    @property
    def operations(self) -> list[tuple[int, int, bytes]]:
        """All data frames, as `Survey.frames` should yield them."""
        return [frame.operations for frame in self.data_frames]

    def image(self, segment_id: int) -> bytes:
        """Return the whole file of a segment."""
        segment = self.segments.get(segment_id)
        if segment is None:
            return self.spares[segment_id].ljust(ALLOCATED, b"\0")
        return (bytes(segment.content) + segment.background[len(segment.content) :]).ljust(
            ALLOCATED, b"\0"
        )

    def on_disk(self) -> LogDisk:
        """Return a disk with this log, all of it durable."""
        disk = LogDisk()
        for path in (DATA, LOG):
            disk.mkdir(path)
        for segment_id in (*self.segments, *self.spares):
            file = disk.open(self.path(segment_id), "create")
            file.pwrite(self.image(segment_id), 0)
            file.fdatasync()
            file.close()
        for path in ("/", DATA, LOG):
            disk.sync_directory(path)
        return disk


def look(
    disk: SimulatedDisk, *, watermark: int = 0, mode: RecoveryMode = "tolerate-torn-tail"
) -> Survey:
    """Survey the log on a disk that `LogBuilder` made."""
    return survey(disk, LOG, uuid=UUID, watermark_lsn=watermark, mode=mode)


def mend(found: Survey, *, budget: int = 1 << 30) -> Settlement:
    """Settle a survey as opening does."""
    return settle(
        found, runtime=SystemRuntime(), quarantine_dir=QUARANTINE, quarantine_bytes=budget
    )


def replay(found: Survey) -> list[tuple[int, int, bytes]]:
    """Return all that a replay from the watermark would read."""
    return list(chain.from_iterable(found.batches(found.watermark_lsn)))


def lsns(frames: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the LSNs of all operations in some frames."""
    return [first + i for first, count, _ in frames for i in range(count)]


def sample(*, synced: bool = True) -> LogBuilder:
    """Return a log of three segments, LSNs 1 to 5, 6 to 9, 10 to 13, the last one open."""
    log = LogBuilder()
    log.open()
    log.data(1)
    log.data(3)
    log.data(1)
    log.seal()
    log.open()
    log.data(2)
    log.mark()
    log.data(1)
    log.data(1)
    log.seal()
    log.open()
    log.data(1, synced=synced)
    log.data(2, synced=synced)
    log.data(1, synced=synced)
    log.spare()
    return log


def at(log: LogBuilder, segment_id: int, frame: BuiltFrame, kind: DamageKind) -> str:
    """Return a pattern for the place in an error's message."""
    place = f"{log.path(segment_id)}: offset {frame.offset}, LSN {frame.first_lsn}: {kind.value}:"
    return re.escape(place)


def refused(
    disk: LogDisk,
    kind: type[CorruptionError],
    match: str,
    *,
    watermark: int = 0,
    mode: RecoveryMode = "tolerate-torn-tail",
) -> None:
    """Check that a survey raises an error, and that nothing was written for it."""
    written = ("pwrite", "create", "rename", "unlink", "truncate", "mkdir")
    before = sum(op.op in written for op in disk.operations)
    with pytest.raises(kind, match=match):
        look(disk, watermark=watermark, mode=mode)
    assert before == sum(op.op in written for op in disk.operations)


def content(disk: SimulatedDisk, path: str) -> bytes:
    """Return what a file holds."""
    file = disk.open(path, "r")
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def quarantined(disk: SimulatedDisk) -> list[bytes]:
    """Return the contents of all files in quarantine."""
    if disk.kind(QUARANTINE) == "absent":
        return []
    return [content(disk, f"{QUARANTINE}/{name}") for name in disk.listdir(QUARANTINE)]


def torn() -> tuple[LogBuilder, bytes]:
    """Return a log with half a frame at its end, and those bytes."""
    log = sample()
    log.data(1)
    half = bytes(log.active.content[log.active.frames[-1].offset :])[:80]
    del log.active.content[log.active.frames.pop().offset + 80 :]
    log.next_lsn -= 1
    return log, half
