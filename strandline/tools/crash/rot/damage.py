"""One thing done to a store's files, planned from a seed.

A damage is the new content of one or two files. It is planned on the sound store, with its
earlier copies at hand, and always changes something.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strandline.tools.crash.rot.anatomy import LOG, Place

SECTOR: Final = 512
PAGE: Final = 4096
_ANYWHERE: Final = 0.5
_LAST_HEAD: Final = 0.3
_HEAD_BYTES: Final = 80
"""About what a frame's header takes, or that of a page with its first pointers."""


@dataclass(frozen=True)
class Damage:
    """What is done, and to what."""

    kind: str
    place: Place
    what: str
    """In words, for whoever repeats it."""
    contents: dict[str, bytes | None]
    """The files that change; None takes one away."""

    def inflict(self, store: Path) -> None:
        """Do it to a copy of the store."""
        for name, data in self.contents.items():
            if data is None:
                (store / name).unlink()
            else:
                (store / name).write_bytes(data)


class _Plan:
    """What the kinds of damage choose from."""

    def __init__(
        self, choose: random.Random, store: Path, earlier: list[Path], place: Place
    ) -> None:
        self.choose = choose
        self.store = store
        self.earlier = earlier
        self.place = place
        self.data = (store / place.file).read_bytes()

    def at(self) -> int:
        """Choose a byte of the place, half the time one of a header, often of the last one."""
        start, end = self.place.start, max(self.place.end, self.place.start + 1)
        heads = self.place.heads
        if not heads or self.choose.random() < _ANYWHERE:
            return self.choose.randrange(start, end)
        head = heads[-1] if self.choose.random() < _LAST_HEAD else self.choose.choice(heads)
        return min(head + self.choose.randrange(_HEAD_BYTES), end - 1)

    def block(self) -> tuple[int, int]:
        """Choose a sector or a page that the place reaches into, within the file."""
        size = self.choose.choice([SECTOR, PAGE])
        start = self.at() // size * size
        return start, min(start + size, len(self.data))

    def span(self) -> tuple[int, int]:
        """Choose a range of any length that begins in the place."""
        start = self.at()
        length = self.choose.choice([2, 8, 72, 600, 5000, 40_000])
        return start, min(start + self.choose.randrange(1, length), len(self.data))

    def other(self) -> bytes:
        """Choose any file of the store."""
        paths = sorted(path for path in self.store.rglob("*") if path.is_file())
        return self.choose.choice(paths).read_bytes()

    def old(self) -> bytes | None:
        """Choose an earlier version of the file, if there is one."""
        versions = [path / self.place.file for path in self.earlier]
        there = [path for path in versions if path.exists()]
        return self.choose.choice(there).read_bytes() if there else None

    def replaced(self, start: int, end: int, new: bytes) -> bytes:
        """Return the content with a range written over; the length stays."""
        return self.data[:start] + new[: end - start].ljust(end - start, b"\0") + self.data[end:]


_Made = tuple[str, dict[str, bytes | None]] | None
"""What was done, in words, and the contents; None where the file cannot be damaged so."""


def _one(plan: _Plan, what: str, data: bytes) -> _Made:
    return what, {plan.place.file: data}


def _flip(plan: _Plan) -> _Made:
    data, at, bit = bytearray(plan.data), plan.at(), plan.choose.randrange(8)
    if at >= len(data):
        return None
    data[at] ^= 1 << bit
    return _one(plan, f"bit {bit} of byte {at} flipped", bytes(data))


def _flips(plan: _Plan) -> _Made:
    data = bytearray(plan.data)
    places = sorted({plan.at() for _ in range(plan.choose.randrange(2, 9))})
    if places[-1] >= len(data):
        return None
    for at in places:
        data[at] ^= plan.choose.randrange(1, 256)
    return _one(plan, f"bits of bytes {places} flipped", bytes(data))


def _zero_block(plan: _Plan) -> _Made:
    start, end = plan.block()
    return _one(plan, f"zeros from {start} to {end}", plan.replaced(start, end, b""))


def _zero_range(plan: _Plan) -> _Made:
    start, end = plan.span()
    return _one(plan, f"zeros from {start} to {end}", plan.replaced(start, end, b""))


