"""Looking on behind a broken place: what counts as a later frame, and what must not."""

from __future__ import annotations

import pytest

from strandline.wal.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, TYPE_DATA, aligned
from strandline.wal.reader import WINDOW_BYTES, stamp_of
from strandline.wal.resync import find_last_seal, find_later_frames, find_remains, find_stamp
from tests.support.logs import BuiltSegment, LogBuilder, LogDisk


def later(disk: LogDisk, segment: BuiltSegment, offset: int, lsn: int) -> list[int]:
    """Return the offsets of the frames that are found at or behind `offset`."""
    file = disk.open(LogBuilder.path(segment.header.segment_id), "r")
    frames = find_later_frames(file, stamp_of(segment.header), offset=offset, lsn=lsn)
    return [at for at, _, _ in frames]


def some_frames() -> tuple[LogBuilder, BuiltSegment]:
    """Return a segment with data, a mark, data and a seal."""
    log = LogBuilder()
    segment = log.open()
    log.data(2)
    log.data(1)
    log.mark()
    log.data(1)
    log.seal()
    return log, segment


def test_later_frames_are_found_behind_a_damaged_one() -> None:
    """All valid frames behind the place are found, marks and the seal among them."""
    log, segment = some_frames()
    disk = log.on_disk()
    first = segment.frames[0]
    disk.flip(log.path(1), first.offset)
    assert [f.offset for f in segment.frames[1:]] == later(disk, segment, first.offset, 1)


def test_frames_with_an_lsn_behind_the_expected_one_do_not_count() -> None:
    """What was there already, or an older copy of it, is no sign of anything."""
    log, segment = some_frames()
    first, second, mark, third, seal = (frame.offset for frame in segment.frames)
    disk = log.on_disk()
    assert [first, second, mark, third, seal] == later(disk, segment, first, 1)
    assert [second, mark, third, seal] == later(disk, segment, first, 3)
    assert [third, seal] == later(disk, segment, first, 4)
    assert [seal] == later(disk, segment, first, 5)
    assert [] == later(disk, segment, first, 6)


def test_a_mark_counts_only_further_ahead() -> None:
    """A mark states the next LSN: at the expected one it can be a copy from before."""
    log = LogBuilder()
    segment = log.open()
    damaged = log.data()
    mark = log.mark()
    disk = log.on_disk()
    disk.flip(log.path(1), damaged.offset)
    assert [] == later(disk, segment, damaged.offset, 2)
    assert [mark.offset] == later(disk, segment, damaged.offset, 1)


def test_a_copy_of_the_log_inside_a_value_is_not_taken_for_the_log() -> None:
    """A value that holds the segment as it was before, aligned, is found to be old."""
    log = LogBuilder()
    segment = log.open()
    log.data(2)
    log.data(1)
    log.mark()
    copy = bytes(segment.content[SEGMENT_HEADER_BYTES:])
    frame = log.data(1, copy)
    assert FRAME_HEADER_BYTES % 8 == 0, "the copy must lie 8-byte aligned for this test to bite"
    disk = log.on_disk()
    disk.flip(log.path(1), frame.offset)
    assert [] == later(disk, segment, frame.offset, frame.first_lsn)


def test_what_lies_inside_a_valid_later_frame_is_its_payload() -> None:
    """A copy of a frame inside a valid one is not counted beside it."""
    log = LogBuilder()
    segment = log.open()
    first = log.data(1)
    inner = bytes(segment.content[first.offset : first.end])
    second = log.data(1, inner)
    disk = log.on_disk()
    assert [first.offset, second.offset] == later(disk, segment, first.offset, 1)


def test_a_frame_inside_a_valid_later_frame_is_payload_whatever_its_lsn() -> None:
    """Somebody who knows salt and epoch can put a frame that lies ahead into a value."""
    log = LogBuilder()
    segment = log.open()
    first = log.data(1)
    ahead = log.data(1, first_lsn=7)
    inner = bytes(segment.content[ahead.offset :])
    del segment.content[segment.frames.pop().offset :]
    second = log.data(1, inner)
    assert [first.offset, second.offset] == later(log.on_disk(), segment, first.offset, 1)


