"""Logs for the report: sound, damaged in every way, and hostile to whoever shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgpack

from tests.support.logs import BuiltFrame, LogBuilder
from tests.tools.inspecting import inspect, lay, segment

BASE_NS: Final = 1_700_000_000_000_000_000
PUT: Final = 1
CREATE: Final = 4
SCRIPT: Final = "<script>window.hacked = 1; alert(1)</script>"
HOSTILE: Final = (
    SCRIPT.encode(),
    b"</script><img src=x onerror='window.hacked = 2'>",
    b"\"'><svg onload=alert(3)>&amp;<!--",
    b"\x1b[31mred\x07\x00\r\n\t",
    b"\xff\xfe\x80",
    "\u202egnp.exe\u2066".encode(),
    b"back\\slash",
    "\u05d0\u05d1\u05d2".encode(),
)
"""Keys that act on a terminal, a browser or a reader if nobody stops them."""


def puts(log: LogBuilder, *keys: bytes, table: int = 1, at: int = 0) -> BuiltFrame:
    """Append a frame of puts; `at` is when, in seconds."""
    items: list[object] = [None]
    for key in keys:
        items += [table * 8 + PUT, key, b"value"]
    return log.data(len(keys), msgpack.packb(items), time_ns=BASE_NS + at * 10**9)


def create(log: LogBuilder, table: int, name: str) -> BuiltFrame:
    """Append a frame that creates a table."""
    options = msgpack.packb({"codec": "bytes/bytes", "logged": True})
    payload = msgpack.packb([None, table * 8 + CREATE, name.encode(), options])
    return log.data(1, payload, time_ns=BASE_NS)


def three_segments() -> LogBuilder:
    """Two sealed segments and an open one, with writes to a hot key and some others."""
    log = LogBuilder()
    for number in range(3):
        log.open(created_ns=BASE_NS)
        for at in range(6):
            puts(log, b"hot", b"user:%d" % at, at=6 * number + at)
        if number < 2:
            log.seal()
    return log


def sound(directory: Path) -> Path:
    """Return the folder of a log in which nothing is wrong."""
    return lay(three_segments(), directory)


def damaged(directory: Path) -> Path:
    """Two frames of one segment changed, another segment's tail torn."""
    log = three_segments()
    last = log.active.frames[-1]
    path = lay(log, directory)
    for frame in log.segments[1].data[1:4:2]:
        _flip(segment(path, 1), frame.offset + 80)
    _cut(segment(path, 3), last.end - 20)
    return path


def torn(directory: Path) -> Path:
    """The last write was cut short."""
    log = three_segments()
    path = lay(log, directory)
    _cut(segment(path, 3), log.active.frames[-1].end - 20)
    return path


def gap(directory: Path) -> Path:
    """A segment is missing."""
    path = sound(directory)
    segment(path, 2).unlink()
    return path


def foreign(directory: Path) -> Path:
    """The last segment is another store's."""
    log = three_segments()
    log.seal()
    log.open(uuid=bytes(16))
    puts(log, b"k")
    return lay(log, directory)


def hostile(directory: Path) -> Path:
    """Keys, a table's name and the path itself are written to do harm."""
    log = LogBuilder()
    log.open(created_ns=BASE_NS)
    create(log, 2, SCRIPT)
    create(log, 3, "\u202e\x1b]0;title\x07</table>")
    for at, key in enumerate(HOSTILE):
        for table in (1, 2, 3, 4):
            puts(log, *[key] * (at + 1), table=table, at=at)
    name = b"<script>window.hacked=4<%2fscript>\"'&\x1b[1m\xff" + "\u202e".encode()
    log.segments[1].content[log.segments[1].data[3].offset + 80] ^= 1
    return lay(log, directory / os.fsdecode(name))


def riddled(directory: Path, frames: int = 901) -> Path:
    """Every second frame of one segment is damaged."""
    log = LogBuilder()
    log.open(created_ns=BASE_NS, allocated=4096 + 200 * frames)
    for at in range(frames):
        puts(log, b"key%d" % at, at=at)
    log.mark()
    path = lay(log, directory)
    with segment(path, 1).open("r+b") as file:
        for frame in log.segments[1].data[1::2]:
            file.seek(frame.offset + 76)
            file.write(b"\xee\xee")
    return path


def numerous(directory: Path, segments: int = 300) -> Path:
    """So many segments that they cannot have a bar each; some damaged, some missing."""
    log = LogBuilder()
    for number in range(segments):
        log.open(created_ns=BASE_NS)
        puts(log, b"key", at=number)
        puts(log, b"key%d" % number, at=number)
        if number < segments - 1:
            log.seal()
    path = lay(log, directory)
    for number in (50, 60, 61, 62):
        _flip(segment(path, number), log.segments[number].data[0].offset + 80)
    for number in range(150, 170):
        segment(path, number).unlink()
    return path


def page_of(path: Path, output: Path, status: int) -> str:
    """Write the page of a log, see the command end with a status, and return the page."""
    result = inspect("report", path, "--output", output, "--force")
    assert status == result.exit_code, (result.output, result.stderr, result.exception)
    return output.read_text(encoding="utf-8")


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
