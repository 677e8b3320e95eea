"""How an engine becomes a contender: a fresh store for each round, or one held open.

Writes get a fresh store, so that no round pays for the compactions of the one before. Reads
are measured on a store that is loaded once and stays open over all rounds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from benchmarks.harness import Contender, Measure
from benchmarks.peers import ENGINES, ROCKSDB, STRANDLINE, Engine, Level, Pair, Session
from benchmarks.timing import quiesce, slices

LOAD_BATCH = 1000


def usable(names: Iterable[str]) -> list[Engine]:
    """Return the engines of these names that can be imported."""
    return [ENGINES[name] for name in names if ENGINES[name].missing() is None]


def describe(engine: Engine, level: Level, roomy: bool) -> str:
    """Return in words how an engine is configured."""
    text = engine.configured[level]
    if roomy and engine is STRANDLINE:
        text += " with budgets of 4 GiB and checkpoints on demand only"
    if roomy and engine is ROCKSDB:
        text += ", write buffer 1 GiB"
    return text


def load(session: Session, pairs: list[Pair]) -> None:
    """Put `pairs` into a store in batches."""
    for part in slices(pairs, LOAD_BATCH):
        session.put_many(part)


def fresh(
    engine: Engine,
    level: Level,
    run: Callable[[Session], float],
    *,
    roomy: bool = True,
    name: str | None = None,
    reference: bool = False,
) -> Contender:
    """Return a contender that opens a new store for each round; only `run` takes time."""

    @contextmanager
    def start(directory: str) -> Iterator[Measure]:
        def measure(number: int) -> float:
            path = os.path.join(directory, str(number))
            session = engine.open(path, level, roomy)
            try:
                quiesce()
                return run(session)
            finally:
                session.close()
                shutil.rmtree(path)

        yield measure

    return Contender(name or engine.name, describe(engine, level, roomy), start, reference)


def held(
    engine: Engine,
    level: Level,
    prepare: Callable[[Session], None],
    run: Callable[[Session, int], float],
    *,
    roomy: bool = True,
    name: str | None = None,
    reference: bool = False,
) -> Contender:
    """Return a contender whose store is prepared once and stays open over all rounds."""

    @contextmanager
    def start(directory: str) -> Iterator[Measure]:
        session = engine.open(os.path.join(directory, "store"), level, roomy)
        try:
            prepare(session)

            def measure(number: int) -> float:
                quiesce()
                return run(session, number)

            yield measure
        finally:
            session.close()

    return Contender(name or engine.name, describe(engine, level, roomy), start, reference)
