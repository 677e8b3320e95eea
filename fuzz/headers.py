"""Headers and seals: `python -m fuzz.headers`."""

from __future__ import annotations

import struct

from fuzz.harness import run
from strandline.wal.checksum import crc32c
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    decode_frame_header,
    decode_seal,
    decode_segment_header,
    encode_seal,
    encode_segment_header,
)


def target(data: bytes) -> None:
    """Decode as it is, and with checksums that hold; what is valid encodes to the same bytes."""
    block = data[:SEGMENT_HEADER_BYTES].ljust(SEGMENT_HEADER_BYTES, b"\0")
    for each in (block, block[:-4] + struct.pack("<I", crc32c(block[:-4]))):
        header = decode_segment_header(each)
        if header is not None and header.version == 1:
            again = decode_segment_header(encode_segment_header(header))
            assert again == header
    frame = data[:FRAME_HEADER_BYTES].ljust(FRAME_HEADER_BYTES, b"\0")
    for each in (frame, struct.pack("<I", crc32c(frame[4:])) + frame[4:]):
        found = decode_frame_header(each)
        assert found is None or found.first_lsn >= 0
    seal = decode_seal(data)
    assert seal is None or decode_seal(encode_seal(seal)) == seal


if __name__ == "__main__":
    run(target)
