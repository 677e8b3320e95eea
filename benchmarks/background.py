"""The rows of what happens behind the calls: replay, checkpoint, its shadow, memory.

Latency beside a checkpoint is taken in an open loop: calls are due at a fixed rate and timed
from when they were due, so that one long stall counts for every call that it held up and not
for one.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep

from benchmarks.child import FILL_SEED, spawn
from benchmarks.contenders import describe, fresh, load, usable
from benchmarks.harness import Contender, Measure, Row, Target
from benchmarks.peers import LMDB, ROCKSDB, STRANDLINE, Engine, Level, Pair, Session
from benchmarks.scale import VALUE_BYTES, Scale
from benchmarks.timing import percentile, quiesce, random_pairs

_CALLS_A_SECOND = 2000


def background_rows(scale: Scale) -> list[Row]:
    """Return the rows of replay, checkpoint, foreground latency and memory."""
    rows = [
        _replay_row(scale, 1000),
        _replay_row(scale, 1),
        _checkpoint_row(scale),
        _foreground_row(scale),
    ]
    if sys.platform == "linux":
        rows.append(_memory_row(scale))
    return rows


def _replay_row(scale: Scale, batch: int) -> Row:
    engines = usable(["strandline", "rocksdb", "leveldb-one-buffer"])
    faster = Target(text="faster than RocksDB's own replay", bound=1.0, against="rocksdb")
    rate = Target(text=">= 1.5 M records/s of 100-byte values", bound=1.5e6)
    written = f"in batches of {batch}" if batch > 1 else "by single puts, a frame each"
    return Row(
        name="replay" if batch > 1 else "replay-singles",
        title=f"replay on start, written {written}",
        unit="records/s",
        timed=f"the whole of open, on a copy of a store whose process was killed by SIGKILL with "
        f"{scale.replayed:,} records in its log",
        contenders=[_replay(engine, scale.replayed, batch) for engine in engines],
        targets=[rate, faster] if batch > 1 else [faster],
    )


def _replay(engine: Engine, count: int, batch: int) -> Contender:
    @contextmanager
    def start(directory: str) -> Iterator[Measure]:
        crashed = os.path.join(directory, "crashed")
        spawn("fill", engine.name, crashed, count, batch)
        last_key, last_value = random_pairs(count, VALUE_BYTES, FILL_SEED)[-1]

        def measure(number: int) -> float:
            path = os.path.join(directory, f"copy-{number}")
            shutil.copytree(crashed, path)
            if engine is ROCKSDB:
                _keep_recovered_records_in_memory(path)
            quiesce()
            begin = perf_counter()
            session = engine.open(path, Level.BUFFERED, True)
            elapsed = perf_counter() - begin
            found = session.get(last_key)
            session.close()
            shutil.rmtree(path)
            if found != last_value:
                raise AssertionError(f"{engine.name}: the last record was not replayed")
            return count / elapsed

        yield measure

    config = describe(engine, Level.BUFFERED, True)
    if engine is ROCKSDB:
        config += ", avoid_flush_during_recovery=true"
    return Contender(engine.name, config, start)


def _keep_recovered_records_in_memory(path: str) -> None:
    """Turn off the table that RocksDB writes of what it replays; the binding cannot."""
    for name in os.listdir(path):
        if name.startswith("OPTIONS-"):
            file = os.path.join(path, name)
            with open(file) as source:
                text = source.read()
            off, on = (f"avoid_flush_during_recovery={state}" for state in ("false", "true"))
            with open(file, "w") as target:
                target.write(text.replace(off, on))


def _pairs(scale: Scale) -> list[Pair]:
    return random_pairs(scale.flushed, VALUE_BYTES, seed=8)


def _checkpoint_row(scale: Scale) -> Row:
    def flush(session: Session) -> float:
        load(session, _pairs(scale))
        session.sync()
        quiesce()
        return _per_second(session.flush)

    def putmulti(session: Session) -> float:
        ordered = sorted(_pairs(scale))
        return _per_second(lambda: session.put_many(ordered))

    def _per_second(call: Callable[[], object]) -> float:
        begin = perf_counter()
        call()
        return scale.flushed / (perf_counter() - begin)

    contenders = [fresh(engine, Level.BUFFERED, flush) for engine in usable(["strandline"])]
    contenders += [fresh(engine, Level.SYNC, putmulti) for engine in usable(["lmdb"])]
    return Row(
        name="checkpoint",
        title=f"checkpoint of {scale.flushed:,} entries",
        unit="entries/s",
        timed="flush of random keys into an empty store, its sort and its syncs included; lmdb: "
        "one putmulti of the same pairs, sorted beforehand, and its synced commit",
        contenders=contenders,
        targets=[Target(text=">= 0.7 of sorted putmulti", bound=0.7, against=LMDB.name)],
    )


def _foreground_row(scale: Scale) -> Row:
    def beside_flush(session: Session) -> float:
        load(session, _pairs(scale))
        session.sync()
        quiesce()
        flusher = threading.Thread(target=session.flush)
        flusher.start()
        latencies = _open_loop(session, _pairs(scale), flusher.is_alive)
        flusher.join()
        return percentile(latencies, 0.999) * 1e3

    def idle(session: Session) -> float:
        load(session, _pairs(scale))
        session.sync()
        quiesce()
        deadline = perf_counter() + scale.seconds
        latencies = _open_loop(session, _pairs(scale), lambda: perf_counter() < deadline)
        return percentile(latencies, 0.999) * 1e3

    contenders = []
    for engine in usable(["strandline", "rocksdb"]):
        contenders.append(fresh(engine, Level.BUFFERED, beside_flush))
        name = f"{engine.name}-idle"
        contenders.append(fresh(engine, Level.BUFFERED, idle, name=name, reference=True))
    return Row(
        name="foreground",
        title=f"p99.9 of get and BUFFERED put while {scale.flushed:,} entries are flushed",
        unit="ms",
        timed=f"get and put in turn, {_CALLS_A_SECOND:,} calls a second, each from when it was "
        "due until it returned; -idle: the same with no flush, the machine's own noise",
        contenders=contenders,
        targets=[Target(text="<= 10 ms", bound=10, sense="at most")],
        better="lower",
    )


def _open_loop(session: Session, pairs: list[Pair], going: Callable[[], bool]) -> list[float]:
    get, put = session.get, session.put
    latencies: list[float] = []
    due = perf_counter()
    while going():
        due += 1 / _CALLS_A_SECOND
        early = due - perf_counter()
        if early > 0:
            sleep(early)
        key, value = pairs[len(latencies) * 7919 % len(pairs)]
        if len(latencies) % 2:
            put(key, value)
        else:
            get(key)
        latencies.append(perf_counter() - due)
    return latencies


def _memory_row(scale: Scale) -> Row:
    def contender(name: str, config: str, reference: bool) -> Contender:
        @contextmanager
        def start(directory: str) -> Iterator[Measure]:
            def measure(number: int) -> float:
                path = os.path.join(directory, str(number))
                printed = spawn("weigh", name, path, scale.remembered)
                shutil.rmtree(path, ignore_errors=True)
                return float(printed)

            yield measure

        return Contender(name, config, start, reference)

    contenders = [contender("dict", "dict[bytes, bytes]", True)]
    for engine in usable([STRANDLINE.name]):
        contenders.insert(0, contender(engine.name, describe(engine, Level.ASYNC, True), False))
    return Row(
        name="memory",
        title="memory of a dirty record beyond its key and value",
        unit="B",
        timed=f"nothing: growth of the resident memory of a process that puts {scale.remembered:,} "
        "records of 16 + 100 bytes, by record, less those 116 bytes; object headers count",
        contenders=contenders,
        targets=[Target(text="<= 350 B", bound=350, sense="at most")],
        better="lower",
    )
