"""Log frames in C: byte for byte what Python encodes, and read as frame by frame."""

from __future__ import annotations

import random
import sys
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast
from unittest import mock

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.native import native as loaded
from strandline.wal import format as fmt
from strandline.wal import reader as reading
from strandline.wal.checksum import crc32c
from strandline.wal.disk import DiskFile
from strandline.wal.format import SEGMENT_HEADER_BYTES, TYPE_DATA, TYPE_SYNC_MARK, Seal
from strandline.wal.reader import SegmentReader, stamp_of
from tests.support.logs import LogBuilder

if loaded is None:
    pytest.skip("the functions in C are not there", allow_module_level=True)

native: Any = loaded

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
INT_BORDERS = [
    border + step
    for border in (0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 63, U64)
    for step in (-1, 0, 1)
    if 0 <= border + step <= U64
]
BIN_BORDERS = (0, 1, 31, 32, 255, 256, 65535, 65536)
LANES = 3 * 336
"""From this length on the checksum is taken in three lanes at once."""

ints = st.one_of(st.sampled_from(INT_BORDERS), st.integers(0, U64))
binaries = st.one_of(
    st.binary(max_size=20), st.sampled_from(BIN_BORDERS).map(lambda n: b"\x5a" * n)
)
marks = st.none() | st.lists(ints, max_size=40)
plain_items = st.builds(
    lambda first, rest: [first, *rest], marks, st.lists(ints | binaries | st.none(), max_size=60)
)
odd_elements = st.one_of(
    st.text(max_size=3),
    st.floats(allow_nan=False),
    st.integers(-(1 << 63), -1),
    st.booleans(),
    st.lists(st.none() | ints, max_size=2),
    st.dictionaries(st.binary(max_size=1), st.none(), max_size=1),
)
fields = st.tuples(
    st.one_of(st.sampled_from([0, 1, U32]), st.integers(0, U32)),
    *[ints] * 6,
    st.one_of(st.sampled_from([0, 1, U32]), st.integers(0, U32)),
)
SOME_FIELDS = 1, 2, 1, 0, 5, 6, 7, 8


def in_python(items: Any, values: tuple[int, ...]) -> bytes:
    """Return the frame of a group as it is without C."""
    return fmt.encode_frame(TYPE_DATA, msgpack.packb(items), *values)


# ---- encoding


@given(plain_items, fields)
def test_a_group_becomes_the_same_frame(items: list[Any], values: tuple[int, ...]) -> None:
    """Whatever operations are made of, and whatever the header says: the bytes are the same."""
    assert in_python(items, values) == native.encode_group(items, *values)


@pytest.mark.parametrize("length", BIN_BORDERS)
def test_bytes_at_the_borders_of_msgpack(length: int) -> None:
    """The kind of msgpack bytes, their checksum and the padding are right at every border."""
    for padding in range(9):
        items = [None, 9, bytes(padding), b"\xe7" * length]
        assert in_python(items, SOME_FIELDS) == native.encode_group(items, *SOME_FIELDS)


@pytest.mark.parametrize("number", INT_BORDERS)
def test_ints_at_the_borders_of_msgpack(number: int) -> None:
    """Tags, marks and the fields of the header are right at every border."""
    items = [[number, 1, number], number, b"key", b"value"]
    values = (1, number, number, number, number, number, number, 1)
    assert in_python(items, values) == native.encode_group(items, *values)


@pytest.mark.parametrize("length", [0, 1, 14, 15, 16, 17, 255, 256, 65534, 65535, 65536, 65537])
def test_arrays_at_the_borders_of_msgpack(length: int) -> None:
    """The length of the list, and of the commit marks in it, is right at every border."""
    for items in ([None] * length, [[7] * length, None], [[5] * length] + [None] * length):
        assert in_python(items, SOME_FIELDS) == native.encode_group(items, *SOME_FIELDS)


def test_checksums_of_every_length_around_the_lanes() -> None:
    """A payload's checksum is right where the three lanes begin, end and leave a rest."""
    data = random.Random(1).randbytes(4 * LANES)
    lengths = [n for lanes in range(4) for n in range(lanes * LANES - 20, lanes * LANES + 20)]
    for length in [n for n in lengths if n >= 0]:
        items = [None, 1, data[:length]]
        assert in_python(items, SOME_FIELDS) == native.encode_group(items, *SOME_FIELDS)


@given(plain_items, odd_elements, st.integers(0, 70), fields)
def test_odd_items_are_handed_back(
    items: list[Any], odd: Any, place: int, values: tuple[int, ...]
) -> None:
    """What operations never hold is left to Python, which makes the frame."""
    place = min(place, len(items))
    if type(odd) is list and place == 0 and None not in odd:
        odd = [odd]
    items.insert(place, odd)
    assert native.encode_group(items, *values) is None
    assert in_python(items, values) == fmt.encode_group(items, *values)


