"""System calls that Python has no names for: mount namespaces, mounts, loop devices, cuts.

Promises that a call which fails raises the OSError of its errno, with what it was called
for. Refuses nothing and keeps no state. Linux only; the module can be imported elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 1 << 14
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2

_LOOP_CONTROL: Final = "/dev/loop-control"
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_GET_STATUS64: Final = 0x4C05
_LO_FLAGS_AUTOCLEAR: Final = 4
_LO_FLAGS_DIRECT_IO: Final = 16
_LOOP_INFO64: Final = struct.Struct("=QQQQQIIII64s64s32s2Q")
"""struct loop_info64 of <linux/loop.h>; its ninth field is the flags."""
_LOOP_CONFIG: Final = struct.Struct(f"=II{_LOOP_INFO64.size}s64x")
"""struct loop_config: the image's descriptor, the size of a block, loop_info64."""
SECTOR: Final = 512
"""The block size of a loop device here, and what a power cut leaves whole."""

_FS_IOC_SHUTDOWN: Final = 0x8004587D


def unshare_mounts() -> None:
    """Give this thread a copy of all mounts: nobody else sees what it mounts from now on."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare the mount namespace")
    flags = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    _check(_libc.mount(None, b"/", None, flags, None), "make the mounts private")


def mount(device: str, target: Path, kind: str, options: str) -> None:
    """Mount a device's file system."""
    done = _libc.mount(
        device.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(0), options.encode()
    )
    _check(done, f"mount {kind} from {device} at {target}")


def unmount(target: Path) -> None:
    """Unmount what is mounted there; where somebody still has a file open, EBUSY."""
    _check(_libc.umount2(os.fsencode(target), 0), f"unmount {target}")


def detach(target: Path) -> None:
    """Take a mount out of sight; it ends with the last file that is open on it."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"detach {target}")


def sync_filesystem(path: Path) -> None:
    """Bring everything that one file system holds back to its device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check(_libc.syncfs(descriptor), f"sync the file system at {path}")
    finally:
        os.close(descriptor)


def shut_down(path: Path, flags: int) -> None:
    """End a mounted file system's life as a power cut would; btrfs answers ENOTTY."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("=I", flags))
    finally:
        os.close(descriptor)


@contextmanager
def loop_device(image: int, *, direct: bool = False) -> Iterator[str]:
    """Attach a free loop device to an open file, and yield the device's path.

    It goes with its last user: mount it inside, and it lives as long as the mount. With
    `direct` it passes every write on as it comes, and keeps nothing in a cache of its own;
    EINVAL if the file does not allow that.
    """
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_DIRECT_IO if direct else 0)
    info = _LOOP_INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    path, device = _configured(_LOOP_CONFIG.pack(image, SECTOR, info))
    try:
        answer = fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64.size))
        if direct and not _LOOP_INFO64.unpack(answer)[8] & _LO_FLAGS_DIRECT_IO:
            raise OSError(errno.EINVAL, f"{path} refuses direct I/O to its image")
        yield path
    finally:
        os.close(device)


def _configured(config: bytes) -> tuple[str, int]:
    """Return path and descriptor of a loop device that took this configuration."""
    control = os.open(_LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                # Another worker was given the same free device, and was faster.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, device
    finally:
        os.close(control)


def _check(result: int, purpose: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {purpose}: {os.strerror(code)}")
