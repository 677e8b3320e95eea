"""Damage in the middle of a log: what claims it, and what hides nothing."""

from __future__ import annotations

import pytest

from strandline.errors import ForeignStoreError, LogCorruptionError
from strandline.options import RecoveryMode
from strandline.wal.damage import DamageKind
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TYPE_DATA,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
)
from tests.support.logs import (
    LogBuilder,
    at,
    look,
    lsns,
    refused,
    replay,
    sample,
)


@pytest.mark.parametrize("index", range(7))
def test_damage_with_a_later_claim_is_never_the_end_of_the_log(index: int) -> None:
    """Any frame but the last is claimed by a later one, in its own or a later segment."""
    log = sample()
    frame = log.data_frames[index]
    segment_id = next(i for i, s in log.segments.items() if frame in s.frames)
    disk = log.on_disk()
    disk.flip(log.path(segment_id), frame.offset + 3)
    refused(disk, LogCorruptionError, at(log, segment_id, frame, DamageKind.HEADER_CRC))
    disk = log.on_disk()
    disk.flip(log.path(segment_id), frame.offset + FRAME_HEADER_BYTES)
    refused(disk, LogCorruptionError, at(log, segment_id, frame, DamageKind.PAYLOAD_CRC))


def test_the_claim_decides_and_nothing_else() -> None:
    """The same damage is torn or fatal, depending on one later frame's synced LSN alone."""
    for claim, fatal in ((12, True), (11, True), (10, False), (9, False)):
        log = sample(synced=False)
        log.data(1, synced_lsn=claim)
        disk = log.on_disk()
        damaged = log.data_frames[-3]
        assert (11, 2) == (damaged.first_lsn, damaged.count)
        disk.flip(log.path(3), damaged.offset)
        if fatal:
            refused(disk, LogCorruptionError, at(log, 3, damaged, DamageKind.HEADER_CRC))
        else:
            assert [*range(1, 11)] == lsns(replay(look(disk)))


def test_a_frame_cannot_claim_itself() -> None:
    """A synced LSN at or above the frame's own first one is not believed."""
    log = sample(synced=False)
    log.data(1, synced_lsn=14)
    disk = log.on_disk()
    disk.flip(log.path(3), log.data_frames[-3].offset)
    assert look(disk).torn is not None


def test_a_mark_is_a_claim() -> None:
    """The mark of an idle log is what tells its last frame's damage from a torn tail."""
    log = sample()
    last = log.data_frames[-1]
    log.mark()
    disk = log.on_disk()
    disk.flip(log.path(3), last.offset)
    refused(disk, LogCorruptionError, at(log, 3, last, DamageKind.HEADER_CRC))


def test_the_clean_seal_is_a_claim() -> None:
    """The log was synced before it was closed."""
    log = sample()
    last = log.data_frames[-1]
    log.seal(clean=True)
    disk = log.on_disk()
    disk.flip(log.path(3), last.offset)
    refused(disk, LogCorruptionError, at(log, 3, last, DamageKind.HEADER_CRC))


def test_the_next_segments_header_is_a_claim() -> None:
    """It is written after its predecessor and the seal are synced."""
    log = sample(synced=False)
    log.seal()
    log.spares.clear()
    log.open()
    disk = log.on_disk()
    for frame in log.data_frames[-2:]:
        disk.flip(log.path(3), frame.offset)
    refused(disk, LogCorruptionError, at(log, 3, log.data_frames[-2], DamageKind.HEADER_CRC))


def test_the_watermark_is_a_claim() -> None:
    """The log is synced before LMDB commits: what is at or below the watermark was there."""
    log = sample(synced=False)
    disk = log.on_disk()
    damaged = log.data_frames[-2]
    disk.flip(log.path(3), damaged.offset)
    assert look(disk, watermark=10).torn is not None
    refused(disk, LogCorruptionError, at(log, 3, damaged, DamageKind.HEADER_CRC), watermark=11)


def test_damage_at_or_below_the_watermark_is_reported_and_read_past() -> None:
    """What is lost is in LMDB; what follows is replayed."""
    log = sample()
    disk = log.on_disk()
    damaged = log.data_frames[-2]
    disk.flip(log.path(3), damaged.offset)
    found = look(disk, watermark=12)
    assert [13] == lsns(replay(found))
    assert [(DamageKind.HEADER_CRC, damaged.offset)] == [(d.kind, d.offset) for d in found.damages]
    assert (found.torn, found.last_lsn) == (None, 13)


