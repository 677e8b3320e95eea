"""CRC-32C, the checksum of segment headers and frames.

`crc32c` runs in hardware. `portable_crc32c` is an independent implementation of the
same polynomial, about thirty times slower: tests and `verify --independent` hold one
against the other, so that a fault in either library cannot hide.
"""

from __future__ import annotations

import crcmod.predefined
import google_crc32c

CHECKSUM_CRC32C = 1
"""The checksum id that a segment header states."""

crc32c = google_crc32c.value
"""Return the CRC-32C of a bytes object as an unsigned 32-bit integer."""

_portable = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


def portable_crc32c(data: bytes) -> int:
    """Return the same as `crc32c`, computed by crcmod."""
    return _portable(data)
