"""Every byte of a log changed in turn, and every length of its files.

What must come out follows from where the byte lies, and is worked out here from the
log as it was built, independently of the code that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from strandline.errors import CorruptionError, LogCorruptionError, LogGapError
from strandline.recovery.survey import Survey
from strandline.wal.format import SEGMENT_HEADER_BYTES, TYPE_DATA
from tests.support.logs import (
    ALLOCATED,
    BuiltFrame,
    LogBuilder,
    LogDisk,
    look,
    lsns,
    replay,
    sample,
)

Outcome = tuple[str, int, int, int]
"""What happens ("fatal", "torn", "reported", "sound"), segment id, offset, LSN there."""


def outcome(disk: LogDisk, log: LogBuilder) -> Outcome:
    """Survey a disk; check what is replayed against what is reported, and return the latter."""
    try:
        found = look(disk)
    except CorruptionError as error:
        message = str(error)
    else:
        return survived(found, log)
    place = re.match(r".*/(\d+)\.wal: offset (\d+), LSN (\d+)", message)
    assert place is not None, message
    segment_id, offset, lsn = (int(number) for number in place.groups())
    return "fatal", segment_id, offset, lsn


def survived(found: Survey, log: LogBuilder) -> Outcome:
    """Check that a survey accounts for everything that it does not replay."""
    operations = replay(found)
    assert log.operations[: len(operations)] == operations
    if found.torn is not None:
        assert found.torn.lsn == found.last_lsn + 1 == (lsns(operations) or [0])[-1] + 1
        assert not found.damages
        return "torn", found.torn.segment_id, found.torn.offset, found.torn.lsn
    assert log.operations == operations
    if found.damages or found.gaps:
        (damage,) = found.damages + found.gaps
        return "reported", damage.segment_id, damage.offset, damage.lsn
    return "sound", 0, 0, 0


def place_of(log: LogBuilder, segment_id: int, offset: int) -> BuiltFrame | None:
    """Return the frame that a byte of a segment belongs to."""
    for frame in log.segments[segment_id].frames:
        if frame.offset <= offset < frame.end:
            return frame
    return None


def expected_after_flip(log: LogBuilder, segment_id: int, offset: int) -> Outcome:
    """Work out what a changed byte leads to."""
    segment = log.segments.get(segment_id)
    if segment is None:
        return "sound", 0, 0, 0
    end = segment.frames[-1]
    last_segment = segment_id == max(log.segments)
    frame = place_of(log, segment_id, offset)
    result = "sound", 0, 0, 0
    if offset < SEGMENT_HEADER_BYTES:
        result = "fatal", segment_id, 0, segment.header.first_lsn
    elif frame is None:
        if last_segment:
            result = "torn", segment_id, end.end, log.next_lsn
    elif offset >= frame.offset + 72 + len(frame.payload):
        # Padding: only a seal's digest covers it.
        if not last_segment and frame is not end:
            result = "reported", segment_id, end.offset, end.first_lsn
    else:
        what = "torn" if frame is log.data_frames[-1] else "fatal"
        what = what if frame.kind == TYPE_DATA else "reported"
        result = what, segment_id, frame.offset, frame.first_lsn
    return result


def flip_in_turn(segment_id: int, offsets: Iterable[int]) -> None:
    """Change one bit of each of some bytes, and compare what comes out."""
    log = sample()
    disk = log.on_disk()
    path, image = log.path(segment_id), log.image(segment_id)
    for offset in offsets:
        disk.poke(path, offset, bytes([image[offset] ^ (1 << offset % 8)]))
        found = outcome(disk, log)
        assert expected_after_flip(log, segment_id, offset) == found, (segment_id, offset)
        disk.poke(path, offset, image[offset : offset + 1])
    assert ("sound", 0, 0, 0) == outcome(disk, log)


@pytest.mark.parametrize("segment_id", [1, 2, 3, 4])
def test_every_byte_of_the_frames_flipped_in_turn(segment_id: int) -> None:
    """One bit of any byte: detected with its place, or without any effect. Never wrong data."""
    flip_in_turn(segment_id, range(SEGMENT_HEADER_BYTES - 8, SEGMENT_HEADER_BYTES + 640))


@pytest.mark.slow
@pytest.mark.parametrize("segment_id", [1, 2, 3, 4])
def test_every_byte_of_the_log_flipped_in_turn(segment_id: int) -> None:
    """The same for every byte of header and zeros."""
    flip_in_turn(segment_id, range(ALLOCATED))


def expected_after_cut(log: LogBuilder, length: int) -> Outcome:
    """Work out what the last segment cut to `length` leads to."""
    segment = log.segments[3]
    for frame in segment.frames:
        if length <= frame.offset:
            break
        if length < frame.offset + 72 + len(frame.payload):
            return "torn", 3, frame.offset, frame.first_lsn
    return "sound", 0, 0, 0


def test_every_length_of_the_last_file() -> None:
    """The frames that are whole are kept, a cut one is torn, and nothing is ever fatal.

    Not even a lost header: with no frame behind it there is nothing that claims one.
    """
    log = sample()
    disk = log.on_disk()
    image = log.image(3)
    for length in (*range(len(image), SEGMENT_HEADER_BYTES - 80, -1), 512, 64, 1, 0):
        disk.cut(log.path(3), length)
        found = look(disk)
        whole = [
            frame.operations
            for frame in log.data_frames
            if frame not in log.segments[3].frames
            or frame.offset + 72 + len(frame.payload) <= length
        ]
        assert whole == replay(found), length
        torn = found.torn
        place = ("torn", 3, torn.offset, torn.lsn) if torn else ("sound", 0, 0, 0)
        assert expected_after_cut(log, length) == place, length


@pytest.mark.parametrize("segment_id", [1, 2])
def test_every_length_of_a_file_in_the_middle(segment_id: int) -> None:
    """A segment with a successor that lost anything but its zeros is damage or reported."""
    log = sample()
    disk = log.on_disk()
    segment = log.segments[segment_id]
    seal = segment.frames[-1]
    for length in (*range(ALLOCATED, SEGMENT_HEADER_BYTES - 8, -1), 512, 1, 0):
        disk.cut(log.path(segment_id), length)
        last = segment.data[-1]
        if length >= seal.offset + 72 + len(seal.payload):
            assert "sound" == outcome(disk, log)[0], length
        elif length >= last.offset + 72 + len(last.payload):
            assert "reported" == outcome(disk, log)[0], length
        else:
            with pytest.raises((LogCorruptionError, LogGapError)):
                look(disk)


@pytest.mark.parametrize("step", [8, 64, 512])
def test_every_stretch_of_zeros(step: int) -> None:
    """A zeroed stretch anywhere is fatal, torn, reported or sound, never wrong data.

    What nothing can tell from an empty rest is one that takes all frames from some place to
    the end; nor from an empty successor, one that takes the header and hits every frame.
    """
    log = sample()
    disk = log.on_disk()
    last = log.data_frames[-1]
    for segment_id in (1, 2, 3):
        image, path = log.image(segment_id), log.path(segment_id)
        start = SEGMENT_HEADER_BYTES - step
        for offset in range(start, len(log.segments[segment_id].content), 8):
            disk.poke(path, offset, bytes(min(step, len(image) - offset)))
            to_the_end = offset + step >= last.offset + 72 + len(last.payload)
            every_one = offset < SEGMENT_HEADER_BYTES and offset + step > last.offset
            if segment_id == 3 and (to_the_end or every_one):
                operations = replay(look(disk))
                assert log.operations[: len(operations)] == operations
            else:
                outcome(disk, log)
            disk.poke(path, offset, image[offset : offset + step])
