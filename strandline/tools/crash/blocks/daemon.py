"""The device behind `BlockLog`: a process that serves an image over FUSE and logs all of it.

    <mount point>/image     what the loop device is attached to
    <mount point>/marks     every write to it is one mark, whatever its offset
    <mount point>/bounds    the first write begins the recording, the second one ends it

The log is one record after the other, in the order in which the device took them:

    u8 kind | u64 offset | u32 length | length bytes

A write is logged before it is answered, so a flush that follows it in the log covers it:
FUSE hands over one request at a time here. A mark is answered when it is logged, so what
its writer had been told by then was told before it. There are no discards: the device does
not offer them.

It is started by its path and imports nothing of strandline: the package's imports would
take longer than most recordings. It ends with its mount, and with the process that started
it: whoever waits for a device that is gone gets an error, and does not hang.

For that it must never be the last process in the mount namespace of the file system on its
device. The kernel unmounts on that process's way out, before it closes its files: the
unmount would wait for an answer of the process that carries it out, unkillable, and every
sync(2) of the machine with it. So once mounted, the daemon moves into a namespace of its
own that has not even its own mount.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
from typing import Final

RECORD: Final = struct.Struct("<BQI")
WRITE: Final = 1
FLUSH: Final = 2
MARK: Final = 3
BOUND: Final = 4

IMAGE_NAME: Final = "image"
MARKS_NAME: Final = "marks"
BOUNDS_NAME: Final = "bounds"

READY: Final = b"R"
"""Written to standard output when the mount is there."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS: Final = 0x20000
_MNT_DETACH: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_IO_FLUSHER: Final = 57


class Device:
    """The FUSE operations, as mfusepy calls them: one at a time."""

    use_ns = True

    def __init__(self, mount_point: str, image: int, log: int) -> None:
        self._mount_point = mount_point
        self._image = image
        self._log = log
        self._size = os.fstat(image).st_size
        self._kinds = {f"/{MARKS_NAME}": MARK, f"/{BOUNDS_NAME}": BOUND}

    def init(self, _path: str) -> None:
        """Leave the namespace of the mount, and tell whoever waits that the mount is there."""
        try:
            _leave(self._mount_point)
        except OSError as error:
            # libfuse would go on serving, and nobody would be told.
            sys.stderr.write(f"{error}\n")
            os._exit(1)
        os.write(sys.stdout.fileno(), READY)

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Describe a file."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path == f"/{IMAGE_NAME}":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}
        if path in self._kinds:
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def read(self, _path: str, size: int, offset: int, _handle: int) -> bytes:
        """Read from the image."""
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, _handle: int) -> int:
        """Log a write, a mark or a bound; carry out a write."""
        kind = self._kinds.get(path, WRITE)
        self._append(kind, offset, data)
        if kind == WRITE:
            os.pwrite(self._image, data, offset)
        return len(data)

    def fsync(self, path: str, _data_only: int, _handle: int) -> int:
        """Log the barrier: what was written before it is durable."""
        if path not in self._kinds:
            self._append(FLUSH, 0, b"")
        return 0

    def _append(self, kind: int, offset: int, data: bytes) -> None:
        record = RECORD.pack(kind, offset, len(data)) + data
        if os.write(self._log, record) != len(record):
            raise OSError(errno.ENOSPC, "the block log has no room")


def main(mount_point: str, image: int, log: int, parent: int) -> None:
    """Serve until the mount ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    # Memory that this process waits for must not be had by writing to its own device.
    _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    import mfusepy

    mfusepy.FUSE(
        Device(mount_point, image, log),
        mount_point,
        foreground=True,
        nothreads=True,
        direct_io=True,
        fsname="strandline-blocks",
    )


def _leave(mount_point: str) -> None:
    """Move into a namespace of this process's own, without the mount."""
    if _libc.unshare(_CLONE_NEWNS) or _libc.umount2(os.fsencode(mount_point), _MNT_DETACH):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot leave the namespace of {mount_point}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
