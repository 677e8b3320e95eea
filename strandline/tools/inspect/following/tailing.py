"""Going along with a log that grows: what is new since the last look, in order.

A look reads on where the last one stopped, through the log's one reader, in the file that
is held open. What happens to files meanwhile shows in two headers: that of the next
segment, and that which now lies in the place of the one that is held.

    next segment has a header     all of this segment was written before: read it to its
                                  end, then turn to the next
    place is taken, or empty      it was given back: what of it is still in the held file
                                  is read, then the first segment that is there comes next
    neither                       the live end: a frame that is not whole yet, or not there

A seal is taken as the end only when the next segment has its header, for a writer that
finds no room for that writes on over the seal. Recovery writes the last segment anew, under
its name, with the same stamp: where frames stop without a seal the file in that place is
looked at.

Promises that every LSN is yielded once at the most, that LSNs only rise, and that nothing
is yielded that does not verify. What is missing between two operations is told: given back
before it could be read, or damaged. Frames that stop are damage only if something behind
them says that what is missing was on disk, and if they still stop there in a later look.

Nothing is written and no lock is taken. That an operation is yielded says that it is in
the log, not that it is synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from strandline.errors import ForeignStoreError
from strandline.recovery.segment_scan import SegmentScan
from strandline.recovery.survey import list_segments
from strandline.tools.cli.failure import CommandError
from strandline.tools.inspect.target import Target
from strandline.wal.checksum import CHECKSUM_CRC32C
from strandline.wal.damage import Damage, DamageKind
from strandline.wal.disk import DiskFile
from strandline.wal.format import (
    ALIGNMENT,
    FORMAT_VERSION,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    segment_name,
)
from strandline.wal.reader import (
    Frame,
    PlacedFrame,
    SegmentReader,
    read_segment_header,
    stamp_of,
)
from strandline.wal.resync import find_later_frames

_SEARCH_EVERY: Final = 64
"""At how many looks without anything new the rest of the file is searched, at the least."""

Found = tuple[SegmentScan, list[PlacedFrame]]


class Opened(NamedTuple):
    """An open segment with a valid header."""

    segment_id: int
    file: DiskFile
    header: SegmentHeader


class Suspect(NamedTuple):
    """Something behind the place where frames stop that says that they were on disk."""

    frame: Frame | None
    segment_id: int


class Tail:
    """A place in a log, and what lies behind it."""

    def __init__(self, target: Target, tell: Callable[[str], None]) -> None:
        """Stand before the log's first segment. `tell` is told what was passed over."""
        self.lsn = 0
        """The LSN that comes next."""
        self.floor = 0
        """What lies below is not asked for: neither yielded nor missed."""
        self.damaged = False
        """Something was passed over that is damaged."""
        self._target = target
        self._uuid = target.uuid
        self._tell = tell
        self._held: Opened | None = None
        self._offset = SEGMENT_HEADER_BYTES
        self._sealed = False
        self._end: Damage | None = None
        self._quiet_at = (0, 0)
        self._quiet = 0
        self._suspect: Suspect | None = None
        self._resumed: tuple[int, int] | None = None

    # ---- where to begin

    def to_end(self) -> None:
        """Go to the end of the log as it is now."""
        for segment_id in sorted(self._ids(), reverse=True):
            opened = self._open(segment_id)
            if opened is None:
                continue
            self._hold(opened)
            self._skim()
            while not self._sealed and (
                later := next(self._later_frames(opened.file, self._offset + ALIGNMENT), None)
            ):
                # What was damaged before is for `verify` to tell.
                self._resume(later)
                self._skim()
            return

    def to_lsn(self, lsn: int) -> None:
        """Go to where an LSN is, or begins to be missing."""
        self.lsn = self.floor = lsn
        best: Opened | None = None
        for segment_id in sorted(self._ids(), reverse=True):
            opened = self._open(segment_id)
            if opened is None:
                continue
            if best is not None:
                best.file.close()
            best = opened
            if opened.header.first_lsn <= lsn:
                break
        if best is not None:
            self._enter(best)

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.file.close()
            self._held = None

    # ---- looking

    def look(self) -> Iterator[Found]:
        """Yield all that is there and was not yielded before, some frames at a time."""
        moved = True
        while moved:
            # In this order: what a header follows was written before it.
            followed = self._is_followed()
            there = self._is_there()
            yield from self._read()
            if there and followed:
                moved = self._turn()
            else:
                moved = self._look_behind() if there else self._jump()

    def _read(self) -> Iterator[Found]:
        """Yield the frames from the present place on."""
        held = self._held
        if held is None:
            return
        reader = SegmentReader(held.file, stamp_of(held.header), lsn=self.lsn, offset=self._offset)
        scan = SegmentScan(held.segment_id, held.file.path)
        for frames in reader.placed():
            last = frames[-1]
            self.lsn = last[1] + last[2]
            wanted = frames
            if frames[0][1] < self.floor:
                wanted = [frame for frame in frames if frame[1] + frame[2] > self.floor]
            if wanted:
                yield scan, wanted
        self._read_to(reader)

    def _skim(self) -> None:
        """Pass over the frames from the present place on."""
        held = self._held
        assert held is not None, "a file is held where frames are passed over"
        reader = SegmentReader(held.file, stamp_of(held.header), lsn=self.lsn, offset=self._offset)
        for _ in reader.strides():
            pass
        self._read_to(reader)

    def _read_to(self, reader: SegmentReader) -> None:
        self._offset, self.lsn = reader.offset, reader.lsn
        self._sealed = reader.seal is not None
        self._end = reader.damage
        if reader.damage is not None and reader.damage.kind is DamageKind.UNKNOWN_TYPE:
            raise ForeignStoreError(
                f"{reader.damage}; a newer release wrote this frame: follow the log with it"
            )

    # ---- from segment to segment

    def _turn(self) -> bool:
        """Go to the next segment, unless there is more in this one; True if anything moved."""
        held = self._held
        assert held is not None, "a segment is followed by another"
        following = self._open(held.segment_id + 1)
        if following is None:
            return False
        last = following.header.previous_last_lsn
        if following.header.first_lsn < self.lsn:
            raise CommandError(
                f"{following.file.path}: expected LSN {self.lsn} or more, found a segment that "
                f"begins with LSN {following.header.first_lsn}: the log was replaced by an earlier "
                "state of it. Begin anew",
                5,
            )
        if last < self.lsn - 1 or (self._sealed and last == self.lsn - 1):
            self._enter(following)
            return True
        place = self._open(held.segment_id)
        if place is None or stamp_of(place.header) != stamp_of(held.header):
            if place is not None:
                place.file.close()
            self._enter(following)
            return True
        frame = None
        if not self._sealed:
            frame = next(self._later_frames(place.file, SEGMENT_HEADER_BYTES), None)
        if not self._is_there():
            # What was searched may have been written over meanwhile.
            place.file.close()
            self._enter(following)
        elif frame is None or (frame[0], frame[1].first_lsn) == self._resumed:
            place.file.close()
            self._damage(last)
            self._enter(following)
        else:
            following.file.close()
            if frame[1].first_lsn > self.lsn or frame[0] > self._offset:
                self._damage(frame[1].first_lsn - 1)
            held.file.close()
            self._held = place
            self._resume(frame)
        return True

    def _jump(self) -> bool:
        """Go to the first segment that is there; False if there is none."""
        following = self._next_header()
        if following is None:
            return False
        self._enter(following)
        return True

    def _next_header(self) -> Opened | None:
        """Open the first segment that comes after what was read, whatever its id is."""
        held = self._held
        use = (held.header.epoch, held.segment_id) if held else (0, 0)
        for segment_id in sorted(self._ids()):
            opened = self._open(segment_id)
            if opened is None:
                continue
            # Recovery can begin anew behind an earlier segment, in a later epoch.
            later = (opened.header.epoch, segment_id) > use
            if later and opened.header.first_lsn >= self.lsn:
                return opened
            opened.file.close()
        return None

    def _enter(self, opened: Opened) -> None:
        """Go to the start of a segment; what lies before it and was not read is gone."""
        first, last = max(self.lsn, self.floor), opened.header.previous_last_lsn
        if 0 < first <= last:
            were, they = ("were", "they") if last > first else ("was", "it")
            self._tell(f"{_span(first, last)} {were} given back before {they} could be read")
        self._hold(opened)

    def _hold(self, opened: Opened) -> None:
        if self._held is not None:
            self._held.file.close()
        self._held = opened
        self._offset, self.lsn = SEGMENT_HEADER_BYTES, opened.header.first_lsn
        self._sealed, self._end, self._suspect, self._resumed = False, None, None, None

    def _resume(self, frame: Frame) -> None:
        """Go to a frame behind the place where frames stopped."""
        self._offset, self.lsn = self._resumed = frame[0], frame[1].first_lsn
        self._suspect = None

    # ---- the live end

    def _look_behind(self) -> bool:
        """See whether the log goes on behind where its frames stop; True if it was gone to.

        Searched again and again, but seldom: a writer goes on behind what is damaged.
        """
        held = self._held
        assert held is not None, "a log that is still there was opened"
        at = held.segment_id, self._offset
        if at != self._quiet_at:
            self._quiet_at, self._quiet, self._suspect = at, 0, None
            return False
        self._quiet += 1
        if self._suspect is not None:
            return self._is_there() and self._pass_over(self._suspect)
        if self._quiet & (self._quiet - 1) == 0 or self._quiet % _SEARCH_EVERY == 0:
            self._suspect = self._search(held)
        return False

    def _search(self, held: Opened) -> Suspect | None:
        """Return what says that the log goes on."""
        if not self._sealed:
            first: Frame | None = None
            for frame in self._later_frames(held.file, self._offset + ALIGNMENT):
                first = first or frame
                header = frame[1]
                # As the verdict on a log has it: no frame knows that it is on disk itself.
                if self.lsn <= header.synced_lsn < header.first_lsn:
                    return Suspect(first, held.segment_id)
        following = self._next_header()
        if following is None:
            return None
        following.file.close()
        return Suspect(None, following.segment_id)

    def _pass_over(self, suspect: Suspect) -> bool:
        """Tell that something is damaged, and go on behind it."""
        if suspect.frame is not None:
            self._damage(suspect.frame[1].first_lsn - 1)
            self._resume(suspect.frame)
            return True
        following = self._open(suspect.segment_id)
        if following is None:
            return False
        self._damage(following.header.previous_last_lsn)
        self._enter(following)
        return True

    def _damage(self, last: int) -> None:
        """Tell that the log is damaged at the present place, where LSNs up to `last` were."""
        held = self._held
        assert held is not None, "what is damaged was read"
        first = max(self.lsn, self.floor)
        if last >= self.lsn:
            self.lsn = last + 1
        if self.lsn < self.floor:
            return
        self.damaged = True
        end = self._end
        expected, found = (end.expected, end.found) if end else ("the segment that follows", "none")
        lost = f"{_span(first, last)} passed over" if first <= last else "no LSN lies there"
        self._tell(
            f"{held.file.path}: offset {self._offset}: damage in mid-log: expected {expected}, "
            f"found {found}; {lost}"
        )

    # ---- files

    def _later_frames(self, file: DiskFile, offset: int) -> Iterator[Frame]:
        held = self._held
        assert held is not None, "frames are those of a segment"
        return find_later_frames(file, stamp_of(held.header), offset=offset, lsn=self.lsn)

    def _ids(self) -> list[int]:
        return list(list_segments(self._target.disk, self._target.log_dir))

    def _open(self, segment_id: int) -> Opened | None:
        """Open a segment; None if it is not there, or has no header of its own yet."""
        opened = self._opened(segment_id)
        if opened is None:
            return None
        file, header = opened
        if header is None or header.segment_id != segment_id:
            file.close()
            return None
        if self._uuid == bytes(16):
            self._uuid = header.uuid
        if header.uuid != self._uuid:
            file.close()
            raise ForeignStoreError(
                f"{file.path}: expected a segment of store {self._uuid.hex()}, found one of store "
                f"{header.uuid.hex()}; follow the log of one store"
            )
        if header.version != FORMAT_VERSION or header.checksum_id != CHECKSUM_CRC32C:
            file.close()
            raise ForeignStoreError(
                f"{file.path}: expected format version {FORMAT_VERSION}, found {header.version}; "
                "follow the log with the release of strandline that writes it"
            )
        return Opened(segment_id, file, header)

    def _is_followed(self) -> bool:
        """Tell whether the segment behind the one that is held has its header."""
        following = self._open(self._held.segment_id + 1) if self._held else None
        if following is not None:
            following.file.close()
        return following is not None

    def _is_there(self) -> bool:
        """Tell whether the segment that is held is still in its place; it can be a new file."""
        held = self._held
        if held is None:
            return False
        opened = self._opened(held.segment_id)
        if opened is None:
            return False
        file, header = opened
        file.close()
        # A header that does not hold is damage; a file that is used again has another name.
        return header is None or stamp_of(header) == stamp_of(held.header)

    def _opened(self, segment_id: int) -> tuple[DiskFile, SegmentHeader | None] | None:
        path = os.path.join(self._target.log_dir, segment_name(segment_id))
        try:
            file = self._target.disk.open(path, "r")
        except FileNotFoundError:
            return None
        try:
            return file, read_segment_header(file)
        except BaseException:
            file.close()
            raise


def _span(first: int, last: int) -> str:
    return f"LSN {first} to {last}" if last > first else f"LSN {first}"
