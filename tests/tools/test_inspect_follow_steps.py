"""Following a log step by step: what a look yields and tells at every point of a writer's way.

The logs are built frame by frame on a simulated disk, so that every moment between two
system calls of a writer can be looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from strandline.errors import ForeignStoreError
from strandline.tools.cli.failure import CommandError
from strandline.tools.crash.simulation.disk import SimulatedFile
from strandline.tools.inspect.following.tailing import Tail
from strandline.tools.inspect.target import Target
from strandline.wal.disk import OpenMode
from strandline.wal.format import LSN_LIMIT, TYPE_DATA
from tests.support.logs import LOG, UUID, LogBuilder, LogDisk, look, mend

ANY = 20
"""Looks after which a log that stands still was searched more than once."""


class RacingDisk(LogDisk):
    """A disk on which a writer acts just after a file was opened by a follower."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self.act: Callable[[], None] = lambda: None

    def after(self, opens: int, act: Callable[[], None]) -> None:
        """Do something after so many files were opened."""
        self.left, self.act = opens, act

    def open(self, path: str, mode: OpenMode) -> SimulatedFile:
        file = super().open(path, mode)
        self.left -= 1
        if self.left == 0:
            self.act()
        return file


class Steps:
    """A log, the disk that a writer puts it on bit by bit, and a follower."""

    def __init__(self, log: LogBuilder) -> None:
        self.log = log
        disk = log.on_disk()
        disk.__class__ = RacingDisk
        assert isinstance(disk, RacingDisk)
        disk.after(0, lambda: None)
        self.disk: RacingDisk = disk
        self.told: list[str] = []
        target = Target(path=LOG, kind="log", disk=self.disk, log_dir=LOG, store=None, uuid=UUID)
        self.tail = Tail(target, self.told.append)

    def write(self, *segment_ids: int) -> None:
        """Let the disk hold these segments as they are built by now, in the files that they are."""
        for segment_id in segment_ids or self.log.segments:
            self.disk.put(self.log.path(segment_id), self.log.image(segment_id))

    def look(self, times: int = 1) -> list[int]:
        """Look some times, and return the LSNs that are yielded."""
        return [
            lsn
            for _ in range(times)
            for _, frames in self.tail.look()
            for frame in frames
            for lsn in range(frame[1], frame[1] + frame[2])
        ]

    def recycle(self, old: int, new: int) -> None:
        """Rename a segment's file to be a later one; its content stays for now."""
        self.disk.rename(self.log.path(old), self.log.path(new))


def started() -> Steps:
    """A follower at the end of a log with LSN 1 to 3 in its one segment."""
    log = LogBuilder()
    log.open()
    log.data(3)
    steps = Steps(log)
    steps.tail.to_end()
    return steps


def test_only_what_is_new_is_yielded() -> None:
    """From the end of the log on every operation is yielded once, when its frame is there."""
    steps = started()
    assert steps.look(3) == []
    steps.log.data(2)
    steps.write()
    assert steps.look() == [4, 5]
    assert steps.look(ANY) == []
    steps.log.data(1)
    steps.log.mark()
    steps.log.data(1)
    steps.write()
    assert steps.look() == [6, 7]
    assert steps.told == []


def test_from_an_lsn_on() -> None:
    """The frame that the LSN lies in comes first, whichever segment it is in."""
    log = LogBuilder()
    for _ in range(3):
        log.open()
        log.data(2)
        log.data(2)
        log.seal()
    log.open()
    steps = Steps(log)
    steps.tail.to_lsn(6)
    assert steps.look() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert steps.told == []


def test_from_an_lsn_that_is_no_longer_there() -> None:
    """What lies before the log's first segment is said to be gone, and the rest is yielded."""
    log = LogBuilder(first_id=4, next_lsn=100)
    log.open()
    log.data(2)
    steps = Steps(log)
    steps.tail.to_lsn(90)
    assert steps.look() == [100, 101]
    assert steps.told == ["LSN 90 to 99 were given back before they could be read"]


