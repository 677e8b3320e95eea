"""A worker's directory and its private mounts, neither of which outlives it by much.

    <directory>/strandline-blocks-<random>/     locked (flock) while its owner lives
        <name>/                                 mount points, empty for everybody else

Promises that a SIGKILL leaves nothing but empty directories. The mounts lie in a mount
namespace of the worker's own and go with its last process; loop devices go with their
mounts; images have no names. `sweep` removes the directories of those who were killed.

Refuses to share a namespace with the process that forked this one: what it mounts would
else stay when it is killed. A namespace begins with copies of what is mounted by then, so
fork workers before any of them mounts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from strandline.tools.crash.blocks import kernel

PREFIX: Final = "strandline-blocks-"


_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there has no name
_ROOM: Final = 512 << 20
"""A worker's images take up to a third of this."""


def roomy_directory() -> Path:
    """Return where images are best made: in memory, if there is enough of it."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return Path(tempfile.gettempdir())


class _Namespace:
    """Whose mounts this process works with."""

    owner: int = 0


def private_mounts() -> None:
    """Move this thread, and what it starts, into a mount namespace of this process's own."""
    if _Namespace.owner != os.getpid():
        kernel.unshare_mounts()
        _Namespace.owner = os.getpid()


def sweep(directory: Path) -> None:
    """Remove the workspaces whose owners were killed."""
    for path in directory.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            except BlockingIOError:
                pass
            finally:
                os.close(lock)


class Workspace:
    """A directory with mount points, locked while it is in use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = -1
        self.path = directory

    def __enter__(self) -> Self:
        private_mounts()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._directory))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                return self
            # Somebody swept between the directory and its lock.
            os.close(self._lock)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _remove(self.path)
        os.close(self._lock)

    def mount_point(self, name: str) -> Path:
        """Return a new empty directory to mount at."""
        path = self.path / name
        path.mkdir()
        return path


def _remove(path: Path) -> None:
    for mount_point in path.iterdir():
        mount_point.rmdir()
    path.rmdir()
