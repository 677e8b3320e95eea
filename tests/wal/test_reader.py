"""The log's reader: what it takes for a frame, and what it says where it stops."""

from __future__ import annotations

import struct

import pytest

from strandline.tools.crash.simulation.faults import fail
from strandline.wal.checksum import crc32c
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    LSN_LIMIT,
    SEGMENT_HEADER_BYTES,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
    FrameHeader,
    Seal,
)
from strandline.wal.reader import (
    FIRST_WINDOW_BYTES,
    WINDOW_BYTES,
    SegmentReader,
    read_segment_header,
    stamp_of,
)
from tests.support.logs import BuiltSegment, LogBuilder, LogDisk


def read(
    disk: LogDisk, segment: BuiltSegment
) -> tuple[list[tuple[int, int, bytes]], SegmentReader]:
    """Read a segment to the end; return (offset, first LSN, payload) of its frames."""
    file = disk.open(LogBuilder.path(segment.header.segment_id), "r")
    reader = SegmentReader(file, stamp_of(segment.header), lsn=segment.header.first_lsn)
    frames = [(offset, header.first_lsn, payload) for offset, header, payload in reader]
    file.close()
    return frames, reader


def damage_of(reader: SegmentReader) -> Damage:
    """Return why the reading stopped."""
    assert reader.damage is not None
    return reader.damage


def built(segment: BuiltSegment) -> list[tuple[int, int, bytes]]:
    """Return what `read` should return for a whole segment."""
    return [(frame.offset, frame.first_lsn, frame.payload) for frame in segment.frames]


def three_frames() -> tuple[LogBuilder, BuiltSegment]:
    """Return a log of one segment with LSNs 1, 2 to 4, and 5, not sealed."""
    log = LogBuilder()
    segment = log.open()
    log.data(1, b"one")
    log.data(3, b"two" * 11)
    log.data(1, b"three" * 5)
    return log, segment


def refit(disk: LogDisk, path: str, offset: int, **fields: int) -> None:
    """Change fields of a frame's header and make its CRC hold again."""
    layout = struct.Struct("<IIIQQQQQQIBBH")
    raw = disk.content(path)[offset + 4 : offset + FRAME_HEADER_BYTES]
    header = FrameHeader._make(layout.unpack(raw))._replace(**fields)
    rest = layout.pack(*header)
    disk.poke(path, offset, struct.pack("<I", crc32c(rest)) + rest)


def test_every_frame_is_read_in_order_up_to_the_seal() -> None:
    """Data, marks and the seal come in order, with their places; a sealed end is no damage."""
    log, segment = three_frames()
    log.mark()
    seal = log.seal(clean=True)
    frames, reader = read(log.on_disk(), segment)
    assert built(segment) == frames
    assert reader.damage is None
    assert reader.seal is not None
    assert (seal.offset, seal.end) == (reader.seal.offset, reader.seal.end)
    assert reader.seal.clean
    assert reader.findings == []
    assert (reader.frames, reader.lsn) == (4, 6)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, FIRST_WINDOW_BYTES - 72, FIRST_WINDOW_BYTES])
def test_frames_of_every_size_are_read_across_windows(size: int) -> None:
    """A frame is read whole wherever a window ends, padding included."""
    log = LogBuilder()
    segment = log.open()
    for i in range(5):
        log.data(1, bytes([i]) * size)
    log.seal()
    frames, reader = read(log.on_disk(), segment)
    assert built(segment) == frames
    assert reader.findings == []


def test_a_frame_larger_than_the_window_is_read() -> None:
    """A payload beyond the window size comes back whole, and so does what follows."""
    log = LogBuilder()
    segment = log.open()
    log.data(1, b"small")
    log.data(1, b"L" * (3 * WINDOW_BYTES + 13))
    log.data(1, b"small again")
    log.seal()
    frames, reader = read(log.on_disk(), segment)
    assert built(segment) == frames
    assert reader.findings == []


def test_reading_stays_within_the_window() -> None:
    """No read asks for more than a window, as long as no frame needs it."""
    log = LogBuilder()
    segment = log.open()
    for _ in range(3000):
        log.data(1, b"x" * 900)
    disk = log.on_disk()
    read(disk, segment)
    longest = max(op.length for op in disk.operations if op.op == "pread")
    assert longest <= WINDOW_BYTES


def test_short_reads_are_gone_on_with() -> None:
    """A read that stops early is not the end of the file."""
    log, segment = three_frames()
    log.seal()
    disk = log.on_disk()
    disk.faults = fail("pread", ("short", 50), times=20)
    frames, _ = read(disk, segment)
    assert built(segment) == frames


