"""The anatomy of a frame or a segment header: every field, what it means, whether it checks.

    offset    bytes                     field        value     meaning
    00001000  8d 1f 22 b0               header CRC   0xb0221f8d  holds

Works on whatever bytes lie at a place. Nothing is believed: lengths are held against the
file before anything is read by them, and a payload is decoded up to a number of
operations. docs/format.md has the format; a test holds the two against each other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import msgpack

from strandline.engine.operations import OPERATION_MASK, OPERATION_NAMES, TAG_SHIFT
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.fields import Values, show_key, show_value
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.times import show_time
from strandline.wal.checksum import CHECKSUM_CRC32C, crc32c
from strandline.wal.disk import DiskFile
from strandline.wal.format import (
    FLAG_CLEAN,
    FORMAT_VERSION,
    FRAME_HEADER_BYTES,
    LSN_LIMIT,
    MAX_PAYLOAD_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    SKIPPABLE,
    SYNC_MARK_PAYLOAD,
    TYPE_DATA,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
    aligned,
    decode_seal,
)
from strandline.wal.reader import read_fully

_TYPES: Final = {TYPE_DATA: "data", TYPE_SEAL: "seal", TYPE_SYNC_MARK: "sync mark"}
_RAW: Final = 64
"""Bytes of a part that are shown."""
_SHOWN: Final = 200
"""Characters of a key or value that are shown."""


class Holds(enum.Enum):
    """Whether a field is as it should be."""

    YES = "holds"
    NO = "does not hold"
    UNCHECKED = ""
    """Nothing says what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field, where it lies and what it says."""

    offset: int
    """In the file."""
    raw: bytes
    """At most the first bytes of it."""
    length: int
    name: str
    value: str
    meaning: str
    holds: Holds
    expected: str = ""
    """What it should be, where it does not hold."""


class _Layout(NamedTuple):
    """Where a field lies in a header."""

    name: str
    at: int
    length: int
    meaning: str


FRAME_LAYOUT: Final = (
    _Layout("header CRC", 0, 4, "CRC-32C of bytes 4 to 71"),
    _Layout("payload CRC", 4, 4, "CRC-32C of the payload"),
    _Layout("length", 8, 4, "bytes of payload"),
    _Layout("count", 12, 4, "operations in the payload"),
    _Layout("first LSN", 16, 8, "of the first operation"),
    _Layout("synced LSN", 24, 8, "known on disk when this was written"),
    _Layout("stored LSN", 32, 8, "known in LMDB when this was written"),
    _Layout("time", 40, 8, "wall clock, nanoseconds since 1970"),
    _Layout("segment id", 48, 8, "the segment that it belongs to"),
    _Layout("salt", 56, 8, "of this use of the segment file"),
    _Layout("epoch", 64, 4, "the opening of the store that wrote it"),
    _Layout("type", 68, 1, "what the payload is"),
    _Layout("flags", 69, 1, "0x01 on a seal: closed in order"),
    _Layout("reserved", 70, 2, "zero"),
)
SEGMENT_LAYOUT: Final = (
    _Layout("magic", 0, 8, "marks a segment"),
    _Layout("version", 8, 4, "of the format"),
    _Layout("header length", 12, 4, "bytes"),
    _Layout("store uuid", 16, 16, "the store that it belongs to"),
    _Layout("segment id", 32, 8, "as in the file's name"),
    _Layout("salt", 40, 8, "random, new each time that the file is used"),
    _Layout("epoch", 48, 4, "the opening of the store that began it"),
    _Layout("checksum id", 52, 4, "1 is CRC-32C"),
    _Layout("first LSN", 56, 8, "that its first operation gets"),
    _Layout("allocated", 64, 8, "bytes of the file when it became active"),
    _Layout("previous id", 72, 8, "the segment before it, 0 if there is none"),
    _Layout("previous end", 80, 8, "where that one's seal ends"),
    _Layout("previous last LSN", 88, 8, "the last LSN before this segment"),
    _Layout("created", 96, 8, "wall clock, nanoseconds since 1970"),
    _Layout("header CRC", 4092, 4, "CRC-32C of bytes 0 to 4091"),
)


def _number(block: bytes, layout: _Layout) -> int:
    return int.from_bytes(block[layout.at : layout.at + layout.length], "little")


def segment_anatomy(file: DiskFile, scan: SegmentScan, uuid: bytes) -> list[Field]:
    """Return the fields of a segment's header."""
    block = read_fully(file, SEGMENT_HEADER_BYTES, 0)
    checks: dict[str, Any] = {
        "magic": SEGMENT_MAGIC,
        "version": FORMAT_VERSION,
        "header length": SEGMENT_HEADER_BYTES,
        "store uuid": uuid,
        "segment id": scan.segment_id,
        "checksum id": CHECKSUM_CRC32C,
        "header CRC": crc32c(block[:-4]),
    }
    fields = []
    for layout in SEGMENT_LAYOUT:
        raw = block[layout.at : layout.at + layout.length]
        if len(raw) < layout.length:
            break
        number = _number(block, layout)
        actual: Any = raw if layout.name in ("magic", "store uuid") else number
        expected = checks.get(layout.name)
        fields.append(_field(layout, 0, raw, _shown(layout.name, number, raw), actual, expected))
    return fields