@pytest.mark.parametrize(
    "items", [[[-1]], [[None]], [[b""]], [["1"]], [[True]], [[[1]]], [None, [1]], [bytearray(b"1")]]
)
def test_odd_marks_are_handed_back(items: list[Any]) -> None:
    """Commit marks are ints, in the first place alone; any others are left to Python."""
    assert native.encode_group(items, *SOME_FIELDS) is None
    assert in_python(items, SOME_FIELDS) == fmt.encode_group(items, *SOME_FIELDS)


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("value", [-1, 1 << 64, 1.0, None, "1", True])
def test_fields_that_do_not_fit_are_handed_back(place: int, value: Any) -> None:
    """A header's field that is no int of its size is never cut down: Python says what is wrong."""
    values: list[Any] = list(SOME_FIELDS)
    values[place] = value
    assert native.encode_group([None], *values) is None
    values[place] = U32 + 1
    handed_back = place in {0, 7}  # count and epoch have four bytes
    assert handed_back == (native.encode_group([None], *values) is None)


@pytest.mark.parametrize("arguments", [(), ([],), ((None,), *SOME_FIELDS), (None, *SOME_FIELDS)])
def test_what_is_no_group_is_handed_back(arguments: tuple[Any, ...]) -> None:
    """Anything but a list and eight ints is left to Python."""
    assert native.encode_group(*arguments) is None


# ---- reading


class Memory:
    """A file with these contents, as far as a reader needs one."""

    path = "segment"

    def __init__(self, image: bytes) -> None:
        self._image = image

    def pread(self, length: int, offset: int, /) -> bytes:
        return self._image[offset : offset + length]

    def size(self) -> int:
        return len(self._image)


class Reading(NamedTuple):
    """A segment to read, and how."""

    log: LogBuilder
    image: bytes
    end: int | None
    window: int

    def reader(self) -> SegmentReader:
        header = self.log.active.header
        file = cast(DiskFile, Memory(self.image))
        return SegmentReader(file, stamp_of(header), lsn=header.first_lsn, end=self.end)

    def small_windows(self) -> AbstractContextManager[Any]:
        """Let the segment be read in so many pieces that frames lie across their borders."""
        return mock.patch.multiple(
            reading,
            FIRST_WINDOW_BYTES=self.window,
            WINDOW_BYTES=2 * self.window,
            _BEHIND_LARGE_FRAME=self.window // 2,
        )


def end_of(reader: SegmentReader) -> tuple[Any, ...]:
    """Return all that a reader says when it has read."""
    return (
        reader.offset,
        reader.lsn,
        reader.frames,
        reader.damage,
        reader.seal,
        reader.findings,
    )


ODD_FIELDS = [("count", 0), ("kind", TYPE_SYNC_MARK), ("kind", 0x7F), ("epoch", 3), ("salt", 5)]
"""What makes a frame whose checksums hold none of this segment's, or none at all."""


@st.composite
def segments(draw: st.DrawFn) -> Reading:
    """Draw a segment of sound frames over stale bytes, and perhaps damage in it."""
    log = LogBuilder(first_id=draw(st.integers(1, 3)), next_lsn=draw(st.integers(1, 1000)))
    stale = b""
    if draw(st.booleans()):
        log.open(epoch=draw(st.integers(0, 2)))
        for _ in range(draw(st.integers(1, 8))):
            log.data(payload=b"earlier" * draw(st.integers(0, 20)))
        stale = log.image(log.active.header.segment_id)
        log = LogBuilder(first_id=log.active.header.segment_id, next_lsn=log.next_lsn)
    log.open(background=stale, epoch=2)
    for kind in draw(st.lists(st.sampled_from("ddddddmuz"), max_size=12)):
        if kind == "d":
            claim: Any = draw(st.none() | st.integers(0, log.next_lsn + 2))
            claimed: Any = {} if claim is None else {"synced_lsn": claim}
            log.data(
                draw(st.integers(1, 5)),
                draw(st.one_of(st.binary(max_size=40), st.just(b"\xc0" * 300))),
                **claimed,
                flags=draw(st.sampled_from([0, 0, 1])),
            )
        elif kind == "m":
            log.mark()
        elif kind == "u":
            log.frame(0x80 | draw(st.integers(4, 9)), b"unknown", count=0)
        elif draw(st.integers(0, 5)) == 0:
            field, value = draw(st.sampled_from([*ODD_FIELDS, ("first_lsn", log.next_lsn + 1)]))
            odd: dict[str, Any] = {"kind": TYPE_DATA, "payload": b"odd", "count": 1, field: value}
            log.frame(**odd)
    sealed = draw(st.sampled_from(["", "", "seal", "clean", "wrong"]))
    if sealed:
        seal = Seal(draw(st.integers(0, 3)), log.next_lsn - 1, bytes(16))
        log.seal(clean=sealed == "clean", seal=seal if sealed == "wrong" else None)
    image = bytearray(log.image(log.active.header.segment_id))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        place = draw(st.integers(SEGMENT_HEADER_BYTES, len(log.active.content)))
        if place < len(image):
            image[place] ^= draw(st.integers(1, 255))
    if draw(st.integers(0, 3)) == 0:
        del image[draw(st.integers(SEGMENT_HEADER_BYTES, len(image))) :]
    end = draw(st.none() | st.integers(SEGMENT_HEADER_BYTES, len(image) + 10))
    return Reading(log, bytes(image), end, draw(st.sampled_from([80, 200, 1000, 1 << 16])))


