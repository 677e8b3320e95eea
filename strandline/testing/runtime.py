"""`BackgroundRuntime`: no threads; what they would do is done between the steps of a program.

Where a thread of the program is about to take a lock of the store and holds none, another
thread could run in a real process. Here, at seeded choice, the work of one does: the log is
written, synced, flushed. So a write that was acknowledged before it was in the log can be
cut off from the next one, and the same seed cuts in the same places.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.runtime import OwnedLock


class BackgroundRuntime(HandRuntime):
    """A runtime that calls `behind` wherever another thread could run.

    `now` is what its clock says at first: time goes on over a crash.
    """

    def __init__(self, seed: int, now: float) -> None:
        super().__init__(seed)
        self.now = now
        self.behind: Callable[[], object] | None = None
        """What may happen there; never called from within itself, nor under a lock."""
        self._thread = _Thread()

    def owned_lock(self) -> OwnedLock:
        """Return a lock that lets others go first."""
        return _YieldingLock(super().owned_lock(), self)

    def enter(self) -> None:
        """A thread is about to take a lock."""
        thread = self._thread
        if self.behind is None or thread.held or thread.behind:
            return
        thread.behind = True
        try:
            self.behind()
        finally:
            thread.behind = False

    def count(self, locks: int) -> None:
        """A thread has taken a lock, or given one back."""
        self._thread.held += locks


class _Thread(threading.local):
    """What is known of one thread of the program."""

    held = 0
    behind = False


class _YieldingLock:
    """A re-entrant lock that tells its runtime who takes it."""

    def __init__(self, lock: OwnedLock, runtime: BackgroundRuntime) -> None:
        self._lock = lock
        self._runtime = runtime

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._runtime.enter()
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._runtime.count(1)
        return taken

    def release(self) -> None:
        self._lock.release()
        self._runtime.count(-1)

    def _is_owned(self) -> bool:
        return self._lock._is_owned()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.release()
