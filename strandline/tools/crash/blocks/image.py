"""Images: unnamed sparse files with a file system in them.

An image is an open file without a name, so that it goes with the last process and the last
mount that use it. The directory is best one in memory, such as /dev/shm.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from strandline.tools.crash.blocks import kernel
from strandline.tools.crash.blocks.kinds import Kind

_CHUNK: Final = 64 << 10
_ZEROS: Final = bytes(_CHUNK)


class MakeFilesystemError(Exception):
    """mkfs failed."""


class BusyFilesystemError(Exception):
    """A file system is to be unmounted, and somebody still has a file open on it."""


def blank_image(directory: Path, size: int) -> int:
    """Return the descriptor of a new image that reads as zeros."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        image = os.dup(file.fileno())
    os.ftruncate(image, size)
    return image


def make_image(kind: Kind, directory: Path) -> int:
    """Return the descriptor of an image with a new, empty file system."""
    made = blank_image(directory, kind.size)
    try:
        command = [*kind.mkfs, f"/proc/self/fd/{made}"]
        done = subprocess.run(command, pass_fds=[made], capture_output=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise MakeFilesystemError(f"{' '.join(command)} ended with {done.returncode}: {said}")
        # mkfs.xfs writes 64 MiB of zeros as its log. A copy leaves them out.
        return copy_image(made, directory)
    finally:
        os.close(made)


def copy_image(source: int, directory: Path) -> int:
    """Return the descriptor of a new image with the same content, zeros left as holes."""
    size = os.fstat(source).st_size
    copy = blank_image(directory, size)
    offset = 0
    while (start := _next_data(source, offset)) is not None:
        end = os.lseek(source, start, os.SEEK_HOLE)
        for offset in range(start, end, _CHUNK):
            chunk = os.pread(source, min(_CHUNK, end - offset), offset)
            if chunk != _ZEROS[: len(chunk)]:
                os.pwrite(copy, chunk, offset)
        offset = end
    return copy


def mount_image(image: int, kind: Kind, mount_point: Path, *, direct: bool = False) -> None:
    """Mount an image through a loop device, which goes with the mount."""
    with kernel.loop_device(image, direct=direct) as device:
        kernel.mount(device, mount_point, kind.name, kind.options)


def unmount_image(mount_point: Path) -> None:
    """Unmount an image. If it is in use, it goes with its last user, and that is an error."""
    try:
        kernel.unmount(mount_point)
    except OSError as error:
        kernel.detach(mount_point)
        if error.errno != errno.EBUSY:
            raise
        raise BusyFilesystemError(
            f"{mount_point}: a file of this file system is still open in some process. End the"
            " processes that use it, and wait for them, before its power is cut or restored."
        ) from error


@contextmanager
def mounted(image: int, kind: Kind, mount_point: Path) -> Iterator[Path]:
    """Mount an image; unmount it at the end, whatever happens."""
    mount_image(image, kind, mount_point)
    try:
        yield mount_point
    except BaseException:
        with suppress(BusyFilesystemError):
            unmount_image(mount_point)
        raise
    else:
        unmount_image(mount_point)


def _next_data(image: int, offset: int) -> int | None:
    """Return where data begins at or after an offset, None if there is none."""
    try:
        return os.lseek(image, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
