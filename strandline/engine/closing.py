"""Closing a store: in order, once, and from whichever thread it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from strandline.engine.process_guard import unregister
from strandline.engine.stats import FlushReport
from strandline.errors import InvalidRequestError, StrandlineError, WriteOutcomeUnknownError

if TYPE_CHECKING:
    from strandline.engine.engine import Engine

_POLL: Final = 0.005
_THREAD_TIMEOUT: Final = 10.0


def flush(engine: Engine, timeout: float) -> FlushReport:
    """Ask for a flush and wait for it; report what it came to."""
    checkpointer = engine.checkpointer
    before = checkpointer.entries_stored
    ticket = checkpointer.request()
    deadline = engine.runtime.monotonic() + timeout
    while checkpointer.served < ticket and engine.log.failure is None:
        if engine.runtime.monotonic() >= deadline or checkpointer.stopping:
            break
        engine.runtime.sleep(_POLL)
    if checkpointer.served >= ticket:
        # What is dirty now was written meanwhile; what was there before the call is in LMDB.
        return FlushReport(checkpointer.entries_stored - before, parked=0, remaining=0)
    return report(engine, before)


def report(engine: Engine, before: int) -> FlushReport:
    """Return what was stored since `before`, and what is left."""
    return FlushReport(
        stored=engine.checkpointer.entries_stored - before,
        parked=0,
        remaining=engine.index.dirty_count(),
    )


def close(engine: Engine, *, drain: bool, timeout: float) -> FlushReport:
    """End the store; a second call does nothing.

    Whatever could not be flushed stays in the log. The first error on the way is raised once
    everything has been let go of; after a failure of the log, whenever that was, that something
    acknowledged may not be on disk, unless its writers were told so.
    """
    if engine.closed_fully:
        return FlushReport(0, 0, 0)
    if engine.close_lock._is_owned():
        raise InvalidRequestError(
            f"{engine.path}: close() was called from a signal handler or a finalizer while the "
            "same thread was closing the store. It is being closed; nothing more is needed"
        )
    before = engine.checkpointer.entries_stored
    engine.shut("the store is closed")
    with engine.close_lock:
        if engine.closed_fully:
            return FlushReport(0, 0, 0)
        if drain and engine.log.failure is None:
            flush(engine, timeout)
        engine.stop_threads(_THREAD_TIMEOUT)
        result = report(engine, before)
        failed: BaseException | None = None
        try:
            engine.log.close(clean=True)
        except (StrandlineError, OSError) as error:
            failed = error
        engine.release_views()
        engine.release_abandoned()
        engine.backing.close()
        engine.lock.close()
        engine.closed_fully = True
        unregister(engine)
    log = engine.log
    if log.failure is None:
        if failed is not None:
            raise failed
    elif log.in_doubt:
        raise WriteOutcomeUnknownError(
            f"{engine.path}: the log has failed ({log.failure}), and the last {log.in_doubt:,} "
            "operations that were acknowledged before it was synced may not be on disk. Open the "
            "store anew: it holds all up to one of them"
        ) from failed
    return result


def close_orphan(engine: Engine) -> None:
    """Close a store whose object was dropped. Runs on the checkpointer's own thread."""
    # First, or a write that is acknowledged during the flush has nowhere to go.
    engine.shut("the store was dropped without a close")
    engine.checkpointer.run()
    engine.checkpointer.detach()
    close(engine, drain=False, timeout=0.0)


def close_at_exit(engine: Engine) -> None:
    """Close a store that was left open. Runs on the checkpointer's own thread.

    Writers are shut out, or a write that is acknowledged during the flush has nowhere to go.
    Then the log, for the exit does not wait for ever. A flush only where something has no other
    home than LMDB: what an unlogged table holds, and that it was cleared.
    """
    engine.shut("the interpreter has ended")
    try:
        engine.log.sync()
    except (StrandlineError, OSError):
        pass  # said by close(), if it is still so
    unlogged = engine.unlogged_tables()
    if any(state.entries or state.frozen or state.layer.cleared for state in unlogged):
        engine.checkpointer.run()
    engine.checkpointer.detach()
    close(engine, drain=False, timeout=0.0)
