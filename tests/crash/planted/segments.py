"""Bugs in how one segment follows another, and in when one may go."""

from __future__ import annotations

from strandline.engine.checkpointer import Checkpointer
from strandline.wal.disk import DiskFile
from strandline.wal.log import Log
from strandline.wal.log_tail import LogTail
from strandline.wal.segments import SealedSegment, Segment, Segments
from tests.crash.planted.bug import Planting, bug
from tests.crash.planted.disks import without_directory_syncs


@bug(breaks=1)
def segment_name_not_synced(planting: Planting) -> None:
    """A new segment's directory entry is not synced: the file can be gone with all its frames.

    fdatasync covers a file and not its name; most file systems are kind enough to hide it.
    """
    adopt = Segments._adopt

    def unsynced(self: Segments, path: str, file: DiskFile, length: int) -> None:
        disk = self._disk
        self._disk = without_directory_syncs(disk)
        try:
            adopt(self, path, file, length)
        finally:
            self._disk = disk

    planting.replace(Segments, "_adopt", unsynced)


@bug(breaks=1)
def segment_header_not_synced(planting: Planting) -> None:
    """The header of a new segment is written and not synced before it is relied upon.

    The first group's sync covers it too, so it seems to be one too many. A checkpoint can
    come first.
    """
    activate = LogTail._activate

    def unsynced(
        self: LogTail, segment: Segment, previous: SealedSegment | None, last: int
    ) -> None:
        self.__dict__["_fdatasync"] = lambda file: None
        try:
            activate(self, segment, previous, last)
        finally:
            del self.__dict__["_fdatasync"]

    planting.replace(LogTail, "_activate", unsynced)


@bug(breaks=1)
def seal_not_synced(planting: Planting) -> None:
    """A segment is sealed, counted as synced, and left behind without an fdatasync.

    From then on syncs go to the next file: the last frames of the old one are nobody's.
    """
    seal = LogTail._seal

    def unsynced(self: LogTail, flags: int) -> int:
        fields = self.__dict__
        before = fields.get("_fdatasync")
        fields["_fdatasync"] = lambda file: None
        try:
            return seal(self, flags)
        finally:
            del fields["_fdatasync"]
            if before is not None:
                fields["_fdatasync"] = before

    planting.replace(LogTail, "_seal", unsynced)


@bug(breaks=9)
def sealed_before_successor_is_named(planting: Planting) -> None:
    """The seal is written before the next segment has a name.

    After a crash in between, the sealed log ends in a gap and does not open: the file that
    comes next may have been lost.
    """

    def turn(self: LogTail, need: int) -> None:
        segment, _, _, lsn = self.tail
        end = self._seal(0)
        successor = self.segments.successor(need)
        self.segments.retire(segment, lsn, end)
        self._activate(
            successor, SealedSegment(segment.id, segment.path, segment.first_lsn, lsn, end), lsn
        )

    def name_successor(self: Segments) -> None:
        """Do nothing: whoever opens the log next makes a name."""

    planting.replace(LogTail, "_turn", turn)
    planting.replace(Segments, "name_successor", name_successor)


@bug(breaks=11)
def recycled_when_synced(planting: Planting) -> None:
    """A segment is given back once it is synced, not once a checkpoint covers it.

    The two watermarks have the same type, and one is taken for the other.
    """
    housekeep = Log.housekeep

    def early(self: Log) -> bool:
        self.segments.release(self.synced_lsn)
        return housekeep(self)

    planting.replace(Log, "housekeep", early)


@bug(breaks=11)
def released_before_commit(planting: Planting) -> None:
    """A checkpoint gives the log's segments back before its commit is durable.

    To free the room that it needs, say. A crash in between finds the data in neither place.
    """
    merge = Checkpointer._merge

    def early(self: Checkpointer) -> None:
        merge(self)
        self._engine.log.segments.release(self._engine.index.cut_lsn)

    planting.replace(Checkpointer, "_merge", early)


@bug(breaks=11)
def segments_never_released(planting: Planting) -> None:
    """No segment ever goes: the log grows until the disk is full.

    The condition for letting one go is too strict by one, and nobody measures the directory.
    """

    def release(self: Segments, lsn: int, *, recycle: bool = True) -> None:
        """Keep everything."""

    planting.replace(Segments, "release", release)
