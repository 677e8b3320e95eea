"""A log of two segments, judged in every recovery mode: `python -m fuzz.logs`."""

from __future__ import annotations

from typing import Any, Final

from fuzz.frames import BytesFile, reader_of
from fuzz.harness import run
from fuzz.mending import HEADER, mended_segment
from strandline.errors import (
    ForeignStoreError,
    LogCorruptionError,
    LogGapError,
    StoreCorruptionError,
)
from strandline.options import RECOVERY_MODES
from strandline.recovery.survey import Survey, survey
from strandline.wal.format import SegmentHeader, segment_name

_LOG: Final = "/log"


class MemoryDisk:
    """A log's directory that is only read."""

    def __init__(self, segments: list[bytes]) -> None:
        self._files = {segment_name(n): content for n, content in enumerate(segments, 1)}

    def listdir(self, _path: str) -> list[str]:
        """Return the segments' names."""
        return sorted(self._files)

    def kind(self, path: str) -> str:
        """Tell the directory from its segments."""
        if path == _LOG:
            return "directory"
        return "file" if path.rpartition("/")[2] in self._files else "absent"

    def open(self, path: str, _mode: str) -> BytesFile:
        """Open a segment to read."""
        return BytesFile(self._files[path.rpartition("/")[2]])


def following(content: bytes) -> SegmentHeader:
    """Return the header of the segment after one, as its writer would have filled it in."""
    reader = reader_of(content)
    for _ in reader:
        pass
    return HEADER._replace(
        segment_id=2,
        first_lsn=reader.lsn,
        previous_id=1,
        previous_bytes=reader.offset,
        previous_last_lsn=reader.lsn - 1,
    )


def target(data: bytes) -> None:
    """Survey a log: it is read, or refused with an error of the tree; the modes agree."""
    if len(data) < 3:
        return
    at = int.from_bytes(data[:2], "little") % (len(data) - 2)
    watermark = data[2] % 8
    first, second = data[3 : 3 + at], data[3 + at :]
    one = mended_segment(first)
    found: dict[str, Survey] = {}
    disk: Any = MemoryDisk([one, mended_segment(second, following(one))])
    for mode in RECOVERY_MODES:
        try:
            found[mode] = survey(disk, _LOG, uuid=HEADER.uuid, watermark_lsn=watermark, mode=mode)
        except ForeignStoreError:
            return  # a frame of a newer release: nobody may go past it
        except StoreCorruptionError:
            assert watermark  # LMDB holds more than the log reaches: no mode takes that
        except (LogCorruptionError, LogGapError):
            assert mode in ("strict", "tolerate-torn-tail"), mode
    for mode, each in found.items():
        assert each.last_lsn >= watermark, mode
    if "strict" in found:
        # What the strictest takes is whole: nobody else may lose any of it, or find more.
        assert found["tolerate-torn-tail"].last_lsn == found["strict"].last_lsn
        assert not found["strict"].damages


if __name__ == "__main__":
    run(target)
