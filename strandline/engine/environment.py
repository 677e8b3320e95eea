"""Opening an LMDB environment, and what its errors mean.

The map is as large as the settings ask (1 TiB of address space, sparse) so that nobody
meets its end. Where address space is limited it is halved until it fits, and once more
so that the rest of the process keeps some. No writemap (a full disk would be a SIGBUS),
and every commit is synced.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from typing import Final

import lmdb

from strandline.engine import catalog, data_file
from strandline.engine.catalog import Watermark
from strandline.errors import (
    BackpressureError,
    DiskFullError,
    ForeignStoreError,
    StoreCorruptionError,
    StoreFailedError,
    StoreLockedError,
    StrandlineError,
)

DIRECTORY_MODE: Final = 0o700
UNFINISHED_SUFFIX: Final = ".new"
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_LMDB_09: Final = 0
_MIN_MAP: Final = 1 << 20
_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.IncompatibleError,
    lmdb.PageFullError,
    lmdb.CursorFullError,
    lmdb.BadTxnError,
    lmdb.BadDbiError,
    lmdb.BadValsizeError,
    lmdb.NotFoundError,
)


class MapFullError(StrandlineError):
    """The map has no room for this checkpoint; nothing of it was kept. `Backing.grow` helps."""


class CommitOutcomeUnknown(StrandlineError):  # noqa: N818 - a state, not a mistake
    """LMDB's commit failed and may be on disk or not: stop, and open the store anew."""


def open_environment(
    path: str, map_bytes: int, max_databases: int, max_readers: int
) -> lmdb.Environment:
    """Open an environment that exists; raises what `explain` returns."""
    needed = max(data_file.look(path).stated_bytes, _MIN_MAP)
    try:
        return lmdb.open(
            path,
            map_size=fitting_map(map_bytes, needed),
            max_dbs=max_databases,
            max_readers=max_readers,
            mode=DIRECTORY_MODE,
            create=False,
            lib_version=_LMDB_09,
        )
    except lmdb.Error as error:
        if "already open in this process" in str(error):
            raise StoreLockedError(
                f"{path}: this process ({os.getpid()}) has the environment open already, or "
                "inherited it open from the process that forked it; use that store, or open "
                "it from a process that was started anew",
                os.getpid(),
            ) from error
        raise explain(error, path, "opening the environment") from error


def create_environment(path: str, watermark: Watermark) -> None:
    """Make the environment of an empty store at `path`, whole or not at all, and synced.

    It is made beside its place and renamed. Leftovers of a creation that was cut short are
    removed.
    """
    if os.path.lexists(path):
        raise ForeignStoreError(
            f"{path}: expected nothing here, found something; open it, or move it away"
        )
    unfinished = path + UNFINISHED_SUFFIX
    if os.path.lexists(unfinished):
        shutil.rmtree(unfinished)
    try:
        os.mkdir(unfinished, DIRECTORY_MODE)
        _populate(unfinished, watermark)
        os.unlink(os.path.join(unfinished, data_file.LOCK_NAME))
        _sync_path(os.path.join(unfinished, data_file.DATA_NAME))
        _sync_path(unfinished)
        os.rename(unfinished, path)
        _sync_path(os.path.dirname(path) or ".")
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(f"{path}: creating the store: {error}", error.errno) from error
        raise


def _populate(path: str, watermark: Watermark) -> None:
    try:
        with lmdb.open(
            path,
            map_size=_MIN_MAP,
            max_dbs=2,
            mode=DIRECTORY_MODE,
            create=False,
            lib_version=_LMDB_09,
        ) as env:
            catalog.populate(env, watermark)
    except lmdb.Error as error:
        raise explain(error, path, "making the environment") from error


def _sync_path(path: str) -> None:
    """Put a file or a directory on stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fitting_map(wanted: int, needed: int) -> int:
    """Return how large a map to ask for: `wanted`, less where that much cannot be mapped."""
    size = max(wanted, needed)
    while size > needed and not _can_map(size):
        size //= 2
    if size < wanted:
        # What barely fits would leave the process no address space for anything else.
        size //= 2
    page = mmap.ALLOCATIONGRANULARITY
    return -(-max(size, needed) // page) * page


def can_grow(size: int) -> bool:
    """Tell whether a map of `size` bytes fits beside the one that it takes the place of."""
    return _can_map(size)


def _can_map(size: int) -> bool:
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
    except (OSError, OverflowError):
        return False
    return True


def explain(error: lmdb.Error, path: str, step: str) -> Exception:
    """Return this program's error for one of LMDB's."""
    found = f"{path}: {step}: {error}"
    if isinstance(error, lmdb.MapFullError):
        return MapFullError(f"{found}; grow the map, or open the store with larger map_bytes")
    if isinstance(error, lmdb.ReadersFullError):
        return BackpressureError(
            f"{found}; every reader slot is taken by a live reader: close snapshots and "
            "iterators, or open the store with larger max_readers"
        )
    if isinstance(error, lmdb.VersionMismatchError):
        return ForeignStoreError(f"{found}; open the store with the version that wrote it")
    if isinstance(error, _DAMAGE):
        return StoreCorruptionError(f"{found}; run `strandline check`, then restore a backup")
    if isinstance(error, lmdb.PanicError):
        return StoreFailedError(f"{found}; an earlier commit failed: open the store anew")
    if error.code in NO_ROOM:
        return DiskFullError(f"{found}; free some space", error.code)
    if error.code > 0:
        return OSError(error.code, f"{step}: {os.strerror(error.code)}", path)
    return StoreFailedError(f"{found}; open the store anew")
