"""The floor under every synced write: pwrite and fdatasync in a loop, and nothing else.

The file is filled with zeros beforehand, so that no sync has an extent or a length to
record; a record is as long as the frame of one put.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import msgpack

from benchmarks.harness import Contender, Measure
from benchmarks.timing import KEY_BYTES, quiesce
from strandline.engine.operations import PUT, tag_of
from strandline.wal.format import FRAME_HEADER_BYTES, aligned

_ZEROED_BYTES: Final = 32 << 20
_FILL_BYTES: Final = 64 << 10
"""Larger writes leave larger folios in the page cache, and every later write to one is slower."""

if sys.platform == "darwin":
    import fcntl

    def fdatasync(descriptor: int) -> None:
        """Put a file's data on stable storage."""
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
else:
    fdatasync = os.fdatasync


def frame_bytes(value_bytes: int) -> int:
    """Return the length of the frame of one put, as it lies in the log."""
    payload = msgpack.packb([None, tag_of(1, PUT), bytes(KEY_BYTES), bytes(value_bytes)])
    return aligned(FRAME_HEADER_BYTES + len(payload))


@contextmanager
def _zeroed_file(directory: str) -> Iterator[int]:
    path = os.path.join(directory, "zeroed")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for offset in range(0, _ZEROED_BYTES, _FILL_BYTES):
            os.pwrite(descriptor, bytes(_FILL_BYTES), offset)
        os.fsync(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)
        os.unlink(path)


def bare_loop(value_bytes: int, seconds: float) -> Contender:
    """Return the contender that writes and syncs records in one thread."""
    record = os.urandom(frame_bytes(value_bytes))
    length = len(record)

    @contextmanager
    def start(directory: str) -> Iterator[Measure]:
        with _zeroed_file(directory) as descriptor:

            def measure(number: int) -> float:
                quiesce()
                pwrite, sync, clock = os.pwrite, fdatasync, perf_counter
                done = 0
                begin = clock()
                deadline = begin + seconds
                while clock() < deadline:
                    pwrite(descriptor, record, done * length % (_ZEROED_BYTES - length))
                    sync(descriptor)
                    done += 1
                return done / (clock() - begin)

            yield measure

    return Contender(
        "bare loop",
        f"pwrite + fdatasync of {length} bytes, one thread, zero-filled file",
        start,
        reference=True,
    )


def fdatasync_seconds(directory: str, times: int = 200) -> float:
    """Return the median time of one fdatasync after a write of 4 KiB."""
    taken = []
    with _zeroed_file(directory) as descriptor:
        for number in range(times):
            os.pwrite(descriptor, os.urandom(4096), number * 4096)
            begin = perf_counter()
            fdatasync(descriptor)
            taken.append(perf_counter() - begin)
    return statistics.median(taken)
