"""`SimulatedDisk`: files in memory that keep what was written apart from what is durable.

    pwrite ──► current (the page cache) ──► pending events, in order ──► durable
                                              │ sector images     ▲ fdatasync: one file's
                                              │ lengths           │
                                              └ directory entries ┘ sync_directory: one directory's

`crash` returns a new disk that holds the durable state and a choice of the pending
events; the old disk is left as it is, so that one run gives any number of images, also
from within a hook. What the model promises is what docs/architecture.md assumes about
media, and it is unkind wherever that leaves room:

- A pending write is its file's whole 512-byte sectors as they were after it: each lands
  as a whole or not at all, in any order. A later image of a sector carries the earlier.
- A file's length is durable apart from its data: a file can come back with zeros where
  the data was, or with data that the length hides. Lengths of one file land in order.
- `fdatasync` covers data and length of its file, not its name, and only what was pending
  when it was called, not what came while it ran.
- If a hook makes `fdatasync` fail, the sectors that it was to write are clean from then
  on: they still read as written, no later sync writes them, and a crash loses them.
- Entries land in order, over all directories, as in a journal, or each by itself: a
  random crash is of either kind. `sync_directory` covers one directory and those older
  entries that its own build upon. A rename is atomic.

Not modelled: permissions, links, and files that are opened by another path than this
disk. Space is counted in blocks of 4096 bytes up to a file's highest byte written or
reserved, so a sparse file counts in full. Paths are absolute; a relative one is taken
from the root, which always exists.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import threading
from collections.abc import Iterator
from typing import Final

from strandline.tools.crash.simulation.faults import FaultPoint
from strandline.tools.crash.simulation.media import (
    BLOCK,
    SECTOR,
    CrashPolicy,
    Directory,
    Entries,
    Event,
    File,
    Node,
    Resize,
    Write,
    apply,
    blocks,
    chosen,
    copied,
    set_entry,
    split,
    surviving_tree,
)
from strandline.wal.disk import Kind, OpenMode

UNLIMITED: Final = 1 << 50
"""What `free_bytes` says of a disk without a capacity."""


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk, path: str, file: File, writable: bool) -> None:
        self.path = path
        self._disk = disk
        self._file = file
        self._writable = writable
        self._closed = False

    def pwrite(self, data: bytes, offset: int, /) -> int:
        data = bytes(data[: self._disk.enter("pwrite", self.path, offset, len(data))])
        with self._using(write=True) as disk:
            return disk._pwrite(self._file, data, offset, self.path)

    def pread(self, length: int, offset: int, /) -> bytes:
        length = self._disk.enter("pread", self.path, offset, length)
        with self._using():
            return bytes(self._file.current[offset : offset + length])

    def fdatasync(self) -> None:
        covered = self._disk._sequence
        try:
            self._disk.enter("fdatasync", self.path)
        except OSError:
            with self._using() as disk:
                disk._forget(self._file, covered)
            raise
        with self._using() as disk:
            disk._sync_file(self._file, covered)

    def allocate(self, length: int) -> None:
        self._disk.enter("allocate", self.path, 0, length)
        with self._using(write=True) as disk:
            if disk._reserve(self._file, length, length - 1) < length:
                raise _error(errno.ENOSPC, self.path)
            if length > len(self._file.current):
                disk._resize(self._file, length)

    def truncate(self, length: int) -> None:
        self._disk.enter("truncate", self.path, 0, length)
        with self._using(write=True) as disk:
            disk._resize(self._file, length)
            self._file.allocated = min(self._file.allocated, blocks(length))

    def size(self) -> int:
        self._disk.enter("size", self.path)
        with self._using():
            return len(self._file.current)

    def try_lock(self) -> bool:
        self._disk.enter("try_lock", self.path)
        with self._using() as disk:
            return disk._locks.setdefault(self._file, self) is self

    def close(self) -> None:
        """Close the file, and only then fail if the hook says so."""
        with self._disk._lock:
            self._closed = True
            self._disk._handles.pop(self, None)
            if self._disk._locks.get(self._file) is self:
                del self._disk._locks[self._file]
        self._disk.enter("close", self.path)

    @contextlib.contextmanager
    def _using(self, *, write: bool = False) -> Iterator[SimulatedDisk]:
        """Hold the disk's lock for one operation; the file must be open for it."""
        with self._disk._lock:
            if self._closed or (write and not self._writable):
                raise _error(errno.EBADF, self.path)
            yield self._disk


