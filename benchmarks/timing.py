"""Clocks and counts: how a rate and a percentile are taken.

Work is handed out in slices, so that reading the clock costs nothing worth naming, and ends
at a deadline or when the work is used up: a slow engine does less, not longer.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from time import perf_counter
from typing import Final, TypeVar

from benchmarks.peers import Pair

Item = TypeVar("Item")

KEY_BYTES: Final = 16
_DISTINCT_VALUES: Final = 1000


@functools.lru_cache(maxsize=2)
def random_pairs(count: int, value_bytes: int, seed: int) -> list[Pair]:
    """Return `count` pairs: random keys of 16 bytes, values that do not compress.

    The list is shared by all that ask for the same one.
    """
    source = random.Random(seed)
    values = [source.randbytes(value_bytes) for _ in range(_DISTINCT_VALUES)]
    return [
        (source.randbytes(KEY_BYTES), values[index % _DISTINCT_VALUES]) for index in range(count)
    ]


def slices(items: Sequence[Item], length: int) -> Iterator[Sequence[Item]]:
    """Yield `items` in parts of `length`."""
    for begin in range(0, len(items), length):
        yield items[begin : begin + length]


def quiesce() -> None:
    """Keep what came before out of the next measurement: garbage, and pages yet to be written."""
    gc.collect()
    os.sync()


def rate(
    parts: Iterable[Sequence[Item]],
    run: Callable[[Sequence[Item]], object],
    seconds: float,
    finish: Callable[[], object] = lambda: None,
) -> float:
    """Return items a second of `run` over `parts`; `finish` is inside the time taken."""
    done = 0
    begin = perf_counter()
    deadline = begin + seconds
    for part in parts:
        run(part)
        done += len(part)
        if perf_counter() >= deadline:
            break
    finish()
    return done / (perf_counter() - begin)


def threaded_rate(
    put: Callable[[bytes, bytes], object], pairs: Sequence[Pair], threads: int, seconds: float
) -> float:
    """Return calls of `put` a second, from `threads` threads that each wait for their own."""
    counts = [0] * threads
    errors: list[BaseException] = []
    gate = threading.Barrier(threads + 1)

    def work(index: int) -> None:
        own = cycle(pairs[index::threads])
        done = 0
        gate.wait()
        deadline = perf_counter() + seconds
        try:
            for key, value in own:
                put(key, value)
                done += 1
                if perf_counter() >= deadline:
                    break
        except BaseException as error:
            errors.append(error)
        counts[index] = done

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    begin = perf_counter()
    for worker in workers:
        worker.join()
    elapsed = perf_counter() - begin
    if errors:
        raise errors[0]
    return sum(counts) / elapsed


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value that `fraction` of all values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * fraction) - 1)]
