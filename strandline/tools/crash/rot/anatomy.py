"""The files of a store, taken apart into the kinds of places that can rot.

A `Place` is a range of bytes of one file; a file has several if it means several things.
Frames are taken from sound segments in order, by their headers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from strandline.engine.data_file import DATA_NAME
from strandline.engine.data_file import LOCK_NAME as LMDB_LOCK_NAME
from strandline.engine.reserve import RESERVE_NAME
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.tools.crash.rot import pages
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    SegmentHeader,
    aligned,
    decode_frame_header,
    decode_segment_header,
    segment_id_of,
)
from strandline.wal.identity import IDENTITY_NAME
from strandline.wal.lockfile import LOCK_NAME

SEALED, LAST, PREPARED, BEHIND = (
    "sealed segment", "last segment", "prepared segment", "unused end of a segment",
)  # fmt: skip
QUARANTINED: Final = "quarantined file"
LMDB_LOCK: Final = "lock.mdb"

KINDS: Final = (
    IDENTITY_NAME, LOCK_NAME, SEALED, LAST, PREPARED, BEHIND, pages.META, pages.BRANCH, pages.LEAF,
    pages.OVERFLOW, pages.FREE_LIST, pages.UNUSED, LMDB_LOCK, QUARANTINED, RESERVE_NAME,
)  # fmt: skip
"""Every kind of place."""
LOG_KINDS: Final = (SEALED, LAST, PREPARED, BEHIND)
DATA_KINDS: Final = (
    pages.META, pages.BRANCH, pages.LEAF, pages.OVERFLOW, pages.FREE_LIST, pages.UNUSED,
)  # fmt: skip
UNREAD_KINDS: Final = (LOCK_NAME, LMDB_LOCK, QUARANTINED, RESERVE_NAME)
"""Files that nothing is believed of: whatever is done to them is harmless."""
LOG: Final = LOG_NAME
DATA_FILE: Final = f"{STORE_NAME}/{DATA_NAME}"


class Place(NamedTuple):
    """A range of bytes that mean one kind of thing."""

    kind: str
    file: str
    """Its path in the store."""
    start: int
    end: int
    heads: tuple[int, ...] = ()
    """Where headers begin, whose bytes mean more than others."""


class Frame(NamedTuple):
    """A frame of a sound segment, and where it lies."""

    offset: int
    end: int
    header: FrameHeader


def log_files(store: Path) -> list[Path]:
    """Return the segment files, in order."""
    return sorted(path for path in (store / LOG_NAME).iterdir() if segment_id_of(path.name))


def header_of(data: bytes, path: Path) -> SegmentHeader | None:
    """Return the header of a segment, None if the file was not begun to be used."""
    header = decode_segment_header(data)
    return header if header and header.segment_id == segment_id_of(path.name) else None


def frames_of(data: bytes) -> Iterator[Frame]:
    """Yield the frames of a segment that belong to its header, in order."""
    header = decode_segment_header(data)
    offset = SEGMENT_HEADER_BYTES
    while header is not None:
        frame = decode_frame_header(data[offset : offset + FRAME_HEADER_BYTES])
        if frame is None or (frame.segment_id, frame.salt) != (header.segment_id, header.salt):
            return
        end = aligned(offset + FRAME_HEADER_BYTES + frame.payload_length)
        yield Frame(offset, end, frame)
        offset = end


def places_of(store: Path) -> list[Place]:
    """Return every place of a sound store."""
    found = [
        *_whole(store, [IDENTITY_NAME, LOCK_NAME, RESERVE_NAME]),
        *_log(store),
        *_data(store),
        Place(LMDB_LOCK, f"{STORE_NAME}/{LMDB_LOCK_NAME}", 0, 0),
    ]
    for path in sorted((store / QUARANTINE_NAME).glob("*")):
        name = str(path.relative_to(store))
        found.append(Place(QUARANTINED, name, 0, path.stat().st_size))
    return [
        place._replace(end=place.end or (store / place.file).stat().st_size)
        for place in found
        if (store / place.file).exists()
    ]


def _whole(store: Path, names: list[str]) -> Iterator[Place]:
    for name in names:
        if (store / name).exists():
            yield Place(name, name, 0, (store / name).stat().st_size)


def _log(store: Path) -> Iterator[Place]:
    files = log_files(store)
    begun = [path for path in files if header_of(path.read_bytes(), path)]
    for path in files:
        name = str(path.relative_to(store))
        data = path.read_bytes()
        if path not in begun:
            yield Place(PREPARED, name, 0, len(data))
            continue
        frames = list(frames_of(data))
        end = frames[-1].end if frames else SEGMENT_HEADER_BYTES
        heads = (0, *(frame.offset for frame in frames))
        yield Place(LAST if path == begun[-1] else SEALED, name, 0, end, heads)
        if end < len(data):
            yield Place(BEHIND, name, end, len(data))


def _data(store: Path) -> Iterator[Place]:
    data = (store / DATA_FILE).read_bytes()
    page = pages.page_bytes_of(data)
    at = 0
    for kind, run in groupby(pages.kinds_of_pages(data)):
        length = len(list(run)) * page
        yield Place(kind, DATA_FILE, at, at + length, tuple(range(at, at + length, page)))
        at += length
