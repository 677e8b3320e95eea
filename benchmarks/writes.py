"""The rows of writing: put at each level, and put_many.

The stores are new and roomy: what is measured is the way into the log and the write buffer.
What it costs to move on from there is measured by `checkpoint` and `foreground`, and by YCSB,
which runs with default settings. `strandline-defaults` shows the same puts with checkpoints
running beside them whenever the default strategy wants one.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bare import bare_loop
from benchmarks.contenders import fresh, usable
from benchmarks.harness import BEST_PEER, Contender, Row, Target
from benchmarks.peers import Engine, Level, Pair, Session
from benchmarks.scale import VALUE_BYTES, Scale
from benchmarks.timing import random_pairs, rate, slices, threaded_rate

_PEERS = ("strandline", "leveldb", "rocksdb", "lmdb", "sqlite", "diskcache")
_SYNC_SLICE = 8
_SLICE = 1000


def write_rows(scale: Scale) -> list[Row]:
    """Return the rows of writing."""
    return [
        _sync_row(scale, 1),
        _sync_row(scale, 8),
        _sync_row(scale, 64),
        _buffered_row(scale),
        _async_row(scale),
        _put_many_row(scale),
    ]


def _sync_row(scale: Scale, threads: int) -> Row:
    def run(session: Session) -> float:
        if threads > 1:
            return threaded_rate(session.put, _pairs(scale), threads, scale.seconds)
        return _put_rate(session, scale, _SYNC_SLICE)

    targets = {
        1: [
            Target(
                text=">= 0.95 of the bare loop, or <= 10 us above it",
                bound=0.95,
                against="bare loop",
                or_extra_us=10,
            ),
            Target(text="ahead of every peer", bound=1.0, against=BEST_PEER),
        ],
        8: [Target(text=">= 1.15 of LevelDB", bound=1.15, against="leveldb")],
        64: [Target(text=">= 1.0 of LevelDB", bound=1.0, against="leveldb")],
    }
    return Row(
        name=f"sync-{threads}",
        title=f"SYNC put, {threads} thread{'s' if threads > 1 else ''}",
        unit="puts/s",
        timed="puts of 16-byte random keys and 100-byte values, each on disk when it returns",
        contenders=[
            bare_loop(VALUE_BYTES, scale.seconds),
            *(fresh(engine, Level.SYNC, run) for engine in usable(_PEERS)),
        ],
        targets=targets[threads],
    )


def _pairs(scale: Scale) -> list[Pair]:
    return random_pairs(scale.puts, VALUE_BYTES, seed=1)


def _put_rate(session: Session, scale: Scale, length: int) -> float:
    put = session.put

    def put_each(part: Sequence[Pair]) -> None:
        for key, value in part:
            put(key, value)

    return rate(slices(_pairs(scale), length), put_each, scale.seconds, session.drain)


def _unsynced(scale: Scale, level: Level) -> list[Contender]:
    def run(session: Session) -> float:
        return _put_rate(session, scale, _SLICE)

    contenders = [fresh(engine, level, run) for engine in usable(_PEERS)]
    for engine in usable(["strandline"]):
        contenders.insert(1, fresh(engine, level, run, roomy=False, name="strandline-defaults"))
    return contenders + [
        fresh(engine, level, run, reference=True) for engine in usable(["lmdb-writemap"])
    ]


def _buffered_row(scale: Scale) -> Row:
    return Row(
        name="buffered",
        title="BUFFERED put, 1 thread",
        unit="puts/s",
        timed="puts of 16-byte random keys and 100-byte values, each in the page cache when it "
        "returns",
        contenders=_unsynced(scale, Level.BUFFERED),
        targets=[Target(text=">= 1.0 of LevelDB without sync", bound=1.0, against="leveldb")],
    )


def _async_row(scale: Scale) -> Row:
    return Row(
        name="async",
        title="ASYNC put, sustained, log included",
        unit="puts/s",
        timed="puts of 16-byte random keys and 100-byte values, and the wait until the last of "
        "them is in the log (a BUFFERED put behind them returns); no sync. Peers as in `buffered`",
        contenders=_unsynced(scale, Level.ASYNC),
        targets=[Target(text=">= 2.5 x LevelDB without sync", bound=2.5, against="leveldb")],
    )


def _put_many_row(scale: Scale) -> Row:
    def run(session: Session) -> float:
        return rate(slices(_pairs(scale), _SLICE), session.put_many, scale.seconds, session.drain)

    def contender(engine: Engine) -> Contender:
        return fresh(engine, Level.ASYNC, run)

    contenders = [contender(engine) for engine in usable(_PEERS)]
    for engine in usable(["strandline"]):
        contenders.insert(1, fresh(engine, Level.BUFFERED, run, name="strandline-buffered"))
    return Row(
        name="put-many",
        title="put_many of 1000, ASYNC, log included",
        unit="records/s",
        timed="atomic batches of 1000 records, and the wait until the last is in the log; no "
        "sync. strandline-buffered: each in the page cache when it returns, as the peers' are",
        contenders=contenders,
        targets=[Target(text=">= 2 x LevelDB's write batch", bound=2.0, against="leveldb")],
    )
