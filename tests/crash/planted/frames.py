"""Bugs in what a frame says, and in what is believed of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strandline.recovery.verdict import _Judge
from strandline.wal import format as fmt
from strandline.wal import reader, resync
from strandline.wal.checksum import crc32c
from strandline.wal.damage import Damage
from strandline.wal.reader import SegmentReader
from tests.crash.planted.bug import Planting, bug


class _Fitting(int):
    """A checksum that agrees with any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


@bug(breaks=3, in_python=True)
def payload_crc_unchecked(planting: Planting) -> None:
    """A frame is believed if its header is whole; its payload may be torn.

    The checksum is computed over the header, which is where everybody looks.
    """

    def lenient(data: bytes) -> int:
        header = len(data) == fmt.FRAME_HEADER_BYTES - 4
        return crc32c(data) if header else _Fitting()

    planting.replace(reader, "crc32c", lenient)
    planting.replace(resync, "crc32c", lenient)


@bug(breaks=4, in_python=True)
def stale_frames_accepted(planting: Planting) -> None:
    """A frame's checksum leaves out LSN, salt and epoch: any whole frame is the next one.

    So it is in a log whose frames do not say where they belong. When a segment's file is
    used again, what it held before comes back behind the new frames.
    """
    raw_header = SegmentReader._raw_header

    def as_next(self: SegmentReader) -> tuple[Any, ...] | None:
        raw = raw_header(self)
        if raw is None:
            return None
        head = self._data[self._at + 4 : self._at + fmt.FRAME_HEADER_BYTES]
        if raw[0] != crc32c(head):
            return raw
        check, payload_crc, length, count, _, synced, stored, time_ns, _, _, _, *rest = raw
        known = (check, payload_crc, length, count, self.lsn, synced, stored, time_ns)
        return (*known, *self.stamp, *rest)

    planting.replace(SegmentReader, "_raw_header", as_next)


@bug(breaks=7, in_python=True)
def frames_claim_too_much(planting: Planting) -> None:
    """A frame says that all before it is synced, where it was only written.

    After a power cut an ordinary torn tail looks like damage, and the store does not open.
    """
    encode_group = fmt.encode_group

    def claim(items: list[Any], count: int, first_lsn: int, synced_lsn: int, *rest: int) -> bytes:
        return encode_group(items, count, first_lsn, first_lsn - 1, *rest)

    planting.replace(fmt, "encode_group", claim)


@bug(breaks=7)
def damage_taken_for_torn_tail(planting: Planting) -> None:
    """Damage in the middle of the log is taken for its end, and all behind it is dropped.

    "Stop at the first frame that does not check" is what most logs do.
    """

    def lose(self: _Judge, damages: Sequence[Damage], first: int, last: int, claim: int) -> bool:
        self.explained = True
        return self._tear(damages[0])

    planting.replace(_Judge, "_lose", lose)
