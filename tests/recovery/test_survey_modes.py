"""The watermark, the four modes of recovery, and its progress."""

from __future__ import annotations

import pytest

from strandline.errors import LogCorruptionError, StoreCorruptionError
from strandline.options import RecoveryMode
from strandline.recovery.report import RecoveryProgress
from strandline.recovery.survey import survey
from strandline.recovery.verdict import GIVING_UP
from strandline.wal.damage import DamageKind
from strandline.wal.format import SEGMENT_HEADER_BYTES
from tests.support.logs import (
    LOG,
    UUID,
    LogBuilder,
    LogDisk,
    look,
    lsns,
    mend,
    quarantined,
    refused,
    replay,
    sample,
)


@pytest.mark.parametrize("mode", ["tolerate-torn-tail", "strict", "point-in-time", "salvage"])
def test_a_watermark_beyond_the_log_is_refused(mode: RecoveryMode) -> None:
    """LMDB knows more than the log: parts of different copies, in every mode."""
    log = sample()
    refused(log.on_disk(), StoreCorruptionError, "do not fit", watermark=14, mode=mode)
    nothing = LogBuilder().on_disk()
    if mode in GIVING_UP:
        assert ["missing"] == [gap.kind.value for gap in look(nothing, watermark=1, mode=mode).gaps]
    else:
        refused(nothing, StoreCorruptionError, "do not fit", watermark=1, mode=mode)
    assert 13 == look(log.on_disk(), watermark=13, mode=mode).last_lsn


def test_a_missing_log_directory_is_refused() -> None:
    """A store without its log is not an empty one."""
    disk = LogDisk()
    with pytest.raises(StoreCorruptionError, match="directory of the log"):
        look(disk)


# ---- modes


def test_strict_refuses_what_the_default_passes_over() -> None:
    """A torn tail, a damaged mark, damage below the watermark, changed padding."""
    log = sample()
    last = log.data_frames[-1]
    torn = log.on_disk()
    torn.flip(log.path(3), last.offset)
    refused(torn, LogCorruptionError, "torn tail", mode="strict")
    mark = log.on_disk()
    mark.flip(log.path(2), log.segments[2].frames[1].offset)
    refused(mark, LogCorruptionError, "strict", mode="strict")
    below = log.on_disk()
    below.flip(log.path(1), log.data_frames[0].offset)
    refused(below, LogCorruptionError, "strict", mode="strict", watermark=5)


def test_strict_takes_an_unclean_end_without_damage() -> None:
    """A process that died between two writes leaves nothing to refuse."""
    log = sample()
    assert log.operations == replay(look(log.on_disk(), mode="strict"))


def test_point_in_time_stops_at_the_first_damage() -> None:
    """All before it is kept; all behind it is given up and named."""
    log = sample()
    disk = log.on_disk()
    damaged = log.data_frames[4]
    disk.flip(log.path(2), damaged.offset)
    found = look(disk, mode="point-in-time")
    assert [*range(1, 8)] == lsns(replay(found))
    assert (7, ((8, 13),), 3) == (found.last_lsn, found.given_up, found.next_segment_id)
    assert [damaged.offset] == [damage.offset for damage in found.damages]
    assert [(3, True), (2, False)] == [(a.segment_id, a.whole) for a in found.asides]
    assert not found.clean
    assert not found.checkpoint_first


def test_salvage_goes_on_behind_every_damage() -> None:
    """Everything that verifies is replayed; what is lost is named exactly."""
    log = sample()
    disk = log.on_disk()
    for segment_id, frame in ((1, log.data_frames[1]), (2, log.data_frames[5])):
        disk.flip(log.path(segment_id), frame.offset + 30)
    found = look(disk, mode="salvage")
    assert [1, 5, 6, 7, 8, 10, 11, 12, 13] == lsns(replay(found))
    assert ((2, 4), (9, 9)) == found.given_up
    assert found.checkpoint_first
    assert [1, 2] == [aside.segment_id for aside in found.asides if aside.sweep]


