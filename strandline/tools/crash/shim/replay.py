"""What a power cut at any point of a recording leaves.

    recording ──► one event at a time ──► ReplayDisk ──► crash(policy) ──► write_image
                  a cut between any two    written and durable state apart

`replay` walks through a recording once. Before each event, and after the last, it hands out
a `Cut`: its disk's `crash(policy)` gives an image as the media model of
`tools/crash/simulation` promises it, as often as one likes; its marks are what the writer
had said by then.

A write through O_DSYNC makes its own sectors durable, and as many of the file's pending
lengths as it takes to show them: nothing else. A failed sync leaves its file's pages
taken for clean, as the model does. A sync that had begun but not ended promises nothing.

Refuses a recording in which something was seen that it cannot replay. Hard links are
replayed as names of one file; an image has a copy under each of them.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strandline.tools.crash.shim.record import (
    Allocate,
    Event,
    Link,
    Mark,
    Mkdir,
    Open,
    Recording,
    Rename,
    Rmdir,
    Seen,
    SyncBegin,
    SyncEnd,
    Truncate,
    Unlink,
    Write,
)
from strandline.tools.crash.simulation import media
from strandline.tools.crash.simulation.disk import SimulatedDisk, SimulatedFile
from strandline.tools.crash.simulation.media import SECTOR, Directory, File, Node, Resize, apply

_CHUNK: Final = 64 << 10


class ReplayDisk(SimulatedDisk):
    """A simulated disk whose calls are those of a recording.

    `load` gives it what was there before the recording began; all of that is durable.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, Node] = {}
        self._syncs: dict[int, int] = {}

    def load(self, folder: Path) -> None:
        """Take over the files and directories below `folder`."""
        with self._lock:
            self._root = _loaded(folder)

    def replay(self, event: Event) -> None:
        """Do what a recorded call did."""
        with self._lock:
            match event:
                case Seen():
                    self._nodes[event.file] = self._seen(event.path)
                case Open():
                    self._open(event)
                case Write():
                    self._write(event)
                case Truncate():
                    self._resize(self._file(event.file), event.length)
                case Allocate():
                    end = event.offset + event.length
                    if end > len(self._file(event.file).current):
                        self._resize(self._file(event.file), end)
                case SyncBegin() | SyncEnd():
                    self._sync(event)
                case _:
                    self._names(event)

    def _seen(self, path: str) -> Node:
        try:
            return self._find("" if path == "." else path)
        except FileNotFoundError:
            raise ValueError(
                f"{path} was there before the recording began, and is not in the base of the "
                "replay; pass a copy of the root from before"
            ) from None

    def _open(self, event: Open) -> None:
        if event.created:
            self._make(event.file, event.path, File())
        if event.truncated:
            self._resize(self._file(event.file), 0)

    def _names(self, event: Event) -> None:
        match event:
            case Mkdir():
                self._make(event.file, event.path, Directory())
            case Rename():
                node = self._find(event.source)
                target = self._parent(event.target)
                # Two names of one file: the system call does nothing.
                if target[0].current.get(target[1]) is not node:
                    self._change((*self._parent(event.source), None), (*target, node))
            case Link():
                self._change((*self._parent(event.target), self._find(event.source)))
            case Unlink() | Rmdir():
                self._change((*self._parent(event.path), None))

    def _make(self, number: int, path: str, node: Node) -> None:
        self._nodes[number] = node
        self._change((*self._parent(path), node))

    def _file(self, number: int) -> File:
        node = self._nodes[number]
        assert isinstance(node, File), f"file {number} of the recording is a directory"
        return node

    def _write(self, event: Write) -> None:
        if not event.data:
            return
        file = self._file(event.file)
        self._pwrite(file, event.data, event.offset, str(event.file))
        if event.through:
            self._land(file, event.offset, event.offset + len(event.data))

    def _sync(self, event: SyncBegin | SyncEnd) -> None:
        if isinstance(event, SyncBegin):
            self._syncs[event.token] = self._sequence
            return
        node, covered = self._nodes[event.file], self._syncs.pop(event.token)
        if isinstance(node, Directory):
            if not event.error:
                self._sync_entries(node, covered)
        elif event.error:
            self._forget(node, covered)
        else:
            self._sync_file(node, covered)

    def _land(self, file: File, start: int, end: int) -> None:
        """Make the newest write's bytes durable, and the lengths that they need."""
        self._land_lengths(file, end)
        newest = self._pending.pop()
        assert isinstance(newest, media.Write), "a write's sectors are its last event"
        apply(file.durable, newest)
        first, last = newest.offset, newest.offset + len(newest.image)
        assert first <= start < end <= last
        kept: list[media.Event] = []
        for event in self._pending:
            if isinstance(event, media.Write) and event.file is file:
                kept += _outside(event, first, last)
            else:
                kept.append(event)
        self._pending = kept

    def _land_lengths(self, file: File, end: int) -> None:
        """Make pending lengths durable, in order, until no state hides what lies below `end`."""
        lengths = [event for event in self._pending if isinstance(event, Resize)]
        lengths = [event for event in lengths if event.file is file]
        states = [len(file.durable), *(event.length for event in lengths)]
        needed = max((at + 1 for at, length in enumerate(states) if length < end), default=0)
        landing = lengths[:needed]
        for before, event in zip(states, landing, strict=False):
            if event.length < before:
                # A file is cut together with what was pending when it was: else that would
                # come back behind the new end.
                self._sync_file(file, event.sequence)
            elif event in self._pending:
                apply(file.durable, event)
                self._pending.remove(event)


