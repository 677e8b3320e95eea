"""strandline: a crash-safe key-value store that a Python program embeds.

    import strandline
    from strandline import Durability

    with strandline.open("data") as db:
        db[b"k"] = b"v"                                   # on disk when this line is done
        db.put(b"hits", b"1", durability=Durability.ASYNC)  # acknowledged at memory speed
        db.incr(b"hits", 5)

This module is the public surface and nothing else; tests/test_public_names.py pins it.
"""

from strandline.codecs import ABSENT, Codec
from strandline.engine.batch import Batch, TableBatch
from strandline.engine.flush_strategy import FlushStats, FlushStrategy, HybridFlush
from strandline.engine.snapshot import Snapshot, TableSnapshot
from strandline.engine.stats import FlushReport, Health, HealthState, Percentiles, Stats
from strandline.engine.store import Store
from strandline.engine.table import Table
from strandline.errors import (
    BackpressureError,
    BatchTooLargeError,
    CorruptionError,
    DiskFullError,
    ForeignStoreError,
    HistoryExpiredError,
    InvalidRequestError,
    InvalidTypeError,
    KeyTooLargeError,
    LogCorruptionError,
    LogGapError,
    SnapshotExpiredError,
    StoreClosedError,
    StoreCorruptionError,
    StoreFailedError,
    StoreLockedError,
    StrandlineError,
    TransactionConflictError,
    UpstreamError,
    ValueTooLargeError,
    WriteOutcomeUnknownError,
)
from strandline.options import Durability, Options
from strandline.recovery.opening import open_store as open  # noqa: A004
from strandline.recovery.report import RecoveryProgress, RecoveryReport

__version__ = "0.1.0"

__all__ = [
    "ABSENT",
    "BackpressureError",
    "Batch",
    "BatchTooLargeError",
    "Codec",
    "CorruptionError",
    "DiskFullError",
    "Durability",
    "FlushReport",
    "FlushStats",
    "FlushStrategy",
    "ForeignStoreError",
    "Health",
    "HealthState",
    "HistoryExpiredError",
    "HybridFlush",
    "InvalidRequestError",
    "InvalidTypeError",
    "KeyTooLargeError",
    "LogCorruptionError",
    "LogGapError",
    "Options",
    "Percentiles",
    "RecoveryProgress",
    "RecoveryReport",
    "Snapshot",
    "SnapshotExpiredError",
    "Stats",
    "Store",
    "StoreClosedError",
    "StoreCorruptionError",
    "StoreFailedError",
    "StoreLockedError",
    "StrandlineError",
    "Table",
    "TableBatch",
    "TableSnapshot",
    "TransactionConflictError",
    "UpstreamError",
    "ValueTooLargeError",
    "WriteOutcomeUnknownError",
    "open",
]