@pytest.mark.parametrize("length", [1, 40, 71, 72, 80])
def test_a_torn_frame_at_the_live_end_is_waited_for(length: int) -> None:
    """Of a frame that is half there nothing is yielded or told; once it is whole it comes."""
    steps = started()
    frame = steps.log.data(2)
    whole = steps.log.image(1)
    steps.disk.poke(steps.log.path(1), frame.offset, whole[frame.offset : frame.offset + length])
    assert steps.look(ANY) == []
    steps.write()
    assert steps.look() == [4, 5]
    assert steps.told == []


def test_rotation_waits_for_the_next_header() -> None:
    """Behind a seal the next segment is waited for: absent, empty, zeros, half a header."""
    steps = started()
    steps.log.data(1)
    steps.log.seal()
    steps.write()
    assert steps.look(ANY) == [4]
    steps.disk.put(steps.log.path(2), b"")
    assert steps.look(ANY) == []
    steps.disk.put(steps.log.path(2), bytes(8192))
    assert steps.look(ANY) == []
    steps.log.open()
    steps.disk.poke(steps.log.path(2), 0, steps.log.image(2)[:100])
    assert steps.look(ANY) == []
    steps.log.data(1)
    steps.write()
    assert steps.look() == [5]
    assert steps.told == []


def test_a_seal_that_is_written_over() -> None:
    """A writer without room for a successor goes on over its seal; nothing is missed."""
    steps = started()
    steps.log.seal()
    steps.write()
    assert steps.look(ANY) == []
    del steps.log.active.content[steps.log.active.frames.pop().offset :]
    steps.log.data(2)
    steps.write()
    assert steps.look() == [4, 5]
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    assert steps.look() == [6]
    assert steps.told == []


def test_many_rotations_in_one_look() -> None:
    """A follower that lags reads all segments that are still there, in order."""
    steps = started()
    for _ in range(4):
        steps.log.data(1)
        steps.log.seal()
        steps.log.open()
        steps.log.data(1)
    steps.write()
    assert steps.look() == list(range(4, 12))
    assert steps.told == []


def lagging(unread: int) -> Steps:
    """A follower of segment 1, whose writer has filled two more, LSN 4 to 3 + `unread` in 1."""
    steps = started()
    if unread:
        steps.log.data(unread)
    steps.log.seal()
    for _ in range(2):
        steps.log.open()
        steps.log.data(2)
        steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    return steps


def test_a_file_that_was_renamed_is_read_to_its_end() -> None:
    """What the held file still holds is yielded, although its name is gone already."""
    steps = lagging(3)
    steps.recycle(1, 5)
    assert steps.look() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert steps.told == []


def test_a_file_that_was_written_over() -> None:
    """What was written over unread is said to be gone; nothing of the new use is mixed in."""
    steps = lagging(3)
    steps.recycle(1, 5)
    steps.log.seal()
    steps.log.open()
    steps.log.data(2)
    steps.write(4, 5)
    assert steps.look() == [7, 8, 9, 10, 11, 12, 13]
    assert steps.told == ["LSN 4 to 6 were given back before they could be read"]


def test_segments_that_are_gone() -> None:
    """The first segment that is there comes next, and what was in between is told, once."""
    steps = lagging(0)
    steps.disk.unlink(steps.log.path(1))
    steps.disk.unlink(steps.log.path(2))
    assert steps.look(ANY) == [6, 7, 8]
    assert steps.told == ["LSN 4 to 5 were given back before they could be read"]


def test_nothing_is_told_of_segments_that_were_read() -> None:
    """A segment that was read to its end and then given back is not missed."""
    steps = started()
    steps.log.data(1)
    steps.log.seal()
    steps.write()
    assert steps.look() == [4]
    steps.log.open()
    steps.log.data(1)
    steps.write(2)
    steps.disk.unlink(steps.log.path(1))
    assert steps.look(2) == [5]
    assert steps.told == []


