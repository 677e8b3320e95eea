"""The engines of the comparison behind one small interface, each in its best configuration.

A `Session` hands out the engine's own bound methods wherever their arguments fit, so that no
adapter stands between the clock and the engine. Where an engine needs a transaction for a
call, opening it is part of the call.

What "best" means was measured, not assumed: LevelDB's default write buffer of 4 MiB is as
fast as any larger one, or faster; SQLite with many writers is fastest over one shared
connection, since separate ones sleep on its busy handler; compression is off, as the values
do not compress.

An engine that cannot be imported is not an error: `missing` says why it is left out.
"""

from __future__ import annotations

import enum
import functools
import importlib
import importlib.metadata
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1 << 20
ROOMY_BYTES: Final = 4 << 30
"""Budget for memory and log where a row wants everything to stay in the write buffer."""
CACHE_BYTES: Final = 256 * MIB
LMDB_MAP_BYTES: Final = 64 << 30

Pair = tuple[bytes, bytes]


class Level(enum.Enum):
    """What a write must survive when it is acknowledged; strandline's levels, by name."""

    SYNC = "sync"
    BUFFERED = "buffered"
    ASYNC = "async"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One open store.

    `flush` moves the write buffer into the engine's main store and waits. `settle` does that
    and whatever else brings the engine to rest. `drain` waits until all acknowledged writes
    are in the engine's log, unsynced. `close` moves nothing that can stay where it is.
    """

    put: Callable[[bytes, bytes], object]
    get: Callable[[bytes], Any]
    put_many: Callable[[Sequence[Pair]], object]
    scan: Callable[[bytes, int], list[Pair]]
    close: Callable[[], object]
    flush: Callable[[], object] = lambda: None
    settle: Callable[[], object] = lambda: None
    drain: Callable[[], object] = lambda: None
    sync: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Engine:
    """How an engine is opened, and how it is configured for each level.

    `open(path, level, roomy)`: with `roomy` the engine keeps what is written in its write
    buffer until `flush`, as far as it can; otherwise its defaults hold.
    """

    name: str
    module: str
    open: Callable[[str, Level, bool], Session]
    configured: dict[Level, str]
    scans: bool = True

    def missing(self) -> str | None:
        """Return why the engine cannot be used here, None if it can."""
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            return str(error)
        return None if module.__file__ else f"no package named {self.module!r}"

    def version(self) -> str:
        """Return the version of the installed binding."""
        module = importlib.import_module(self.module)
        if self.module == "sqlite3":
            return str(module.sqlite_version)
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return str(getattr(module, "__version__", "unknown"))


class OnDemand:
    """A flush strategy of strandline's under which only `flush` starts a checkpoint."""

    def should_flush(self, stats: object) -> bool:
        """Never by itself."""
        return False

    def on_flush_complete(self, stats: object) -> None:
        """Keep nothing."""


def _open_strandline(path: str, level: Level, roomy: bool) -> Session:
    strandline = importlib.import_module("strandline")
    durability = strandline.Durability
    settings: dict[str, Any] = {"durability": durability[level.name]}
    if roomy:
        settings |= {
            "max_dirty_bytes": ROOMY_BYTES,
            "max_log_bytes": ROOMY_BYTES,
            "flush_strategy": OnDemand(),
        }
    db = strandline.open(path, **settings)

    def scan(start: bytes, count: int) -> list[Pair]:
        return list(db.scan(start=start, limit=count))

    def flush() -> None:
        report = db.flush(timeout=600)
        if report.remaining:
            raise RuntimeError(f"{path}: {report.remaining} entries left after a flush of 600 s")

    def drain() -> None:
        # The log is written in LSN order: once this one is in it, so is all before it.
        db.put(b"\xff drained", b"", durability=durability.BUFFERED)

    return Session(
        put=db.put,
        get=db.get,
        put_many=db.put_many,
        scan=scan,
        close=functools.partial(db.close, drain=False),
        flush=flush,
        settle=flush,
        drain=drain,
        sync=db.sync,
    )


