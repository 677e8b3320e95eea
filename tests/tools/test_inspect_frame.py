"""`frame`: every field of a frame, what it means, and whether it checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine.operations import CREATE, DELETE, PUT, encode_table_options, tag_of
from strandline.tools.inspect.anatomy import FRAME_LAYOUT, SEGMENT_LAYOUT
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SegmentHeader,
    decode_frame_header,
    decode_segment_header,
    encode_frame,
    encode_segment_header,
)
from tests.support.logs import UUID, LogBuilder
from tests.tools.inspecting import document, inspect, inspected, lay, segment

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 63) - 1)
U8 = st.integers(0, 255)


def packed(*operations: tuple[int, bytes | None, bytes | None]) -> bytes:
    """The payload of some operations."""
    items: list[Any] = [None]
    for operation in operations:
        items += operation
    data: bytes = msgpack.packb(items)
    return data


@pytest.fixture
def built(tmp_path: Path) -> tuple[LogBuilder, Path]:
    """A log whose frames hold operations that make sense."""
    log = LogBuilder()
    log.open()
    options = encode_table_options("int64/json", logged=True)
    log.data(1, packed((tag_of(2, CREATE), b"<i>\x1b[2J", options)))
    log.data(2, packed((tag_of(1, PUT), b"a\n", b"\x00\xff"), (tag_of(1, DELETE), b"a", None)))
    log.data(1, packed((tag_of(2, PUT), b"\x80" + bytes(6) + b"\x07", b"[1]")))
    log.mark()
    log.seal()
    log.open()
    log.data(1, packed((tag_of(2, PUT), b"\x80" + bytes(7), b"x" * 100_000)))
    return log, lay(log, tmp_path / "log")


def fields(*args: object, status: int = 0) -> dict[str, Any]:
    """The fields of a frame by name."""
    shown = document("frame", *args, status=status)["fields"]
    return {field["name"]: field for field in shown}


@given(st.tuples(U32, U64, U64, U64, U64, U64, U64, U32, U8, U8))
def test_the_layout_of_a_frame_is_that_of_the_codec(values: tuple[int, ...]) -> None:
    """Each field lies where `encode_frame` puts it, and the fields make up the header."""
    count, first, synced, stored, time_ns, segment_id, salt, epoch, kind, flags = values
    frame = encode_frame(
        kind, b"p", count, first, synced, stored, time_ns, segment_id, salt, epoch, flags
    )
    header = decode_frame_header(frame)
    assert header is not None
    read = [int.from_bytes(frame[f.at : f.at + f.length], "little") for f in FRAME_LAYOUT]
    assert read[1:] == list(header)
    assert [f.at for f in FRAME_LAYOUT[1:]] == [f.at + f.length for f in FRAME_LAYOUT[:-1]]
    assert FRAME_LAYOUT[-1].at + FRAME_LAYOUT[-1].length == FRAME_HEADER_BYTES


@given(st.tuples(U64, U64, U32, U64, U64, U64, U64, U64, U64))
def test_the_layout_of_a_segment_header_is_that_of_the_codec(values: tuple[int, ...]) -> None:
    """Each field lies where `encode_segment_header` puts it."""
    header = SegmentHeader(UUID, *values)
    block = encode_segment_header(header)
    assert decode_segment_header(block) == header
    read = {f.name: block[f.at : f.at + f.length] for f in SEGMENT_LAYOUT}
    names = ["segment id", "salt", "epoch", "first LSN", "allocated", "previous id"]
    names += ["previous end", "previous last LSN", "created"]
    assert list(values) == [int.from_bytes(read[name], "little") for name in names]
    assert read["store uuid"] == UUID


def test_a_sound_frame(built: tuple[LogBuilder, Path]) -> None:
    """All fields check, and operations are shown decoded."""
    log, path = built
    report = document("frame", path, 3)
    assert (report["segment"], report["offset"], report["holds"]) == (
        1,
        log.data_frames[1].offset,
        True,
    )
    found = fields(path, 3)
    assert found["first LSN"]["value"] == "2"
    assert (
        found["LSN 2"]["value"] == r"put, table default (id 1), key a\n, value of 2 bytes: \x00\xff"
    )
    assert found["LSN 3"]["value"] == "delete, table default (id 1), key a"
    raw = b"".join(bytes.fromhex(f["hex"]) for f in report["fields"])
    content = segment(path, 1).read_bytes()
    assert raw == content[report["offset"] : report["offset"] + len(raw)]


def test_tables_defined_before_have_their_names(built: tuple[LogBuilder, Path]) -> None:
    """A table that the log defines is called by its name, escaped, and its keys by its codec."""
    _, path = built
    assert "key 7," in fields(path, 4)["LSN 4"]["value"]
    assert r"table <i>\x1b[2J (id 2)" in inspected("frame", path, 4)
    assert "\x1b" not in inspected("frame", path, 1)


def test_large_values_are_cut(built: tuple[LogBuilder, Path]) -> None:
    """A hundred thousand bytes are not printed, their number is."""
    output = inspected("frame", built[1], 5)
    assert "value of 100000 bytes" in output
    assert len(output) < 4000


@pytest.mark.parametrize("field", [field for field in FRAME_LAYOUT if field.name != "time"])
def test_a_damaged_field(built: tuple[LogBuilder, Path], field: Any) -> None:
    """The place is found by the LSN that is missing, and the header's CRC does not hold."""
    log, path = built
    frame = log.data_frames[1]
    data = bytearray(segment(path, 1).read_bytes())
    data[frame.offset + field.at] ^= 0x20
    segment(path, 1).write_bytes(data)
    report = document("frame", path, 2, status=4)
    assert (report["offset"], report["holds"]) == (frame.offset, False)
    bad = {each["name"] for each in report["fields"] if each["holds"] is False}
    assert "header CRC" in bad
    if field.name in ("payload CRC", "first LSN", "segment id", "salt", "epoch", "type"):
        assert field.name in bad


