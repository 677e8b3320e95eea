"""The scripts of several writers on one store: shared keys, shared counters, and reads.

The verbs are those that answer an LSN, so that the order of what was acknowledged is known,
and `incr` on a table of counters that nothing else touches, whose answers are an order. Readers
look at single keys, and at all of them in a snapshot that stays open while others write.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from strandline.tools.crash.script.single import LEVELS, value_of
from strandline.tools.crash.script.steps import (
    Get,
    Incr,
    Look,
    Put,
    PutMany,
    Step,
    Sync,
    WriteBatch,
)

COUNTERS: Final = "counters"
OTHER: Final = "other"
"""The table that batches share with the default one."""

_KEYS: Final = tuple(b"k%d" % number for number in range(6))
_CONTENDED: Final = (3, 3, 6)
"""To how many keys the writers of a script keep."""
_COUNTERS: Final = (b"c0", b"c1")
_PAUSES: Final = (0.0, 0.0, 0.0, 0.0005, 0.02)
"""For how many seconds a snapshot is held between its reads."""


def scripts_of_many(seed: int, writers: int, length: int, *, first: int = 0) -> list[list[Step]]:
    """Return the steps of each writer; their values count from `first`.

    Tables `OTHER` and `COUNTERS` are made beforehand.
    """
    numbers = range(first, first + length)
    together = random.Random(f"many/{seed}")
    shared = _Shared(_KEYS[: together.choice(_CONTENDED)], _COUNTERS[: together.choice((1, 2))])
    return [_script(random.Random(f"many/{seed}/{n}"), n, numbers, shared) for n in range(writers)]


class _Shared(NamedTuple):
    """What the writers meet at: the fewer, the more often."""

    keys: tuple[bytes, ...]
    counters: tuple[bytes, ...]


def _script(choose: random.Random, writer: int, numbers: range, shared: _Shared) -> list[Step]:
    return [_step(choose, writer, number, shared) for number in numbers]


def _step(choose: random.Random, writer: int, number: int, shared: _Shared) -> Step:
    level, key = choose.choice(LEVELS), choose.choice(shared.keys)
    value = value_of(choose, number, writer)
    match choose.randrange(12):
        case 0 | 1:
            return Incr(level, COUNTERS, choose.choice(shared.counters))
        case 2:
            return Put(level, "", key, None)
        case 3 | 4 | 5:
            other = choose.choice(shared.keys)
            return WriteBatch(level, (("", key, value), (OTHER, other, value)))
        case 6:
            keys = choose.sample(shared.keys, 3)
            return PutMany(level, tuple((each, value[:400]) for each in keys))
        case 7:
            return Get(level, key)
        case 8:
            return Look(level, ("", OTHER, COUNTERS), choose.choice(_PAUSES))
        case 9 if choose.random() < 0.3:
            return Sync(level)
        case _:
            return Put(level, "", key, value)
