"""Ending a log after an unclean end: what is written, and what is put aside."""

from __future__ import annotations

import pytest

from strandline.errors import DiskFullError, InvalidRequestError, LogCorruptionError
from strandline.options import RecoveryMode
from strandline.recovery.tail import settle, sweep_damaged
from strandline.tools.crash.simulation.faults import fail
from strandline.wal.damage import DamageKind
from strandline.wal.format import SEGMENT_HEADER_BYTES
from strandline.wal.runtime import SystemRuntime
from tests.support.logs import (
    LOG,
    QUARANTINE,
    LogBuilder,
    content,
    look,
    lsns,
    mend,
    quarantined,
    replay,
    sample,
    torn,
)

# ---- what is written


def test_an_unsealed_segment_is_written_anew_with_a_seal() -> None:
    """Same header, same frames, and a seal that is not an orderly close's."""
    log = sample()
    disk = log.on_disk()
    settlement = mend(look(disk))
    found = look(disk)
    assert log.operations == replay(found)
    last = found.segments[-1].scan
    assert log.segments[3].header == last.header
    assert last.seal is not None
    assert (3, 13, False) == (last.seal.seal.frames, last.seal.seal.last_lsn, last.seal.clean)
    assert len(content(disk, log.path(3))) == last.seal.end, "no stale bytes come along"
    assert not found.clean
    assert [1, 2, 3] == [segment.id for segment in settlement.sealed]
    end = settlement.sealed[-1]
    assert (last.seal.end, 10, 13, log.path(3)) == (
        end.length,
        end.first_lsn,
        end.last_lsn,
        end.path,
    )
    assert 3 == settlement.last_id


def test_settled_is_durable() -> None:
    """Nothing that was written is lost when the power goes right after."""
    log, half = torn()
    disk = log.on_disk()
    mend(look(disk))
    after = disk.crash("none")
    assert log.operations == replay(look(after))
    assert [half.rstrip(b"\0")] == quarantined(after)


def test_frames_that_only_the_page_cache_has_become_durable() -> None:
    """After a failed sync the kernel calls pages clean that never reached the disk."""
    log = sample()
    disk = log.on_disk()
    image = content(disk, log.path(3))
    disk.poke(log.path(3), SEGMENT_HEADER_BYTES, bytes(len(image) - SEGMENT_HEADER_BYTES))
    disk.open(log.path(3), "rw").fdatasync()
    disk.poke(log.path(3), SEGMENT_HEADER_BYTES, image[SEGMENT_HEADER_BYTES:])
    disk.faults = fail("fdatasync", OSError(5, "I/O error"))
    with pytest.raises(OSError, match="I/O error"):
        disk.open(log.path(3), "rw").fdatasync()
    disk.open(log.path(3), "rw").fdatasync()
    assert [*range(1, 10)] == lsns(replay(look(disk.crash("none")))), "synced, and yet lost"
    mend(look(disk))
    assert log.operations == replay(look(disk.crash("none")))


def test_a_sealed_segment_is_written_anew_unless_it_was_closed_in_order() -> None:
    """A seal that was written does not say that it was synced."""
    log = sample()
    log.seal()
    disk = log.on_disk()
    disk.operations.clear()
    mend(look(disk))
    assert any(op.op == "rename" and op.path == log.path(3) for op in disk.operations)
    log = sample()
    log.seal(clean=True)
    disk = log.on_disk()
    before = disk.content(log.path(3))
    disk.operations.clear()
    settlement = mend(look(disk))
    changes = [op for op in disk.operations if op.op in ("pwrite", "rename", "unlink")]
    assert [op.op for op in changes] == ["pwrite"], "the seal, as it was"
    assert disk.content(log.path(3)) == before
    assert settlement.sealed[-1].length == log.active.frames[-1].end


def test_the_seal_of_an_orderly_close_goes_when_something_came_after_it() -> None:
    """LSNs were issued behind it, so the next opening must not take it for clean."""
    log = sample()
    log.seal(clean=True)
    log.spares.clear()
    log.epoch = 2
    log.open()
    log.data(3)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(SEGMENT_HEADER_BYTES))
    found = look(disk)
    assert not found.clean
    mend(found)
    disk.unlink(log.path(4))
    disk.put(log.path(4), b"")
    assert not look(disk).clean


