"""The checkpointer: frozen generations go to LMDB, and the log gets its segments back.

One pass:

    cut      under the mutex the active generation is frozen at an LSN
    sync     the log is fdatasynced through that LSN; what was queued below it has landed
    write    the frozen layers go to LMDB, sorted, in slices, in one transaction
    commit   with the watermark in the same transaction
    swap     under the mutex the layers are let go of, and readers see the new commit
    release  segments at or below the watermark; memory, in slices

What fails before the commit leaves everything as it was: the frozen layers stay, and the
next pass cuts again and merges the newer over the older. A failed commit cannot be told
from a failed fdatasync, so it ends the store's writing life.
"""

from __future__ import annotations

import errno
import queue
import sys
from typing import TYPE_CHECKING, Final

from strandline.engine.backing import (
    CheckpointTransaction,
    CommitOutcomeUnknown,
    MapFullError,
)
from strandline.engine.catalog import TableRow, Watermark
from strandline.engine.flush_strategy import FlushStats
from strandline.engine.layer import Layer
from strandline.engine.pressure import FLUSH_AT
from strandline.engine.rows import rows_of
from strandline.engine.switching import quick_switching
from strandline.errors import DiskFullError, StoreFailedError, StrandlineError
from strandline.wal.log_stats import Samples
from strandline.wal.runtime import Worker

if TYPE_CHECKING:
    from strandline.engine.engine import Engine

_TICK: Final = 0.05
_SLICE: Final = 2048
_PAUSE: Final = 0.0002
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MOST: Final = 30.0
_FREE: Final = 3
"""References to an object that only its owner, a local variable and the count itself hold."""


