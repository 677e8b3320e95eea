"""The runtime protocol: clock, random source, threads and locks.

Nothing in the engine calls `time`, `random` or `threading` directly where the outcome
depends on it, so that a whole run can be simulated from a seed. `SystemRuntime` is
the real one.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from strandline.native import native


class Lock(Protocol):
    """A mutual exclusion lock, as `threading.Lock` has it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False if it could not be had within `timeout` seconds."""

    def release(self) -> None:
        """Give the lock back."""

    def __enter__(self) -> bool:
        """Take the lock."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Give the lock back."""


class OwnedLock(Lock, Protocol):
    """A re-entrant lock that knows whether the calling thread holds it.

    It is never taken twice on purpose: the engine asks `_is_owned` to tell re-entry
    (a signal handler, a finalizer) from contention, and refuses it.
    """

    def _is_owned(self) -> bool:
        """Tell whether the calling thread holds it."""


class Mailbox(Protocol):
    """Where a thread sleeps until it is woken. `put` is called from finalizers and handlers too."""

    def put(self, item: None, /) -> None:
        """Wake the thread, or keep it from falling asleep."""

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        """Sleep until woken; raises `queue.Empty` after `timeout` seconds."""

    def empty(self) -> bool:
        """Tell whether nobody has woken it since it last fell asleep."""


class Worker(Protocol):
    """A background thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or `timeout` seconds."""

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""


class Runtime(Protocol):
    """Everything that a run takes from its surroundings beside the disk."""

    def monotonic(self) -> float:
        """Return seconds from a clock that never goes back."""

    def time_ns(self) -> int:
        """Return the wall clock: nanoseconds since 1970-01-01 UTC."""

    def sleep(self, seconds: float) -> None:
        """Let other threads run for at least `seconds`."""

    def random_bytes(self, length: int) -> bytes:
        """Return unpredictable bytes, for salts and identifiers."""

    def random(self) -> float:
        """Return a number in [0, 1), for jitter."""

    def lock(self) -> Lock:
        """Make a lock that any thread may release."""

    def owned_lock(self) -> OwnedLock:
        """Make a lock that knows its owner."""

    def mailbox(self) -> Mailbox:
        """Make a mailbox for one thread to sleep at."""

    def spawn(self, name: str, target: Callable[..., None], *args: Any) -> Worker:
        """Start a daemon thread."""


class SystemRuntime:
    """The runtime of a real process."""

    def __init__(self) -> None:
        self.monotonic = time.monotonic
        self.time_ns = time.time_ns
        self.sleep = time.sleep
        self.random_bytes = os.urandom
        self.random = random.random
        self.lock: Callable[[], Lock] = threading.Lock
        # Re-entrant, for a finalizer can wake a thread in the middle of anything.
        self.mailbox: Callable[[], Mailbox] = queue.SimpleQueue

    def owned_lock(self) -> OwnedLock:
        """Make a lock that knows its owner."""
        if native is not None:
            lock: OwnedLock = native.OwnedLock()
            return lock
        return threading.RLock()  # type: ignore[return-value]  # knows its owner, untyped

    def spawn(self, name: str, target: Callable[..., None], *args: Any) -> Worker:
        """Start a daemon thread; it never keeps the interpreter alive."""
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        return thread
