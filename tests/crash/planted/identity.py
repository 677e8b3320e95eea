"""Bugs in who a store is: IDENTITY, epoch, LSNs, the lock, and how a store is created."""

from __future__ import annotations

import os

from strandline.engine.backing import Backing
from strandline.options import Options
from strandline.recovery import opening
from strandline.recovery.opening import _Opening
from strandline.recovery.survey import Survey
from strandline.wal import identity as identity_module
from strandline.wal import lockfile
from strandline.wal.disk import Disk
from strandline.wal.identity import Identity, write_identity
from strandline.wal.lockfile import WriterLock
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import Runtime
from tests.crash.planted.bug import Planting, bug
from tests.crash.planted.disks import without_directory_syncs, without_file_syncs


@bug(breaks=12)
def identity_renamed_before_sync(planting: Planting) -> None:
    """The new IDENTITY is renamed over the old one before its bytes are on disk.

    "Rename is atomic" is true of the name alone; ext4 had to be taught to help.
    """
    write_new = identity_module._write_new

    def unsynced(disk: Disk, path: str, block: bytes) -> None:
        write_new(without_file_syncs(disk), path, block)

    planting.replace(identity_module, "_write_new", unsynced)


@bug(breaks=12)
def identity_name_not_synced(planting: Planting) -> None:
    """The rename that puts a new IDENTITY in place is not synced.

    After a power cut the old one is there: its epoch and its ceiling are given out again.
    """

    def unsynced(disk: Disk, directory: str, identity: Identity) -> None:
        write_identity(without_directory_syncs(disk), directory, identity)

    planting.replace(opening, "write_identity", unsynced)


@bug(breaks=9)
def identity_written_first(planting: Planting) -> None:
    """A new store's IDENTITY is written before its log and its database are there.

    A crash in between leaves half a store that claims to be a whole one, and never opens.
    """
    create = Backing.create

    def early(path: str, uuid: bytes, epoch: int, options: Options) -> Backing:
        disk = options.disk or RealDisk()
        write_identity(disk, os.path.dirname(path), Identity(uuid, 0, 0))
        return create(path, uuid, epoch, options)

    planting.replace(Backing, "create", early)


@bug(breaks=9)
def log_directory_not_synced(planting: Planting) -> None:
    """When a store is created, the name of its first segment is not synced.

    The directory above is, and that seems to be enough.
    """
    identity = _Opening._identity

    def unsynced(self: _Opening) -> Identity:
        disk = self._disk
        self._disk = without_directory_syncs(disk, suffix="/log")
        try:
            return identity(self)
        finally:
            self._disk = disk

    planting.replace(_Opening, "_identity", unsynced)


@bug(breaks=12)
def epoch_not_raised(planting: Planting) -> None:
    """An opening takes over the epoch of the one before it.

    The number is raised at a clean close, where it is written anyway. What follows a crash
    cannot be told from what came before it.
    """

    def same_epoch(disk: Disk, directory: str, identity: Identity) -> None:
        write_identity(disk, directory, identity._replace(epoch=0))

    next_epoch = _Opening._next_epoch

    def not_raised(self: _Opening, identity: Identity, found: Survey) -> Identity:
        return next_epoch(self, identity, found)._replace(epoch=0)

    planting.replace(opening, "write_identity", same_epoch)
    planting.replace(_Opening, "_next_epoch", not_raised)


@bug(breaks=12)
def lsn_reused_after_lost_tail(planting: Planting) -> None:
    """After a crash LSNs go on behind the last frame that was found.

    Those that the lost tail held are given out again, for other operations: whoever took
    them for names of versions is wrong.
    """

    def next_lsn(self: _Opening, identity: Identity, found: Survey) -> int:
        return found.last_lsn + 1

    planting.replace(_Opening, "_next_lsn", next_lsn)


@bug(breaks=12)
def lock_not_taken(planting: Planting) -> None:
    """A store is opened although another writer has it open.

    The lock is a file that is made if it is absent, or `flock` fails and nobody looks.
    """

    def acquire(disk: Disk, directory: str, runtime: Runtime) -> WriterLock:
        path = os.path.join(directory, lockfile.LOCK_NAME)
        return WriterLock(path, lockfile._open(disk, path))

    planting.replace(WriterLock, "acquire", acquire)


@bug(breaks=10)
def identity_crc_unchecked(planting: Planting) -> None:
    """IDENTITY is believed whatever its checksum says.

    It is small, and read once: a flipped bit in the ceiling lets LSNs be issued twice.
    """

    def checksums(block: bytes) -> tuple[int, int]:
        return 0, 0

    planting.replace(identity_module, "_checksums", checksums)


@bug(breaks=9)
def database_created_in_place(planting: Planting) -> None:
    """A new store's LMDB is made where it is to be, and neither it nor its name is synced.

    LMDB does not sync the directory in which it makes its file.
    """
    from strandline.engine import environment

    def no_sync(path: str) -> None:
        """Leave it to the kernel."""

    planting.replace(environment, "_sync_path", no_sync)