def _noise(plan: _Plan) -> _Made:
    start, end = plan.span()
    noise = plan.choose.randbytes(end - start)
    return _one(plan, f"random bytes from {start} to {end}", plan.replaced(start, end, noise))


def _cut(plan: _Plan) -> _Made:
    at = plan.at()
    return _one(plan, f"cut off at {at}", plan.data[:at])


def _extended(plan: _Plan) -> _Made:
    noise = plan.choose.randbytes(plan.choose.choice([1, 52, 512, 4096, 9000]))
    return _one(plan, f"{len(noise)} random bytes at its end", plan.data + noise)


def _stale(plan: _Plan) -> _Made:
    old = plan.old()
    if old is None:
        return None
    start, end = plan.block()
    new = plan.replaced(start, end, old[start:end])
    return _one(plan, f"what was there earlier from {start} to {end}", new)


def _misdirected(plan: _Plan) -> _Made:
    start, end = plan.block()
    source = plan.data if plan.choose.random() < 0.6 else plan.other()
    count = max(1, len(source) // (end - start) if end > start else 1)
    at = plan.choose.randrange(count) * (end - start)
    block = source[at : at + end - start]
    what = f"bytes {start} to {end} written over by those from {at} of "
    what += "the same file" if source is plan.data else "another file"
    return _one(plan, what, plan.replaced(start, end, block))


def _swapped(plan: _Plan) -> _Made:
    start, end = plan.block()
    size = end - start
    if not size or len(plan.data) < 2 * size:
        return None
    at = plan.choose.randrange(len(plan.data) // size) * size
    if abs(at - start) < size:
        return None
    data = bytearray(plan.data)
    data[start:end], data[at : at + size] = plan.data[at : at + size], plan.data[start:end]
    return _one(plan, f"{size} bytes at {start} and at {at} swapped", bytes(data))


def _missing(plan: _Plan) -> _Made:
    return "taken away", {plan.place.file: None}


def _exchanged(plan: _Plan) -> _Made:
    """Exchange two files; segments with segments where there are two."""
    names = [str(path.relative_to(plan.store)) for path in plan.store.rglob("*") if path.is_file()]
    others = sorted(name for name in names if name != plan.place.file)
    if plan.place.file.startswith(LOG) and plan.choose.random() < 0.7:
        others = [name for name in others if name.startswith(LOG)] or others
    other = plan.choose.choice(others)
    there = (plan.store / other).read_bytes()
    return f"exchanged with {other}", {plan.place.file: there, other: plan.data}


def _older(plan: _Plan) -> _Made:
    old = plan.old()
    return None if old is None else _one(plan, "an earlier version of the file", old)


def _emptied(plan: _Plan) -> _Made:
    return _one(plan, "without any content", b"")


_MAKERS: Final[dict[str, Callable[[_Plan], _Made]]] = {
    "bit flip": _flip,
    "bit flips": _flips,
    "zeroed block": _zero_block,
    "zeroed range": _zero_range,
    "random bytes": _noise,
    "cut off": _cut,
    "extended": _extended,
    "stale block": _stale,
    "misdirected block": _misdirected,
    "swapped blocks": _swapped,
    "missing file": _missing,
    "exchanged files": _exchanged,
    "older file": _older,
    "empty file": _emptied,
}
DAMAGE_KINDS: Final = tuple(_MAKERS)
_TRIES: Final = 8


def plan_damage(
    choose: random.Random, store: Path, earlier: list[Path], places: list[Place]
) -> Damage:
    """Choose what is done to one of `places`."""
    while True:
        place = choose.choice(places)
        kind = choose.choice(DAMAGE_KINDS)
        plan = _Plan(choose, store, earlier, place)
        for _ in range(_TRIES):
            made = _MAKERS[kind](plan)
            if made is None:
                continue
            what, contents = made
            if any(_differs(store / name, data) for name, data in contents.items()):
                return Damage(kind, place, f"{place.file} ({place.kind}): {what}", contents)


def _differs(path: Path, data: bytes | None) -> bool:
    return data is None or path.read_bytes() != data
