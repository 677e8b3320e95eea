"""What a simulated disk is made of: nodes, and the events that are not yet durable.

An event is what a crash can lose, and no smaller: one sector, one length of a file, one
step of names. `chosen` decides which of them survive, `surviving_tree` builds what they
leave on top of the durable state, without a change to either.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

SECTOR: Final = 512
BLOCK: Final = 4096

CrashPolicy = Literal["none", "all"] | int | random.Random
"""Which pending events survive: none, all, the first n, or a random choice."""


@dataclass(eq=False)
class File:
    """What reads see, what a crash leaves, and the bytes of its blocks."""

    current: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    allocated: int = 0


@dataclass(eq=False)
class Directory:
    """Names as the running system sees them, and as a crash leaves them."""

    current: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = File | Directory


@dataclass(eq=False)
class Write:
    """Whole sectors from `offset` on, as they were after the write."""

    sequence: int
    file: File
    offset: int
    image: bytes


@dataclass(eq=False)
class Resize:
    """A file's new length."""

    sequence: int
    file: File
    length: int


@dataclass(eq=False)
class Entries:
    """Names set and removed in one step; None stands for removed."""

    sequence: int
    changes: tuple[tuple[Directory, str, Node | None], ...]


Event = Write | Resize | Entries


def split(pending: Iterable[Event]) -> Iterator[Event]:
    """Yield the events in order, a write as its single sectors."""
    for event in pending:
        if isinstance(event, Write):
            for start in range(0, len(event.image), SECTOR):
                sector = event.image[start : start + SECTOR]
                yield Write(event.sequence, event.file, event.offset + start, sector)
        else:
            yield event


def chosen(pending: Iterable[Event], policy: CrashPolicy) -> list[Event]:
    """Return the events that survive a crash, in order."""
    events = list(split(pending))
    match policy:
        case "none":
            return []
        case "all":
            return events
        case int():
            return events[:policy]
        case _:
            return _choose(events, policy)


def surviving_tree(root: Directory, kept: list[Event]) -> Directory:
    """Return a copy of a tree's durable state with the events in `kept` on top of it."""
    contents: dict[File, bytearray] = {}
    entries: dict[Directory, dict[str, Node]] = {}
    for event in kept:
        if isinstance(event, Entries):
            for directory, name, node in event.changes:
                names = entries.setdefault(directory, dict(directory.durable))
                set_entry(names, name, node)
        else:
            content = contents.setdefault(event.file, bytearray(event.file.durable))
            apply(content, event)

    def directory_copy(directory: Directory) -> Directory:
        names = entries.get(directory, directory.durable)
        children = {name: node_copy(child) for name, child in names.items()}
        return Directory(children, dict(children))

    def node_copy(node: Node) -> Node:
        if isinstance(node, Directory):
            return directory_copy(node)
        content = contents.get(node, node.durable)
        return File(bytearray(content), bytearray(content), blocks(len(content)))

    return directory_copy(root)


def copied(root: Directory, pending: list[Event]) -> tuple[Directory, list[Event]]:
    """Return a tree and its events that share nothing with the old ones but bytes."""
    copies: dict[Node, Node] = {}

    def file_of(file: File) -> File:
        made = copies.get(file)
        if made is None:
            copy = File(bytearray(file.current), bytearray(file.durable), file.allocated)
            made = copies[file] = copy
        assert isinstance(made, File)
        return made

    def directory_of(directory: Directory) -> Directory:
        made = copies.get(directory)
        if made is None:
            made = copies[directory] = Directory()
            made.current = {name: node_of(node) for name, node in directory.current.items()}
            made.durable = {name: node_of(node) for name, node in directory.durable.items()}
        assert isinstance(made, Directory)
        return made

    def node_of(node: Node) -> Node:
        return file_of(node) if isinstance(node, File) else directory_of(node)

    def event_of(event: Event) -> Event:
        match event:
            case Write(sequence, file, offset, image):
                return Write(sequence, file_of(file), offset, image)
            case Resize(sequence, file, length):
                return Resize(sequence, file_of(file), length)
            case Entries(sequence, changes):
                return Entries(
                    sequence,
                    tuple(
                        (directory_of(where), name, None if node is None else node_of(node))
                        for where, name, node in changes
                    ),
                )

    return directory_of(root), [event_of(event) for event in pending]


def _choose(events: list[Event], rng: random.Random) -> list[Event]:
    """Return what survives a random crash: a prefix now and then, mostly a subset."""
    if rng.random() < 0.25:
        return events[: rng.randint(0, len(events))]
    sectors = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    totals: dict[File | None, int] = {}
    for event in events:
        if not isinstance(event, Write):
            journal = event.file if isinstance(event, Resize) else None
            totals[journal] = totals.get(journal, 0) + 1
    # Lengths of a file land in order: only the last ones can be missing. Entries do so in a
    # journal, and not where names are written one by one.
    journaled, names = rng.random() < 0.6, rng.choice((0.2, 0.5, 0.8))
    left = {journal: rng.randint(0, total) for journal, total in totals.items()}
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Write):
            if rng.random() < sectors:
                kept.append(event)
        elif isinstance(event, Entries) and not journaled:
            if rng.random() < names:
                kept.append(event)
        else:
            journal = event.file if isinstance(event, Resize) else None
            if left[journal] > 0:
                left[journal] -= 1
                kept.append(event)
    return kept


def apply(content: bytearray, event: Write | Resize) -> None:
    """Change a file's bytes; what lies beyond its length is cut, since nothing can show it."""
    if isinstance(event, Write):
        room = max(0, len(content) - event.offset)
        image = event.image[:room]
        content[event.offset : event.offset + len(image)] = image
    elif event.length < len(content):
        del content[event.length :]
    else:
        content.extend(bytes(event.length - len(content)))


def set_entry(names: dict[str, Node], name: str, node: Node | None) -> None:
    """Set a name, or remove it where the node is None."""
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def blocks(length: int) -> int:
    """Return `length` rounded up to whole blocks."""
    return -(-length // BLOCK) * BLOCK
