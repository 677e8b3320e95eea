"""data.mdb seen as bytes: its two meta pages, read without LMDB.

    page 0, page 1: a meta page each; the one with the higher transaction id is in force

    offset  bytes  field (LMDB 0.9, data format 1, 64 bit, little-endian)
        10      2  page flags, 0x08 on a meta page
        16      4  magic 0xBEEFC0DE
        20      4  data format, 1
        40      4  page size
       120      8  number of named databases
       136      8  number of the last page in use
       144      8  transaction id

LMDB maps the file and trusts it: a page that should be there and lies beyond its end is
a SIGBUS, which no program survives. So the length is compared with the last page before
LMDB sees the file. A sound file can be a few pages short (pages that were allocated and
freed within one transaction are never written), so a short file is a reason to look
closer and not yet a finding.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from strandline.errors import ForeignStoreError, StoreCorruptionError

DATA_NAME: Final = "data.mdb"
LOCK_NAME: Final = "lock.mdb"

_MAGIC: Final = 0xBEEFC0DE
_DATA_FORMAT: Final = 1
_META_FLAG: Final = 0x08
_HEAD: Final = struct.Struct("<10xH4xII16xI")
_TAIL: Final = struct.Struct("<120xQ8xQQ")
_META_BYTES: Final = 152
_NEWER_MAGIC_OFFSET: Final = 24

_KEEP_SIZE: Final = 0x01
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})

_NEXT: Final = "run `strandline check`, then restore a backup"


class DataFile(NamedTuple):
    """What the meta pages of a data file and its length say."""

    path: str
    file_bytes: int
    page_bytes: int
    last_page: int
    transaction_id: int
    databases: int

    @property
    def stated_bytes(self) -> int:
        """Return the length at which every page in use is within the file."""
        return (self.last_page + 1) * self.page_bytes


def look(directory: str) -> DataFile:
    """Read the meta pages of the environment in `directory`.

    Raises:
        StoreCorruptionError: the file is missing, empty, or a meta page is damaged.
        ForeignStoreError: not a regular file, or another data format.
    """
    path = os.path.join(directory, DATA_NAME)
    _must_be_file(path)
    lock_path = os.path.join(directory, LOCK_NAME)
    if os.path.lexists(lock_path):
        _must_be_file(lock_path)
    with open(path, "rb", buffering=0) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        first = os.pread(file.fileno(), _META_BYTES, 0)
        page_bytes, *_ = one = _meta(path, 0, 0, first)
        if page_bytes < 256 or page_bytes > 1 << 15 or page_bytes & (page_bytes - 1):
            raise StoreCorruptionError(
                f"{path}, meta page 0: expected a page size that is a power of two from 256 to "
                f"32768, found {page_bytes}; {_NEXT}"
            )
        two = _meta(path, 1, page_bytes, os.pread(file.fileno(), _META_BYTES, page_bytes))
    if two[0] != page_bytes:
        raise StoreCorruptionError(
            f"{path}, meta page 1 at offset {page_bytes}: expected page size {page_bytes}, as in "
            f"meta page 0, found {two[0]}; {_NEXT}"
        )
    _, databases, last_page, transaction_id = two if two[3] > one[3] else one
    return DataFile(path, file_bytes, page_bytes, last_page, transaction_id, databases)


def _must_be_file(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise StoreCorruptionError(
            f"{path}: expected LMDB's data file, found nothing; restore a backup"
        ) from None
    if not stat.S_ISREG(mode):
        raise ForeignStoreError(
            f"{path}: expected a regular file, found something else (mode {mode:o}); "
            "remove it or open another path"
        )


def _meta(path: str, index: int, offset: int, data: bytes) -> tuple[int, int, int, int]:
    """Return page size, databases, last page and transaction id of a meta page."""
    where = f"{path}, meta page {index} at offset {offset}"
    if len(data) < _META_BYTES:
        raise StoreCorruptionError(
            f"{where}: expected {_META_BYTES} bytes, found {len(data)}; {_NEXT}"
        )
    flags, magic, data_format, page_bytes = _HEAD.unpack_from(data)
    if data[_NEWER_MAGIC_OFFSET : _NEWER_MAGIC_OFFSET + 4] == _MAGIC.to_bytes(4, "little"):
        raise ForeignStoreError(
            f"{where}: expected LMDB data format {_DATA_FORMAT}, found that of LMDB 1.0; "
            "this file was not made by strandline"
        )
    found = (flags & _META_FLAG, magic, data_format)
    if found != (_META_FLAG, _MAGIC, _DATA_FORMAT):
        raise StoreCorruptionError(
            f"{where}: expected flags 0x{_META_FLAG:02x}, magic 0x{_MAGIC:08X} and data format "
            f"{_DATA_FORMAT}, found 0x{flags:02x}, 0x{magic:08X} and {data_format}; {_NEXT}"
        )
    databases, last_page, transaction_id = _TAIL.unpack_from(data)
    return page_bytes, databases, last_page, transaction_id


def extend(path: str, length: int) -> None:
    """Make the file at least `length` bytes long, so that no page in use can lie beyond it."""
    try:
        if os.stat(path).st_size < length:
            os.truncate(path, length)
    except OSError:
        # The pages that are not there are free ones: nothing is lost, and the next look at
        # the file finds it short again.
        pass


def reserve(path: str, offset: int, room: int) -> None:
    """Set `room` bytes from `offset` on aside for the file, without changing its length.

    Where the file system cannot, the room that is free is taken for an answer. Raises
    OSError, ENOSPC or EDQUOT, if there is less; what was set aside by then is given back.
    """
    if not room:
        return  # fallocate takes a length of 0 for a mistake
    # Asked first, for fallocate takes all that is free before it finds that it is too little.
    state = os.statvfs(path)
    if state.f_bavail * state.f_frsize < room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    fallocate = _fallocate()
    if fallocate is None:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while fallocate(descriptor, _KEEP_SIZE, offset, room):
            code = ctypes.get_errno()
            if code in _UNSUPPORTED:
                return
            if code != errno.EINTR:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size)
                raise OSError(code, os.strerror(code), path)
    finally:
        with contextlib.suppress(OSError):  # it wrote nothing
            os.close(descriptor)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's fallocate, which `os` lacks: posix_fallocate makes the file longer."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return function
