"""Copies of a store's files: durable, byte by byte, never a link to the original.

    quarantine/before-repair-20260228T101500.250000Z/
        IDENTITY
        log/0000000000000001.wal ...

Recovery writes a segment anew in the place of the old one and takes up old files again, so
a hard link would change together with its original. A copy of the originals has its name
only when all of it is on stable storage; `wal-inspect` reads it as it does a store. In its
own directory it does not count in the quarantine's budget, and nobody takes it for a copy
of a torn tail.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from strandline.engine import data_file
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.tools.cli.failure import CommandError
from strandline.tools.inspect.times import show_bytes
from strandline.wal.identity import IDENTITY_NAME
from strandline.wal.real_disk import RealDisk

ORIGINALS_PREFIX: Final = "before-repair-"
UNFINISHED_SUFFIX: Final = ".unfinished"
_COPY_BYTES: Final = 8 << 20
_NO_RANGES: Final = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ETXTBSY}
)
_SPARE_BYTES: Final = 16 << 20
"""Room beside the copies: for a segment's rest, for LMDB's pages, for file systems' own."""


def keep_originals(directory: str) -> str:
    """Copy log and IDENTITY of a store into its quarantine; return where they are, durably.

    For whoever holds the writer's lock. What an earlier call left unfinished is removed.
    Raises CommandError if there is not enough room; OSError as the system raised it.
    """
    quarantine = os.path.join(directory, QUARANTINE_NAME)
    with suppress(FileExistsError):
        os.mkdir(quarantine, 0o700)
    for name in os.listdir(quarantine):
        if name.startswith(ORIGINALS_PREFIX) and name.endswith(UNFINISHED_SUFFIX):
            shutil.rmtree(os.path.join(quarantine, name))
    log_dir = os.path.join(directory, LOG_NAME)
    # A copy, and the room in which the last segment is written anew.
    require_room(quarantine, 2 * bytes_below(log_dir))
    moment = datetime.now(UTC)
    final = os.path.join(quarantine, f"{ORIGINALS_PREFIX}{moment:%Y%m%dT%H%M%S.%fZ}")
    unfinished = final + UNFINISHED_SUFFIX
    os.mkdir(unfinished, 0o700)
    copy_tree(log_dir, os.path.join(unfinished, LOG_NAME))
    copy_file(os.path.join(directory, IDENTITY_NAME), os.path.join(unfinished, IDENTITY_NAME))
    disk = RealDisk()
    disk.sync_directory(unfinished)
    os.rename(unfinished, final)
    disk.sync_directory(quarantine)
    disk.sync_directory(directory)
    return final


def copy_store(directory: str, target: str) -> None:
    """Copy IDENTITY, log and LMDB of a store into the directory `target`, durably."""
    copy_file(os.path.join(directory, IDENTITY_NAME), os.path.join(target, IDENTITY_NAME))
    copy_tree(os.path.join(directory, LOG_NAME), os.path.join(target, LOG_NAME))
    store = os.path.join(target, STORE_NAME)
    os.mkdir(store, 0o700)
    # Who reads it, which is what its lock file says, is not the same in a copy.
    data = os.path.join(STORE_NAME, data_file.DATA_NAME)
    copy_file(os.path.join(directory, data), os.path.join(target, data))
    RealDisk().sync_directory(store)
    RealDisk().sync_directory(target)


def copy_tree(source: str, target: str) -> None:
    """Copy a directory; links stay links. Durable on return, but for the name `target`."""
    shutil.copytree(source, target, symlinks=True, copy_function=copy_file)
    for at, _, _ in os.walk(target):
        RealDisk().sync_directory(at)


def copy_file(source: str, target: str) -> str:
    """Copy a regular file, durably but for its name; return `target`."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(reading).st_mode):
            raise CommandError(
                f"{source}: expected a regular file, found something else; move it away first"
            )
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_bytes(reading, writing)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    return target


def _copy_bytes(reading: int, writing: int) -> None:
    """Copy a file from where it stands to its end."""
    while True:
        try:
            copied = os.copy_file_range(reading, writing, _COPY_BYTES)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_RANGES:
                raise
            break
        if not copied:
            # Some file systems say so of files that have more.
            break
    while data := os.read(reading, _COPY_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]


def require_room(path: str, need: int) -> None:
    """Raise CommandError unless the file system of `path` has room for so many bytes."""
    free = RealDisk().free_bytes(path)
    if free < need + _SPARE_BYTES:
        raise CommandError(
            f"{path}: expected room for {show_bytes(need + _SPARE_BYTES)}, found "
            f"{show_bytes(free)}; nothing was changed. Free some space, then repair again"
        )


def bytes_below(directory: str) -> int:
    """Return the length of all files in a directory and below it."""
    return sum(os.lstat(path).st_size for path in _files(directory))


def _files(directory: str) -> Iterator[str]:
    for at, _, names in os.walk(directory):
        yield from (os.path.join(at, name) for name in names)