@dataclass(frozen=True, slots=True)
class Cut:
    """A point between two calls."""

    position: int
    """How many events of the recording came before."""
    disk: ReplayDisk
    """As of this point; the walk goes on with the same object."""
    said: int
    """How many marks came before: `recording.marks[:said]`."""


def replay(recording: Recording, base: Path | None = None) -> Iterator[Cut]:
    """Yield every point of a recording, the one before the first call first.

    `base` is a copy of the root from before the recording; None stands for an empty one.

    Raises:
        ValueError: Something happened that cannot be replayed; the text says what.
    """
    if unknown := recording.unsupported:
        what = ", ".join(sorted({f"{event.call} on {event.path}" for event in unknown}))
        raise ValueError(
            f"{len(unknown)} calls of this recording cannot be replayed: {what}; "
            "keep the recorded process from making them"
        )
    disk = ReplayDisk()
    if base is not None:
        disk.load(base)
    said = 0
    yield Cut(0, disk, said)
    for position, event in enumerate(recording.events, 1):
        said += isinstance(event, Mark)
        disk.replay(event)
        yield Cut(position, disk, said)


def write_image(disk: SimulatedDisk, folder: Path) -> None:
    """Write a disk's files, as its readers see them, into an empty directory."""
    _write_directory(disk, "/", folder)


def _write_directory(disk: SimulatedDisk, inside: str, folder: Path) -> None:
    for name in disk.listdir(inside):
        source, target = posixpath.join(inside, name), folder / name
        if disk.kind(source) == "directory":
            target.mkdir(mode=0o700)
            _write_directory(disk, source, target)
        else:
            _write_file(disk.open(source, "r"), target)


def _write_file(source: SimulatedFile, target: Path) -> None:
    """Write a file; chunks of zeros become holes."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        length = source.size()
        os.ftruncate(descriptor, length)
        for start in range(0, length, _CHUNK):
            chunk = source.pread(_CHUNK, start)
            if chunk.count(0) < len(chunk):
                os.pwrite(descriptor, chunk, start)
    finally:
        os.close(descriptor)
        source.close()


def _loaded(folder: Path) -> Directory:
    names: dict[str, Node] = {}
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            names[entry.name] = _loaded(Path(entry.path))
        else:
            content = Path(entry.path).read_bytes()
            names[entry.name] = File(
                bytearray(content), bytearray(content), media.blocks(len(content))
            )
    return Directory(names, dict(names))


def _outside(event: media.Write, first: int, last: int) -> Iterator[media.Write]:
    """Yield what is left of a pending write without the sectors from `first` to `last`."""
    end = event.offset + len(event.image)
    assert first % SECTOR == last % SECTOR == 0
    for start, stop in ((event.offset, min(end, first)), (max(event.offset, last), end)):
        if start < stop:
            image = event.image[start - event.offset : stop - event.offset]
            yield media.Write(event.sequence, event.file, start, image)
