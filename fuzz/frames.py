"""A segment, read in the reader's three ways: `python -m fuzz.frames`."""

from __future__ import annotations

from fuzz.harness import run
from fuzz.mending import HEADER, mended_segment
from strandline.wal.format import TYPE_DATA
from strandline.wal.reader import SegmentReader, stamp_of


class BytesFile:
    """A file that holds what it was given."""

    path = "segment"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def pread(self, length: int, offset: int, /) -> bytes:
        """Return up to `length` bytes from `offset` on."""
        return self._content[offset : offset + length]

    def size(self) -> int:
        """Return the length."""
        return len(self._content)

    def close(self) -> None:
        """Do nothing."""


def reader_of(content: bytes) -> SegmentReader:
    """Return a reader of a segment's content."""
    file: object = BytesFile(content)
    return SegmentReader(file, stamp_of(HEADER), lsn=HEADER.first_lsn)  # type: ignore[arg-type]


def state_of(reader: SegmentReader) -> tuple[object, ...]:
    """Return what a reader says of itself when it has ended."""
    return (
        reader.offset,
        reader.lsn,
        reader.frames,
        reader.damage,
        reader.seal,
        tuple(reader.findings),
    )


def target(data: bytes) -> None:
    """Read one segment in three ways and compare."""
    content = mended_segment(data)
    one, two, three = reader_of(content), reader_of(content), reader_of(content)
    frames = list(one)
    strides = list(two.strides())
    batches = [frame for _, batch in three.batches() for frame in batch]
    assert state_of(one) == state_of(two) == state_of(three)
    wanted = [(h.first_lsn, h.count, p) for _, h, p in frames if h.type == TYPE_DATA]
    assert wanted == batches
    claims = [h.synced_lsn for _, h, _ in frames if h.synced_lsn < h.first_lsn]
    assert max(claims, default=0) == max((s.claimed_lsn for s in strides), default=0)


if __name__ == "__main__":
    run(target)
