"""Disks that forget some of the syncs that they are asked for."""

from __future__ import annotations

from typing import Any, cast

from strandline.wal.disk import Disk, DiskFile


class WithoutDirectorySyncs:
    """A disk whose `sync_directory` does nothing, for directories whose path ends in `suffix`."""

    def __init__(self, disk: Disk, suffix: str = "") -> None:
        self._disk = disk
        self._suffix = suffix

    def sync_directory(self, path: str) -> None:
        """Sync it if it is another one."""
        if not path.endswith(self._suffix):
            self._disk.sync_directory(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


class WithoutFileSyncs:
    """A disk on which the `fdatasync` of every file does nothing."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def open(self, path: str, mode: Any) -> Any:
        """Open a file that does not sync."""
        return _WithoutSync(self._disk.open(path, mode))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


class _WithoutSync:
    def __init__(self, file: DiskFile) -> None:
        self._file = file

    def fdatasync(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def without_directory_syncs(disk: Disk, suffix: str = "") -> Disk:
    """Return `disk` with directory syncs left out."""
    return cast("Disk", WithoutDirectorySyncs(disk, suffix))


def without_file_syncs(disk: Disk) -> Disk:
    """Return `disk` with syncs of files left out."""
    return cast("Disk", WithoutFileSyncs(disk))
