"""Micro-benchmarks of the core operations, run by `pytest benchmarks/`.

Each says what one call costs by itself, on a store that has the default options; what that
means beside other stores is what `benchmarks.compare` is for. Keys come round again after
`KEYS` of them, so that a store does not grow with the time that it is measured for.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgpack
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import strandline
from strandline import Durability, Store
from strandline.engine import operations, records
from strandline.wal import format as wal_format
from strandline.wal.checksum import crc32c, portable_crc32c

KEYS: Final = 10_000
VALUE: Final = random.Random(1).randbytes(100)
PAIRS: Final = [(random.Random(index).randbytes(16), VALUE) for index in range(KEYS)]
TABLE_ID: Final = 1


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An empty store that is closed without a flush."""
    store = strandline.open(tmp_path / "data")
    yield store
    store.close(drain=False)


@pytest.fixture
def dirty(db: Store) -> Store:
    """A store whose entries are all in its index."""
    db.put_many(PAIRS)
    return db


@pytest.fixture
def stored(dirty: Store) -> Store:
    """A store whose entries are all in LMDB."""
    dirty.flush(timeout=60)
    return dirty


@pytest.mark.parametrize("level", list(Durability), ids=lambda level: level.name)
def test_put(benchmark: BenchmarkFixture, db: Store, level: Durability) -> None:
    """One put, acknowledged at each level."""
    pairs = itertools.cycle(PAIRS)

    def put() -> None:
        key, value = next(pairs)
        db.put(key, value, durability=level)

    benchmark(put)


def test_put_in_an_unlogged_table(benchmark: BenchmarkFixture, db: Store) -> None:
    """One put that goes to memory alone."""
    table = db.table("unlogged", logged=False)
    pairs = itertools.cycle(PAIRS)
    benchmark(lambda: table.put(*next(pairs)))


@pytest.mark.parametrize("level", list(Durability), ids=lambda level: level.name)
def test_put_many(benchmark: BenchmarkFixture, db: Store, level: Durability) -> None:
    """A thousand records in one frame."""
    batches = itertools.cycle([PAIRS[at : at + 1000] for at in range(0, KEYS, 1000)])
    benchmark(lambda: db.put_many(next(batches), durability=level))


def test_batch_of_ten(benchmark: BenchmarkFixture, db: Store) -> None:
    """Ten records through a batch, in the page cache when it ends."""
    pairs = itertools.cycle(PAIRS)

    def write() -> None:
        with db.batch(durability=Durability.BUFFERED) as batch:
            for key, value in itertools.islice(pairs, 10):
                batch.put(key, value)

    benchmark(write)


def test_incr(benchmark: BenchmarkFixture, db: Store) -> None:
    """One more on a counter."""
    benchmark(lambda: db.incr(b"hits", durability=Durability.BUFFERED))


def test_get_dirty(benchmark: BenchmarkFixture, dirty: Store) -> None:
    """A value that is in the index."""
    pairs = itertools.cycle(PAIRS)
    assert benchmark(lambda: dirty.get(next(pairs)[0])) == VALUE


def test_get_stored(benchmark: BenchmarkFixture, stored: Store) -> None:
    """A value that is in LMDB, its checksum looked at."""
    pairs = itertools.cycle(PAIRS)
    assert benchmark(lambda: stored.get(next(pairs)[0])) == VALUE


def test_get_missing(benchmark: BenchmarkFixture, stored: Store) -> None:
    """A key that is neither in the index nor in LMDB."""
    assert benchmark(lambda: stored.get(b"missing")) is None


def test_get_many(benchmark: BenchmarkFixture, stored: Store) -> None:
    """A hundred values at once."""
    keys = [key for key, _ in PAIRS[:100]]
    assert len(benchmark(lambda: stored.get_many(keys))) == 100


@pytest.mark.parametrize("state", ["dirty", "stored"])
def test_scan(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, state: str) -> None:
    """A hundred entries from a random key on."""
    store: Store = request.getfixturevalue(state)
    starts = itertools.cycle(sorted(PAIRS)[: KEYS // 2 : 7])
    assert len(benchmark(lambda: list(store.scan(start=next(starts)[0], limit=100)))) == 100


def test_snapshot(benchmark: BenchmarkFixture, dirty: Store) -> None:
    """A snapshot, taken and given back."""

    def take() -> None:
        with dirty.snapshot():
            pass

    benchmark(take)


def test_encode_frame(benchmark: BenchmarkFixture) -> None:
    """The frame of one put, its operation packed."""
    assert len(benchmark(_frame, 1)) % wal_format.ALIGNMENT == 0


def test_encode_frame_of_a_thousand(benchmark: BenchmarkFixture) -> None:
    """The frame of a thousand puts."""
    assert len(benchmark(_frame, 1000)) % wal_format.ALIGNMENT == 0


def test_decode_frame_of_a_thousand(benchmark: BenchmarkFixture) -> None:
    """Header, both checksums and the operations of a frame, as replay reads it."""
    frame = _frame(1000)
    start = wal_format.FRAME_HEADER_BYTES

    def decode() -> list[object]:
        header = wal_format.decode_frame_header(frame)
        assert header is not None
        payload = frame[start : start + header.payload_length]
        assert crc32c(payload) == header.payload_crc
        return operations.decode_items(payload, header.count)

    assert len(benchmark(decode)) == 3001


def test_encode_record(benchmark: BenchmarkFixture) -> None:
    """A value as LMDB holds it, with its checksum."""
    key = PAIRS[0][0]
    assert VALUE in benchmark(records.encode, TABLE_ID, key, 1, VALUE)


def test_decode_record(benchmark: BenchmarkFixture) -> None:
    """A value out of what LMDB holds, checked."""
    key = PAIRS[0][0]
    record = records.encode(TABLE_ID, key, 1, VALUE)
    origin = records.Origin("data.mdb", {})
    assert benchmark(records.value_of, TABLE_ID, key, record, origin) == VALUE


@pytest.mark.parametrize("length", [128, 4096, 1 << 20])
def test_crc(benchmark: BenchmarkFixture, length: int) -> None:
    """CRC-32C, in hardware where there is some."""
    data = os.urandom(length)
    assert benchmark(crc32c, data) == portable_crc32c(data)


def test_portable_crc(benchmark: BenchmarkFixture) -> None:
    """The independent implementation of CRC-32C, on 4 KiB."""
    data = os.urandom(4096)
    assert benchmark(portable_crc32c, data) == crc32c(data)


def _frame(count: int) -> bytes:
    items: list[object] = [None]
    tag = operations.tag_of(TABLE_ID, operations.PUT)
    for key, value in PAIRS[:count]:
        items += (tag, key, value)
    return wal_format.encode_frame(
        wal_format.TYPE_DATA,
        msgpack.packb(items),
        count=count,
        first_lsn=1,
        synced_lsn=0,
        stored_lsn=0,
        time_ns=0,
        segment_id=1,
        salt=1,
        epoch=1,
    )
