"""A small real file system on a loop device, whose power can be cut while it is in use.

    with LoopFilesystem("ext4", Path("/dev/shm")) as disk:
        ...                     a writer works in disk.path
        disk.cut()              from here on nothing reaches the image
        ...                     the writer is ended, its files are closed
        disk.remount()          the journal is recovered; disk.path is what survived

Promises that what was not durable at the cut is lost unless the kernel had written it back
by itself, and that nothing is left behind (see `workspace`).

Refuses to go on while a file is open: the kernel would hand the dead file system out again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from strandline.tools.crash.blocks.image import (
    BusyFilesystemError,
    make_image,
    mount_image,
    unmount_image,
)
from strandline.tools.crash.blocks.kinds import KINDS, KindName
from strandline.tools.crash.blocks.shutdown import Journal, cut_power
from strandline.tools.crash.blocks.workspace import Workspace, sweep


class LoopFilesystem:
    """A mounted file system of this process's own. Not for several threads."""

    def __init__(self, kind: KindName, directory: Path) -> None:
        """Prepare one; it is made and mounted by `with`.

        Args:
            kind: Which file system.
            directory: Where the image and the mount point live; best one in memory.
        """
        self._kind = KINDS[kind]
        self._directory = directory
        self._image = -1
        self._mounted = False
        self._stack = ExitStack()
        self.path = directory
        """Where it is mounted, inside `with`."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            sweep(self._directory)
            workspace = stack.enter_context(Workspace(self._directory))
            self._image = make_image(self._kind, self._directory)
            stack.callback(os.close, self._image)
            self.path = workspace.mount_point("disk")
            stack.callback(self._unmount)
            self._mount()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        except BusyFilesystemError:
            # What went wrong before is what needs to be seen.
            if error is None:
                raise

    def cut(self, journal: Journal = Journal.LOST) -> None:
        """Cut the power. What a writer is told from now on counts for nothing.

        A sync that runs meanwhile can still report success: the acknowledgements that
        count are those that were received before this call.
        """
        cut_power(self.path, journal)

    def remount(self) -> None:
        """Take the file system down and mount it again from what reached the image."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        mount_image(self._image, self._kind, self.path)
        self._mounted = True

    def _unmount(self) -> None:
        mounted, self._mounted = self._mounted, False
        if mounted:
            unmount_image(self.path)
