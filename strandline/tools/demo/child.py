"""The process that writes, and is killed in the middle of it.

One thread, so that the order of the operations is that of the input. It knows where to
begin and nothing of what is planned for it. At the end it waits to be told to close, so
that a late kill meets an open store as well.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import strandline
from strandline import FlushStats, HybridFlush, Store
from strandline.tools.demo import messages
from strandline.tools.demo.messages import LEVELS
from strandline.tools.demo.source import read_lines
from strandline.tools.demo.workload import CODECS, Operation, Position, operations

SEGMENT_BYTES: Final = 8 << 20
"""Small segments, so that the log is seen to grow and to be given back."""
CHECKPOINT_AGE: Final = 2.0
_SAMPLE_EVERY: Final = 0.1


class WatchedFlush:
    """The default strategy with another age, which asks for a sample after each checkpoint."""

    def __init__(self) -> None:
        self.sample_due = 0.0
        self._hybrid = HybridFlush(max_age=CHECKPOINT_AGE)

    def should_flush(self, stats: FlushStats) -> bool:
        """Return True at the first limit that is reached."""
        return self._hybrid.should_flush(stats)

    def on_flush_complete(self, stats: FlushStats) -> None:
        """Have the writing thread take a sample at its next operation."""
        self._hybrid.on_flush_complete(stats)
        self.sample_due = 0.0


def open_for_writing(path: Path, strategy: WatchedFlush) -> Store:
    """Open the store as the demonstration uses it."""
    return strandline.open(
        path,
        segment_bytes=SEGMENT_BYTES,
        flush_strategy=strategy,
    )


@dataclass(slots=True)
class Tally:
    """Calls of one level, and the seconds spent in them."""

    count: int = 0
    seconds: float = 0.0


class Writer:
    """Plays the stream into a store and tells about it."""

    def __init__(self, store: Store, strategy: WatchedFlush, output: int) -> None:
        self._store = store
        self._strategy = strategy
        self._output = output
        self._tallies = {level: Tally() for level in LEVELS}
        tables = {name: store.table(name, codec=codec) for name, codec in CODECS.items()}
        self._calls: dict[tuple[str, str], Callable[..., Any]] = {
            (name, verb): getattr(table, verb)
            for name, table in tables.items()
            for verb in ("append", "incr", "put")
        }

    def tell(self, message: messages.Message) -> None:
        """Send a measurement."""
        os.write(self._output, messages.encode(message))

    def sample(self, event: int) -> None:
        """Send how the run goes."""
        now = time.monotonic()
        tallies = self._tallies.values()
        counts = [tally.count for tally in tallies]
        seconds = [tally.seconds for tally in tallies]
        self._strategy.sample_due = now + _SAMPLE_EVERY
        self.tell(messages.Sample.of(now, event, counts, seconds, self._store.stats()))

    def play(self, lines: list[bytes], start: Position) -> None:
        """Write everything after `start`; acknowledge each operation when it has returned."""
        output, clock = self._output, time.monotonic
        tallies, strategy = self._tallies, self._strategy
        done = start.steps
        for event in range(start.event, len(lines)):
            for operation in operations(event, lines[event])[done:]:
                began = clock()
                self._write(operation)
                ended = clock()
                done += 1
                os.write(output, b"%d %d\n" % (event, done))
                tally = tallies[operation.level]
                tally.count += 1
                tally.seconds += ended - began
                if ended >= strategy.sample_due:
                    self.sample(event)
            done = 0

    def _write(self, operation: Operation) -> None:
        table, verb, key, value, level = operation
        call = self._calls[table, verb]
        if verb == "append":
            call(value, durability=level)
        else:
            call(key, value, durability=level)


def main(store_path: str, data_path: str, rows: str, event: str, steps: str) -> None:
    """Go on from a position to the end of the input, and close when told to."""
    lines = read_lines(Path(data_path), int(rows))
    strategy = WatchedFlush()
    with open_for_writing(Path(store_path), strategy) as store:
        writer = Writer(store, strategy, sys.stdout.fileno())
        writer.tell(messages.Started(time.monotonic(), store.stats().last_lsn + 1))
        writer.play(lines, Position(int(event), int(steps)))
        writer.sample(len(lines))
        writer.tell(messages.Finished(time.monotonic()))
        if sys.stdin.buffer.readline() != messages.CLOSE:
            return
        store.flush()
        writer.sample(len(lines))
        began = time.monotonic()
    writer.tell(messages.Closed(time.monotonic(), time.monotonic() - began))


if __name__ == "__main__":
    main(*sys.argv[1:])
