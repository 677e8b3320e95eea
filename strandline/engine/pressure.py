"""Back-pressure: how full the memory and the log budget are, and what writers do about it.

Below 60 % of both budgets a writer does not notice. From there on each write is delayed,
more the fuller it gets; at 100 % it waits for room, up to `stall_timeout`, or is refused
at once. All of that happens before the write is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from strandline.errors import BackpressureError
from strandline.wal.log_stats import Samples

if TYPE_CHECKING:
    from strandline.engine.engine import Engine

FLUSH_AT: Final = 0.5
"""Share of a budget at which a flush begins, whatever the strategy says."""
DELAY_FROM: Final = 0.6
_SECONDS_PER_BYTE: Final = 50e-9
"""Delay at 80 % of the budget, where the curve is 1: a rate of 20 MB/s."""
_LONGEST_DELAY: Final = 0.1
_SHORTEST_SLEEP: Final = 0.001
_POLL: Final = 0.002


class Pressure:
    """Measures the budgets of one store and holds writers back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owed = 0.0
        self.stalls = Samples()
        """Seconds that writers were held back for, a sample a delay."""
        self.rejected = 0
        self.waiting = 0
        """Writers that wait for room at this moment."""

    def ratio(self) -> float:
        """Return how full the fuller of the two budgets is."""
        engine = self._engine
        memory = engine.index.dirty_bytes() / engine.options.max_dirty_bytes
        log = engine.log.unstored_bytes() / engine.options.max_log_bytes
        return max(memory, log)

    def admit(self, need: int) -> None:
        """Hold the caller back as long as the budgets ask for; no lock may be held.

        Raises BackpressureError when there is no room within `stall_timeout`.
        """
        engine = self._engine
        ratio = self.ratio()
        if ratio < DELAY_FROM:
            engine.relax()
            return
        engine.checkpointer.wake()
        if ratio < 1.0:
            curve = (ratio - DELAY_FROM) / (1.0 - ratio)
            self._owed += min(_LONGEST_DELAY, need * _SECONDS_PER_BYTE * curve)
            if self._owed >= _SHORTEST_SLEEP:
                delay, self._owed = min(self._owed, _LONGEST_DELAY), 0.0
                engine.runtime.sleep(delay)
                self.stalls.add(delay)
            return
        if engine.options.overload == "reject" or engine.options.stall_timeout == 0:
            self.rejected += 1
            raise BackpressureError(self._message("the write was refused at once"))
        self._wait()

    def _wait(self) -> None:
        engine = self._engine
        started = engine.runtime.monotonic()
        self.waiting += 1
        try:
            while self.ratio() >= 1.0:
                waited = engine.runtime.monotonic() - started
                engine.check_open()
                if waited >= engine.options.stall_timeout:
                    self.rejected += 1
                    raise BackpressureError(self._message(f"waited {waited:.1f} s for room"))
                engine.checkpointer.wake()
                engine.log.wake_ticker()
                engine.runtime.sleep(_POLL)
        finally:
            self.waiting -= 1
            self.stalls.add(engine.runtime.monotonic() - started)

    def _message(self, what: str) -> str:
        engine = self._engine
        return (
            f"{engine.path}: {what}; nothing was logged. Dirty "
            f"{engine.index.dirty_bytes():,} of max_dirty_bytes {engine.options.max_dirty_bytes:,}"
            f", log {engine.log.unstored_bytes():,} of max_log_bytes "
            f"{engine.options.max_log_bytes:,}. "
            f"{engine.checkpointer.trouble() or 'Flushing goes on.'} Close snapshots that are no "
            "longer needed, or raise the budget"
        )