def test_a_successor_that_holds_an_earlier_use() -> None:
    """A recycled file under the next name is not entered before it has its own header."""
    steps = started()
    old = steps.log.image(1)
    steps.disk.put(steps.log.path(2), old)
    steps.log.seal()
    steps.write(1)
    assert steps.look(ANY) == []
    steps.log.open(background=old)
    steps.log.data(2)
    steps.write(2)
    assert steps.look() == [4, 5]
    assert steps.told == []


def recovered(steps: Steps, jump: int) -> None:
    """Open the store anew: recovery settles its log, and a new segment is begun."""
    settled = mend(look(steps.disk))
    steps.log.epoch += 1
    steps.log.open(jump=jump, previous_last_lsn=settled.sealed[-1].last_lsn)
    steps.log.data(2)
    steps.write(steps.log.next_id - 1)


def test_an_unclean_end_and_a_new_opening() -> None:
    """The torn tail is dropped, the segment rewritten under its name; the jump is followed."""
    steps = started()
    torn = steps.log.data(2, synced=False)
    del steps.log.active.content[torn.offset + 80 :]
    steps.log.active.frames.pop()
    steps.log.next_lsn -= 2
    steps.write()
    assert steps.look(3) == []
    recovered(steps, jump=1000)
    assert steps.look(2) == [1004, 1005]
    assert steps.told == []


def test_an_opening_that_drops_what_the_follower_passed_by() -> None:
    """A follower that began behind a torn place says nothing when recovery drops it."""
    log = LogBuilder()
    log.open()
    log.data(3)
    broken = log.data(2, synced=False)
    log.data(1, synced=False)
    steps = Steps(log)
    steps.disk.flip(log.path(1), broken.offset + 75)
    steps.tail.to_end()
    assert steps.look(ANY) == []
    recovered(steps, jump=1000)
    assert steps.look(2) == [1007, 1008]
    assert steps.told == []


def test_unread_frames_of_a_rewritten_segment() -> None:
    """What recovery kept is yielded, although the place of its frames in the file has moved."""
    steps = started()
    mark = steps.log.mark()
    steps.log.data(2)
    steps.log.data(1)
    steps.write()
    steps.disk.flip(steps.log.path(1), mark.offset + 5)
    recovered(steps, jump=0)
    assert steps.look(2) == [4, 5, 6, 7, 8]
    assert steps.told == []


def test_damage_is_told_after_a_second_look() -> None:
    """A frame that something behind it claims was on disk is told once, and skipped."""
    steps = started()
    broken = steps.log.data(2)
    steps.log.data(1)
    steps.write()
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    assert steps.look(2) == []
    assert not steps.tail.damaged
    assert steps.look(ANY) == [6]
    assert steps.tail.damaged
    (told,) = steps.told
    assert f"offset {broken.offset}: damage in mid-log: expected a payload" in told
    assert told.endswith("LSN 4 to 5 passed over")
    steps.log.data(1)
    steps.disk.poke(steps.log.path(1), 0, steps.log.image(1)[: broken.offset])
    steps.disk.poke(
        steps.log.path(1),
        steps.log.active.frames[-1].offset,
        steps.log.image(1)[steps.log.active.frames[-1].offset :],
    )
    assert steps.look(ANY) == [7]
    assert len(steps.told) == 1


def test_a_frame_that_comes_late_is_no_damage() -> None:
    """A frame that is whole in the later look is yielded, though one behind it was seen first."""
    steps = started()
    late = steps.log.data(2)
    steps.log.data(1)
    whole = steps.log.image(1)
    steps.disk.put(steps.log.path(1), whole[: late.offset] + bytes(80) + whole[late.offset + 80 :])
    assert steps.look(2) == []
    steps.write()
    assert steps.look(ANY) == [4, 5, 6]
    assert steps.told == []