@pytest.mark.parametrize("field", ["salt", "segment_id", "epoch"])
def test_frames_of_another_stamp_are_not_found(field: str) -> None:
    """Salt, segment id and epoch must all be the segment's."""
    log, segment = some_frames()
    log.data(5, **{field: getattr(segment.header, field) + 1})
    own = [f.offset for f in segment.frames[:-1]]
    assert own == later(log.on_disk(), segment, segment.frames[0].offset, 1)


def test_a_later_frame_must_hold_as_a_whole() -> None:
    """A damaged header or payload further on does not count either."""
    log, segment = some_frames()
    disk = log.on_disk()
    _, second, mark, third, seal = (frame.offset for frame in segment.frames)
    disk.flip(log.path(1), second + 20)
    assert [mark, third, seal] == later(disk, segment, second, 3)
    disk.flip(log.path(1), third + FRAME_HEADER_BYTES)
    assert [mark, seal] == later(disk, segment, second, 3)


@pytest.mark.parametrize("shift", range(-80, 88, 8))
def test_a_frame_is_found_wherever_a_window_ends(shift: int) -> None:
    """The windows of the search overlap: no alignment of a frame hides it."""
    log = LogBuilder()
    segment = log.open()
    gap = (64 << 10) + shift
    segment.content += b"\xa5" * gap
    frame = log.data(1, b"behind")
    segment.content += b"\xa5" * (WINDOW_BYTES - aligned(FRAME_HEADER_BYTES + 6) - 72)
    second = log.data(1, b"and again")
    start = SEGMENT_HEADER_BYTES
    assert [frame.offset, second.offset] == later(log.on_disk(), segment, start, 1)


def test_frames_must_be_aligned() -> None:
    """A frame that does not start at a multiple of 8 was never written there."""
    log = LogBuilder()
    segment = log.open()
    segment.content += b"\xa5" * 4
    log.data(1, b"behind")
    assert [] == later(log.on_disk(), segment, SEGMENT_HEADER_BYTES, 1)


def test_a_lost_salt_is_found_in_the_frames() -> None:
    """Without a header, frames with the file's segment id tell salt and epoch."""
    log, segment = some_frames()
    disk = log.on_disk()
    disk.poke(log.path(1), 0, bytes(SEGMENT_HEADER_BYTES))
    found = find_stamp(disk.open(log.path(1), "r"), 1, lsn=1)
    assert found is not None
    assert (stamp_of(segment.header), segment.frames[0].offset, 1) == found


def test_of_several_stamps_the_latest_epoch_counts() -> None:
    """What an earlier, unfinished use of the same id left is not preferred."""
    log = LogBuilder(epoch=3)
    log.open()
    log.data(1, salt=99, epoch=2, first_lsn=70)
    own = log.data(1)
    disk = log.on_disk()
    found = find_stamp(disk.open(log.path(1), "r"), 1, lsn=1)
    assert found is not None
    assert (3, own.offset) == (found.stamp.epoch, found.offset)
    assert find_stamp(disk.open(log.path(1), "r"), 1, lsn=71) is None
    assert find_stamp(disk.open(log.path(1), "r"), 2, lsn=1) is None


def test_remains_tell_own_traces_from_other_bytes() -> None:
    """What carries the segment's stamp is told from what does not, also in broken frames."""
    log = LogBuilder()
    segment = log.open()
    first = log.data()
    torn = log.data()
    segment.content += b"\xa5" * 40
    disk = log.on_disk()
    disk.flip(log.path(1), torn.offset)
    file = disk.open(log.path(1), "r")
    remains = find_remains(file, stamp_of(segment.header), first.end)
    assert torn.offset < remains.own_end <= torn.end
    assert torn.end + 40 == remains.nonzero_end
    behind = find_remains(file, stamp_of(segment.header), torn.end + 40)
    assert (torn.end + 40, torn.end + 40, False) == behind


def test_the_last_seal_is_found_from_the_end() -> None:
    """It is the seal only if nothing of the segment lies behind it."""
    log, segment = some_frames()
    file = log.on_disk().open(log.path(1), "r")
    seal = find_last_seal(file, stamp_of(segment.header))
    assert seal is not None
    assert segment.frames[-1].offset == seal.offset
    assert not seal.clean
    log.frame(TYPE_DATA, b"behind the seal", count=1)
    file = log.on_disk().open(log.path(1), "r")
    assert find_last_seal(file, stamp_of(segment.header)) is None