def test_a_damaged_last_frame_is_passed_over_only_if_it_tells_that_it_was_stored() -> None:
    """With its header intact its LSNs are known; otherwise it can have held more."""
    log = sample()
    last = log.data_frames[-1]
    disk = log.on_disk()
    disk.flip(log.path(3), last.offset + FRAME_HEADER_BYTES)
    found = look(disk, watermark=13)
    assert [DamageKind.PAYLOAD_CRC] == [damage.kind for damage in found.damages]
    assert 13 == found.last_lsn
    disk = log.on_disk()
    disk.flip(log.path(3), last.offset)
    refused(disk, LogCorruptionError, at(log, 3, last, DamageKind.HEADER_CRC), watermark=13)


def test_a_damaged_mark_hides_nothing() -> None:
    """The next frame has the very LSN that was expected: reported, nothing is dropped."""
    log = sample()
    mark = log.segments[2].frames[1]
    disk = log.on_disk()
    disk.flip(log.path(2), mark.offset)
    found = look(disk)
    assert log.operations == replay(found)
    assert [mark.offset] == [damage.offset for damage in found.damages]


def test_a_damaged_mark_before_the_last_frame_drops_nothing() -> None:
    """Also where nothing claims the frame behind it: it may be an acknowledged one."""
    log = sample()
    mark = log.mark()
    log.data()
    disk = log.on_disk()
    disk.flip(log.path(3), mark.offset)
    found = look(disk)
    assert log.operations == replay(found)
    assert found.torn is None


def test_a_frame_behind_garbage_that_is_no_mark_goes_with_it() -> None:
    """It could be what is left of a write that was undone and answered with an error."""
    log = sample()
    log.active.content += b"\xa5" * 88
    log.data()
    found = look(log.on_disk())
    assert 13 == found.last_lsn
    assert found.torn is not None


def test_a_claimed_frame_behind_a_lost_remark_is_kept() -> None:
    """Frames without operations that a later release wrote can rot: no LSN is missing."""
    log = sample()
    log.active.content += b"\xa5" * 88
    log.data()
    log.data()
    found = look(log.on_disk())
    assert log.operations == replay(found)
    assert (found.torn, len(found.damages)) == (None, 1)


def test_a_damaged_seal_before_a_sound_segment_is_reported() -> None:
    """The next header says that nothing came behind the last frame."""
    log = sample()
    seal = log.segments[1].frames[-1]
    disk = log.on_disk()
    disk.flip(log.path(1), seal.offset)
    found = look(disk)
    assert log.operations == replay(found)
    assert [seal.offset] == [damage.offset for damage in found.damages]


def test_a_torn_tail_in_a_segment_that_is_not_the_last_stays_harmless() -> None:
    """A crash just after a recovery that did not mend the old segment must not be fatal."""
    log = sample()
    log.active.content += b"\xa5" * 200
    log.spares.clear()
    log.epoch = 2
    log.open(jump=1000, previous_bytes=log.segments[3].frames[-1].end)
    log.data()
    found = look(log.on_disk())
    assert [*range(1, 14), 1014] == lsns(replay(found))
    assert [DamageKind.HEADER_CRC] == [damage.kind for damage in found.damages]


def test_two_swapped_frames_are_damage_where_they_were_synced() -> None:
    """A frame with a later LSN than the next one: the place of the first is named."""
    log = sample()
    log.mark()
    first, second = log.segments[2].data[1:3]
    disk = log.on_disk()
    content = disk.content(log.path(2))
    one, two = content[first.offset : first.end], content[second.offset : second.end]
    disk.poke(log.path(2), first.offset, two + one)
    refused(disk, LogCorruptionError, at(log, 2, first, DamageKind.LSN_ORDER))


def test_a_duplicate_frame_is_passed_over() -> None:
    """The same frame twice: nothing is missing, nothing is replayed twice."""
    log = sample()
    copy = bytes(log.active.content[log.active.frames[-1].offset :])
    log.active.content += copy
    last = log.data()
    found = look(log.on_disk())
    assert log.operations == replay(found)
    assert [DamageKind.LSN_ORDER] == [damage.kind for damage in found.damages]
    assert (found.torn, found.last_lsn) == (None, last.first_lsn)


