"""Bugs in how a store is recovered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from strandline.engine.operations import CLEAR, DELETE, OPERATION_MASK, TAG_SHIFT
from strandline.engine.replay import Replay
from strandline.recovery import rewrite, tail
from strandline.recovery.rewrite import NewSegment
from strandline.recovery.segment_scan import SegmentScan
from strandline.recovery.survey import Survey
from strandline.wal.disk import Disk
from strandline.wal.format import Seal, segment_name
from strandline.wal.reader import Batch
from strandline.wal.runtime import Runtime
from strandline.wal.segments import SealedSegment
from tests.crash.planted.bug import Planting, bug
from tests.crash.planted.disks import without_file_syncs


@bug(breaks=5)
def torn_tail_left_in_place(planting: Planting) -> None:
    """The last segment is not written anew: a torn tail stays where it is.

    This recovery knows where the frames end; the next one finds a tear with a segment
    behind it.
    """

    def write_last(survey: Survey, runtime: Runtime) -> SealedSegment:
        return tail._sealed(survey.segments[-1])

    planting.replace(tail, "_write_last", write_last)


@bug(breaks=5)
def rewrite_renamed_before_sync(planting: Planting) -> None:
    """The last segment, written anew, replaces the old one before its bytes are on disk.

    A power cut right after the recovery takes what the crash before it had left.
    """
    write = rewrite._write

    def unsynced(disk: Disk, path: str, new: NewSegment, pieces: Iterable[bytes]) -> Seal:
        return write(without_file_syncs(disk), path, new, pieces)

    planting.replace(rewrite, "_write", unsynced)


@bug(breaks=5)
def original_removed_before_rewrite(planting: Planting) -> None:
    """The last segment is removed before its new version has its name.

    Between the two a crash in the recovery finds neither.
    """
    rewritten = rewrite.rewrite

    def unlink_first(
        disk: Disk, log_dir: str, new: NewSegment, source_path: str | None
    ) -> SegmentScan:
        class Early:
            def rename(self, source: str, target: str) -> None:
                disk.unlink(target)
                disk.sync_directory(log_dir)
                disk.rename(source, target)

            def __getattr__(self, name: str) -> Any:
                return getattr(disk, name)

        return rewritten(Early(), log_dir, new, source_path)

    planting.replace(tail, "rewrite", unlink_first)


@bug(breaks=5)
def segment_rewritten_in_place(planting: Planting) -> None:
    """The valid frames are written over the old segment, not beside it.

    A recovery that is cut short has destroyed what it was reading.
    """

    def in_place(disk: Disk, log_dir: str, new: NewSegment, source_path: str | None) -> SegmentScan:
        path = os.path.join(log_dir, segment_name(new.header.segment_id))
        pieces: list[bytes] = []
        if source_path is not None:
            source = disk.open(source_path, "r")
            pieces = [*rewrite._frames_of(source, new.runs)]
            source.close()
            disk.unlink(source_path)
        seal = rewrite._write(disk, path, new, pieces)
        disk.sync_directory(log_dir)
        return rewrite._read_back(disk, path, new, seal)

    planting.replace(tail, "rewrite", in_place)


@bug(breaks=1)
def only_last_segment_replayed(planting: Planting) -> None:
    """Of the log only the last segment is replayed.

    In most tests there is but one.
    """
    batches = Survey.batches

    def last_only(self: Survey, after_lsn: int, progress: Any = None) -> Iterator[Batch]:
        return batches(replace(self, segments=self.segments[-1:]), after_lsn, progress)

    planting.replace(Survey, "batches", last_only)


@bug(breaks=1)
def last_frame_not_replayed(planting: Planting) -> None:
    """The last frame of the log is kept, and not replayed.

    A loop ends one before its end. What is there on disk is not there for the reader.
    """
    batches = Survey.batches

    def all_but_one(self: Survey, after_lsn: int, progress: Any = None) -> Iterator[Batch]:
        frames = [frame for batch in batches(self, after_lsn, progress) for frame in batch]
        yield from ([frame] for frame in frames[:-1])

    planting.replace(Survey, "batches", all_but_one)


@bug(breaks=4, in_python=True)
def replay_forgets_deletes(planting: Planting) -> None:
    """A delete takes the key out of memory in a replay, and leaves no tombstone.

    What an earlier checkpoint wrote to LMDB shines through.
    """
    apply_one = Replay._apply_one

    def popped(self: Replay, lsn: int, tag: Any, key: Any, value: Any) -> None:
        apply_one(self, lsn, tag, key, value)
        if tag & OPERATION_MASK == DELETE:
            state = self._engine.index.states.get(tag >> TAG_SHIFT)
            if state is not None:
                state.entries.pop(key, None)

    planting.replace(Replay, "_apply_one", popped)


@bug(breaks=4)
def replay_passes_over_clears(planting: Planting) -> None:
    """The clearing of a table is logged, and passed over in a replay.

    It was added to the log after the replay was written, where unknown operations are skipped.
    """
    apply_one = Replay._apply_one

    def passed(self: Replay, lsn: int, tag: Any, key: Any, value: Any) -> None:
        if tag & OPERATION_MASK != CLEAR:
            apply_one(self, lsn, tag, key, value)

    planting.replace(Replay, "_apply_one", passed)


@bug(breaks=2)
def frame_across_watermark_skipped(planting: Planting) -> None:
    """A frame that begins at or below the watermark is skipped whole in a replay.

    The watermark lies in the middle of a frame only if a checkpoint cut a group.
    """
    apply = Replay.apply

    def skip(self: Replay, frames: Batch, after_lsn: int) -> None:
        apply(self, [frame for frame in frames if frame[0] > after_lsn], after_lsn)

    planting.replace(Replay, "apply", skip)