def test_a_read_error_names_the_file_and_the_place() -> None:
    """An OSError of the disk is raised on, with the path and the offset."""
    log, segment = three_frames()
    disk = log.on_disk()
    disk.faults = fail("pread", OSError(5, "I/O error"))
    with pytest.raises(OSError, match="cannot read at offset 4096") as caught:
        read(disk, segment)
    assert caught.value.filename == log.path(1)


def test_the_end_of_the_file_is_said() -> None:
    """A file that ends behind a frame is no more than that."""
    log, segment = three_frames()
    disk = log.on_disk()
    disk.cut(log.path(1), segment.frames[-1].end)
    frames, reader = read(disk, segment)
    assert built(segment) == frames
    assert damage_of(reader).kind is DamageKind.END
    assert damage_of(reader).lsn == 6


def test_zeros_are_said() -> None:
    """Zeros behind the last frame are reported as zeros, at its end."""
    log, segment = three_frames()
    _, reader = read(log.on_disk(), segment)
    assert damage_of(reader).kind is DamageKind.ZERO
    assert damage_of(reader).offset == segment.frames[-1].end


HEADER_FIELDS = {
    "crc": 0,
    "payload_crc": 4,
    "payload_length": 8,
    "count": 12,
    "first_lsn": 16,
    "synced_lsn": 24,
    "stored_lsn": 32,
    "time_ns": 40,
    "segment_id": 48,
    "salt": 56,
    "epoch": 64,
    "type": 68,
    "flags": 69,
    "reserved": 70,
}


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_flipped_bit_in_any_header_field_fails_the_headers_crc(field: str) -> None:
    """Every field is covered: the frame is not taken, and the damage is at its start."""
    log, segment = three_frames()
    disk = log.on_disk()
    second = segment.frames[1]
    disk.flip(log.path(1), second.offset + HEADER_FIELDS[field])
    frames, reader = read(disk, segment)
    assert built(segment)[:1] == frames
    assert damage_of(reader).kind is DamageKind.HEADER_CRC
    assert (damage_of(reader).offset, damage_of(reader).lsn) == (second.offset, 2)
    assert damage_of(reader).last_lsn is None


def test_a_flipped_bit_in_the_payload_fails_the_payloads_crc() -> None:
    """The header still says which LSNs are lost."""
    log, segment = three_frames()
    disk = log.on_disk()
    second = segment.frames[1]
    disk.flip(log.path(1), second.offset + FRAME_HEADER_BYTES + 5)
    frames, reader = read(disk, segment)
    assert built(segment)[:1] == frames
    assert damage_of(reader).kind is DamageKind.PAYLOAD_CRC
    assert damage_of(reader).last_lsn == 4


@pytest.mark.parametrize("length", [3000, 1 << 31, 0xFFFFFFFF])
def test_a_length_past_the_end_is_never_used(length: int) -> None:
    """Even under a valid CRC a length beyond the file or the bounds is only reported."""
    log, segment = three_frames()
    disk = log.on_disk()
    refit(disk, log.path(1), segment.frames[1].offset, payload_length=length)
    frames, reader = read(disk, segment)
    assert built(segment)[:1] == frames
    assert damage_of(reader).kind is DamageKind.LENGTH
    assert max(op.length for op in disk.operations if op.op == "pread") <= WINDOW_BYTES


@pytest.mark.parametrize("length", [0, 1, 32])
def test_a_length_that_is_too_small_fails_the_payloads_crc(length: int) -> None:
    """A length that ends within the payload does not make another frame of the rest."""
    log, segment = three_frames()
    disk = log.on_disk()
    refit(disk, log.path(1), segment.frames[1].offset, payload_length=length)
    frames, reader = read(disk, segment)
    assert built(segment)[:1] == frames
    assert damage_of(reader).kind is DamageKind.PAYLOAD_CRC


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"salt": 1}, DamageKind.STALE),
        ({"epoch": 0}, DamageKind.STALE),
        ({"segment_id": 0}, DamageKind.STALE),
        ({"epoch": 2}, DamageKind.FOREIGN),
        ({"segment_id": 2}, DamageKind.FOREIGN),
        ({"first_lsn": 1}, DamageKind.LSN_ORDER),
        ({"first_lsn": 3}, DamageKind.LSN_ORDER),
        ({"reserved": 1}, DamageKind.MALFORMED),
        ({"count": 0}, DamageKind.MALFORMED),
        ({"type": TYPE_SYNC_MARK}, DamageKind.MALFORMED),
        ({"type": TYPE_SEAL}, DamageKind.MALFORMED),
        ({"type": TYPE_SEAL, "count": 0}, DamageKind.SEAL),
        ({"type": 0x04}, DamageKind.UNKNOWN_TYPE),
        ({"type": 0x84}, DamageKind.UNKNOWN_TYPE),
    ],
)
def test_a_whole_frame_that_is_not_the_next_one_is_told_by_kind(
    fields: dict[str, int], kind: DamageKind
) -> None:
    """Stale, foreign, out of order, contradictory and newer frames are told apart.

    A skippable type with operations is not passed over: that would leave a hole.
    """
    log, segment = three_frames()
    disk = log.on_disk()
    refit(disk, log.path(1), segment.frames[1].offset, **fields)
    frames, reader = read(disk, segment)
    assert built(segment)[:1] == frames
    assert damage_of(reader).kind is kind
    assert damage_of(reader).offset == segment.frames[1].offset


