"""IDENTITY: who a store is, in 52 bytes that are replaced as a whole.

    offset  bytes  field
         0      8  magic, "STRANDID"
         8      4  format version, 1
        12      4  length of the record and of the file, 52
        16     16  store uuid
        32      8  epoch, one up at each opening
        40      8  LSN ceiling: no LSN at or above it was ever issued
        48      4  CRC-32C of bytes 0 to 47

Integers are little-endian and unsigned. Every version keeps the first 16 bytes, the CRC
in the last four, and a length of at most 4096, so that a record of a newer version is
told from a damaged one by its valid CRC.

Promises that a reader finds the old record or the new one, whenever the power fails;
that what was written is read back and compared before it replaces anything; and that a
damaged record raises and is never believed. One writer at a time: whoever holds the
store's `WriterLock`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import Final, NamedTuple, NoReturn

from strandline.errors import ForeignStoreError, StoreCorruptionError
from strandline.wal.checksum import crc32c
from strandline.wal.disk import Disk, let_go
from strandline.wal.format import FORMAT_VERSION

IDENTITY_NAME: Final = "IDENTITY"
IDENTITY_NEW_NAME: Final = "IDENTITY.new"
IDENTITY_MAGIC: Final = b"STRANDID"

_HEAD: Final = struct.Struct("<8sII")
_BODY: Final = struct.Struct("<16sQQ")
_CRC: Final = struct.Struct("<I")

IDENTITY_BYTES: Final = _HEAD.size + _BODY.size + _CRC.size
MAX_IDENTITY_BYTES: Final = 4096
_LEAST_BYTES: Final = _HEAD.size + _CRC.size
_LENGTH_OFFSET: Final = 12


class Identity(NamedTuple):
    """What IDENTITY says."""

    uuid: bytes
    """16 bytes that also stand in every segment and in LMDB."""
    epoch: int
    """Which opening of the store wrote it."""
    lsn_ceiling: int
    """LSNs at or above it are never issued before a higher ceiling is durable."""
    version: int = FORMAT_VERSION


def read_identity(disk: Disk, directory: str) -> Identity:
    """Return the identity of the store in `directory`.

    Raises:
        FileNotFoundError: there is no IDENTITY.
        StoreCorruptionError: it is damaged.
        ForeignStoreError: it is something else's, or of another format version.
    """
    path = os.path.join(directory, IDENTITY_NAME)
    kind = disk.kind(path)
    if kind in ("directory", "other"):
        found = "a directory" if kind == "directory" else "a link or a special file"
        raise ForeignStoreError(
            f"{path}: expected a regular file, found {found}; "
            "open the directory of a strandline store, or one that is empty"
        )
    file = disk.open(path, "r")
    try:
        block = file.pread(MAX_IDENTITY_BYTES + 1, 0)
    finally:
        let_go(file)
    return decode_identity(block, path)


def write_identity(disk: Disk, directory: str, identity: Identity) -> None:
    """Replace the identity of the store in `directory`; durable on return.

    Raises:
        StoreCorruptionError: the new record does not read back; the old one still stands.
        ValueError: a field is out of its range.
        OSError: as the disk raised it. Before the rename the old record stands; if only
            the directory's sync failed, either may be there after a power cut.
    """
    path = os.path.join(directory, IDENTITY_NAME)
    new_path = os.path.join(directory, IDENTITY_NEW_NAME)
    block = encode_identity(identity)
    if decode_identity(block, new_path) != identity:
        raise ValueError(f"{identity!r} does not survive its own encoding")
    if disk.kind(new_path) != "absent":
        # A writer that was cut short left it; nothing has ever been read from it.
        disk.unlink(new_path)
    try:
        _write_new(disk, new_path, block)
        disk.rename(new_path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(new_path)
        raise
    disk.sync_directory(directory)


def encode_identity(identity: Identity) -> bytes:
    """Return the record of an identity."""
    if len(identity.uuid) != 16:
        raise ValueError(f"store uuid: expected 16 bytes, found {len(identity.uuid)}")
    for name in ("epoch", "lsn_ceiling"):
        value = getattr(identity, name)
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{name}: expected 0 to 2**64 - 1, found {value}")
    block = _HEAD.pack(IDENTITY_MAGIC, identity.version, IDENTITY_BYTES) + _BODY.pack(
        identity.uuid, identity.epoch, identity.lsn_ceiling
    )
    return block + _CRC.pack(crc32c(block))


def decode_identity(block: bytes, path: str) -> Identity:
    """Return the identity in `block`, all that the file at `path` holds."""
    if block[:8] != IDENTITY_MAGIC:
        _refuse_magic(block, path)
    if len(block) < _LEAST_BYTES:
        _damaged(path, len(block), f"{IDENTITY_BYTES} bytes", f"the end after {len(block)}")
    _, version, length = _HEAD.unpack_from(block)
    if length != len(block):
        found = f"{len(block)}" if len(block) <= MAX_IDENTITY_BYTES else "a longer file"
        _damaged(path, _LENGTH_OFFSET, f"{length} bytes, as the record says", found)
    stored, computed = _checksums(block)
    if stored != computed:
        _damaged(path, length - _CRC.size, f"CRC-32C {computed:#010x}", f"{stored:#010x}")
    if version != FORMAT_VERSION:
        raise ForeignStoreError(
            f"{path}: expected format version {FORMAT_VERSION}, found {version} at offset 8; "
            "open this store with the release of strandline that wrote it, or a later one"
        )
    if length != IDENTITY_BYTES:
        _damaged(path, _LENGTH_OFFSET, f"length {IDENTITY_BYTES}", f"{length}")
    uuid, epoch, lsn_ceiling = _BODY.unpack_from(block, _HEAD.size)
    return Identity(uuid, epoch, lsn_ceiling, version)


def _write_new(disk: Disk, path: str, block: bytes) -> None:
    """Write `block` to a new file, make it durable, and read it back."""
    file = disk.open(path, "create")
    try:
        written = 0
        while written < len(block):
            count = file.pwrite(block[written:], written)
            if count == 0:
                raise OSError(errno.EIO, "the disk takes no bytes and gives no reason", path)
            written += count
        file.fdatasync()
        found = file.pread(len(block) + 1, 0)
    finally:
        let_go(file)
    if found != block:
        pairs = zip(block, found, strict=False)
        shared = min(len(block), len(found))
        offset = next((at for at, (a, b) in enumerate(pairs) if a != b), shared)
        raise StoreCorruptionError(
            f"{path}: offset {offset}: expected {block[offset : offset + 8].hex()} as just "
            f"written, found {found[offset : offset + 8].hex() or 'the end of the file'}; "
            f"{IDENTITY_NAME} is unchanged: check the disk and its logs, then open the store anew"
        )


def _refuse_magic(block: bytes, path: str) -> NoReturn:
    """Tell a damaged record from a file that never was one, and raise accordingly."""
    agreeing = sum(a == b for a, b in zip(block, IDENTITY_MAGIC, strict=False))
    restored = IDENTITY_MAGIC + block[8:]
    whole_but_for_magic = (
        len(block) == IDENTITY_BYTES
        and _checksums(restored)[0] == _checksums(restored)[1]
        and _checksums(block)[0] != _checksums(block)[1]
    )
    blank = not block.strip(b"\0")
    if blank or whole_but_for_magic or agreeing >= min(len(block), 4):
        found = block[:8].hex() or "an empty file"
        _damaged(path, 0, f"magic {IDENTITY_MAGIC.hex()}", found)
    raise ForeignStoreError(
        f"{path}: offset 0: expected magic {IDENTITY_MAGIC.hex()}, found {block[:8].hex()}: "
        "this is no strandline store; open another directory"
    )


def _checksums(block: bytes) -> tuple[int, int]:
    """Return the CRC that a record states, and the one that it has."""
    end = len(block) - _CRC.size
    return _CRC.unpack_from(block, end)[0], crc32c(block[:end])


def _damaged(path: str, offset: int, expected: str, found: str) -> NoReturn:
    raise StoreCorruptionError(
        f"{path}: damaged: offset {offset}: expected {expected}, found {found}; "
        f"run `strandline check {os.path.dirname(path)}` to see what else is, and restore a backup"
    )
