"""How a log ends: in order, between two writes, or within one.

The one question that all of this turns on: is the first frame that fails its check the
end of the log, or is there a sign behind it that it was once on disk?
"""

from __future__ import annotations

import re

import pytest

from strandline.errors import LogCorruptionError
from strandline.recovery.segment_scan import scan_segment
from strandline.wal.damage import DamageKind
from strandline.wal.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from tests.support.logs import (
    UUID,
    LogBuilder,
    at,
    look,
    lsns,
    mend,
    quarantined,
    refused,
    replay,
    sample,
)


def test_a_sound_log_is_read_to_its_end() -> None:
    """Every operation comes back, in order, and nothing is reported."""
    log = sample()
    found = look(log.on_disk())
    assert log.operations == replay(found)
    assert (1, 13) == (found.first_lsn, found.last_lsn)
    assert (4, None) == (found.next_segment_id, found.anchor_id)
    assert (found.torn, found.damages, found.gaps, found.given_up) == (None, (), (), ())
    assert found.asides == ()
    assert (10, 13) == (found.frames_scanned, found.operations_scanned)
    assert not found.clean, "there is no seal"


def test_only_what_lies_above_the_watermark_is_replayed() -> None:
    """A frame that straddles the watermark comes whole; segments below are not opened."""
    log = sample()
    disk = log.on_disk()
    found = look(disk, watermark=11)
    disk.operations.clear()
    assert [11, 12, 13] == lsns(replay(found))
    opened = {op.path for op in disk.operations if op.op == "open"}
    assert {log.path(3)} == opened


def test_the_seal_of_an_orderly_close_is_a_clean_end() -> None:
    """Only the seal with the flag says so."""
    log = sample()
    log.seal(clean=True)
    found = look(log.on_disk())
    assert found.clean
    assert (1, 13) == (found.epoch, found.last_lsn)


def test_a_seal_without_the_flag_is_no_clean_end() -> None:
    """A crash between sealing a segment and beginning the next is an unclean end."""
    log = sample()
    log.seal()
    found = look(log.on_disk())
    assert not found.clean
    assert found.torn is None
    assert log.operations == replay(found)


def test_an_empty_log_is_a_log() -> None:
    """No segment yet, or only prepared ones: nothing to replay, and a first id to use."""
    disk = LogBuilder().on_disk()
    assert (0, 1) == (look(disk).last_lsn, look(disk).next_segment_id)
    log = LogBuilder()
    log.spare()
    log.spare(b"")
    found = look(log.on_disk())
    assert (0, 1, []) == (found.last_lsn, found.next_segment_id, replay(found))


def test_a_segment_that_begins_after_a_jump_is_no_gap() -> None:
    """After an unclean end LSNs are skipped; the header says so, and nothing is missing."""
    log = LogBuilder()
    log.open()
    log.data(3)
    log.seal()
    log.epoch = 2
    log.open(jump=1000)
    log.data(2)
    found = look(log.on_disk())
    assert [1, 2, 3, 1004, 1005] == lsns(replay(found))
    assert (found.damages, found.gaps) == ((), ())
    assert 2 == found.max_epoch == found.epoch


def test_an_empty_segment_after_a_jump_keeps_the_next_lsn_ahead() -> None:
    """LSNs that were skipped once are not issued by the opening after next either."""
    log = LogBuilder()
    log.open()
    log.data(3)
    log.seal()
    log.epoch = 2
    log.open(jump=1000)
    log.seal()
    log.spare()
    assert 1003 == look(log.on_disk()).last_lsn


# ---- torn tails


@pytest.mark.parametrize("cut", [1, 8, 71, 72, 73, 90])
def test_a_torn_last_frame_is_dropped_and_reported(cut: int) -> None:
    """Whatever is left of the frame that was being written, the log ends before it."""
    log = sample()
    disk = log.on_disk()
    last = log.data_frames[-1]
    content = disk.content(log.path(3))
    disk.put(log.path(3), content[: last.offset + cut].ljust(len(content), b"\0"))
    found = look(disk)
    assert log.operations[:-1] == replay(found)
    assert found.torn is not None
    assert (last.offset, 13, 3) == (found.torn.offset, found.torn.lsn, found.torn.segment_id)
    assert 0 < found.torn.dropped_bytes <= last.end - last.offset
    assert not found.clean