def test_an_unknown_skippable_frame_is_passed_over() -> None:
    """A frame of a later release that may be skipped does not end the reading."""
    log = LogBuilder()
    segment = log.open()
    log.data()
    log.frame(0xFE, b"what a later release says", count=0)
    log.data()
    log.seal()
    frames, reader = read(log.on_disk(), segment)
    assert built(segment) == frames
    assert reader.damage is None


def test_a_seal_that_counts_other_frames_is_a_finding() -> None:
    """The frames hold by themselves, so a wrong count is reported and nothing is lost."""
    log, segment = three_frames()
    log.seal(seal=Seal(2, 5, bytes(16)))
    frames, reader = read(log.on_disk(), segment)
    assert built(segment) == frames
    assert [DamageKind.SEAL] * 2 == [found.kind for found in reader.findings]


def test_changed_padding_is_a_finding_of_the_digest() -> None:
    """Bytes between frames are covered by the seal's digest alone."""
    log = LogBuilder()
    segment = log.open()
    first = log.data(1, b"12345")
    log.data()
    log.seal()
    disk = log.on_disk()
    disk.flip(log.path(1), first.end - 1)
    frames, reader = read(disk, segment)
    assert built(segment) == frames
    assert len(reader.findings) == 1
    assert "digest" in reader.findings[0].expected


def test_a_seal_with_another_last_lsn_is_damage() -> None:
    """A seal that contradicts its own frame's LSN is not believed."""
    log, segment = three_frames()
    log.seal(seal=Seal(3, 9, bytes(16)))
    _, reader = read(log.on_disk(), segment)
    assert damage_of(reader).kind is DamageKind.SEAL


def test_reading_can_begin_at_any_frame() -> None:
    """From a later frame on, the rest is read; the seal's digest is not compared then."""
    log, segment = three_frames()
    log.seal()
    file = log.on_disk().open(log.path(1), "r")
    start = segment.frames[1]
    reader = SegmentReader(file, stamp_of(segment.header), lsn=start.first_lsn, offset=start.offset)
    assert [frame.first_lsn for frame in segment.frames[1:]] == [h.first_lsn for _, h, _ in reader]
    assert reader.findings == []
    assert reader.seal is not None


@pytest.mark.parametrize("length", [0, 1, 4095])
def test_a_short_segment_header_is_none(length: int) -> None:
    """A file without room for the header has none."""
    log, _ = three_frames()
    disk = log.on_disk()
    disk.cut(log.path(1), length)
    assert read_segment_header(disk.open(log.path(1), "r")) is None


def test_every_byte_of_a_segment_header_is_covered() -> None:
    """A flip in any of the 4096 bytes makes the header invalid."""
    log, segment = three_frames()
    disk = log.on_disk()
    assert segment.header == read_segment_header(disk.open(log.path(1), "r"))
    for offset in range(SEGMENT_HEADER_BYTES):
        disk.flip(log.path(1), offset)
        assert read_segment_header(disk.open(log.path(1), "r")) is None, offset
        disk.flip(log.path(1), offset)


def test_a_damage_says_what_where_expected_and_found() -> None:
    """The text of a damage carries the file, offset, LSN, kind, and both sides."""
    log, segment = three_frames()
    disk = log.on_disk()
    refit(disk, log.path(1), segment.frames[1].offset, first_lsn=7)
    _, reader = read(disk, segment)
    assert (
        f"{log.path(1)}: offset {segment.frames[1].offset}, LSN 2: lsn-order: "
        "expected LSN 2, found LSN 7"
    ) == str(damage_of(reader))


def test_lsns_at_the_end_of_their_range_are_no_frames() -> None:
    """A frame whose LSNs reach 2^63 is damage: adding to one more could overflow somewhere."""
    builder = LogBuilder(next_lsn=LSN_LIMIT - 2)
    segment = builder.open()
    builder.data(1)
    builder.data(2)
    file = builder.on_disk().open(builder.path(1), "r")
    for way in (SegmentReader.__iter__, SegmentReader.strides, SegmentReader.batches):
        reader = SegmentReader(file, stamp_of(segment.header), lsn=segment.header.first_lsn)
        for _ in way(reader):
            pass
        assert reader.frames == 1
        assert reader.damage is not None
        assert DamageKind.LSN_ORDER is reader.damage.kind