def test_a_frame_embedded_in_a_value_ends_and_begins_nothing() -> None:
    """A value that holds a copy of the log is neither read as log nor a claim."""
    log = LogBuilder()
    log.open()
    log.data(2)
    log.mark()
    log.data(1)
    copy = bytes(log.active.content[SEGMENT_HEADER_BYTES:])
    carrier = log.data(1, copy)
    last = log.data(1)
    disk = log.on_disk()
    assert log.operations == replay(look(disk))
    disk.flip(log.path(1), carrier.offset)
    disk.flip(log.path(1), last.offset)
    found = look(disk)
    assert [1, 2, 3] == lsns(replay(found))
    assert found.torn is not None
    assert carrier.offset == found.torn.offset


def test_frames_with_contradictory_fields_are_never_torn() -> None:
    """A frame whose checksums hold was written whole: dropping it is not recovery's choice."""
    log = sample()
    frame = log.frame(TYPE_DATA, b"none", count=0)
    refused(log.on_disk(), LogCorruptionError, at(log, 3, frame, DamageKind.MALFORMED))


@pytest.mark.parametrize("kind", [TYPE_SEAL, TYPE_SYNC_MARK])
def test_a_contradictory_frame_is_not_found_again_behind_itself(kind: int) -> None:
    """It has the very LSN that was expected: looking on for later frames must come past it."""
    log = sample()
    frame = log.frame(kind, b"a mark with an operation", count=1)
    log.data()
    disk = log.on_disk()
    refused(disk, LogCorruptionError, at(log, 3, frame, DamageKind.MALFORMED))
    found = look(disk, mode="salvage")
    assert log.operations == replay(found)
    assert ((14, 14),) == found.given_up


@pytest.mark.parametrize("mode", ["tolerate-torn-tail", "strict", "point-in-time", "salvage"])
def test_a_frame_of_a_newer_format_is_refused_in_every_mode(mode: RecoveryMode) -> None:
    """No mode can apply what it does not know, nor leave it out."""
    log = sample()
    log.frame(0x05, b"from the future", count=1)
    with pytest.raises(ForeignStoreError, match="newer release"):
        look(log.on_disk(), mode=mode)


def test_an_unknown_skippable_frame_is_passed_over() -> None:
    """A later release can leave remarks in the log."""
    log = sample()
    log.frame(0x91, b"a remark", count=0)
    log.data()
    found = look(log.on_disk())
    assert log.operations == replay(found)
    assert found.damages == ()


def test_a_changed_byte_of_padding_is_found_by_the_seal() -> None:
    """Every frame holds, so it is reported and nothing is lost."""
    log = LogBuilder()
    log.open()
    first = log.data(1, b"12345")
    log.seal(clean=True)
    log.spare()
    disk = log.on_disk()
    disk.flip(log.path(1), first.end - 1)
    found = look(disk)
    assert [1] == lsns(replay(found))
    assert [DamageKind.SEAL] == [damage.kind for damage in found.damages]


def test_the_only_segment_of_a_used_log_does_not_lose_its_header_to_a_power_cut() -> None:
    """LMDB has something of the log, so its segment was synced: damage, not a torn tail."""
    log = LogBuilder(first_id=7, next_lsn=100)
    log.open()
    log.data()
    disk = log.on_disk()
    disk.flip(log.path(7), 20)
    refused(disk, LogCorruptionError, "segment-header", watermark=99)
    found = look(disk, watermark=99, mode="point-in-time")
    assert (99, ((100, 100),)) == (found.last_lsn, found.given_up)
    assert [100] == lsns(replay(look(disk, watermark=99, mode="salvage")))


@pytest.mark.parametrize("jump", [0, 1000])
@pytest.mark.parametrize("lost", [1, 3])
def test_a_lost_header_with_its_first_frames_is_damage(jump: int, lost: int) -> None:
    """What is left says that the lost frames were on disk, after a jump of LSNs too.

    A jump of which nothing is left could have ended right before the first frame that is left;
    that was taken for the truth, and acknowledged writes were dropped as a torn tail.
    """
    log = sample()
    log.seal()
    log.spares.clear()
    log.epoch += 1 if jump else 0
    log.open(jump=jump)
    for _ in range(lost):
        log.data(2)
    log.data(1)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(log.active.frames[lost - 1].end))
    refused(disk, LogCorruptionError, "segment-header")