def test_a_later_frame_without_a_claim_is_no_damage() -> None:
    """What power took, torn as it may be, is a torn tail as long as nothing says otherwise."""
    steps = started()
    broken = steps.log.data(2, synced=False)
    steps.log.data(1, synced=False)
    steps.write()
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    assert steps.look(ANY) == []
    assert not steps.tail.damaged
    steps.log.synced = steps.log.next_lsn - 1
    claim = steps.log.data(1)
    steps.disk.poke(steps.log.path(1), claim.offset, steps.log.image(1)[claim.offset :])
    assert steps.look(4 * ANY) == [6, 7]
    assert steps.tail.damaged


@pytest.mark.parametrize("what", ["a frame", "the end", "the seal"])
def test_damage_before_the_next_segment(what: str) -> None:
    """What the next segment's header says came before it, and is not there, is damage."""
    steps = started()
    first = steps.log.data(1)
    last = steps.log.data(1)
    seal = steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    broken = {"a frame": first, "the end": last, "the seal": seal}[what]
    if what == "the end":
        steps.disk.flip(steps.log.path(1), seal.offset + 75)
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    expected = {"a frame": [5, 6], "the end": [4, 6], "the seal": [4, 5, 6]}[what]
    assert steps.look(3) == expected
    (told,) = steps.told
    lost = {"a frame": "LSN 4 passed over", "the end": "LSN 5 passed over"}
    assert told.endswith(lost.get(what, "no LSN lies there"))
    assert steps.tail.damaged


@pytest.mark.parametrize("gone", ["the file", "its header"])
def test_a_segment_that_is_missing_in_the_middle(gone: str) -> None:
    """A gap in a log whose earlier segments are there is damage, not something given back."""
    steps = started()
    steps.log.seal()
    steps.log.open()
    steps.log.data(2)
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    if gone == "the file":
        steps.disk.unlink(steps.log.path(2))
    else:
        steps.disk.flip(steps.log.path(2), 20)
    assert steps.look(ANY) == [6]
    (told,) = steps.told
    assert told.endswith("LSN 4 to 5 passed over")
    assert steps.tail.damaged


def test_damage_below_what_is_asked_for() -> None:
    """What lies below the LSN that following begins with is neither yielded nor told."""
    log = LogBuilder()
    log.open()
    broken = log.data(2)
    log.data(2)
    log.data(2)
    steps = Steps(log)
    steps.disk.flip(log.path(1), broken.offset + 75)
    steps.tail.to_lsn(5)
    assert steps.look(ANY) == [5, 6]
    assert steps.told == []
    assert not steps.tail.damaged


def test_the_end_lies_behind_damage() -> None:
    """Following from the end begins behind what was damaged before."""
    log = LogBuilder()
    log.open()
    broken = log.data(2)
    log.data(2)
    steps = Steps(log)
    steps.disk.flip(log.path(1), broken.offset + 75)
    steps.tail.to_end()
    assert steps.look(ANY) == []
    log.data(1)
    last = log.active.frames[-1].offset
    steps.disk.poke(log.path(1), last, log.image(1)[last:])
    assert steps.look() == [5]
    assert steps.told == []


def test_a_log_that_is_not_begun() -> None:
    """A store that is being created is followed from its first operation on."""
    steps = Steps(LogBuilder())
    steps.tail.to_end()
    assert steps.look(2) == []
    steps.log.open()
    steps.log.data(2)
    steps.disk.put(steps.log.path(1), b"")
    assert steps.look(2) == []
    steps.write()
    assert steps.look(2) == [1, 2]
    assert steps.told == []


def test_a_point_in_time_recovery_begins_anew_behind_an_earlier_segment() -> None:
    """A later epoch is followed although its segment has a lower id than the one before."""
    steps = lagging(0)
    assert steps.look() == [4, 5, 6, 7, 8]
    for segment_id in (2, 3, 4):
        steps.disk.unlink(steps.log.path(segment_id))
        del steps.log.segments[segment_id]
    steps.log.next_id, steps.log.epoch = 2, 2
    steps.log.open(jump=1000, previous_last_lsn=3)
    steps.log.data(1)
    steps.write(2)
    assert steps.look(2) == [1009]
    assert steps.told == []