@given(segments())
def test_strides_pass_over_what_iterating_yields(segment: Reading) -> None:
    """Offsets, LSNs, frames and claims add up to the same, and so does the end of the reading."""
    by_frame, by_stride, in_python = (segment.reader() for _ in range(3))
    with segment.small_windows():
        frames = list(by_frame)
        strides = list(by_stride.strides())
        with mock.patch.object(reading, "native", None):
            single = list(in_python.strides())
    believed = [h.synced_lsn for _, h, _ in frames if h.synced_lsn < h.first_lsn]
    assert max(believed, default=0) == max((s.claimed_lsn for s in strides), default=0)
    places = {(s.offset, s.lsn) for s in single}
    assert places.issuperset((s.offset, s.lsn) for s in strides)
    assert [s[:2] for s in single[-1:]] == [s[:2] for s in strides[-1:]]
    assert len(frames) == len(single) >= len(strides)
    assert end_of(by_frame) == end_of(by_stride) == end_of(in_python)


@given(segments())
def test_batches_hold_what_iterating_yields(segment: Reading) -> None:
    """The data frames are the same, batch by batch, and so is the end of the reading."""
    by_frame, by_batch, in_python = (segment.reader() for _ in range(3))
    with segment.small_windows():
        frames = list(by_frame)
        batches = list(by_batch.batches())
        with mock.patch.object(reading, "native", None):
            single = list(in_python.batches())
    expected = [(h.first_lsn, h.count, p) for _, h, p in frames if h.type == TYPE_DATA]
    assert expected == [frame for _, batch in batches for frame in batch]
    assert expected == [frame for _, batch in single for frame in batch]
    ends = {
        frame[0]: offset + reading.frame_bytes(len(frame[2]))
        for frame, offset in zip(expected, [o for o, h, _ in frames if h.type == 1], strict=True)
    }
    assert [ends[batch[-1][0]] for _, batch in batches] == [offset for offset, _ in batches]
    assert end_of(by_frame) == end_of(by_batch) == end_of(in_python)


@given(segments())
def test_placed_frames_are_those_that_iterating_yields(segment: Reading) -> None:
    """So are their places, times and claims, and the end of the reading."""
    by_frame, placed, in_python = (segment.reader() for _ in range(3))
    with segment.small_windows():
        frames = list(by_frame)
        found = list(placed.placed())
        with mock.patch.object(reading, "native", None):
            single = list(in_python.placed())
    expected = [
        (offset, h.first_lsn, h.count, h.time_ns, h.synced_lsn, payload)
        for offset, h, payload in frames
        if h.type == TYPE_DATA
    ]
    assert expected == [frame for some in found for frame in some]
    assert expected == [frame for some in single for frame in some]
    assert end_of(by_frame) == end_of(placed) == end_of(in_python)


def test_every_changed_byte_of_a_frame_stops_both_ways() -> None:
    """No byte of a header or payload is left unchecked; what lies between frames is not read."""
    log = LogBuilder()
    log.open()
    log.data(2, b"first", synced=False)
    middle = log.data(3, b"payload", synced=False)
    log.data(1, b"last")
    image, stamp = log.image(1), stamp_of(log.active.header)
    first = [(1, 2, b"first")]
    for place in range(middle.offset, middle.end):
        changed = bytearray(image)
        changed[place] ^= 0x01
        arguments = bytes(changed), SEGMENT_HEADER_BYTES, *stamp, 1
        if place >= middle.offset + fmt.FRAME_HEADER_BYTES + len(b"payload"):
            assert native.skim(*arguments)[1:] == (7, 3, 0)
            continue
        assert native.skim(*arguments) == (middle.offset, 3, 1, 0)
        assert native.split(*arguments) == (middle.offset, 3, first)


