"""The script of a writer that is alone: every verb of the store, at every level."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from strandline import Durability
from strandline.tools.crash.script.steps import (
    SYNC,
    Append,
    Clear,
    CompareAndSet,
    Drop,
    Flush,
    Get,
    Incr,
    Pop,
    Put,
    PutMany,
    PutUnlogged,
    Reopen,
    SetDefault,
    Step,
    Sync,
    WriteBatch,
)

LEVELS: Final = tuple(Durability)
_KEYS: Final = tuple(b"%02d" % number for number in range(12))
_LENGTHS: Final = (0, 10, 10, 100, 100, 1000, 3000)
_FILLED: Final = 6000
"""The length of values of which few fill a segment of 64 KiB."""
_LARGE: Final = 70_000
"""The length of a value that needs a segment of its own."""
_FILLS_EVERY: Final = 4
"""How many scripts there are to one that goes through several segments: logs are sealed then,
and files used again."""
_NOISE: Final = random.Random("values").randbytes(4096 + _FILLED)
"""What values are filled with. With zeros, which is what a lost sector of a preallocated file
reads as, much of what is torn would be whole."""
_PASSING: Final = "passing"
"""The table that is dropped and made anew: what it held must not come back."""


def single_script(
    seed: int, length: int, *, reopen: bool = True, first: int = 0, fills: bool | None = None
) -> list[Step]:
    """Return the steps of a writer that is alone; their values count from `first`.

    `fills` is whether they go through several segments; every fourth script does without it.
    """
    choose = random.Random(f"single/{seed}")
    makers: list[_Maker] = [
        *[_put] * 8, _put_many, _put_many, _batch, _batch, _batch, _incr, _incr, _swap,
        _default, _pop, _append, _append, _unlogged, _unlogged, _get, _clear, _drop,
        _flush, _sync, _sync,
    ]  # fmt: skip
    if reopen:
        makers.append(_reopen)
    if seed % _FILLS_EVERY == 2 if fills is None else fills:
        makers += [*[_fill] * 7, _large]
    level = choose.choice([None, None, *LEVELS])
    return [
        choose.choice(makers)(choose, number, level or choose.choice(LEVELS))
        for number in range(first, first + length)
    ]


_Maker = Callable[[random.Random, int, Durability], Step]


def value_of(choose: random.Random, number: int, writer: int = 0) -> bytes:
    """Return a value that says which step it is from."""
    return _filled(number, writer, choose.choice(_LENGTHS))


def _filled(number: int, writer: int, length: int) -> bytes:
    start = (number * 61 + writer * 997) % 4096
    return b"%d:%d:" % (writer, number) + _NOISE[start : start + length]


def _place(choose: random.Random, number: int) -> tuple[str, Any, Any]:
    """Return a table, a key and a value."""
    name = choose.choice(["", "", "", "json", _PASSING])
    key, value = choose.choice(_KEYS), value_of(choose, number)
    if name == "json":
        return name, key.decode(), [number, None, len(value) * "x"]
    return name, key, value


def _put(choose: random.Random, number: int, level: Durability) -> Step:
    table, key, value = _place(choose, number)
    return Put(level, table, key, None if choose.random() < 0.25 else value)


def _put_many(choose: random.Random, number: int, level: Durability) -> Step:
    count = choose.randrange(1, 8)
    items = [
        (choose.choice(_KEYS), value_of(choose, number)[:500] + b"%d" % n) for n in range(count)
    ]
    return PutMany(level, tuple(items))


def _fill(choose: random.Random, number: int, level: Durability) -> Step:
    keys = choose.sample(_KEYS, 6)
    return PutMany(level, tuple((key, _filled(number, 0, _FILLED)) for key in keys))


def _large(choose: random.Random, number: int, level: Durability) -> Step:
    return Put(level, "", choose.choice(_KEYS), _filled(number, 0, 4096) * (_LARGE // 4096 + 1))


def _batch(choose: random.Random, number: int, level: Durability) -> Step:
    parts = [_place(choose, number) for _ in range(choose.randrange(1, 7))]
    changed = [(n, k, None if choose.random() < 0.2 else v) for n, k, v in parts]
    return WriteBatch(level, tuple(changed))


def _incr(choose: random.Random, _number: int, level: Durability) -> Step:
    key = b"counter%d" % choose.randrange(2)
    return Incr(level, choose.choice(["", "counters"]), key, choose.randrange(1, 9))


def _swap(choose: random.Random, number: int, level: Durability) -> Step:
    return CompareAndSet(level, choose.choice(_KEYS), value_of(choose, number))


def _default(choose: random.Random, number: int, level: Durability) -> Step:
    return SetDefault(level, *_place(choose, number))


def _pop(choose: random.Random, number: int, level: Durability) -> Step:
    table, key, _ = _place(choose, number)
    return Pop(level, table, key)


def _append(choose: random.Random, number: int, level: Durability) -> Step:
    return Append(level, value_of(choose, number)[:50])


def _unlogged(choose: random.Random, number: int, level: Durability) -> Step:
    return PutUnlogged(level, choose.choice(_KEYS[:4]), value_of(choose, number)[:50])


def _get(choose: random.Random, _number: int, level: Durability) -> Step:
    return Get(level, choose.choice(_KEYS))


def _clear(choose: random.Random, _number: int, _level: Durability) -> Step:
    return Clear(SYNC, choose.choice(["", "json", "events"]))


def _drop(_choose: random.Random, _number: int, _level: Durability) -> Step:
    return Drop(SYNC, _PASSING)


def _flush(_choose: random.Random, _number: int, _level: Durability) -> Step:
    return Flush(SYNC)


def _sync(_choose: random.Random, _number: int, _level: Durability) -> Step:
    return Sync(SYNC)


def _reopen(choose: random.Random, _number: int, _level: Durability) -> Step:
    return Reopen(SYNC, choose.random() < 0.5)
