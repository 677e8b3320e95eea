"""What of the writes that a device had not flushed survives a cut of its power.

A disk cache promises nothing about them: each sector of each is there or is not, in any
combination. `at_random` draws from all of it, with a preference for the shapes in which
mistakes show: nothing, a beginning, all but one.

A write that survives in part is handed on as the parts that did. Parts stay in the order of
the writes, so that of two writes to one sector the later one wins if both survive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from strandline.tools.crash.blocks.kernel import SECTOR


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a device, whole sectors."""

    offset: int
    data: bytes


Survival: TypeAlias = Callable[[Sequence[Write]], Sequence[Write]]
"""From the pending writes of a cut, oldest first, to what of them survives it."""

_TORN_SHARE: Final = 0.1


def everything(pending: Sequence[Write]) -> Sequence[Write]:
    """Let all of them survive: the cut of a device without a cache."""
    return pending


def nothing(_pending: Sequence[Write]) -> Sequence[Write]:
    """Let none of them survive."""
    return ()


def at_random(rng: random.Random) -> Survival:
    """Return a survival that draws from `rng`; each call is another draw."""

    def survive(pending: Sequence[Write]) -> Sequence[Write]:
        shape = rng.randrange(5)
        if shape == 0 or not pending:
            return ()
        if shape == 1:
            kept = list(pending[: rng.randrange(len(pending) + 1)])
            if kept:
                kept[-1:] = _torn(kept[-1], rng)
            return kept
        if shape == 2:
            lost = rng.randrange(len(pending))
            return [*pending[:lost], *pending[lost + 1 :]]
        share = rng.random()
        return [part for write in pending if rng.random() < share for part in _tear(write, rng)]

    return survive


def _tear(write: Write, rng: random.Random) -> Iterator[Write]:
    """Tear a write now and then."""
    if rng.random() < _TORN_SHARE:
        yield from _torn(write, rng)
    else:
        yield write


def _torn(write: Write, rng: random.Random) -> Iterator[Write]:
    """Yield what is there of a write: its first sectors, or any of them."""
    sectors = range(0, len(write.data), SECTOR)
    if rng.random() < 0.5:
        yield Write(write.offset, write.data[: rng.randrange(len(sectors) + 1) * SECTOR])
        return
    for start in sectors:
        if rng.random() < 0.5:
            yield Write(write.offset + start, write.data[start : start + SECTOR])