def test_the_successors_name_is_durable_before_the_seal() -> None:
    """A sealed segment without a successor would be a gap."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(4))
    disk.sync_directory(LOG)
    disk.operations.clear()
    mend(look(disk))
    assert "file" == disk.crash("none").kind(log.path(4))
    steps = [(op.op, op.path) for op in disk.operations]
    made, put = steps.index(("create", log.path(4))), steps.index(("rename", log.path(3)))
    assert ("sync_directory", LOG) in steps[made:put]


def test_a_file_that_ends_within_its_last_padding_is_written_whole() -> None:
    """The frame is valid without it, and the seal must start aligned."""
    log = sample()
    disk = log.on_disk()
    last = log.data_frames[-1]
    assert last.offset + 72 + len(last.payload) < last.end
    disk.cut(log.path(3), last.end - 2)
    mend(look(disk))
    assert log.operations == replay(look(disk))


def test_frames_read_the_same_before_and_after_settling() -> None:
    """Settling moves frames within the last segment; the survey follows."""
    log = sample()
    log.mark()
    log.data(2)
    disk = log.on_disk()
    disk.flip(log.path(3), log.active.frames[-2].offset)
    found = look(disk)
    before = replay(found)
    mend(found)
    assert before == log.operations == replay(found) == replay(look(disk))
    assert look(disk).damages == ()


def test_a_hole_below_the_watermark_stays_a_hole() -> None:
    """The frames on both sides are kept, and the next opening reports the same LSNs."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(3), log.data_frames[-2].offset)
    found = look(disk, watermark=12)
    mend(found)
    again = look(disk, watermark=12)
    assert [13] == lsns(replay(found)) == lsns(replay(again))
    assert [DamageKind.LSN_ORDER] == [damage.kind for damage in again.damages]
    assert 13 == again.last_lsn


def test_the_log_reaches_the_watermark_although_its_last_frame_is_lost() -> None:
    """What LMDB has and the log has not is no reason to refuse the next opening."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(3), log.data_frames[-1].offset + 80)
    found = look(disk, watermark=13)
    settlement = mend(found)
    assert 13 == settlement.sealed[-1].last_lsn
    again = look(disk, watermark=13)
    assert (13, []) == (again.last_lsn, replay(again))
    assert 1 == len(quarantined(disk))


def test_an_unreadable_last_segment_below_the_watermark_gets_an_anchor() -> None:
    """The log goes on behind a segment that says that everything is in LMDB."""
    log = LogBuilder()
    log.open()
    log.data(2)
    log.data(2)
    disk = log.on_disk()
    disk.flip(log.path(1), 50)
    found = look(disk, watermark=4)
    assert 2 == found.anchor_id
    mend(found)
    again = look(disk, watermark=4)
    assert (4, 3, []) == (again.last_lsn, again.next_segment_id, replay(again))
    assert [content(disk, f"{QUARANTINE}/{disk.listdir(QUARANTINE)[0]}")] == quarantined(disk)


def test_what_does_not_read_back_replaces_nothing() -> None:
    """A disk that loses a write without a word is noticed while the old file stands."""
    log = sample()
    disk = log.on_disk()
    found = look(disk)
    before = content(disk, log.path(3))
    real = disk.open

    def forgetful(path: str, mode: str) -> object:
        file = real(path, mode)  # type: ignore[arg-type]
        if mode == "create" and path.endswith(".recovered"):
            write = file.pwrite
            file.pwrite = lambda data, at, /: write(  # type: ignore[method-assign]
                bytes(len(data)) if at == SEGMENT_HEADER_BYTES else data, at
            )
        return file

    disk.open = forgetful  # type: ignore[method-assign,assignment]
    with pytest.raises(LogCorruptionError, match="old segment is unchanged"):
        mend(found)
    disk.open = real  # type: ignore[method-assign]
    assert before == content(disk, log.path(3))
    assert log.operations == replay(look(disk))


def test_a_leftover_of_an_interrupted_recovery_is_removed() -> None:
    """It was never read, and never will be."""
    log = sample()
    disk = log.on_disk()
    disk.put(log.path(3) + ".recovered", log.image(1))
    disk.put(log.path(2) + ".recovered", b"half")
    mend(look(disk))
    assert not [name for name in disk.listdir(LOG) if name.endswith(".recovered")]
    assert log.operations == replay(look(disk))


def test_no_room_for_the_new_segment_is_said() -> None:
    """DiskFullError names what to do, and the log is as it was."""
    log = sample()
    disk = log.on_disk()
    disk.capacity_bytes = 1 << 30
    disk.faults = fail("pwrite", OSError(28, "No space left on device"), path=".recovered")
    with pytest.raises(DiskFullError, match="Free as much space"):
        mend(look(disk))
    disk.faults = None
    assert not [name for name in disk.listdir(LOG) if name.endswith(".recovered")]
    assert log.operations == replay(look(disk))


# ---- what is put aside


def test_the_torn_bytes_are_kept() -> None:
    """Exactly what was dropped lies in quarantine, without zeros at its end; the report says so."""
    log, half = torn()
    disk = log.on_disk()
    found = look(disk)
    settlement = mend(found)
    assert [half.rstrip(b"\0")] == quarantined(disk)
    assert settlement.torn_tail is not None
    (path,) = settlement.quarantined
    assert path == settlement.torn_tail.quarantined
    name = path.rsplit("/", 1)[1]
    assert name.startswith(f"0000000000000003-at-{settlement.torn_tail.offset}-lsn-14-")
    assert name.endswith(".tail")


def test_a_tail_without_room_is_dropped_and_the_report_says_so() -> None:
    """The budget does not keep a store from opening in the default mode."""
    log, half = torn()
    disk = log.on_disk()
    settlement = mend(look(disk), budget=len(half.rstrip(b"\0")) - 1)
    assert settlement.torn_tail is not None
    assert settlement.torn_tail.quarantined is None
    assert len(half.rstrip(b"\0")) == settlement.unquarantined_bytes
    assert [] == quarantined(disk)
    assert log.operations == replay(look(disk))


def test_a_full_disk_does_not_keep_a_torn_tail_from_being_dropped() -> None:
    """There is room for the segment and none for the copy: the store opens."""
    log, _ = torn()
    disk = log.on_disk()
    disk.faults = fail("pwrite", OSError(28, "No space left on device"), path=".partial")
    settlement = mend(look(disk))
    assert 0 < settlement.unquarantined_bytes
    assert [] == quarantined(disk)


@pytest.mark.parametrize("mode", ["point-in-time", "salvage"])
def test_modes_that_give_up_data_keep_it_or_do_nothing(mode: RecoveryMode) -> None:
    """Without room nothing is changed, and the error names the setting that helps."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(2), log.data_frames[4].offset)
    found = look(disk, mode=mode)
    need = sum(aside.length for aside in found.asides)
    with pytest.raises(InvalidRequestError, match=f"quarantine_bytes={need} or more"):
        mend(found, budget=need - 1)
    assert log.image(3) == content(disk, log.path(3))
    mend(found, budget=need)


