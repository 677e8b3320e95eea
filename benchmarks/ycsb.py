"""The YCSB core workloads A to F, each on a store of its own, in one thread.

Records are one value of 1000 bytes; an update writes all of it. The keys that are asked for
follow YCSB's zipfian distribution with constant 0.99 ("latest" for D). Operations are drawn
before the clock starts, the same ones for every engine. Inserts of a round are new keys in
that round.

| | mix |
|---|---|
| A | 50 % read, 50 % update |
| B | 95 % read, 5 % update |
| C | 100 % read |
| D | 95 % read of what is latest, 5 % insert |
| E | 95 % scan of 1 to 100 entries, 5 % insert |
| F | 50 % read, 50 % read-modify-write |
"""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from benchmarks.contenders import held, load, usable
from benchmarks.harness import Row
from benchmarks.peers import Level, Pair, Session
from benchmarks.scale import Scale
from benchmarks.timing import rate, slices

_VALUE_BYTES: Final = 1000
_ZIPFIAN_CONSTANT: Final = 0.99
_LONGEST_SCAN: Final = 100
_SLICE: Final = 100


class Kind(enum.Enum):
    """What an operation does."""

    READ = "read"
    UPDATE = "update"
    INSERT = "insert"
    SCAN = "scan"
    MODIFY = "read-modify-write"


class Operation(NamedTuple):
    """One call, or two; `length` is that of a scan."""

    kind: Kind
    key: bytes
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A mix of operations, in per cent; `latest`: what is new is asked for most."""

    letter: str
    mix: dict[Kind, int]
    latest: bool = False


WORKLOADS: Final = (
    Workload("A", {Kind.READ: 50, Kind.UPDATE: 50}),
    Workload("B", {Kind.READ: 95, Kind.UPDATE: 5}),
    Workload("C", {Kind.READ: 100}),
    Workload("D", {Kind.READ: 95, Kind.INSERT: 5}, latest=True),
    Workload("E", {Kind.SCAN: 95, Kind.INSERT: 5}),
    Workload("F", {Kind.READ: 50, Kind.MODIFY: 50}),
)


def ycsb_rows(scale: Scale) -> list[Row]:
    """Return a row for each workload."""
    return [_row(workload, scale) for workload in WORKLOADS]


def _row(workload: Workload, scale: Scale) -> Row:
    names = ["strandline", "leveldb", "rocksdb", "lmdb", "sqlite", "diskcache"]
    left_out = {}
    if Kind.SCAN in workload.mix:
        left_out[names.pop()] = "has no range scan"
    value = random.Random(9).randbytes(_VALUE_BYTES)

    def prepare(session: Session) -> None:
        load(session, _records(scale.ycsb_records))
        session.settle()

    def run(session: Session, number: int) -> float:
        operations = draw(workload, scale, number)
        get, put, scan = session.get, session.put, session.scan
        read, modify, scan_some = Kind.READ, Kind.MODIFY, Kind.SCAN

        def run_each(part: Sequence[Operation]) -> None:
            for kind, key, length in part:
                if kind is read:
                    get(key)
                elif kind is modify:
                    get(key)
                    put(key, value)
                elif kind is scan_some:
                    scan(key, length)
                else:
                    put(key, value)

        return rate(slices(operations, _SLICE), run_each, scale.seconds / 2, session.drain)

    return Row(
        name=f"ycsb-{workload.letter.lower()}",
        title=f"YCSB {workload.letter}: "
        + ", ".join(f"{share} % {kind.value}" for kind, share in workload.mix.items())
        + (", what is new most" if workload.latest else ""),
        unit="ops/s",
        timed=f"one thread, BUFFERED writes, {scale.ycsb_records:,} records of 1000 bytes, default "
        "budgets and checkpoints",
        contenders=[
            held(engine, Level.BUFFERED, prepare, run, roomy=False) for engine in usable(names)
        ],
        left_out=left_out,
    )


def key_of(number: int) -> bytes:
    """Return the key of record `number`; hashed, so that order of insertion is not key order."""
    return b"user" + hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8).hexdigest().encode()


@functools.lru_cache(maxsize=1)
def _records(count: int) -> list[Pair]:
    randbytes = random.Random(10).randbytes
    return [(key_of(number), randbytes(_VALUE_BYTES)) for number in range(count)]


@functools.lru_cache(maxsize=1)
def _zipfian_weights(count: int) -> list[float]:
    return list(itertools.accumulate(1 / rank**_ZIPFIAN_CONSTANT for rank in range(1, count + 1)))


@functools.lru_cache(maxsize=1)
def draw(workload: Workload, scale: Scale, number: int) -> list[Operation]:
    """Return the operations of round `number`."""
    source = random.Random(f"{workload.letter} {number}")
    records, count = scale.ycsb_records, scale.ycsb_operations
    ranks = source.choices(range(records), cum_weights=_zipfian_weights(records), k=count)
    kinds = source.choices(tuple(workload.mix), weights=tuple(workload.mix.values()), k=count)
    first_new = records + number * count
    added = 0
    operations = []
    for kind, rank in zip(kinds, ranks, strict=True):
        chosen = rank
        if kind is Kind.INSERT:
            chosen = first_new + added
            added += 1
        elif workload.latest:
            chosen = records + added - 1 - rank
            if chosen >= records:
                chosen += first_new - records
        length = source.randint(1, _LONGEST_SCAN) if kind is Kind.SCAN else 0
        operations.append(Operation(kind, key_of(chosen), length))
    return operations