def test_only_a_whole_frame_is_taken() -> None:
    """However short a window is, nothing behind it is read, and its padding is not needed."""
    log = LogBuilder()
    log.open()
    frame = log.data(2, b"payload of 21 bytes..")
    stamp = stamp_of(log.active.header)
    whole = bytes(log.active.content[frame.offset :])
    for length in range(len(whole) + 1):
        taken = length >= fmt.FRAME_HEADER_BYTES + 21
        expected = (len(whole), 3, 1) if taken else (0, 1, 0)
        assert expected == native.skim(whole[:length], 0, *stamp, 1)[:3]
        at, lsn, frames = native.split(whole[:length], 0, *stamp, 1)
        assert expected == (at, lsn, len(frames))
    for at in (1, 8, len(whole) - 1, len(whole), len(whole) + 1, U64 - 71, U64):
        assert native.skim(whole, at, *stamp, 1) == (at, 1, 0, 0)
        assert native.split(whole, at, *stamp, 1) == (at, 1, [])


def test_each_field_of_a_header_is_compared() -> None:
    """A frame of another segment, salt, epoch, LSN, type or version is left to Python."""
    right: dict[str, Any] = {"kind": TYPE_DATA, "payload": b"", "count": 2, "first_lsn": 5}
    right |= {"synced_lsn": 4, "stored_lsn": 0, "time_ns": 0}
    right |= {"segment_id": 1 << 40, "salt": 2 << 40, "epoch": 3}
    at = 0, 1 << 40, 2 << 40, 3, 5
    wrong: list[dict[str, Any]] = [{"kind": TYPE_SYNC_MARK}, {"count": 0}]
    for name in ("first_lsn", "segment_id", "salt", "epoch"):
        wrong += [{name: right[name] + 1}, {name: right[name] - 1}, {name: right[name] ^ 1 << 31}]
    assert native.skim(fmt.encode_frame(**right), *at) == (72, 7, 1, 4)
    for change in wrong:
        assert native.skim(fmt.encode_frame(**right | change), *at) == (0, 5, 0, 0)
        assert native.split(fmt.encode_frame(**right | change), *at) == (0, 5, [])
    for synced, claimed in ((4, 4), (5, 0), (6, 0), (U64, 0)):
        frame = fmt.encode_frame(**right | {"synced_lsn": synced})
        assert native.skim(frame, *at) == (72, 7, 1, claimed)
    for reserved in (b"\1\0", b"\0\1", b"\0\x80"):
        head = fmt.encode_frame(**right)[4:70] + reserved
        frame = crc32c(head).to_bytes(4, "little") + head
        assert native.skim(frame, *at) == (0, 5, 0, 0)


def test_lsns_that_leave_no_room_are_left_to_python() -> None:
    """LSNs are below 2**63: a frame that goes beyond is not taken in C."""
    for lsn, taken in (((1 << 63) - U32, 1), ((1 << 63) - U32 + 1, 0), (1 << 63, 0), (U64, 0)):
        frame = fmt.encode_frame(TYPE_DATA, b"", U32, lsn, 0, 0, 0, 1, 2, 3)
        expected = (72, lsn + U32, 1, 0) if taken else (0, lsn, 0, 0)
        assert expected == native.skim(frame, 0, 1, 2, 3, lsn)
        assert [(lsn, U32, b"")] * taken == native.split(frame, 0, 1, 2, 3, lsn)[2]


def test_no_reference_is_kept_or_lost() -> None:
    """Data, keys and values are held as often after the calls as before."""
    log = LogBuilder()
    log.open()
    log.data(3)
    data, key, tags = bytes(log.active.content), b"a key" * 3, [1 << 40]
    before = [sys.getrefcount(o) for o in (data, key, tags, tags[0])]
    for _ in range(50):
        native.skim(data, SEGMENT_HEADER_BYTES, *stamp_of(log.active.header), 1)
        native.split(data, SEGMENT_HEADER_BYTES, *stamp_of(log.active.header), 1)
        native.split_placed(data, SEGMENT_HEADER_BYTES, *stamp_of(log.active.header), 1, 0)
        native.encode_group([tags, tags[0], key, None], *SOME_FIELDS)
        native.encode_group([tags, tags[0], key, 1.5], *SOME_FIELDS)
    assert before == [sys.getrefcount(o) for o in (data, key, tags, tags[0])]


@pytest.mark.parametrize("name", ["skim", "split"])
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (b"", 0, 1, 2, 3),
        (b"", 0, 1, 2, 3, 4, 5),
        ("", 0, 1, 2, 3, 4),
        (bytearray(100), 0, 1, 2, 3, 4),
        (memoryview(b""), 0, 1, 2, 3, 4),
        (None, 0, 1, 2, 3, 4),
        *[
            (b"", *(value if place == i else 0 for i in range(5)))
            for place in range(5)
            for value in (-1, 1 << 64, 1.0, None, True, "0")
        ],
    ],
)
def test_wrong_arguments_are_type_errors(name: str, arguments: tuple[Any, ...]) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    with pytest.raises(TypeError):
        getattr(native, name)(*arguments)