def test_a_later_epoch_that_has_come_past_the_follower_s_segment() -> None:
    """What was begun anew is read from its first segment on, not from the follower's next."""
    steps = lagging(0)
    assert steps.look() == [4, 5, 6, 7, 8]
    for segment_id in (2, 3, 4):
        del steps.log.segments[segment_id]
    steps.log.next_id, steps.log.epoch = 2, 2
    steps.log.open(jump=1000, previous_last_lsn=3)
    for _ in range(3):
        steps.log.data(1)
        steps.log.seal()
        steps.log.open()
    steps.log.data(1)
    steps.disk.put(steps.log.path(5), b"")
    steps.write(2, 3, 4, 5)
    assert steps.look(2) == [1009, 1010, 1011, 1012]
    assert steps.told == []


def test_an_earlier_state_under_later_names() -> None:
    """Segments that begin below what was read are not gone to, whatever their ids are."""
    steps = lagging(0)
    assert steps.look() == [4, 5, 6, 7, 8]
    steps.disk.unlink(steps.log.path(4))
    steps.log.next_id, steps.log.next_lsn, steps.log.epoch = 9, 2, 7
    steps.log.open()
    steps.log.data(3)
    steps.disk.put(steps.log.path(9), b"")
    steps.write(9)
    assert steps.look(ANY) == []
    assert steps.told == []


def test_a_seal_that_the_next_segment_contradicts() -> None:
    """LSNs between a seal and what the next segment says came before it are damage."""
    steps = started()
    steps.log.seal()
    steps.log.next_lsn = 6
    steps.log.open()
    steps.log.data(1)
    steps.write()
    assert steps.look(2) == [6]
    (told,) = steps.told
    assert told.endswith("LSN 4 to 5 passed over")
    assert steps.tail.damaged


def test_a_damaged_mark_before_the_next_segment() -> None:
    """A break that hides no LSN is damage too, in a segment that something follows."""
    steps = started()
    mark = steps.log.mark()
    steps.log.data(1)
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    steps.disk.flip(steps.log.path(1), mark.offset + 5)
    assert steps.look(2) == [4, 5]
    (told,) = steps.told
    assert told.endswith("no LSN lies there")


def test_unread_frames_that_moved_towards_the_start() -> None:
    """What recovery kept is found also where it lies before the place that was read to."""
    log = LogBuilder()
    log.open()
    log.data(3)
    mark = log.mark()
    log.data(1)
    steps = Steps(log)
    steps.disk.flip(log.path(1), mark.offset + 5)
    steps.tail.to_end()
    log.data(2)
    log.data(1)
    steps.write()
    steps.disk.flip(log.path(1), mark.offset + 5)
    recovered(steps, jump=0)
    assert steps.look(2) == [5, 6, 7, 8, 9]
    assert steps.told == []


def test_a_claim_for_itself_is_not_believed() -> None:
    """A frame that says of itself that it is on disk says nothing about those before it."""
    steps = started()
    broken = steps.log.data(2, synced=False)
    steps.log.data(1, synced=False, synced_lsn=6)
    steps.write()
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    assert steps.look(ANY) == []
    assert steps.told == []


def test_a_damaged_header_of_the_segment_that_is_read() -> None:
    """Its frames still come, and what is missing of it is damage, not given back."""
    steps = started()
    broken = steps.log.data(1)
    steps.log.data(1)
    steps.write()
    steps.disk.flip(steps.log.path(1), 20)
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    assert steps.look(ANY) == [5]
    (told,) = steps.told
    assert "damage in mid-log" in told
    assert told.endswith("LSN 4 passed over")


def overwritten(steps: Steps) -> None:
    """Use segment 1's file for segment 3, and write over all that it held."""
    steps.recycle(1, 3)
    steps.disk.put(steps.log.path(3), b"\xaa" * 6000)


