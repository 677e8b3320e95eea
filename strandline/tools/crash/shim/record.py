r"""The record file: every storage call below a directory, in the order of execution.

    16 bytes  "STRANDLINE-REC1\n", then records, each written by one system call:

     0 u32 size      of the record, these 32 bytes included
     4 u8  type      1 seen, 2 open, 3 write, 4 truncate, 5 allocate, 6 rename, 7 unlink,
                     8 rmdir, 9 mkdir, 10 link, 11 sync begins, 12 sync ends, 13 close,
                     14 mark, 15 phase, 16 unsupported
     5 u8  flags     1 injected, 2 written through (O_DSYNC, O_SYNC), 4 created,
                     8 emptied (O_TRUNC), 16 directory, 32 fdatasync rather than fsync
     6 u16 errno     0 where the call succeeded
     8 u32 file      a number, 0 where it is not known
    12 u32 thread
    16 u64 at        offset; token that a sync's two records share; number of a phase
    24 u64 length    bytes asked for; new length; flags of an open; 1: seen in a child
    32 ... payload   bytes written, a path, or two with a null byte between them

Integers are little-endian, paths relative to the root, which is "." itself. A file's number
stands for the file and not for its name: it stays through a rename and beyond an unlink. It
is introduced by "seen" (it was there before), or by the open or mkdir that made it. A sync
covers what was written before it begins. A record that a kill has cut short at the end is
left out.

Reading needs neither the shim nor Linux.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

MAGIC: Final = b"STRANDLINE-REC1\n"

_HEAD: Final = struct.Struct("<IBBHIIQQ")
_INJECTED, _THROUGH, _CREATED, _TRUNCATED, _DIRECTORY, _DATA_ONLY = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Event:
    """One record; `thread` is the operating system's number."""

    thread: int


@dataclass(frozen=True, slots=True)
class Seen(Event):
    """A file or directory that was there before, met for the first time."""

    file: int
    path: str
    directory: bool


@dataclass(frozen=True, slots=True)
class Open(Event):
    """`through`: what is written by this descriptor is durable when the call returns."""

    file: int
    path: str
    created: bool
    truncated: bool
    through: bool
    directory: bool
    flags: int


@dataclass(frozen=True, slots=True)
class Write(Event):
    """What was really written; `asked` is how much the caller wanted."""

    file: int
    offset: int
    data: bytes
    asked: int
    through: bool
    injected: bool


@dataclass(frozen=True, slots=True)
class Truncate(Event):
    """A new length."""

    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Allocate(Event):
    """Blocks reserved, and the file extended to them."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Rename(Event):
    """`target` names from now on what `source` named."""

    file: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Unlink(Event):
    """A name of a file removed."""

    file: int
    path: str


@dataclass(frozen=True, slots=True)
class Rmdir(Event):
    """A directory removed."""

    file: int
    path: str


@dataclass(frozen=True, slots=True)
class Mkdir(Event):
    """A directory made."""

    file: int
    path: str


@dataclass(frozen=True, slots=True)
class Link(Event):
    """`target` names from now on what `source` names."""

    file: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class SyncBegin(Event):
    """What comes after this is not covered."""

    file: int
    token: int
    directory: bool
    data_only: bool


@dataclass(frozen=True, slots=True)
class SyncEnd(Event):
    """What was covered is durable, unless `error` is an errno."""

    file: int
    token: int
    error: int
    injected: bool


@dataclass(frozen=True, slots=True)
class Close(Event):
    """A descriptor closed."""

    file: int


@dataclass(frozen=True, slots=True)
class Mark(Event):
    """Bytes written to the descriptor of marks: what the writer said at this point."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Phase(Event):
    """The process entered a phase."""

    number: int


@dataclass(frozen=True, slots=True)
class Unsupported(Event):
    """Something changed files that cannot be replayed; `child`: in another process."""

    call: str
    path: str
    child: bool


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A call that changed nothing, and its errno; of a sync see `SyncEnd`."""

    call: str
    error: int
    injected: bool
    file: int
    path: str
    """Of calls that take one; the source of those that take two."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The events in order, and how the file ends."""

    events: list[Event]
    cut: int = 0
    """Bytes of a last record that a kill cut short."""

    @property
    def marks(self) -> list[bytes]:
        """Return all marks in order."""
        return [event.data for event in self.events if isinstance(event, Mark)]

    @property
    def unsupported(self) -> list[Unsupported]:
        """Return what stands in the way of a replay."""
        return [event for event in self.events if isinstance(event, Unsupported)]


