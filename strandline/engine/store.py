"""`Store`: an open store, which is its own default table."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

from strandline.engine.batch import Batch
from strandline.engine.closing import close, close_at_exit, close_orphan, flush
from strandline.engine.definitions import Definitions, refuse_inside
from strandline.engine.engine import Engine
from strandline.engine.process_guard import register
from strandline.engine.snapshot import Snapshot
from strandline.engine.stats import FlushReport, Health, Stats, diagnose, gather
from strandline.engine.table import Table
from strandline.engine.table_state import DEFAULT_TABLE_ID
from strandline.engine.validation import check_level
from strandline.engine.write_path import WritePath
from strandline.errors import StoreFailedError, WriteOutcomeUnknownError
from strandline.options import Durability

if TYPE_CHECKING:
    from strandline.engine.write_path import Parts


class Store(Table[bytes, bytes]):
    """A store that this process writes to. Use `strandline.open`, best in a `with` block.

    Safe to share by threads; not across a fork. Reads and writes without a table go to
    the default one.
    """

    __slots__ = ("definitions", "engine", "path", "recovery_report")

    def __init__(self, engine: Engine, recovery_report: Any) -> None:
        """Wrap an engine that was opened by recovery."""
        self.engine = engine
        self.path = engine.path
        self.recovery_report = recovery_report
        """What opening found and did, a `RecoveryReport`."""
        self.definitions = Definitions(engine)
        state = engine.index.states[DEFAULT_TABLE_ID]
        super().__init__(self, state, WritePath(engine), engine.options.durability)
        engine.on_orphaned = lambda: close_orphan(engine)
        register(engine, lambda: close_at_exit(engine))

    # ---- tables

    def table(
        self,
        name: str,
        *,
        durability: Durability | None = None,
        codec: str | None = None,
        logged: bool | None = None,
    ) -> Table[Any, Any]:
        """Return a table, created durably where it does not exist.

        `codec` ("bytes", "utf-8", "msgpack", "json", "int64/json", ...) and `logged` are
        stored with the table, and one that differs is refused; left out, they are as
        stored. `durability` is this handle's default.
        """
        self._check()
        level = self._level if durability is None else check_level(durability)
        if name == "" and codec is None and logged is None:
            return Table(self, self._state, self._writes, level)
        return Table(self, self.definitions.open(name, codec, logged), self._writes, level)

    def tables(self) -> list[str]:
        """Return the names of all tables but the default one, sorted."""
        self._check()
        return sorted(
            state.name for state in tuple(self.engine.index.states.values()) if state.name
        )

    def drop_table(self, name: str) -> None:
        """Remove a table with all its keys, durably; a new one of that name starts empty."""
        self._check()
        self.definitions.drop(name)

    # ---- several writes, one moment

    def batch(self, *, durability: Durability | None = None) -> Batch:
        """Collect writes in a `with` block and write them as one atomic commit."""
        return Batch(self, None if durability is None else check_level(durability))

    def _write_batch(self, parts: Parts, level: Durability | None) -> int | None:
        """Write what a batch collected; return its last LSN."""
        return self._writes.write_batch(parts, self._level if level is None else level)

    def snapshot(self) -> Snapshot:
        """Return the whole store as of now, in constant time. Close it."""
        return Snapshot(self)

    # ---- durability

    def sync(self) -> None:
        """Return when everything that was acknowledged before the call is on disk."""
        self._check()
        refuse_inside(self.engine)
        self.engine.log.sync()

    def flush(self, timeout: float = 30.0) -> FlushReport:
        """Return when everything that was acknowledged before the call is in LMDB.

        Or after `timeout` seconds; the report tells what remains.
        """
        self._check()
        refuse_inside(self.engine)
        return flush(self.engine, timeout)

    def wait_stored(self, lsn: int, timeout: float = 30.0) -> bool:
        """Wait until `lsn` is in LMDB, asking for a flush; False after `timeout` seconds."""
        self._check()
        if self.engine.log.stored_lsn < lsn:
            refuse_inside(self.engine)
            flush(self.engine, timeout)
        return self.engine.log.stored_lsn >= lsn

    # ---- looking at it

    def stats(self) -> Stats:
        """Return the statistics of this moment."""
        self._check()
        return gather(self.engine)

    def health(self) -> Health:
        """Return how the store is, and why."""
        self._check()
        return diagnose(self.engine)

    def _check(self) -> None:
        if self.engine.closing:
            self.engine.check_open()

    # ---- ending

    def close(self, drain: bool = True, timeout: float = 30.0) -> FlushReport:
        """Close the store: flush (unless not `drain`), sync and seal the log, let go of it.

        What could not be flushed within `timeout` seconds stays in the log, is replayed
        at the next start, and is reported. A second call does nothing.

        Raises:
            WriteOutcomeUnknownError: a sync or write failed, now or earlier, and something that
                was acknowledged with less than SYNC may not be on disk.
            StrandlineError, OSError: the log could not be ended; all that was written is kept.
        """
        refuse_inside(self.engine)
        return close(self.engine, drain=drain, timeout=timeout)

    def __enter__(self) -> Store:
        """Use it in a `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it, after an exception too."""
        try:
            self.close()
        except WriteOutcomeUnknownError:
            # Whoever is being told of the failure is not told of something else instead.
            if not isinstance(error, WriteOutcomeUnknownError | StoreFailedError):
                raise

    def __del__(self) -> None:
        """Warn about a store that was not closed, and leave the closing to its threads."""
        engine = getattr(self, "engine", None)
        if engine is not None and not engine.closing:
            engine.orphaned = True
            engine.checkpointer.wake()
            warnings.warn(f"{engine.path}: the store was not closed", ResourceWarning, stacklevel=1)