def test_point_in_time_moves_what_lies_behind_the_stop() -> None:
    """The rest of the segment and all later ones are in quarantine; the log reads clean."""
    log = sample()
    disk = log.on_disk()
    damaged = log.data_frames[4]
    disk.flip(log.path(2), damaged.offset)
    second = content(disk, log.path(2))
    found = look(disk, mode="point-in-time")
    settlement = mend(found)
    again = look(disk)
    assert [*range(1, 8)] == lsns(replay(again)) == lsns(replay(found))
    assert (again.damages, again.gaps, again.torn, again.next_segment_id) == ((), (), None, 3)
    assert 2 == settlement.last_id
    kept = quarantined(disk)
    assert log.image(3) in kept
    _, mark, _, _, seal = log.segments[2].frames
    assert second[mark.end : seal.end] in kept


def test_point_in_time_with_nothing_before_the_stop_leaves_what_lmdb_has() -> None:
    """The log goes on from the watermark, and everything that was in it is put aside."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(1))
    found = look(disk, watermark=3, mode="point-in-time")
    assert (3, ((4, 13),)) == (found.last_lsn, found.given_up)
    mend(found)
    again = look(disk, watermark=3)
    assert ([], 3) == (replay(again), again.last_lsn)
    assert {log.image(2), log.image(3)} == set(quarantined(disk))


def test_salvage_sweeps_damaged_segments_only_after_the_checkpoint() -> None:
    """They stay readable until what was read from them is in LMDB, and then they go."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(2), log.data_frames[4].offset)
    damaged = content(disk, log.path(2))
    found = look(disk, mode="salvage")
    settlement = mend(found)
    expected = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13]
    assert expected == lsns(replay(found)) == lsns(replay(look(disk, mode="salvage")))
    assert [1, 3] == [segment.id for segment in settlement.sealed]
    sweep_damaged(found, settlement)
    assert damaged in quarantined(disk)
    assert damaged == content(disk, settlement.quarantined[-1])
    again = look(disk, watermark=13)
    assert (13, []) == (again.last_lsn, replay(again))


def test_salvage_of_a_damaged_last_segment_keeps_a_copy() -> None:
    """It is written anew without the damage; the original bytes are kept as they were."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(3), log.data_frames[-2].offset)
    damaged = content(disk, log.path(3))[: log.data_frames[-1].end]
    found = look(disk, mode="salvage")
    mend(found)
    assert damaged in quarantined(disk)
    again = look(disk, mode="salvage")
    assert [*range(1, 11), 13] == lsns(replay(found)) == lsns(replay(again))
    assert look(disk, watermark=13).last_lsn == 13


def test_salvage_writes_a_header_for_a_last_segment_that_lost_its_own() -> None:
    """The frames carry what a header must say; the chain holds again."""
    log = sample()
    log.mark()
    disk = log.on_disk()
    disk.flip(log.path(3), 9)
    found = look(disk, mode="salvage")
    mend(found)
    again = look(disk)
    assert log.operations == replay(again)
    assert (again.damages, again.gaps) == ((), ())


def test_settling_takes_where_to_put_things() -> None:
    """The quarantine is made where it is told to, and only when something goes there."""
    log = sample()
    disk = log.on_disk()
    settle(look(disk), runtime=SystemRuntime(), quarantine_dir=QUARANTINE, quarantine_bytes=0)
    assert "absent" == disk.kind(QUARANTINE)