def test_a_file_that_ends_within_its_last_frame_is_torn() -> None:
    """The same without the preallocated zeros."""
    log = sample()
    disk = log.on_disk()
    last = log.data_frames[-1]
    disk.cut(log.path(3), last.offset + 80)
    found = look(disk)
    assert found.torn is not None
    assert (last.offset, 80) == (found.torn.offset, found.torn.dropped_bytes)


def test_a_file_that_ends_behind_a_frame_is_not_torn() -> None:
    """A short file is not the end by itself, and no damage either."""
    log = sample()
    disk = log.on_disk()
    disk.cut(log.path(3), log.data_frames[-1].end)
    found = look(disk)
    assert found.torn is None
    assert log.operations == replay(found)


def test_zeroed_tail_is_an_unclean_end_and_a_zeroed_middle_is_not() -> None:
    """Zeros end nothing by themselves: a frame behind them that claims a sync is a sign."""
    log = sample()
    disk = log.on_disk()
    second, third = log.data_frames[-2:]
    disk.poke(log.path(3), third.offset, bytes(third.end - third.offset))
    assert [*range(1, 13)] == lsns(replay(look(disk)))
    disk = log.on_disk()
    disk.poke(log.path(3), second.offset, bytes(second.end - second.offset))
    refused(disk, LogCorruptionError, at(log, 3, second, DamageKind.ZERO))


@pytest.mark.parametrize("garbage", [b"\xa5" * 8, b"\xff" * 300, bytes(range(256)) * 4])
def test_garbage_behind_the_last_frame_is_a_torn_tail(garbage: bytes) -> None:
    """A power cut can leave anything where nothing was synced."""
    log = sample()
    end = len(log.active.content)
    log.active.content += garbage
    found = look(log.on_disk())
    assert log.operations == replay(found)
    assert found.torn is not None
    assert (end, len(garbage)) == (found.torn.offset, found.torn.dropped_bytes)


def test_zeros_with_something_behind_them_are_torn_too() -> None:
    """A frame can lose its first sector and keep its second."""
    log = sample()
    end = len(log.active.content)
    log.active.content += bytes(512) + b"\xa5" * 100
    found = look(log.on_disk())
    assert found.torn is not None
    assert (end, 612) == (found.torn.offset, found.torn.dropped_bytes)


def test_frames_behind_a_torn_one_go_with_it() -> None:
    """Unsynced frames can land out of order: what follows a lost one is no prefix."""
    log = sample(synced=False)
    disk = log.on_disk()
    first, _, third = log.data_frames[-3:]
    disk.flip(log.path(3), first.offset)
    found = look(disk)
    assert [*range(1, 10)] == lsns(replay(found))
    assert found.torn is not None
    assert (first.offset, third.end) == (
        found.torn.offset,
        found.torn.offset + found.torn.dropped_bytes,
    )


def test_a_seal_that_landed_before_its_frames_claims_nothing() -> None:
    """Frames and seal share one sync: the seal alone says nothing about the frames."""
    log = sample(synced=False)
    log.seal()
    disk = log.on_disk()
    first, second, _ = log.data_frames[-3:]
    disk.poke(log.path(3), second.offset, bytes(second.end - second.offset))
    found = look(disk)
    assert found.torn is not None
    assert [*range(1, 11)] == lsns(replay(found))
    assert first.end == found.torn.offset


def test_stale_frames_of_a_recycled_file_are_no_part_of_the_log() -> None:
    """Old frames with the same content, behind the end or behind a torn frame, stay old."""
    old = LogBuilder(first_id=1)
    old.open()
    for _ in range(12):
        old.data(1, b"the same old content")
    background = bytes(old.active.content)
    log = LogBuilder(first_id=5, next_lsn=1)
    log.open(previous_id=0, background=background)
    frames = [log.data(1, b"the same old content") for _ in range(3)]
    found = look(log.on_disk())
    assert [1, 2, 3] == lsns(replay(found))
    assert found.torn is None, "an old frame at the very end is no torn one"
    assert () == found.asides == look(log.on_disk(), mode="salvage").asides
    disk = log.on_disk()
    disk.flip(log.path(5), frames[2].offset + FRAME_HEADER_BYTES)
    found = look(disk)
    assert [1, 2] == lsns(replay(found))
    assert found.torn is not None
    assert frames[2].offset == found.torn.offset


def test_a_torn_frame_behind_a_stale_one_is_torn() -> None:
    """Of two unsynced frames the second can land alone, behind what the file held before."""
    log = sample()
    end = len(log.active.content)
    log.data(1, salt=1)
    torn = log.data(1)
    disk = log.on_disk()
    disk.flip(log.path(3), torn.offset + FRAME_HEADER_BYTES)
    found = look(disk)
    assert 13 == found.last_lsn
    assert found.torn is not None
    assert end == found.torn.offset
    assert torn.offset < end + found.torn.dropped_bytes <= torn.end