def test_salvage_reads_a_segment_whose_header_is_lost() -> None:
    """The frames carry id, salt and epoch; nothing is given up."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(2), 9)
    refused(disk, LogCorruptionError, "segment-header")
    found = look(disk, mode="salvage")
    assert log.operations == replay(found)
    assert found.given_up == ()
    assert found.checkpoint_first, "no other mode would read it"
    assert [DamageKind.SEGMENT_HEADER] == [damage.kind for damage in found.damages]


def test_salvage_keeps_unsynced_frames_behind_a_torn_one() -> None:
    """It is asked for all that verifies, not for a prefix."""
    log = sample(synced=False)
    disk = log.on_disk()
    disk.flip(log.path(3), log.data_frames[-2].offset)
    found = look(disk, mode="salvage")
    assert [*range(1, 11), 13] == lsns(replay(found))
    assert ((11, 12),) == found.given_up


def test_below_the_watermark_nothing_is_given_up() -> None:
    """LSNs that are in LMDB are not counted as lost."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(1), log.data_frames[1].offset)
    modes: tuple[RecoveryMode, ...] = ("point-in-time", "salvage")
    for mode in modes:
        found = look(disk, watermark=4, mode=mode)
        assert found.given_up == ()
        assert [*range(5, 14)] == lsns(replay(found))


# ---- progress


def test_progress_ends_at_the_total() -> None:
    """The phases are told apart, numbers only rise, and the scan ends at its total."""
    log = sample()
    seen: list[RecoveryProgress] = []
    survey(log.on_disk(), LOG, uuid=UUID, watermark_lsn=0, progress=seen.append)
    assert {"scan"} == {step.phase for step in seen}
    done = [step.bytes_done for step in seen]
    assert sorted(done) == done
    assert seen[-1].bytes_total == seen[-1].bytes_done
    assert (13, 13) == (seen[-1].operations, seen[-1].lsn)


def test_frames_that_read_differently_the_second_time_raise() -> None:
    """What was valid in the scan and is not in the replay is never skipped in silence."""
    log = sample()
    disk = log.on_disk()
    found = look(disk)
    disk.flip(log.path(2), log.data_frames[4].offset)
    with pytest.raises(LogCorruptionError, match="a moment ago"):
        replay(found)


def test_a_log_of_which_only_a_successor_is_left_opens_when_it_is_given_up() -> None:
    """LMDB has all up to the watermark: salvage goes on from there, the default refuses."""
    log = sample()
    disk = log.on_disk()
    for segment_id in (1, 2, 3):
        disk.unlink(log.path(segment_id))
    refused(disk, StoreCorruptionError, "do not fit", watermark=13)
    modes: tuple[RecoveryMode, ...] = ("point-in-time", "salvage")
    for mode in modes:
        found = look(disk, watermark=13, mode=mode)
        assert (13, [], 5) == (found.last_lsn, replay(found), found.anchor_id)
        assert [DamageKind.SEGMENT_HEADER] == [damage.kind for damage in found.damages]
    mend(found)
    assert 13 == look(disk, watermark=13).last_lsn


def test_a_log_of_which_nothing_is_valid_is_put_aside_whole() -> None:
    """The bytes are kept, and the log goes on from the watermark."""
    log = LogBuilder()
    log.open()
    log.data()
    disk = log.on_disk()
    image = disk.content(log.path(1)).replace(b"\x01", b"\x02")
    disk.put(log.path(1), image)
    refused(disk, StoreCorruptionError, "do not fit", watermark=1)
    mend(look(disk, watermark=1, mode="salvage"))
    assert [image] == quarantined(disk)
    assert 1 == look(disk, watermark=1).last_lsn


def test_what_is_left_of_an_orderly_end_reaches_the_watermark() -> None:
    """A later segment that LMDB has in full lost its header: point-in-time puts it aside.

    The last segment is written anew although it was closed in order: its seal has to reach
    the watermark, or the next opening would refuse a log that ends below it.
    """
    log = sample()
    log.seal(clean=True)
    log.spares.clear()
    log.epoch = 2
    log.open()
    log.data(3)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(SEGMENT_HEADER_BYTES))
    found = look(disk, watermark=16, mode="point-in-time")
    assert not found.clean
    mend(found)
    again = look(disk, watermark=16)
    assert (16, []) == (again.last_lsn, replay(again))