class Checkpointer:
    """Writes dirty state to LMDB, on one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue = engine.runtime.mailbox()
        self._worker: Worker | None = None
        self.stopping = False
        self._retry_at = 0.0
        self._last_error: BaseException | None = None
        self.requested = 0
        """Flushes asked for so far; a pass serves all that came before it began."""
        self.served = 0
        self.durations = Samples()
        self.entries_stored = 0
        self.failures = 0
        self.consecutive_failures = 0
        self.strategy_errors = 0
        self.last_ended = engine.runtime.monotonic()

    # ---- the thread

    def start(self) -> None:
        """Start the thread."""
        self._worker = self._engine.runtime.spawn("strandline-checkpoint", self._loop)

    def stop(self, timeout: float) -> None:
        """Ask the thread to end and wait up to `timeout` seconds."""
        self.stopping = True
        self.wake()
        if self._worker is not None:
            self._worker.join(timeout)

    def wake(self) -> None:
        """Let the thread look whether there is something to do."""
        if self._queue.empty():
            self._queue.put(None)

    def request(self) -> int:
        """Ask for a flush; it is done when `served` reaches the number returned."""
        with self._engine.log.mutex:
            self.requested += 1
            ticket = self.requested
        self.wake()
        return ticket

    def _loop(self) -> None:
        while not self.stopping:
            try:
                self._queue.get(timeout=_TICK if self._has_work() else None)
            except queue.Empty:
                pass
            if self.stopping:
                break
            if self._engine.orphaned:
                self._engine.on_orphaned()
                return
            self.tick()

    def is_alive(self) -> bool:
        """Tell whether the thread can still be asked for something."""
        return self._worker is not None and self._worker.is_alive()

    def detach(self) -> None:
        """Let the thread itself close the store: nobody waits for it then."""
        self._worker = None

    def _has_work(self) -> bool:
        engine = self._engine
        return bool(
            engine.dirty_since is not None
            or engine.index.retired
            or engine.abandoned
            or self.served < self.requested
            or engine.index.frozen_bytes
        )

    def tick(self) -> None:
        """Look once whether a flush is due, and do it."""
        self._engine.release_abandoned()
        if self._engine.log.failure is None and self._due():
            self.run()
        self.free_retired()

    def _due(self) -> bool:
        engine = self._engine
        if engine.runtime.monotonic() < self._retry_at:
            return False
        if self.served < self.requested:
            return True
        if engine.dirty_since is None and not engine.index.frozen_bytes:
            return False
        if self.consecutive_failures or engine.pressure.ratio() >= FLUSH_AT:
            return True
        try:
            return bool(engine.strategy.should_flush(self.flush_stats()))
        except Exception:
            self.strategy_errors += 1
            return engine.pressure.ratio() >= FLUSH_AT

    def flush_stats(self) -> FlushStats:
        """Return what a strategy decides by."""
        engine = self._engine
        now = engine.runtime.monotonic()
        since = engine.dirty_since
        return FlushStats(
            dirty_count=engine.index.dirty_count(),
            dirty_bytes=engine.index.active_bytes + engine.index.frozen_bytes,
            oldest_dirty_age=0.0 if since is None else now - since,
            log_bytes=engine.log.log_bytes(),
            last_flush_time=now - self.last_ended,
            last_flush_duration=self.durations.latest[-1] if self.durations.latest else 0.0,
            consecutive_failures=self.consecutive_failures,
        )

    # ---- one pass

    def run(self) -> bool:
        """Make one pass; True if LMDB has everything up to the cut now.

        Only the checkpointer's thread calls this, and recovery before it has started.
        """
        engine = self._engine
        started = engine.runtime.monotonic()
        serves = self.requested
        try:
            self._attempt()
        except CommitOutcomeUnknown as error:
            self._failed(error)
            engine.fail(error, f"{engine.path}: the commit of a checkpoint failed: {error}")
            self._read_on()
        except Exception as error:
            self._failed(error)
            if isinstance(error, OSError) and error.errno == errno.EIO:
                engine.fail(error, f"{engine.path}: writing a checkpoint failed: {error}")
        else:
            self.consecutive_failures = 0
            self._last_error = None
            self._retry_at = 0.0
            self.served = serves
            engine.reserve.fill()
        self.last_ended = engine.runtime.monotonic()
        self.durations.add(self.last_ended - started)
        try:
            engine.strategy.on_flush_complete(self.flush_stats())
        except Exception:
            self.strategy_errors += 1
        return self.consecutive_failures == 0

    def _read_on(self) -> None:
        """Let reads go on after a failed commit; where they cannot, they say why themselves."""
        try:
            self._engine.backing.read_on()
        except (StrandlineError, OSError) as error:
            self._last_error = error

    def _attempt(self) -> None:
        """Make a pass, with the reserve's room and a larger map where that helps."""
        engine = self._engine
        while True:
            try:
                with quick_switching():
                    self._pass()
                return
            except MapFullError:
                engine.backing.grow()  # views go on; snapshots that are open expire
            except DiskFullError:
                if not engine.reserve.held:
                    raise
                engine.reserve.release()

    def run_or_raise(self) -> None:
        """Make one pass and raise what kept it from succeeding: for recovery."""
        if not self.run() and self._last_error is not None:
            raise self._last_error

    def _failed(self, error: BaseException) -> None:
        self._last_error = error
        self.failures += 1
        self.consecutive_failures += 1
        longest = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(self.consecutive_failures - 1, 20))
        delay = longest * self._engine.runtime.random()
        self._retry_at = self._engine.runtime.monotonic() + delay

    def trouble(self) -> str:
        """Return what keeps flushes from succeeding, an empty string if nothing does."""
        if self._last_error is None:
            return ""
        return f"The last flush failed ({self._last_error}) and is tried again."

    def _pass(self) -> None:
        engine = self._engine
        index, log = engine.index, engine.log
        while True:
            if engine.started and log.synced_lsn < engine.definition_lsn:
                # An interrupt left a definition queued. A cut above it would move the
                # watermark past it without it.
                log.sync_through(engine.definition_lsn)
            with log.mutex:
                log.settle()
                if engine.started and log.synced_lsn < engine.definition_lsn:
                    continue
                lsn = log.next_lsn() - 1 if engine.started else engine.replayed_lsn
                since, engine.dirty_since = engine.dirty_since, None
                index.cut(lsn)
                engine.flush_mark = 0  # what is frozen counts: the next write looks at once
                definitions = engine.take_definitions()
                highest = engine.highest_table_id
                break
        try:
            if engine.started:
                log.sync_through(lsn)
            self._merge()
            engine.backing.reserve(index.frozen_bytes * 2)
            with log.mutex:
                work = [(table_id, layers[0]) for table_id, layers in index.frozen().items()]
            with engine.backing.checkpoint() as txn:
                for definition in definitions:
                    if isinstance(definition, TableRow):
                        txn.create_table(definition, made_up=definition.id in engine.made_up)
                    else:
                        txn.drop_table(definition)
                txn.use_table_ids(highest)
                stored = sum([self._write(txn, table_id, layer) for table_id, layer in work])
                if log.failure is not None:
                    raise StoreFailedError(
                        f"{engine.path}: the log failed while a checkpoint was written "
                        f"({log.failure}); nothing of it was committed. Close the store and open "
                        "it anew"
                    )
                txn.commit(Watermark(log.uuid, log.epoch, lsn))
        except BaseException:
            engine.return_definitions(definitions)
            if engine.dirty_since is None or (since is not None and since < engine.dirty_since):
                engine.dirty_since = since
            raise
        with log.mutex:
            del work
            old_view = index.drop_frozen(engine.backing.view)
            log.stored_lsn = lsn
            if index.active_bytes and engine.dirty_since is None:
                engine.note_dirty()  # what joined a group that was open at the cut
        old_view.retire()
        self.entries_stored += stored
        engine.relax()
        log.wake_ticker()

    def _merge(self) -> None:
        """Merge what an earlier pass left frozen under what this one froze."""
        index = self._engine.index
        with self._engine.log.mutex:
            frozen = index.frozen()
        if all(len(layers) <= 1 for layers in frozen.values()):
            return
        merged: dict[int, Layer] = {}
        for table_id, layers in frozen.items():
            layer = Layer(self._engine.runtime)
            for older in reversed(layers):
                if older.cleared:
                    layer = Layer(self._engine.runtime, cleared=True)
                with self._engine.log.mutex:
                    older.order.note()
                for run in older.order.runs(self._pause):
                    for at in range(0, len(run), _SLICE):
                        keys = run[at : at + _SLICE]
                        layer.entries.update(
                            zip(keys, map(older.entries.__getitem__, keys), strict=True)
                        )
                        self._pause()
            layer.cut_lsn = layers[0].cut_lsn
            merged[table_id] = layer
        with self._engine.log.mutex:
            index.replace_frozen(merged)

    def _write(self, txn: CheckpointTransaction, table_id: int, layer: Layer) -> int:
        if layer.cleared:
            txn.clear(table_id)
        stored = 0
        for items, gone in rows_of(layer, table_id, self._pause):
            txn.put_rows(table_id, items, gone)
            stored += len(items) + len(gone)
        return stored

    def _pause(self) -> None:
        """Let waiting threads have the interpreter."""
        if self._worker is not None:
            self._engine.runtime.sleep(_PAUSE)

    # ---- memory

    def free_retired(self) -> None:
        """Empty retired layers in slices, once no reader and no snapshot holds them.

        Freeing a large dict in one go would hold the interpreter for tens of
        milliseconds. Emptying one that a reader still holds would lose keys, so only
        the last owner may do it.
        """
        retired = self._engine.index.retired
        for item in retired.copy():
            layers = item.layers
            while layers:
                layer = layers[-1]
                if sys.getrefcount(layer) > _FREE or sys.getrefcount(layer.entries) > _FREE:
                    break
                entries = layer.entries
                while entries:
                    for _ in range(min(_SLICE, len(entries))):
                        entries.popitem()
                    self._pause()
                layers.pop()
                del layer, entries
            if not layers:
                with self._engine.log.mutex:
                    retired.remove(item)
