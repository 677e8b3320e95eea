"""docs/format.md must describe what the code writes, byte for byte.

The worked examples in it are marked with an HTML comment, `<!-- example: NAME -->`, before
each block; they are made anew here and compared.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest
import xxhash

from strandline.engine.operations import CREATE, DELETE, PUT, encode_table_options, tag_of
from strandline.engine.records import encode
from strandline.wal import format as fmt
from strandline.wal.checksum import crc32c, portable_crc32c
from strandline.wal.identity import Identity, encode_identity

DOCUMENT = Path(__file__).parent.parent / "docs" / "format.md"
UUID = bytes(range(16))
SALT = 0x1122334455667788
TIME_NS = 1_700_000_000_000_000_000


def hex_lines(data: bytes, start: int = 0) -> str:
    """Return `data` as the document shows it: offset and up to 16 bytes a line."""
    return "\n".join(
        f"{start + at:08x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16)
    )


def data_frame() -> bytes:
    """A frame of four operations, the last two of which are one commit."""
    items = [[2, 2], tag_of(1, PUT), b"k", b"v", tag_of(1, DELETE), b"old", None]
    items += [tag_of(2, PUT), b"a", b"1", tag_of(2, PUT), b"b", b"2"]
    payload = msgpack.packb(items)
    return fmt.encode_frame(
        fmt.TYPE_DATA,
        payload,
        count=4,
        first_lsn=5,
        synced_lsn=4,
        stored_lsn=0,
        time_ns=TIME_NS,
        segment_id=1,
        salt=SALT,
        epoch=1,
    )


def seal_frame() -> bytes:
    """The seal of a segment that holds only `data_frame`."""
    digest = xxhash.xxh3_128(data_frame()).digest()
    return fmt.encode_frame(
        fmt.TYPE_SEAL,
        fmt.encode_seal(fmt.Seal(1, 8, digest)),
        count=0,
        first_lsn=9,
        synced_lsn=8,
        stored_lsn=0,
        time_ns=TIME_NS,
        segment_id=1,
        salt=SALT,
        epoch=1,
        flags=fmt.FLAG_CLEAN,
    )


def segment_header() -> bytes:
    """The header of that segment."""
    return fmt.encode_segment_header(
        fmt.SegmentHeader(
            uuid=UUID,
            segment_id=1,
            salt=SALT,
            epoch=1,
            first_lsn=5,
            allocated=2 << 20,
            previous_id=0,
            previous_bytes=0,
            previous_last_lsn=4,
            created_ns=TIME_NS,
        )
    )


def create_payload() -> bytes:
    """The payload of a frame that creates a table."""
    options = encode_table_options("utf-8/json", logged=True)
    return bytes(msgpack.packb([None, tag_of(2, CREATE), b"views", options]))


EXAMPLES = {
    "identity": lambda: hex_lines(encode_identity(Identity(UUID, 3, 1 << 29))),
    "segment-header": lambda: (
        hex_lines(segment_header()[:112]) + "\n...\n" + hex_lines(segment_header()[-16:], 4096 - 16)
    ),
    "frame": lambda: hex_lines(data_frame(), 4096),
    "seal": lambda: hex_lines(seal_frame(), 4096 + len(data_frame())),
    "create": lambda: hex_lines(create_payload()),
    "record": lambda: hex_lines(encode(1, b"k", 5, b"v")),
}


def shown(name: str) -> str:
    """Return the block that follows the marker of an example."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {name} -->\n+```\n(.*?)\n```", text, re.DOTALL)
    assert found, f"docs/format.md has no example {name!r}"
    return found.group(1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_worked_example_is_what_the_code_writes(name: str) -> None:
    """Each hex block in the document equals the bytes that today's code produces."""
    assert EXAMPLES[name]() == shown(name)


def test_every_example_in_the_document_is_checked() -> None:
    """A block that nobody regenerates would go stale unseen."""
    marked = re.findall(r"<!-- example: (\S+) -->", DOCUMENT.read_text(encoding="utf-8"))
    assert sorted(EXAMPLES) == sorted(marked)


def test_both_checksum_libraries_agree_on_the_examples() -> None:
    """The hardware CRC-32C and the portable one are the same polynomial."""
    for data in (data_frame(), seal_frame(), segment_header(), b"", b"123456789"):
        assert crc32c(data) == portable_crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283
