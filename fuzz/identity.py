"""IDENTITY: `python -m fuzz.identity`."""

from __future__ import annotations

import struct

from fuzz.harness import run
from strandline.errors import StrandlineError
from strandline.wal.checksum import crc32c
from strandline.wal.identity import decode_identity, encode_identity


def target(data: bytes) -> None:
    """Decode a record as it is, and with a checksum that holds."""
    for block in (data, data[:-4] + struct.pack("<I", crc32c(data[:-4]))):
        try:
            identity = decode_identity(block, "IDENTITY")
        except StrandlineError:
            continue
        assert encode_identity(identity) == block


if __name__ == "__main__":
    run(target)