def test_frames_of_an_older_epoch_in_the_same_segment_are_stale() -> None:
    """The epoch is part of a frame's identity: neither read nor a sign of anything."""
    log = sample()
    end = len(log.active.content)
    log.data(1, epoch=0)
    log.data(1, epoch=0, synced_lsn=14)
    found = look(log.on_disk())
    assert 13 == found.last_lsn == lsns(replay(found))[-1]
    assert found.torn is None
    assert end == found.segments[-1].runs[-1].end


def test_the_report_of_a_recycled_tail_stops_where_the_new_use_stops() -> None:
    """What an earlier use left is not all counted as dropped, nor copied."""
    log = LogBuilder(first_id=5)
    log.open(previous_id=0, background=b"\xa5" * (3 << 20))
    log.data()
    found = look(log.on_disk())
    assert found.torn is not None
    assert 1 << 20 == found.torn.dropped_bytes


def test_all_own_frames_behind_a_torn_one_are_put_aside() -> None:
    """However far they reach: they are what is dropped, and nothing else has them."""
    log = LogBuilder()
    log.open(background=b"\xa5" * (3 << 20))
    log.data()
    gone = log.data(synced=False)
    last = log.data(1, bytes(3 << 19), synced=False)
    disk = log.on_disk()
    disk.flip(log.path(1), gone.offset)
    dropped = disk.content(log.path(1))[gone.offset : last.end]
    found = look(disk)
    assert found.torn is not None
    assert len(dropped) == found.torn.dropped_bytes
    mend(found)
    assert [dropped] == quarantined(disk)


def test_a_header_that_never_reached_the_disk_is_a_torn_tail() -> None:
    """The first frames of a segment share the header's sync; nothing else claims them."""
    log = sample()
    log.seal()
    log.spares.clear()
    log.open()
    log.data(2)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(SEGMENT_HEADER_BYTES))
    found = look(disk)
    assert [*range(1, 14)] == lsns(replay(found))
    assert found.torn is not None
    assert (log.path(4), 14) == (found.torn.path, found.torn.lsn)
    assert 4 == found.next_segment_id


@pytest.mark.parametrize("clean", [False, True])
def test_a_lost_header_after_a_jump_is_a_torn_tail_too(clean: bool) -> None:
    """A new opening calls the LSNs that it skipped synced; that claims no frame.

    It can also have jumped behind an orderly close, if an opening in between was cut short.
    """
    log = sample()
    log.seal(clean=clean)
    log.spares.clear()
    log.epoch = 3
    log.open(jump=1000)
    log.data(2)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(SEGMENT_HEADER_BYTES))
    found = look(disk)
    assert found.torn is not None
    assert 13 == found.last_lsn
    assert 3 == found.max_epoch
    assert not found.clean


def test_a_lost_header_with_synced_frames_behind_it_is_damage() -> None:
    """Once a frame says that an earlier one of the segment was synced, so was the header."""
    log = sample()
    log.seal()
    log.spares.clear()
    log.open()
    log.data(2)
    log.data(1)
    disk = log.on_disk()
    disk.flip(log.path(4), 100)
    refused(disk, LogCorruptionError, f"{re.escape(log.path(4))}: offset 0, LSN 14: segment-header")


def test_a_header_that_is_lost_together_with_the_first_frame_is_damage() -> None:
    """The frame behind them says that the one that is gone was on disk."""
    log = sample()
    log.seal()
    log.spares.clear()
    log.open()
    first = log.data(2)
    log.data(1)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(first.end))
    refused(disk, LogCorruptionError, f"{re.escape(log.path(4))}: offset 0, LSN 14: segment-header")


@pytest.mark.parametrize("inside", [8, 80, -8])
def test_a_scan_that_ends_inside_a_frame_ends_before_it(inside: int) -> None:
    """Whatever lies behind the end that was given, valid or not, is not read."""
    log = sample()
    disk = log.on_disk()
    frame = log.segments[1].frames[1]
    end = (frame.offset if inside > 0 else frame.end) + inside
    scan = scan_segment(disk, log.path(1), 1, uuid=UUID, next_lsn=1, end=end)
    assert (scan.frames, scan.end) == (1, frame.offset)
    assert scan.seal is None