def frame_anatomy(
    file: DiskFile, scan: SegmentScan, offset: int, *, lsn: int | None, tables: Tables, most: int
) -> list[Field]:
    """Return the fields of the frame at `offset`, of its operations at most so many.

    `lsn` is what its first LSN should be, None where nothing tells.
    """
    size = file.size()
    head = read_fully(file, FRAME_HEADER_BYTES, offset)
    if len(head) < FRAME_HEADER_BYTES:
        return []
    numbers = {layout.name: _number(head, layout) for layout in FRAME_LAYOUT}
    length = numbers["length"]
    body = offset + FRAME_HEADER_BYTES
    whole = length <= MAX_PAYLOAD_BYTES and body + length <= size
    payload = read_fully(file, length, body) if whole else b""
    checks: dict[str, Any] = {
        "header CRC": crc32c(head[4:]),
        "segment id": scan.stamp.segment_id,
        "salt": scan.stamp.salt,
        "epoch": scan.stamp.epoch,
        "reserved": 0,
    }
    if whole:
        checks["payload CRC"] = crc32c(payload)
    if lsn is not None:
        checks["first LSN"] = lsn
    fields = []
    for layout in FRAME_LAYOUT:
        raw = head[layout.at : layout.at + layout.length]
        number = numbers[layout.name]
        shown = _shown(layout.name, number, raw)
        fields.append(_field(layout, offset, raw, shown, number, checks.get(layout.name)))
    _judge(fields, numbers, f"at most {size - body}, to the end of the file", whole=whole)
    if whole:
        fields += _payload(payload, numbers, body, tables, most)
        fields += _padding(file, body + length)
    return fields


def _field(layout: _Layout, base: int, raw: bytes, shown: str, actual: Any, expected: Any) -> Field:
    holds = Holds.UNCHECKED if expected is None else Holds.YES
    wanted = ""
    if expected is not None and expected != actual:
        holds = Holds.NO
        number = expected if isinstance(expected, int) else 0
        encoded = expected if isinstance(expected, bytes) else b""
        wanted = _shown(layout.name, number, encoded)
    return Field(
        offset=base + layout.at,
        raw=raw,
        length=layout.length,
        name=layout.name,
        value=shown,
        meaning=layout.meaning,
        holds=holds,
        expected=wanted,
    )


def _shown(name: str, number: int, raw: bytes) -> str:
    if name.endswith("CRC"):
        return f"{number:#010x}"
    if name == "magic":
        return show_key("bytes", raw)
    if name == "store uuid":
        return raw.hex()
    if name == "salt":
        return f"{number:016x}"
    if name in ("time", "created"):
        return show_time(number)
    if name == "type":
        known = _TYPES.get(number, "unknown, skippable" if number & SKIPPABLE else "unknown")
        return f"{number:#04x}, {known}"
    if name in ("flags", "reserved"):
        return f"{number:#x}"
    return str(number)


def _judge(fields: list[Field], numbers: dict[str, int], room: str, *, whole: bool) -> None:
    """Judge the fields whose rightness depends on others."""
    verdicts: dict[str, tuple[bool, str]] = {
        "length": (whole, room),
        "synced LSN": (numbers["synced LSN"] < numbers["first LSN"], "an LSN before the first"),
        "stored LSN": (
            numbers["stored LSN"] <= numbers["synced LSN"],
            "an LSN that is synced: the log goes first",
        ),
        "type": (
            numbers["type"] in _TYPES or bool(numbers["type"] & SKIPPABLE and not numbers["count"]),
            "a type of this format",
        ),
        "count": (
            bool(numbers["count"]) == (numbers["type"] == TYPE_DATA)
            and numbers["first LSN"] + numbers["count"] <= LSN_LIMIT,
            "operations in a data frame, and none in others",
        ),
        "flags": (not numbers["flags"] & ~FLAG_CLEAN, "no flags but 0x01"),
    }
    for at, field in enumerate(fields):
        if field.name in verdicts:
            holds, expected = verdicts[field.name]
            fields[at] = replace(
                field,
                holds=Holds.YES if holds else Holds.NO,
                expected="" if holds else expected,
            )