class SimulatedDisk(FaultPoint):
    """A disk in memory; see the module's docstring for what it keeps and loses.

    `capacity_bytes` may be changed at any time; None stands for no limit.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__()
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._root = Directory()
        self._pending: list[Event] = []
        self._sequence = 0
        self._locks: dict[File, SimulatedFile] = {}
        self._handles: dict[SimulatedFile, File] = {}

    # The protocol ---------------------------------------------------------------------

    def open(self, path: str, mode: OpenMode) -> SimulatedFile:
        path = self._begin("create" if mode == "create" else "open", path)
        with self._lock:
            directory, name = self._parent(path)
            node = directory.current.get(name)
            if mode == "create":
                if node is not None:
                    raise _error(errno.EEXIST, path)
                node = File()
                self._change((directory, name, node))
            if node is None:
                raise _error(errno.ENOENT, path)
            if isinstance(node, Directory):
                raise _error(errno.EISDIR, path)
            handle = SimulatedFile(self, path, node, writable=mode != "r")
            self._handles[handle] = node
            return handle

    def kind(self, path: str) -> Kind:
        path = self._begin("kind", path)
        with self._lock:
            try:
                node = self._find(path)
            except (FileNotFoundError, NotADirectoryError):
                return "absent"
            return "file" if isinstance(node, File) else "directory"

    def listdir(self, path: str) -> list[str]:
        path = self._begin("listdir", path)
        with self._lock:
            return sorted(self._directory(path).current)

    def mkdir(self, path: str) -> None:
        path = self._begin("mkdir", path)
        with self._lock:
            directory, name = self._parent(path)
            if not name or name in directory.current:
                raise _error(errno.EEXIST, path)
            self._change((directory, name, Directory()))

    def rename(self, source: str, target: str) -> None:
        source = _normal(source)
        target = self._begin("rename", target)
        with self._lock:
            node = self._find(source)
            from_directory, from_name = self._parent(source)
            to_directory, to_name = self._parent(target)
            replaced = to_directory.current.get(to_name)
            if replaced is node:
                return
            if isinstance(replaced, Directory):
                raise _error(errno.EISDIR, target)
            if isinstance(replaced, File) and isinstance(node, Directory):
                raise _error(errno.ENOTDIR, target)
            self._change((from_directory, from_name, None), (to_directory, to_name, node))

    def unlink(self, path: str) -> None:
        path = self._begin("unlink", path)
        with self._lock:
            if isinstance(self._find(path), Directory):
                raise _error(errno.EISDIR, path)
            self._change((*self._parent(path), None))

    def sync_directory(self, path: str) -> None:
        covered = self._sequence
        path = self._begin("sync_directory", path)
        with self._lock:
            self._sync_entries(self._directory(path), covered)

    def free_bytes(self, path: str) -> int:
        path = self._begin("free_bytes", path)
        with self._lock:
            self._find(path)
            return UNLIMITED if self.capacity_bytes is None else self._free()

    # Crashes --------------------------------------------------------------------------

    def pending(self) -> int:
        """Return how many events a crash can lose: sectors, lengths, entries."""
        with self._lock:
            return sum(1 for _ in split(self._pending))

    def crash(self, policy: CrashPolicy) -> SimulatedDisk:
        """Return the disk as the power cut leaves it: no locks, no hook, an empty trace."""
        with self._lock:
            disk = SimulatedDisk(self.capacity_bytes)
            disk._root = surviving_tree(self._root, chosen(self._pending, policy))
            return disk

    def kill(self) -> SimulatedDisk:
        """Return the disk as a killed process leaves it: the page cache is still there."""
        with self._lock:
            disk = SimulatedDisk(self.capacity_bytes)
            disk._sequence = self._sequence
            disk._root, disk._pending = copied(self._root, self._pending)
            return disk

    # Files, under the lock ------------------------------------------------------------

    def _pwrite(self, file: File, data: bytes, offset: int, path: str) -> int:
        """Write what there is room for; ENOSPC if that is nothing."""
        if offset < 0:
            raise _error(errno.EINVAL, path)
        end = min(offset + len(data), self._reserve(file, offset + len(data), offset))
        if not data:
            return 0
        if end <= offset:
            raise _error(errno.ENOSPC, path)
        if end > len(file.current):
            self._resize(file, end)
        file.current[offset:end] = data[: end - offset]
        first = offset // SECTOR * SECTOR
        image = bytes(file.current[first : -(-end // SECTOR) * SECTOR])
        image = image.ljust(-(-len(image) // SECTOR) * SECTOR, b"\0")
        self._pending.append(Write(self._next(), file, first, image))
        return end - offset

    def _resize(self, file: File, length: int) -> None:
        if length != len(file.current):
            event = Resize(self._next(), file, length)
            apply(file.current, event)
            self._pending.append(event)

    def _sync_file(self, file: File, covered: int) -> None:
        kept: list[Event] = []
        for event in self._pending:
            if isinstance(event, Entries) or event.file is not file or event.sequence > covered:
                kept.append(event)
            else:
                apply(file.durable, event)
        self._pending = kept

    def _forget(self, file: File, covered: int) -> None:
        """Take a file's pending sectors for clean, as the kernel does after a failed sync."""
        self._pending = [
            event
            for event in self._pending
            if not (isinstance(event, Write) and event.file is file and event.sequence <= covered)
        ]

    # Space, under the lock ------------------------------------------------------------

    def _reserve(self, file: File, end: int, least: int) -> int:
        """Reserve a file's blocks up to `end`, or none if they reach no further than `least`.

        Return how far they reach.
        """
        wanted = blocks(end)
        if wanted > file.allocated:
            reached = wanted
            if self.capacity_bytes is not None:
                reached = min(wanted, file.allocated + self._free() // BLOCK * BLOCK)
            if reached > least:
                file.allocated = reached
        return file.allocated

    def _free(self) -> int:
        assert self.capacity_bytes is not None
        files = {*self._files(self._root), *self._handles.values()}
        return max(0, self.capacity_bytes - sum(file.allocated for file in files))

    def _files(self, directory: Directory) -> Iterator[File]:
        for node in directory.current.values():
            if isinstance(node, File):
                yield node
            else:
                yield from self._files(node)

    # Names, under the lock ------------------------------------------------------------

    def _begin(self, op: str, path: str) -> str:
        path = _normal(path)
        self.enter(op, path)
        return path

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _find(self, path: str) -> Node:
        node: Node = self._root
        for name in path.split("/"):
            if not name:
                continue
            if isinstance(node, File):
                raise _error(errno.ENOTDIR, path)
            if name not in node.current:
                raise _error(errno.ENOENT, path)
            node = node.current[name]
        return node

    def _directory(self, path: str) -> Directory:
        node = self._find(path)
        if isinstance(node, File):
            raise _error(errno.ENOTDIR, path)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        head, name = posixpath.split(path)
        return self._directory(head), name

    def _change(self, *changes: tuple[Directory, str, Node | None]) -> None:
        for directory, name, node in changes:
            set_entry(directory.current, name, node)
        self._pending.append(Entries(self._next(), changes))

    def _sync_entries(self, directory: Directory, covered: int) -> None:
        touched = {directory}
        landing: list[Event] = []
        for event in reversed(self._pending):
            if isinstance(event, Entries) and event.sequence <= covered:
                directories = {changed for changed, _, _ in event.changes}
                if touched & directories:
                    touched |= directories
                    landing.append(event)
        for event in reversed(landing):
            assert isinstance(event, Entries)
            for changed, name, node in event.changes:
                set_entry(changed.durable, name, node)
        self._pending = [event for event in self._pending if event not in landing]


@functools.lru_cache(maxsize=1 << 12)
def _normal(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path))


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