def test_a_damaged_payload(built: tuple[LogBuilder, Path]) -> None:
    """The payload's CRC does not hold, and what can be decoded is shown."""
    log, path = built
    frame = log.data_frames[1]
    data = bytearray(segment(path, 1).read_bytes())
    data[frame.offset + FRAME_HEADER_BYTES + 1] = 0xC1  # what msgpack never uses
    segment(path, 1).write_bytes(data)
    found = fields(path, 2, status=4)
    assert found["payload CRC"]["holds"] is False
    assert found["payload"]["holds"] is False


def test_seals_marks_and_headers(built: tuple[LogBuilder, Path]) -> None:
    """They have no LSN: a segment and an offset name them."""
    log, path = built
    mark, seal = log.segments[1].frames[-2:]
    assert fields(path, "--segment", 1, "--offset", mark.offset)["payload"]["value"] == "nil"
    found = fields(path, "--segment", 1, "--offset", seal.offset)
    assert found["payload"]["value"].startswith("4 frames, last LSN 4, ")
    header = fields(path, "--segment", 2, "--offset", 100)
    assert header["previous last LSN"]["value"] == "4"
    assert header["magic"]["holds"] is True


def test_operations_are_limited(built: tuple[LogBuilder, Path]) -> None:
    """So many and no more; how many are left is said."""
    found = fields(built[1], 2, "--operations", 1)
    assert "LSN 3" not in found
    assert found["..."]["value"] == "1 more operations"


def test_what_is_not_there(built: tuple[LogBuilder, Path]) -> None:
    """An LSN, a segment or an offset that is not there is said to be so, and wrong use is."""
    _, path = built
    assert "found LSN 1 to 5" in inspect("frame", path, 99).stderr
    assert inspect("frame", path, "--segment", 9, "--offset", 4096).exit_code == 1
    assert inspect("frame", path, "--segment", 1, "--offset", 1 << 30).exit_code == 1
    assert inspect("frame", path).exit_code == 2
    assert inspect("frame", path, 3, "--offset", 3).exit_code == 2
    assert inspect("frame", path, "--offset", 4096).exit_code == 2


@given(st.binary(max_size=300), st.integers(0, 3))
def test_whatever_a_payload_holds(payload: bytes, count: int) -> None:
    """With checksums that hold: it is shown or said to be wrong, and nothing is raised."""
    import tempfile

    log = LogBuilder()
    log.open()
    log.data(count or 1, payload)
    with tempfile.TemporaryDirectory() as directory:
        path = lay(log, Path(directory) / "log")
        result = inspect("frame", path, 1)
        assert result.exit_code == 0
        assert all(char.isprintable() or char == "\n" for char in result.stdout)