def _padding(file: DiskFile, end: int) -> list[Field]:
    raw = read_fully(file, aligned(end) - end, end)
    if not raw:
        return []
    blank = not raw.strip(b"\0")
    return [
        Field(
            offset=end,
            raw=raw,
            length=len(raw),
            name="padding",
            value=raw.hex(),
            meaning="zeros up to a multiple of 8",
            holds=Holds.YES if blank else Holds.NO,
            expected="" if blank else "zeros",
        )
    ]


# ---- the payload


def _payload(
    payload: bytes, numbers: dict[str, int], base: int, tables: Tables, most: int
) -> list[Field]:
    if numbers["type"] == TYPE_DATA:
        first_lsn, count = numbers["first LSN"], numbers["count"]
        return list(_Operations(payload, base).fields(first_lsn, count, tables, most))
    shown, holds = payload[:64].hex(), Holds.UNCHECKED
    meaning = "payload"
    if numbers["type"] == TYPE_SEAL:
        seal = decode_seal(payload)
        holds = Holds.NO if seal is None else Holds.YES
        meaning = "frames before it, the last LSN, xxh3-128 of all frames"
        if seal is not None:
            shown = f"{seal.frames} frames, last LSN {seal.last_lsn}, {seal.digest.hex()}"
    elif numbers["type"] == TYPE_SYNC_MARK:
        shown, meaning = "nil", "a mark has no payload"
        holds = Holds.YES if payload == SYNC_MARK_PAYLOAD else Holds.NO
    return [
        Field(
            offset=base,
            raw=payload[:_RAW],
            length=len(payload),
            name="payload",
            value=shown,
            meaning=meaning,
            holds=holds,
        )
    ]


class _Operations:
    """The payload of a data frame, decoded element by element."""

    def __init__(self, payload: bytes, base: int) -> None:
        self._payload = payload
        self._base = base
        self._end = 0
        self._unpacker = msgpack.Unpacker(max_buffer_size=len(payload) or 1)
        self._unpacker.feed(payload)

    def fields(self, first_lsn: int, count: int, tables: Tables, most: int) -> Iterator[Field]:
        """Yield the parts of the payload, up to `most` operations."""
        unpack = self._unpacker.unpack
        try:
            length, wanted = self._unpacker.read_array_header(), 1 + 3 * count
            fits = Holds.YES if length == wanted else Holds.NO
            expected = "" if length == wanted else f"{wanted} elements"
            yield self._next("array", f"{length} elements", fits, expected=expected)
            commits = unpack()
            shown = "every operation is a commit" if commits is None else _cut(repr(commits))
            yield self._next("commits", shown, Holds.UNCHECKED)
            for index in range(min(count, most)):
                shown, holds = _operation(unpack(), unpack(), unpack(), tables)
                yield self._next(f"LSN {first_lsn + index}", shown, holds)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            found = f"not the msgpack that it should be: {error or type(error).__name__}"
            yield self._next("payload", found, Holds.NO, to_end=True)
            return
        if count > most:
            rest = f"{count - most:,} more operations"
            yield self._next("...", rest, Holds.UNCHECKED, to_end=True)

    def _next(
        self, name: str, value: str, holds: Holds, *, expected: str = "", to_end: bool = False
    ) -> Field:
        """Return the field from where the last one ended to where the decoding is now."""
        start = self._end
        self._end = len(self._payload) if to_end else self._unpacker.tell()
        return Field(
            offset=self._base + start,
            raw=self._payload[start : min(self._end, start + _RAW)],
            length=self._end - start,
            name=name,
            value=value,
            meaning=_PARTS.get(name, "tag, key, value" if name.startswith("LSN") else ""),
            holds=holds,
            expected=expected,
        )


_PARTS: Final = {
    "array": "1 and 3 an operation",
    "commits": "commits of more than one: index, number",
}


def _operation(tag: Any, key: Any, value: Any, tables: Tables) -> tuple[str, Holds]:
    known = isinstance(tag, int) and tag >= 0 and tag & OPERATION_MASK in OPERATION_NAMES
    kinds = (bytes, type(None))
    if not known or not isinstance(key, kinds) or not isinstance(value, kinds):
        return _cut(repr((tag, key, value))), Holds.NO
    table_id = tag >> TAG_SHIFT
    name = tables.name(table_id)
    parts = [OPERATION_NAMES[tag & OPERATION_MASK], f"table {name or 'default'} (id {table_id})"]
    if key is not None:
        parts.append(f"key {_cut(show_key(tables.codec(table_id), key[:_SHOWN]))}")
    if value is not None:
        text = _cut(show_value(Values.UTF8, value[:_SHOWN]))
        parts.append(f"value of {len(value)} bytes: {text}")
    return ", ".join(parts), Holds.YES


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
