"""The images that are taken of a recording: at every cut some, those that are equal once.

An image counts as another one when more had been said by its cut: a store that said more
must hold more, and may hold the same.
"""

from __future__ import annotations

import posixpath
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from strandline.tools.crash.shim.record import Event, Failed, Recording, SyncBegin, SyncEnd, Write
from strandline.tools.crash.shim.replay import Cut, replay
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.media import CrashPolicy

_PREFIXES: Final = 1
_SUBSETS: Final = 2


@dataclass(frozen=True)
class Image:
    """What one power cut leaves."""

    position: int
    """How many calls came before the cut."""
    said: int
    """How many marks came before it."""
    disk: SimulatedDisk
    where: str
    """The cut and the policy, in words."""


def images(
    recording: Recording, base: Path | None, seed: str, *, start: int = 0
) -> Iterator[Image]:
    """Yield the images of every cut from the one before event `start` on.

    Raises:
        ValueError: Something happened that cannot be replayed.
    """
    seen: set[tuple[bytes, int]] = set()
    for cut in replay(recording, base):
        if cut.position < start:
            continue
        before = recording.events[cut.position] if cut.position < len(recording.events) else None
        for name, policy in _policies(cut, seed):
            disk = cut.disk.crash(policy)
            key = digest(disk), cut.said
            if key not in seen:
                seen.add(key)
                where = f"a power cut ({name}) before {_named(before)}, event {cut.position}"
                yield Image(cut.position, cut.said, disk, where)


def digest(disk: SimulatedDisk) -> bytes:
    """Return a digest of all names and bytes that readers of a disk see."""
    summary = xxhash.xxh3_128()
    _digest(disk, "/", summary)
    return summary.digest()


def _digest(disk: SimulatedDisk, folder: str, summary: xxhash.xxh3_128) -> None:
    for name in disk.listdir(folder):
        path = posixpath.join(folder, name)
        summary.update(name.encode(errors="surrogateescape") + b"/")
        if disk.kind(path) == "directory":
            _digest(disk, path, summary)
            summary.update(b"..")
        else:
            file = disk.open(path, "r")
            length = file.size()
            summary.update(length.to_bytes(8))
            summary.update(file.pread(length, 0))
            file.close()


def _policies(cut: Cut, seed: str) -> Iterator[tuple[str, CrashPolicy]]:
    """Yield policies, which follow from the seed and the cut."""
    yield "nothing unsynced is left", "none"
    pending = cut.disk.pending()
    if not pending:
        return
    yield "all is left", "all"
    choose = random.Random(f"{seed}/{cut.position}")
    for _ in range(_PREFIXES):
        first = choose.randrange(pending)
        yield f"the first {first} of {pending} are left", first
    for number in range(_SUBSETS):
        yield f"subset {number} of {pending} is left", random.Random(choose.random())


def _named(event: Event | None) -> str:
    """Return what a call is, in short."""
    match event:
        case None:
            return "nothing more"
        case Write():
            return f"a write of {len(event.data)} bytes to file {event.file} at {event.offset}"
        case SyncBegin() | SyncEnd():
            return f"the {type(event).__name__} of file {event.file}"
        case Failed():
            return f"a failed {event.call}"
        case _:
            path = getattr(event, "path", "") or getattr(event, "target", "")
            return f"{type(event).__name__} {path}".rstrip()
