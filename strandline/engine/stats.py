"""Statistics and health: what a person or a program sees of a running store."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strandline.engine.pressure import DELAY_FROM
from strandline.wal.log_stats import Samples

if TYPE_CHECKING:
    from strandline.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A quantity since opening; percentiles over its latest 2,048 measurements."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, samples: Samples) -> Percentiles:
        """Summarise what was sampled."""
        return cls(
            samples.count,
            samples.mean(),
            samples.percentile(0.50),
            samples.percentile(0.95),
            samples.percentile(0.99),
            samples.maximum,
        )


@dataclass(frozen=True, slots=True)
class Stats:
    """The state of a store at one moment. Sizes in bytes, times in seconds."""

    total_writes: int
    """Operations since opening, unlogged ones included."""
    coalesced_writes: int
    """Those that a later write of the same key replaced before they went to LMDB."""
    stored_writes: int
    """Entries that checkpoints wrote to LMDB."""
    coalescing_efficiency: float
    """Writes that were flushed, divided by the entries that it took; 0.0 before any flush."""
    dirty_entries: int
    dirty_bytes: int
    oldest_dirty_age: float
    log_bytes: int
    """Length of all log segments that are kept."""
    last_lsn: int
    synced_lsn: int
    stored_lsn: int
    """The watermark: everything up to here is in LMDB."""
    fsyncs: int
    fsync_seconds: Percentiles
    group_sizes: Percentiles
    """Operations in a durable group."""
    checkpoints: int
    checkpoint_seconds: Percentiles
    checkpoint_failures: int
    strategy_errors: int
    stalls: int
    stall_seconds: float
    rejected_writes: int
    open_snapshots: int
    tables: int


class HealthState(enum.Enum):
    """How a store is, the worst that applies."""

    OK = "ok"
    THROTTLED = "throttled"
    """Writers are delayed: a budget is more than 60 % full."""
    DEGRADED = "degraded"
    """Flushes fail or the log has no room; nothing is lost and it is tried again."""
    BLOCKED = "blocked"
    """Writers wait for room."""
    FAILED = "failed"
    """A sync failed: reads go on, writes raise until the store is opened anew."""


@dataclass(frozen=True, slots=True)
class Health:
    """State and reason; the reason is empty when all is well."""

    state: HealthState
    reason: str


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush or a close came to, in entries."""

    stored: int
    """Written to LMDB meanwhile."""
    parked: int
    """Set aside because an upstream refuses them; 0 in a store without one."""
    remaining: int
    """Of what was acknowledged before the call, not in LMDB yet: in the log, but for those of
    unlogged tables."""


def gather(engine: Engine) -> Stats:
    """Return the statistics of this moment."""
    log, checkpointer, pressure = engine.log, engine.checkpointer, engine.pressure
    with log.mutex:
        last = log.next_lsn() - 1
        dirty = engine.index.dirty_count()
        total = last - engine.first_lsn + 1 + engine.unlogged_writes
        group_sizes = Percentiles.of(log.stats.groups())
    stored = checkpointer.entries_stored
    flushed = max(0, total + engine.replayed_operations - dirty)
    since = engine.dirty_since
    return Stats(
        total_writes=total,
        coalesced_writes=max(0, flushed - stored),
        stored_writes=stored,
        coalescing_efficiency=flushed / stored if stored else 0.0,
        dirty_entries=dirty,
        dirty_bytes=engine.index.dirty_bytes(),
        oldest_dirty_age=0.0 if since is None else engine.runtime.monotonic() - since,
        log_bytes=log.log_bytes(),
        last_lsn=last,
        synced_lsn=log.synced_lsn,
        stored_lsn=log.stored_lsn,
        fsyncs=log.stats.sync_seconds.count,
        fsync_seconds=Percentiles.of(log.stats.sync_seconds),
        group_sizes=group_sizes,
        checkpoints=checkpointer.durations.count,
        checkpoint_seconds=Percentiles.of(checkpointer.durations),
        checkpoint_failures=checkpointer.failures,
        strategy_errors=checkpointer.strategy_errors,
        stalls=pressure.stalls.count,
        stall_seconds=pressure.stalls.total,
        rejected_writes=pressure.rejected,
        open_snapshots=len(engine.snapshots),
        tables=len(engine.index.states),
    )


def diagnose(engine: Engine) -> Health:
    """Return how the store is."""
    log = engine.log
    if log.failure is not None:
        return Health(HealthState.FAILED, f"a sync or write failed: {log.failure}")
    if engine.pressure.waiting:
        return Health(HealthState.BLOCKED, f"{engine.pressure.waiting} writers wait for room")
    if log.full is not None:
        return Health(HealthState.DEGRADED, f"the log has no room: {log.full}")
    trouble = engine.checkpointer.trouble()
    if trouble:
        return Health(HealthState.DEGRADED, trouble)
    share = engine.pressure.ratio()
    if share >= DELAY_FROM:
        return Health(HealthState.THROTTLED, f"a budget is {share:.0%} full")
    return Health(HealthState.OK, "")


__all__ = ["FlushReport", "Health", "HealthState", "Stats", "diagnose", "gather"]
