"""The two threads of a log: one drains, one keeps house.

Both sleep without a timeout when there is nothing to do, and hold no reference to the
store: only to the log. Whoever finds them asleep wakes them once.

A wake-up is queued before the flag that says so is set. The other way round, an
interrupt between the two would leave a thread asleep for good.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Final

from strandline.errors import StrandlineError
from strandline.wal.log import Log
from strandline.wal.runtime import Worker

_RETRY: Final = 0.25
"""Seconds between attempts while the disk is full."""
_BRIEFEST: Final = 0.0002
"""Seconds that the housekeeping sleeps at least, so that others run while it is busy."""


class LogThreads:
    """Starts and stops the threads of one log."""

    def __init__(self, log: Log, on_tick: Callable[[], None]) -> None:
        """Start both threads. `on_tick` is called at each round of housekeeping."""
        self._log = log
        self._on_tick = on_tick
        self._stopping = False
        self._drain = log.runtime.mailbox()
        self._tick = log.runtime.mailbox()
        self._interval = min(0.25, max(0.005, log.sync_interval / 4))
        log.wake_drainer = lambda: self._drain.put(None)
        log.wake_ticker = lambda: self._tick.put(None)
        self._workers: list[Worker] = [
            log.runtime.spawn("strandline-log", self._drain_loop),
            log.runtime.spawn("strandline-sync", self._tick_loop),
        ]

    def stop(self, timeout: float) -> None:
        """Ask both to end and wait up to `timeout` seconds for each."""
        self._stopping = True
        self._drain.put(None)
        self._tick.put(None)
        for worker in self._workers:
            worker.join(timeout)

    def _drain_loop(self) -> None:
        log = self._log
        while True:
            self._drain.get()
            while not self._stopping:
                try:
                    self._drain.get(timeout=log.log_interval)  # cut short by stop()
                except queue.Empty:
                    pass
                try:
                    log.drain()
                except (StrandlineError, OSError):
                    log.runtime.sleep(_RETRY)  # writers are told; acknowledged ones wait for room
                with log.mutex:
                    if log.failure or (not log.closed and log.group.is_empty()):
                        log.draining = False
                        break
            if self._stopping:
                return

    def _tick_loop(self) -> None:
        log = self._log
        while not self._stopping:
            self._tick.get()
            idle = False
            while not idle and not self._stopping:
                try:
                    # Not later than what is oldest falls due: the interval is a promise.
                    self._tick.get(timeout=max(_BRIEFEST, min(self._interval, log.sync_due())))
                except queue.Empty:
                    pass
                if self._stopping:
                    return
                idle = self._round()
            log.ticking = False
            if log.failure is None and log.has_unsynced():
                log.wake_ticker()

    def _round(self) -> bool:
        log = self._log
        self._on_tick()
        try:
            return log.housekeep()
        except (StrandlineError, OSError):
            log.runtime.sleep(_RETRY)
            return log.failure is not None
