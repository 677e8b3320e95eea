"""Every byte of a log changed in turn, and every length of its files.

What must come out follows from where the byte lies, and is worked out here from the
log as it was built, independently of the code that reads it.
"""

from __future__ import annotations

import re

import pytest

from strandline.errors import CorruptionError, LogCorruptionError, LogGapError
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
        place = re.match(r".*/(\d+)\.wal: offset (\d+), LSN (\d+)", str(error))
        assert place is not None, error
        return "fatal", *(int(number) for number in place.groups())  # type: ignore[return-value]
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
    if segment_id not in log.segments:
        return "sound", 0, 0, 0
    segment = log.segments[segment_id]
    end = segment.frames[-1]
    last_segment = segment_id == max(log.segments)
    if offset < SEGMENT_HEADER_BYTES:
        return "fatal", segment_id, 0, segment.header.first_lsn
    frame = place_of(log, segment_id, offset)
    if frame is None:
        if last_segment:
            return "torn", segment_id, end.end, log.next_lsn
        return "sound", 0, 0, 0
    here = segment_id, frame.offset, frame.first_lsn
    if offset >= frame.offset + 72 + len(frame.payload):
        # Padding: only a seal's digest covers it.
        if last_segment or frame is end:
            return "sound", 0, 0, 0
        return "reported", segment_id, end.offset, end.first_lsn
    if frame.kind != TYPE_DATA:
        return "reported", *here
    if frame is log.data_frames[-1]:
        return "torn", *here
    return "fatal", *here


@pytest.mark.parametrize("segment_id", [1, 2, 3, 4])
def test_every_byte_flipped_in_turn(segment_id: int) -> None:
    """One bit of any byte: detected with its place, or without any effect. Never wrong data."""
    log = sample()
    disk = log.on_disk()
    path = log.path(segment_id)
    for offset, byte in enumerate(log.image(segment_id)):
        disk.poke(path, offset, bytes([byte ^ (1 << offset % 8)]))
        found = outcome(disk, log)
        assert expected_after_flip(log, segment_id, offset) == found, (segment_id, offset)
        disk.poke(path, offset, bytes([byte]))
        if offset % 256 == 0:
            disk = disk.crash("all")  # type: ignore[assignment]
            disk.__class__ = LogDisk
    assert ("sound", 0, 0, 0) == outcome(disk, log)


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
    for length in range(len(image), -1, -1):
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
    for length in range(ALLOCATED, -1, -1):
        disk.cut(log.path(segment_id), length)
        last = segment.data[-1]
        if length >= seal.offset + 72 + len(seal.payload):
            assert "sound" == outcome(disk, log)[0], length
        elif length >= last.offset + 72 + len(last.payload):
            assert "reported" == outcome(disk, log)[0], length
        else:
            with pytest.raises((LogCorruptionError, LogGapError)):
                look(disk)


@pytest.mark.parametrize("step", [8, 512])
def test_every_stretch_of_zeros(step: int) -> None:
    """A zeroed stretch anywhere is fatal, torn, reported or sound, never wrong data."""
    log = sample()
    disk = log.on_disk()
    for segment_id in (1, 2, 3):
        image = log.image(segment_id)
        for offset in range(0, len(image), step):
            disk.poke(log.path(segment_id), offset, bytes(min(step, len(image) - offset)))
            outcome(disk, log)
            disk.poke(log.path(segment_id), offset, image[offset : offset + step])
