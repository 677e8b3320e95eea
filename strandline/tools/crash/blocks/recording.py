"""What a device took, in order, and the file systems that a cut of it can leave.

    base image   writes  flush  writes  mark  writes  flush  writes ...
                |<---- durable ----->|<--- pending --->| cut

A cut is a position in the log: the power failed after that many records. Writes before the
last flush are durable. Those after it are pending: any of their sectors may have survived
(see `survivors`). A mark before the cut is an acknowledgement that somebody received.

Promises that an image is mounted by the kernel's own recovery, and that images do not see
each other: whoever gets one may write to it. Refuses cuts before the file system was made
and mounted, for those ask about mkfs.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from strandline.tools.crash.blocks import daemon
from strandline.tools.crash.blocks.image import copy_image, mounted
from strandline.tools.crash.blocks.kinds import Kind
from strandline.tools.crash.blocks.survivors import Survival, Write
from strandline.tools.crash.blocks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything before it is durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Somebody says something, most often what was acknowledged."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Bound:
    """The recording begins or ends."""


Record = Write | Flush | Mark | Bound


class RecordingError(Exception):
    """A block log is not what a device would have written."""


class Recording:
    """The log of a device from when its file system was mounted. Not for several threads."""

    def __init__(self, kind: Kind, directory: Path, base: int, records: Sequence[Record]) -> None:
        """Own a base image and the records on top of it.

        Args:
            kind: The file system.
            directory: Where images are made; best one in memory.
            base: Descriptor of the image before the first record; closed by `close`.
            records: As `read_log` returns them.
        """
        bounds = [at for at, record in enumerate(records) if isinstance(record, Bound)]
        if len(bounds) != 2:
            raise RecordingError(
                f"the block log has {len(bounds)} bounds, expected a beginning and an end:"
                " the device was gone before the recording ended. Record again."
            )
        self.kind: Final = kind
        self.begin, self.end = bounds
        """The first and the last position of a cut."""
        self.records: Final = tuple(records[: self.end])
        self._flushes = [at for at, record in enumerate(self.records) if isinstance(record, Flush)]
        self._directory = directory
        self._base = base
        self._flushed = copy_image(base, directory)
        """What is durable after the records before `_flushed_through`."""
        self._flushed_through = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the images back."""
        os.close(self._base)
        os.close(self._flushed)

    def cuts(self, rng: random.Random, count: int) -> list[int]:
        """Return positions to cut at, in order; images are cheapest in order.

        Every second one lies right behind a mark: whatever that acknowledges had its last
        chance to become durable.
        """
        acknowledged = [
            at + 1 for at in range(self.begin, self.end) if isinstance(self.records[at], Mark)
        ]
        return sorted(
            rng.choice(acknowledged)
            if acknowledged and rng.random() < 0.5
            else rng.randint(self.begin, self.end)
            for _ in range(count)
        )

    def marks(self, cut: int) -> list[bytes]:
        """Return the marks that came before a cut."""
        return [record.data for record in self.records[:cut] if isinstance(record, Mark)]

    def pending(self, cut: int) -> list[Write]:
        """Return the writes that no flush had covered at a cut, oldest first."""
        records = self.records[self._durable(cut) : cut]
        return [record for record in records if isinstance(record, Write)]

    @contextmanager
    def image(self, cut: int, survival: Survival) -> Iterator[Path]:
        """Mount a file system as a cut can have left it; yield where.

        Raises:
            OSError: The file system does not mount: its own recovery failed.
            BusyFilesystemError: At the end, if a file is still open on it.
        """
        if not self.begin <= cut <= self.end:
            raise RecordingError(f"cut {cut} is not within {self.begin} to {self.end}")
        self._flush_through(self._durable(cut))
        image = copy_image(self._flushed, self._directory)
        try:
            for write in survival(self.pending(cut)):
                os.pwrite(image, write.data, write.offset)
            with (
                Workspace(self._directory) as workspace,
                mounted(image, self.kind, workspace.mount_point("disk")) as path,
            ):
                yield path
        finally:
            os.close(image)

    def _durable(self, cut: int) -> int:
        """Return how many records the last flush before a cut covers, itself included."""
        before = bisect_right(self._flushes, cut - 1)
        return self._flushes[before - 1] + 1 if before else 0

    def _flush_through(self, position: int) -> None:
        """Bring the flushed image to a position."""
        if position < self._flushed_through:
            os.close(self._flushed)
            self._flushed = copy_image(self._base, self._directory)
            self._flushed_through = 0
        for record in self.records[self._flushed_through : position]:
            if isinstance(record, Write):
                os.pwrite(self._flushed, record.data, record.offset)
        self._flushed_through = position


def read_log(data: bytes) -> list[Record]:
    """Return the records of a device's log; a last one that is not whole is left out."""
    records: list[Record] = []
    position = 0
    while position + daemon.RECORD.size <= len(data):
        kind, offset, length = daemon.RECORD.unpack_from(data, position)
        start = position + daemon.RECORD.size
        position = start + length
        if position > len(data):
            break
        content = data[start:position]
        if kind == daemon.WRITE:
            records.append(Write(offset, content))
        elif kind == daemon.FLUSH:
            records.append(Flush())
        elif kind == daemon.MARK:
            records.append(Mark(content))
        elif kind == daemon.BOUND:
            records.append(Bound())
        else:
            raise RecordingError(
                f"the block log has a record of kind {kind} at byte {start}, expected 1 to 4"
            )
    return records