def _open_leveldb(
    path: str, level: Level, roomy: bool, *, write_buffer: int | None = None
) -> Session:
    plyvel = importlib.import_module("plyvel")
    db = plyvel.DB(
        path,
        create_if_missing=True,
        compression=None,
        write_buffer_size=write_buffer,
        lru_cache_size=CACHE_BYTES,
        bloom_filter_bits=10,
    )
    sync = level is Level.SYNC

    def put_many(pairs: Sequence[Pair]) -> None:
        with db.write_batch(sync=sync) as batch:
            put = batch.put
            for key, value in pairs:
                put(key, value)

    def scan(start: bytes, count: int) -> list[Pair]:
        with db.iterator(start=start) as cursor:
            return list(itertools.islice(cursor, count))

    return Session(
        put=functools.partial(db.put, sync=True) if sync else db.put,
        get=db.get,
        put_many=put_many,
        scan=scan,
        close=db.close,
        flush=db.compact_range,
        settle=db.compact_range,
    )


def _open_rocksdb(path: str, level: Level, roomy: bool) -> Session:
    rocksdict = importlib.import_module("rocksdict")
    options = rocksdict.Options(raw_mode=True)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    if roomy:
        options.set_write_buffer_size(ROOMY_BYTES // 4)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    # A store that exists is opened with the options in its own OPTIONS file.
    db = rocksdict.Rdict(path) if os.path.isdir(path) else rocksdict.Rdict(path, options)
    if level is Level.SYNC:
        write_options = rocksdict.WriteOptions()
        write_options.sync = True
        db.set_write_options(write_options)

    def put_many(pairs: Sequence[Pair]) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in pairs:
            put(key, value)
        db.write(batch)

    def scan(start: bytes, count: int) -> list[Pair]:
        return list(itertools.islice(db.items(from_key=start), count))

    def settle() -> None:
        db.flush(True)
        db.compact_range(None, None)

    return Session(
        put=db.put,
        get=db.get,
        put_many=put_many,
        scan=scan,
        close=db.close,
        flush=functools.partial(db.flush, True),
        settle=settle,
    )


def _open_lmdb(path: str, level: Level, roomy: bool, *, writemap: bool = False) -> Session:
    lmdb = importlib.import_module("lmdb")
    env = lmdb.open(path, map_size=LMDB_MAP_BYTES, sync=level is Level.SYNC, writemap=writemap)
    begin = env.begin

    def put(key: bytes, value: bytes) -> None:
        with begin(write=True) as transaction:
            transaction.put(key, value)

    def get(key: bytes) -> Any:
        with begin() as transaction:
            return transaction.get(key)

    def put_many(pairs: Sequence[Pair]) -> None:
        with begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs)

    def scan(start: bytes, count: int) -> list[Pair]:
        with begin() as transaction, transaction.cursor() as cursor:
            cursor.set_range(start)
            return list(itertools.islice(cursor.iternext(), count))

    settle = functools.partial(env.sync, True)
    return Session(
        put=put, get=get, put_many=put_many, scan=scan, close=env.close, flush=settle, settle=settle
    )


