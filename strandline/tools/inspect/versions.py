"""What the log holds of one key, and what became of it.

A version is an operation on the key, or one that decides about it together with its whole
table: a clear, a drop, a create. A name can have stood for several tables, one after the
other; each has an id of its own, and all of them count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from strandline.engine.operations import (
    CLEAR,
    CREATE,
    DROP,
    OPERATION_MASK,
    PUT,
    TAG_SHIFT,
    PayloadError,
)
from strandline.engine.record_apart import StoredRecord
from strandline.tools.cli.terminal import note
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.frames import LogFrames, Tables, flat_operations, operations_of
from strandline.wal.reader import PlacedFrame

_OF_TABLES: Final = (CLEAR, CREATE, DROP)


class Version(NamedTuple):
    """An operation that decides what a key is, and the frame that it lies in."""

    lsn: int
    time_ns: int
    table_id: int
    op: int
    value: bytes | None
    """Of a put alone."""
    segment_id: int
    offset: int
    frame_first_lsn: int
    frame_operations: int


class Seen(NamedTuple):
    """What a reader sees."""

    lsn: int | None
    value: bytes | None
    """None where the key is absent."""
    source: str
    """`log` or `lmdb`."""


def ids_of(log: Examination, name: str, tables: Tables) -> list[int]:
    """Return the ids of all tables that had a name: as LMDB knows them, and the log.

    `#ID` names one by its id. `tables` takes in what the log says of them.
    """
    if name[:1] == "#" and name[1:].isascii() and name[1:].isdigit():
        tables.learn(log, below=log.last_lsn + 1)
        return [int(name[1:])]
    found = {table_id for table_id, info in tables.known.items() if info.name == name}
    if name:
        text = name.encode("utf-8", "surrogateescape")
        for scan, frames in LogFrames(log):
            for frame in frames:
                if text not in frame[5]:
                    continue
                try:
                    operations = operations_of(scan, frame)
                except PayloadError:
                    continue  # told when versions are looked for
                tables.take(operations)
                found |= {
                    each.table_id
                    for each in operations
                    if each.op in {CREATE, DROP} and each.key == text
                }
    return sorted(found)


def versions_in(frames: LogFrames, keys: Mapping[int, bytes]) -> Iterator[Version]:
    """Yield the versions of a key, which is given by table id, in the order of the log."""
    wanted = {table_id << TAG_SHIFT | op for table_id in keys for op in _OF_TABLES}
    for scan, some in frames:
        for frame in some:
            try:
                yield from _in_frame(scan.segment_id, frame, keys, wanted)
            except PayloadError as error:
                frames.senseless += 1
                note(f"{scan.path}: offset {frame[0]}, LSN {frame[1]}: {error}")


def _in_frame(
    segment_id: int, frame: PlacedFrame, keys: Mapping[int, bytes], wanted: set[int]
) -> Iterator[Version]:
    offset, first, count, time_ns = frame[:4]
    tags, their_keys, values = flat_operations(frame)
    if not any(key in frame[5] for key in keys.values()) and wanted.isdisjoint(tags):
        return
    for index, tag in enumerate(tags):
        table_id, op = tag >> TAG_SHIFT, tag & OPERATION_MASK
        if tag in wanted or (table_id in keys and their_keys[index] == keys[table_id]):
            value = values[index] if op == PUT else None
            yield Version(
                first + index, time_ns, table_id, op, value, segment_id, offset, first, count
            )


def seen_now(newest: Version | None, stored: StoredRecord | None) -> Seen | None:
    """Return what a reader sees of the key; None where nothing that is known decides it.

    All up to LMDB's watermark is as LMDB has it; what lies above is as the log has it.
    """
    if newest is not None and (stored is None or newest.lsn > stored.watermark_lsn):
        return Seen(newest.lsn, newest.value if newest.op == PUT else None, "log")
    if stored is None:
        return None
    return Seen(stored.lsn, stored.value, "lmdb")


def contradiction(newest: Version | None, stored: StoredRecord | None) -> str | None:
    """Return how LMDB holds something else than the log says, None where it does not."""
    if newest is None or stored is None or newest.lsn > stored.watermark_lsn:
        return None
    expected = newest.lsn if newest.op == PUT else None
    if expected == stored.lsn and (expected is None or newest.value == stored.value):
        return None
    said = "nothing" if expected is None else f"LSN {expected}"
    found = "nothing" if stored.lsn is None else f"LSN {stored.lsn}"
    if said == found:
        said, found = f"the value of {said}", "another one"
    return f"LMDB: expected {said} for the key, as the log has it, found {found}"
