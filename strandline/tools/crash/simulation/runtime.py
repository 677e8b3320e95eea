"""`HandRuntime`: no threads; a clock that moves when somebody sleeps; randomness from a seed."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable
from typing import Any, Final

from strandline.wal.runtime import Lock, Mailbox, OwnedLock, SystemRuntime, Worker

_JUMPS: Final = 0.05
"""How often a wall clock that jumps is set between two looks at it."""
_YEAR_NS: Final = 365 * 86_400 * 10**9


class WallClock:
    """The time of day, which goes on with another clock, and may be set to any other time."""

    def __init__(self, seed: int | str, *, jumps: bool) -> None:
        self._choose = random.Random(f"wall/{seed}") if jumps else None
        self._base = 1_700_000_000 * 10**9

    def time_ns(self, now: float) -> int:
        """Return nanoseconds since 1970, `now` seconds after it was set."""
        choose = self._choose
        if choose is not None and choose.random() < _JUMPS:
            # A machine without a clock begins in 1970; a wrong year is soon typed.
            self._base = choose.choice((0, self._base + 1, choose.randrange(100 * _YEAR_NS)))
        return self._base + int(now * 1e9)


class HandRuntime:
    """A runtime without threads of its own, with a clock and a random source from a seed."""

    def __init__(
        self, seed: int = 0, *, native_locks: bool = False, clock_jumps: bool = False
    ) -> None:
        """`native_locks` takes the locks of a real process, and with them its short ways in C.

        `clock_jumps` lets the wall clock be set now and then, to any time.
        """
        self.now = 1000.0
        """What the clock says, in seconds; move it by hand."""
        self.while_asleep: Callable[[], object] | None = None
        """What the threads of a real process would do while this one sleeps."""
        self._awaited = False
        self._native_locks = native_locks
        self._random = random.Random(seed)
        self._wall = WallClock(seed, jumps=clock_jumps)

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self._wall.time_ns(self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.while_asleep is not None and not self._awaited:
            self._awaited = True
            try:
                self.while_asleep()
            finally:
                self._awaited = False

    def random_bytes(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def random(self) -> float:
        return self._random.random()

    def lock(self) -> Lock:
        return threading.Lock()

    def owned_lock(self) -> OwnedLock:
        if self._native_locks:
            return SystemRuntime().owned_lock()
        return threading.RLock()  # type: ignore[return-value]  # as in the real runtime

    def mailbox(self) -> Mailbox:
        return queue.SimpleQueue()

    def spawn(self, name: str, target: Callable[..., None], *args: Any) -> Worker:
        return _NoThread()


class _NoThread:
    """Stands for a thread that has ended."""

    def join(self, timeout: float | None = None) -> None:
        """Return at once."""

    def is_alive(self) -> bool:
        return False