def test_a_file_that_is_taken_while_it_is_read() -> None:
    """A file that is renamed and written over just before it is read was given back."""
    steps = started()
    steps.log.data(2)
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    steps.disk.after(2, lambda: overwritten(steps))
    assert steps.look(2) == [6]
    assert steps.told == ["LSN 4 to 5 were given back before they could be read"]
    assert not steps.tail.damaged


def test_a_file_that_is_taken_while_it_is_searched() -> None:
    """Nothing is called damage for what was written over while it was looked at again."""
    steps = started()
    broken = steps.log.data(2)
    steps.log.data(1)
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write()
    steps.disk.flip(steps.log.path(1), broken.offset + 75)
    steps.disk.after(4, lambda: overwritten(steps))
    assert steps.look(2) == [7]
    assert steps.told == ["LSN 4 to 6 were given back before they could be read"]
    assert not steps.tail.damaged


def test_a_file_that_is_taken_before_it_is_called_damaged() -> None:
    """A frame that came late, and was written over before the next look, was given back."""
    steps = started()
    late = steps.log.data(2)
    steps.log.data(1)
    whole = steps.log.image(1)
    steps.disk.put(steps.log.path(1), whole[: late.offset] + bytes(80) + whole[late.offset + 80 :])
    assert steps.look(2) == []
    steps.log.seal()
    steps.log.open()
    steps.log.data(1)
    steps.write(1)

    def taken() -> None:
        overwritten(steps)
        steps.write(2)

    steps.disk.after(1, taken)
    assert steps.look(2) == [7]
    assert steps.told == ["LSN 4 to 6 were given back before they could be read"]
    assert not steps.tail.damaged


def test_an_earlier_state_in_the_log_s_place() -> None:
    """Where LSNs would come a second time the follower ends, and says why."""
    steps = started()
    steps.log.seal()
    steps.log.next_lsn = 2
    steps.log.open()
    steps.log.data(1)
    steps.write()
    with pytest.raises(CommandError, match="replaced by an earlier state"):
        steps.look()


def test_another_store_s_segment() -> None:
    """A segment of another store is refused."""
    steps = started()
    steps.log.seal()
    steps.log.open(uuid=bytes(15) + b"\1")
    steps.write()
    with pytest.raises(ForeignStoreError, match="follow the log of one store"):
        steps.look()


def test_a_frame_of_a_newer_release() -> None:
    """A frame that may not be passed over is refused, never skipped."""
    steps = started()
    steps.log.frame(0x05, b"\xc0", count=0)
    steps.write()
    with pytest.raises(ForeignStoreError, match="a newer release wrote this frame"):
        steps.look()


def test_a_frame_that_no_reader_takes() -> None:
    """A whole frame whose LSNs pass the limit is told and passed over, and keeps nobody busy."""
    log = LogBuilder(next_lsn=LSN_LIMIT - 10)
    log.open()
    log.data(1)
    steps = Steps(log)
    steps.tail.to_end()
    log.frame(TYPE_DATA, b"x", count=50)
    log.next_lsn = LSN_LIMIT - 5
    log.open()
    log.data(1)
    steps.write()
    assert steps.look(3) == [LSN_LIMIT - 5]
    (told,) = steps.told
    assert told.endswith(f"LSN {LSN_LIMIT - 9} to {LSN_LIMIT - 6} passed over")


def test_a_frame_that_no_reader_takes_at_the_live_end() -> None:
    """It is told once, however often it is looked at."""
    log = LogBuilder(next_lsn=LSN_LIMIT - 10)
    log.open()
    log.data(1)
    steps = Steps(log)
    steps.tail.to_end()
    log.frame(TYPE_DATA, b"x", count=50)
    log.next_lsn = LSN_LIMIT - 5
    log.data(1, synced_lsn=LSN_LIMIT - 6)
    steps.write()
    assert steps.look(ANY) == [LSN_LIMIT - 5]
    assert len(steps.told) == 1