def read(path: Path) -> Recording:
    """Read a record file.

    Raises:
        ValueError: It is none, or is damaged; the text says where.
    """
    raw = path.read_bytes()
    if not raw.startswith(MAGIC):
        raise ValueError(f"{path}: expected {MAGIC!r} at offset 0, found {raw[: len(MAGIC)]!r}")
    events: list[Event] = []
    at = len(MAGIC)
    while len(raw) - at >= _HEAD.size:
        head = _Head(*_HEAD.unpack_from(raw, at))
        if head.size < _HEAD.size or head.type not in _READERS:
            raise ValueError(
                f"{path}: no record at offset {at}: type {head.type}, size {head.size}; "
                "it was damaged, or is of another version"
            )
        if at + head.size > len(raw):
            break
        events.append(_event(head, raw[at + _HEAD.size : at + head.size]))
        at += head.size
    return Recording(events, len(raw) - at)


class _Head(NamedTuple):
    size: int
    type: int
    flags: int
    error: int
    file: int
    thread: int
    at: int
    length: int

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)


def _path(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _paths(raw: bytes) -> tuple[str, str]:
    first, _, second = raw.partition(b"\0")
    return _path(first), _path(second)


def _event(head: _Head, raw: bytes) -> Event:
    call, reader, names_path = _READERS[head.type]
    if head.error and head.type != _SYNC_ENDS:
        path = _paths(raw)[0] if names_path else ""
        return Failed(head.thread, call, head.error, head.has(_INJECTED), head.file, path)
    return reader(head, raw)


def _open(head: _Head, raw: bytes) -> Event:
    return Open(
        head.thread,
        head.file,
        _path(raw),
        created=head.has(_CREATED),
        truncated=head.has(_TRUNCATED),
        through=head.has(_THROUGH),
        directory=head.has(_DIRECTORY),
        flags=head.length,
    )


def _write(head: _Head, raw: bytes) -> Event:
    through, injected = head.has(_THROUGH), head.has(_INJECTED)
    return Write(head.thread, head.file, head.at, raw, head.length, through, injected)


_Reader = Callable[[_Head, bytes], Event]

_SYNC_ENDS: Final = 12

_READERS: Final[dict[int, tuple[str, _Reader, bool]]] = {
    1: ("seen", lambda h, raw: Seen(h.thread, h.file, _path(raw), h.has(_DIRECTORY)), True),
    2: ("open", _open, True),
    3: ("write", _write, False),
    4: ("truncate", lambda h, _: Truncate(h.thread, h.file, h.length), False),
    5: ("allocate", lambda h, _: Allocate(h.thread, h.file, h.at, h.length), False),
    6: ("rename", lambda h, raw: Rename(h.thread, h.file, *_paths(raw)), True),
    7: ("unlink", lambda h, raw: Unlink(h.thread, h.file, _path(raw)), True),
    8: ("rmdir", lambda h, raw: Rmdir(h.thread, h.file, _path(raw)), True),
    9: ("mkdir", lambda h, raw: Mkdir(h.thread, h.file, _path(raw)), True),
    10: ("link", lambda h, raw: Link(h.thread, h.file, *_paths(raw)), True),
    11: (
        "sync",
        lambda h, _: SyncBegin(h.thread, h.file, h.at, h.has(_DIRECTORY), h.has(_DATA_ONLY)),
        False,
    ),
    _SYNC_ENDS: (
        "sync",
        lambda h, _: SyncEnd(h.thread, h.file, h.at, h.error, h.has(_INJECTED)),
        False,
    ),
    13: ("close", lambda h, _: Close(h.thread, h.file), False),
    14: ("mark", lambda h, raw: Mark(h.thread, raw), False),
    15: ("phase", lambda h, _: Phase(h.thread, h.at), False),
    16: ("unsupported", lambda h, raw: Unsupported(h.thread, *_paths(raw), bool(h.length)), True),
}