def _open_sqlite(path: str, level: Level, roomy: bool) -> Session:
    sqlite3 = importlib.import_module("sqlite3")
    os.makedirs(path, exist_ok=True)
    file = os.path.join(path, "kv.sqlite")
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={'FULL' if level is Level.SYNC else 'NORMAL'}")
    db.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
    db.execute(f"PRAGMA mmap_size={1 << 30}")
    db.execute("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
    execute = db.execute
    lock = threading.Lock()

    def put(key: bytes, value: bytes) -> None:
        with lock:
            execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def get(key: bytes) -> Any:
        row = execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return row and row[0]

    def put_many(pairs: Sequence[Pair]) -> None:
        with lock:
            execute("BEGIN")
            db.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", pairs)
            execute("COMMIT")

    def scan(start: bytes, count: int) -> list[Pair]:
        query = "SELECT k, v FROM kv WHERE k >= ? ORDER BY k LIMIT ?"
        return execute(query, (start, count)).fetchall()  # type: ignore[no-any-return]

    checkpoint = functools.partial(execute, "PRAGMA wal_checkpoint(TRUNCATE)")
    return Session(
        put=put,
        get=get,
        put_many=put_many,
        scan=scan,
        close=db.close,
        flush=checkpoint,
        settle=checkpoint,
    )


def _open_diskcache(path: str, level: Level, roomy: bool) -> Session:
    diskcache = importlib.import_module("diskcache")
    cache = diskcache.Cache(
        path,
        timeout=60,
        eviction_policy="none",
        cull_limit=0,
        size_limit=1 << 50,
        disk_min_file_size=1 << 30,
        sqlite_synchronous=2 if level is Level.SYNC else 1,
        sqlite_cache_size=CACHE_BYTES // 4096,
        sqlite_mmap_size=1 << 30,
    )

    def put_many(pairs: Sequence[Pair]) -> None:
        with cache.transact():
            for key, value in pairs:
                cache.set(key, value)

    def scan(start: bytes, count: int) -> list[Pair]:
        raise NotImplementedError("diskcache has no range scan")

    return Session(put=cache.set, get=cache.get, put_many=put_many, scan=scan, close=cache.close)


def _same(text: str, sync: str, weaker: str) -> dict[Level, str]:
    return {
        Level.SYNC: f"{text}; {sync}",
        Level.BUFFERED: f"{text}; {weaker}",
        Level.ASYNC: f"{text}; {weaker}",
    }


STRANDLINE: Final = Engine(
    "strandline",
    "strandline",
    _open_strandline,
    {level: f"durability={level.name}, else the defaults" for level in Level},
)
LEVELDB: Final = Engine(
    "leveldb",
    "plyvel",
    _open_leveldb,
    _same(
        "write buffer 4 MiB (default), block cache 256 MiB, bloom 10 bits, no compression",
        "sync=True",
        "sync=False",
    ),
)
LEVELDB_ONE_BUFFER: Final = Engine(
    "leveldb-one-buffer",
    "plyvel",
    functools.partial(_open_leveldb, write_buffer=ROOMY_BYTES // 4),
    _same("write buffer 1 GiB, no compression", "sync=True", "sync=False"),
)
ROCKSDB: Final = Engine(
    "rocksdb",
    "rocksdict",
    _open_rocksdb,
    _same(
        "raw mode, block cache 256 MiB, bloom 10 bits, no compression",
        "sync=True",
        "sync=False, WAL on",
    ),
)
LMDB: Final = Engine(
    "lmdb",
    "lmdb",
    _open_lmdb,
    _same("a transaction for each call", "sync=True", "sync=False"),
)
LMDB_WRITEMAP: Final = Engine(
    "lmdb-writemap",
    "lmdb",
    functools.partial(_open_lmdb, writemap=True),
    _same("writemap; a transaction for each call", "sync=True", "sync=False"),
)
SQLITE: Final = Engine(
    "sqlite",
    "sqlite3",
    _open_sqlite,
    _same(
        "WAL, WITHOUT ROWID, cache 256 MiB, mmap 1 GiB, one connection shared by all threads",
        "synchronous=FULL",
        "synchronous=NORMAL",
    ),
)
DISKCACHE: Final = Engine(
    "diskcache",
    "diskcache",
    _open_diskcache,
    _same(
        "no eviction, values in SQLite, cache 256 MiB, a connection for each thread",
        "synchronous=FULL",
        "synchronous=NORMAL",
    ),
    scans=False,
)

ENGINES: Final = {
    engine.name: engine
    for engine in (
        STRANDLINE,
        LEVELDB,
        LEVELDB_ONE_BUFFER,
        ROCKSDB,
        LMDB,
        LMDB_WRITEMAP,
        SQLITE,
        DISKCACHE,
    )
}
