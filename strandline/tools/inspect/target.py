"""What PATH names: a store, the folder of its log, or one segment.

A path that is given is taken at its word, a link included. Below it no link is followed:
a link in a segment's place is reported as what it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

from strandline.errors import CorruptionError, ForeignStoreError
from strandline.recovery.check_log import first_header
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.survey import list_segments
from strandline.tools.cli.failure import CommandError
from strandline.wal.disk import Disk
from strandline.wal.format import segment_id_of
from strandline.wal.identity import IDENTITY_NAME, read_identity
from strandline.wal.reader import read_segment_header
from strandline.wal.real_disk import RealDisk

Kind = Literal["store", "log", "segment"]

_NO_UUID: Final = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is inspected."""

    path: str
    """As it was given."""
    kind: Kind
    disk: Disk
    log_dir: str
    """The folder that the segments lie in."""
    store: str | None
    """The directory of the store whose log it is, None where there is none around it."""
    uuid: bytes
    """The store that the segments should belong to; zeros where nothing tells."""
    segment: tuple[int, str] | None = None
    """Id and path of the one segment that is meant."""

    def segments(self) -> dict[int, str]:
        """Return the paths by id, in order, with a place for missing ones."""
        if self.segment is not None:
            return {self.segment[0]: self.segment[1]}
        return list_segments(self.disk, self.log_dir)


def resolve(path: str | os.PathLike[str]) -> Target:
    """Find out what a path names.

    Raises:
        CommandError: there is nothing, or it is no part of a store (status 1 or 6).
        ForeignStoreError: the store is of a newer format.
        OSError: it cannot be read.
    """
    given = os.fspath(path)
    real = os.path.realpath(given)
    disk = RealDisk()
    match disk.kind(real):
        case "absent":
            raise CommandError(
                f"{given}: expected a store, the folder of its log or a segment, found nothing. "
                "Look at the path"
            )
        case "directory":
            return _directory(given, real, disk)
        case "file":
            return _segment(given, real, disk)
    raise CommandError(
        f"{given}: expected a store, the folder of its log or a segment, found a special file", 6
    )


def _directory(given: str, real: str, disk: Disk) -> Target:
    names = disk.listdir(real)
    if LOG_NAME in names or IDENTITY_NAME in names:
        log_dir = os.path.join(real, LOG_NAME)
        uuid = _uuid(disk, real, log_dir)
        return Target(path=given, kind="store", disk=disk, log_dir=log_dir, store=real, uuid=uuid)
    store: str | None = os.path.dirname(real)
    if os.path.basename(real) != LOG_NAME or not _is_store(disk, str(store)):
        store = None
    if store is None and not any(segment_id_of(name) for name in names):
        raise CommandError(
            f"{given}: expected a store, the folder of its log or a segment, found a directory "
            f"without {IDENTITY_NAME} and without segments (names such as 0000000000000001.wal)",
            6,
        )
    uuid = _uuid(disk, store, real)
    return Target(path=given, kind="log", disk=disk, log_dir=real, store=store, uuid=uuid)


def _segment(given: str, real: str, disk: Disk) -> Target:
    file = disk.open(real, "r")
    try:
        header = read_segment_header(file)
    finally:
        file.close()
    segment_id = segment_id_of(os.path.basename(real))
    if segment_id is None:
        # A copy under another name. What it says of itself is all that there is.
        if header is None:
            raise CommandError(
                f"{given}: expected a segment, found a file with another name and without a "
                "segment's header",
                6,
            )
        segment_id = header.segment_id
    return Target(
        path=given,
        kind="segment",
        disk=disk,
        log_dir=os.path.dirname(real),
        store=None,
        uuid=header.uuid if header else _NO_UUID,
        segment=(segment_id, real),
    )


def _is_store(disk: Disk, directory: str) -> bool:
    return disk.kind(os.path.join(directory, IDENTITY_NAME)) == "file" or (
        disk.kind(os.path.join(directory, STORE_NAME)) == "directory"
    )


def _uuid(disk: Disk, store: str | None, log_dir: str) -> bytes:
    """Return the uuid that IDENTITY states, or else the first segment."""
    if store is not None:
        try:
            return read_identity(disk, store).uuid
        except ForeignStoreError:
            raise
        except (FileNotFoundError, CorruptionError):
            pass
    header = first_header(disk, log_dir)
    return header.uuid if header else _NO_UUID
