"""A real file system on a device that logs everything it is given.

    writer ── ext4, xfs, btrfs ── loop device ── FUSE ── daemon ── image, log
       └────────────── marks ─────────────────────┘

    with BlockLog("btrfs", Path("/dev/shm")) as log:
        ...                     a writer works in log.path, and writes what was
                                acknowledged to log.marks, one write(2) an acknowledgement
        with log.end() as recording:
            for cut in recording.cuts(rng, 100):
                with recording.image(cut, at_random(rng)) as path:
                    ...         judge what is at path, knowing recording.marks(cut)

Promises that records and marks are in the order in which the device took them, that a mark
is in the log when its write(2) returns, and that nothing is left behind (see `workspace`).
The loop device does direct I/O: no cache lies between the file system and the log.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from strandline.tools.crash.blocks import daemon, kernel
from strandline.tools.crash.blocks.image import (
    BusyFilesystemError,
    blank_image,
    copy_image,
    make_image,
    mount_image,
    unmount_image,
)
from strandline.tools.crash.blocks.kinds import KINDS, KindName
from strandline.tools.crash.blocks.recording import Recording, read_log
from strandline.tools.crash.blocks.workspace import Workspace, sweep

_END_SECONDS: Final = 30.0


class DeviceError(Exception):
    """The process behind the device did not start, or did not end."""


class BlockLog:
    """A mounted file system whose writes are recorded. Not for several threads."""

    def __init__(self, kind: KindName, directory: Path) -> None:
        """Prepare one; it is made, mounted and recorded by `with`.

        Args:
            kind: Which file system.
            directory: Where images, log and mount points live; best one in memory.
        """
        self._kind = KINDS[kind]
        self._directory = directory
        self._base = -1
        self._log = -1
        self._device = Path()
        self._stack = ExitStack()
        self.path = directory
        """Where it is mounted, inside `with`."""
        self.marks = directory
        """A file; every write(2) to it, of up to 4096 bytes, is a mark."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            sweep(self._directory)
            workspace = stack.enter_context(Workspace(self._directory))
            self._base = make_image(self._kind, self._directory)
            stack.callback(os.close, self._base)
            self._log = blank_image(self._directory, 0)
            stack.callback(os.close, self._log)
            self._device = workspace.mount_point("device")
            self.marks = self._device / daemon.MARKS_NAME
            self._start(stack)
            self.path = workspace.mount_point("disk")
            self._mount(stack)
            kernel.sync_filesystem(self.path)
            self._bound()
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

    def mark(self, data: bytes) -> None:
        """Put a mark into the log, where it is when this returns."""
        _write(self.marks, data)

    def end(self) -> Recording:
        """End the recording, take the file system down, and return what was recorded.

        Raises:
            BusyFilesystemError: Somebody still has a file open; the recording is lost.
            RecordingError: The device was gone before; the recording is lost.
        """
        self._bound()
        base, log = os.dup(self._base), os.dup(self._log)
        try:
            self._stack.close()
            records = read_log(os.pread(log, os.fstat(log).st_size, 0))
            return Recording(self._kind, self._directory, base, records)
        except BaseException:
            os.close(base)
            raise
        finally:
            os.close(log)

    def _bound(self) -> None:
        _write(self._device / daemon.BOUNDS_NAME, b"|")

    def _start(self, stack: ExitStack) -> None:
        """Start the daemon on a copy of the base, and wait for its mount."""
        served = copy_image(self._base, self._directory)
        try:
            passed = [served, self._log]
            command = [sys.executable, "-P", daemon.__file__, str(self._device)]
            process = subprocess.Popen(
                [*command, *map(str, passed), str(os.getpid())],
                pass_fds=passed,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            os.close(served)
        stack.callback(_end, process)
        assert process.stdout is not None
        if process.stdout.read(len(daemon.READY)) != daemon.READY:
            said = process.communicate()[1].decode(errors="replace").strip()
            raise DeviceError(
                f"{daemon.__file__} ended with {process.returncode} before its device was there:"
                f" {said.splitlines()[-1] if said else 'it said nothing'}"
            )
        stack.callback(self._unmount_device, process)

    def _unmount_device(self, process: subprocess.Popen[bytes]) -> None:
        try:
            kernel.unmount(self._device)
        except OSError:
            # The file system on it is still in use. It loses its device: better than a hang.
            process.kill()
            kernel.detach(self._device)

    def _mount(self, stack: ExitStack) -> None:
        """Mount the file system on the device."""
        image = os.open(self._device / daemon.IMAGE_NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            mount_image(image, self._kind, self.path, direct=True)
        finally:
            os.close(image)
        stack.callback(unmount_image, self.path)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the daemon, which ends with its mount; kill it if it does not."""
    try:
        process.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
