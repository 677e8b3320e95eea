"""The rows of reading: get and scan, with what is read stored, or still dirty."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.contenders import describe, held, load, usable
from benchmarks.harness import Contender, Measure, Row, Target
from benchmarks.peers import LMDB, Level, Pair, Session
from benchmarks.scale import VALUE_BYTES, Scale
from benchmarks.timing import quiesce, random_pairs, rate, slices

_SLICE = 1000
_SCAN_SLICE = 20
_SCAN_ENTRIES = 100


def read_rows(scale: Scale) -> list[Row]:
    """Return the rows of reading."""
    return [_get_row(scale), _scan_row(scale)]


def _pairs(scale: Scale) -> list[Pair]:
    return random_pairs(scale.records, VALUE_BYTES, seed=2)


@functools.lru_cache(maxsize=1)
def _wanted(scale: Scale, count: int) -> list[bytes]:
    return random.Random(3).choices([key for key, _ in _pairs(scale)], k=count)


def _stored(scale: Scale) -> Callable[[Session], None]:
    def prepare(session: Session) -> None:
        load(session, _pairs(scale))
        session.settle()

    return prepare


def _get_row(scale: Scale) -> Row:
    def run(session: Session, number: int) -> float:
        _refuse_wrong_values(session.get, _pairs(scale))
        return _get_rate(session.get, scale)

    def dirty(session: Session) -> None:
        load(session, _pairs(scale))

    contenders = []
    for engine in usable(["strandline"]):
        contenders.append(
            held(engine, Level.BUFFERED, _stored(scale), run, name="strandline-stored")
        )
        contenders.append(held(engine, Level.BUFFERED, dirty, run, name="strandline-dirty"))
    contenders += [
        held(engine, Level.BUFFERED, _stored(scale), run)
        for engine in usable(["leveldb", "rocksdb", "lmdb", "sqlite", "diskcache"])
    ]
    if LMDB.missing() is None:
        contenders.append(_lmdb_one_transaction(scale))
    return Row(
        name="get",
        title="get of random keys that are there",
        unit="gets/s",
        timed="get of 100-byte values by random key, all of it in memory or in the page cache",
        contenders=contenders,
        targets=[
            Target(
                text="dirty: >= 3 x py-lmdb with a transaction each",
                bound=3.0,
                subject="strandline-dirty",
                against="lmdb",
            ),
            Target(
                text="stored: >= 1 x py-lmdb with a transaction each",
                bound=1.0,
                subject="strandline-stored",
                against="lmdb",
            ),
        ],
    )


def _get_rate(get: Callable[[bytes], Any], scale: Scale) -> float:
    def get_each(part: Sequence[bytes]) -> None:
        for key in part:
            get(key)

    return rate(slices(_wanted(scale, scale.puts), _SLICE), get_each, scale.seconds)


def _refuse_wrong_values(get: Callable[[bytes], Any], pairs: list[Pair]) -> None:
    for key, value in pairs[:: max(1, len(pairs) // 1000)]:
        found = get(key)
        if found != value:
            raise AssertionError(f"key {key.hex()}: expected {value!r}, found {found!r}")


def _lmdb_one_transaction(scale: Scale) -> Contender:
    """Return LMDB read through one transaction: faster, and blind to what is written since."""

    @contextmanager
    def start(directory: str) -> Iterator[Measure]:
        import lmdb

        session = LMDB.open(directory, Level.BUFFERED, True)
        load(session, _pairs(scale))
        session.close()
        with lmdb.open(directory, readonly=True) as env, env.begin() as transaction:

            def measure(number: int) -> float:
                quiesce()
                return _get_rate(transaction.get, scale)

            yield measure

    text = describe(LMDB, Level.BUFFERED, False).replace("a transaction for each call", "")
    return Contender(
        "lmdb-snapshot", f"one read transaction for all calls{text}", start, reference=True
    )


def _scan_row(scale: Scale) -> Row:
    def run(session: Session, number: int) -> float:
        scan = session.scan
        _refuse_unordered(scan(b"\0", _SCAN_ENTRIES))

        def scan_each(part: Sequence[bytes]) -> None:
            for start in part:
                scan(start, _SCAN_ENTRIES)

        return rate(slices(_wanted(scale, scale.puts // 10), _SCAN_SLICE), scan_each, scale.seconds)

    def dirty(session: Session) -> None:
        load(session, _pairs(scale))
        session.settle()
        newer = random_pairs(scale.dirty, VALUE_BYTES, seed=4)
        half = scale.dirty // 2
        stored = _pairs(scale)[:half]
        load(session, [(old[0], new[1]) for old, new in zip(stored, newer[:half], strict=True)])
        load(session, newer[half:])

    contenders = []
    for engine in usable(["strandline"]):
        contenders.append(held(engine, Level.BUFFERED, _stored(scale), run))
        contenders.append(held(engine, Level.BUFFERED, dirty, run, name="strandline-dirty"))
    contenders += [
        held(engine, Level.BUFFERED, _stored(scale), run)
        for engine in usable(["leveldb", "rocksdb", "lmdb", "sqlite"])
    ]
    return Row(
        name="scan",
        title="scan of 100 entries",
        unit="scans/s",
        timed="list of the 100 entries from a random key on, a new scan each. strandline-dirty: "
        f"with {scale.dirty:,} keys not yet checkpointed, half of them overwriting stored ones",
        contenders=contenders,
        targets=[
            Target(text=">= 0.7 of a py-lmdb cursor", bound=0.7, against="lmdb"),
            Target(
                text=f"with {scale.dirty:,} dirty keys: >= 0.7 of a py-lmdb cursor",
                bound=0.7,
                subject="strandline-dirty",
                against="lmdb",
            ),
        ],
        left_out={"diskcache": "has no range scan"},
    )


def _refuse_unordered(found: list[Pair]) -> None:
    if len(found) != _SCAN_ENTRIES or found != sorted(found):
        raise AssertionError(f"expected {_SCAN_ENTRIES} entries in order, found {len(found)}")
