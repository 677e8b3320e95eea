"""A process that writes at random and is killed with SIGKILL, and what must be left.

What the child does follows from a seed, so the parent knows every operation in advance:
writer `w` of `WRITERS` makes its own row of operations on its own keys, over two tables,
at all levels, single ones, batches over both tables and counters. After each call that
returned it reports (writer, number, last LSN) over a pipe. Reports can be lost with the
child; none is made up.

After the kill the store is opened again, and

- what is there is, for each writer, the state after the first P of its operations,
- P covers every SYNC and BUFFERED operation that was reported,
- no operation is there in half, no counter is out of line, and no value that was not written,
- every reported LSN up to the last one recovered is there, and none above it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import strandline
from strandline import Durability

REPORT = struct.Struct("<HIQ")
LEVELS = (Durability.SYNC, Durability.BUFFERED, Durability.ASYNC)
MOST_OPERATIONS = 200_000
KEYS = 40
OPTIONS: dict[str, Any] = {
    "segment_bytes": 1 << 16,
    "max_log_bytes": 1 << 22,
    "group_bytes": 1 << 13,
    "max_dirty_bytes": 1 << 20,
    "disk_reserve_bytes": 0,
    "flush_strategy": strandline.HybridFlush(max_count=300, max_age=0.05, min_interval=0.01),
}

State = dict[tuple[int, bytes], bytes]
"""Table number (0 is the default one) and key, to value."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: a batch is a list of writes, a counter has an amount."""

    level: Durability
    writes: list[tuple[int, bytes, bytes | None]]
    counter: tuple[bytes, int] | None = None


def steps(seed: int, writer: int) -> Iterator[Step]:
    """Yield what a writer does, for ever; the same for the same seed."""
    rng = random.Random(seed * 1000 + writer)
    number = 0
    while True:
        number += 1
        level = rng.choices(LEVELS, (1, 4, 8))[0]
        kind = rng.random()
        if kind < 0.15:
            yield Step(
                level, [], (b"w%d-count%d" % (writer, rng.randrange(3)), rng.randrange(1, 9))
            )
            continue
        count = rng.randrange(2, 12) if kind < 0.35 else 1
        writes: list[tuple[int, bytes, bytes | None]] = []
        for at in range(count):
            key = b"w%d-%02d" % (writer, rng.randrange(KEYS))
            value = b"%d.%d.%d." % (seed, number, at) + bytes(rng.randrange(200))
            writes.append((rng.randrange(2), key, None if rng.random() < 0.2 else value))
        yield Step(level, writes)


def apply_step(state: State, step: Step) -> None:
    """Do in a model what the step does in the store."""
    if step.counter is not None:
        key, amount = step.counter
        state[0, key] = b"%d" % (int(state.get((0, key), b"0")) + amount)
    for table, key, value in step.writes:
        if value is None:
            state.pop((table, key), None)
        else:
            state[table, key] = value


def run_child(path: str, seed: int, writers: int, pipe: int) -> None:
    """Write until killed, reporting each operation that was acknowledged."""
    db = strandline.open(path, **OPTIONS)
    tables = [db, db.table("other")]

    def write(writer: int) -> None:
        for number, step in enumerate(steps(seed, writer)):
            lsn = 0
            if step.counter is not None:
                db.incr(*step.counter, durability=step.level)
            elif len(step.writes) == 1:
                table, key, value = step.writes[0]
                if value is None:
                    lsn = tables[table].delete(key, durability=step.level) or 0
                else:
                    lsn = tables[table].put(key, value, durability=step.level) or 0
            else:
                with db.batch(durability=step.level) as batch:
                    for table, key, value in step.writes:
                        into = batch.table(tables[table])
                        into.delete(key) if value is None else into.put(key, value)
                lsn = batch.lsn or 0
            os.write(pipe, REPORT.pack(writer, number, lsn))
            if number > MOST_OPERATIONS:
                return

    threads = [threading.Thread(target=write, args=(w,)) for w in range(1, writers)]
    for thread in threads:
        thread.start()
    write(0)


@dataclass(slots=True)
class Cycles:
    """A store that goes through kill after kill, and the model of what must be in it."""

    path: Path
    rng: random.Random
    state: State = field(default_factory=dict)
    cycles: int = 0
    operations: int = 0
    acknowledged: int = 0
    lost_weak: int = 0
    """Acknowledged ASYNC operations that were lost, as they may be."""

    def cycle(self) -> None:
        """Let a child write, kill it, open the store, and check what is there."""
        seed, writers = self.rng.randrange(1 << 40), self.rng.choice((1, 1, 4))
        reports = self._kill_one(seed, writers)
        with strandline.open(self.path, **OPTIONS) as db:
            found: State = {(0, k): v for k, v in db.items()}
            found.update({(1, k): v for k, v in db.table("other").items()})
            last_lsn = db.recovery_report.last_lsn
        merged: State = {}
        for writer in range(4):
            prefix = b"w%d-" % writer
            before = {k: v for k, v in self.state.items() if k[1].startswith(prefix)}
            after = {k: v for k, v in found.items() if k[1].startswith(prefix)}
            done = [(number, lsn) for who, number, lsn in reports if who == writer]
            merged.update(self._check(before, after, seed, writer, done, last_lsn))
        assert merged == found, "something is there that no writer wrote"
        self.state = merged
        self.cycles += 1

    def _check(
        self,
        before: State,
        after: State,
        seed: int,
        writer: int,
        done: list[tuple[int, int]],
        last_lsn: int,
    ) -> State:
        """Return the state after the prefix that was recovered, which must be long enough."""
        lsn_of = dict(done)
        reported = max(lsn_of, default=-1) + 1
        least = 0
        state, candidates = dict(before), []
        for number, step in enumerate(steps(seed, writer)):
            if number <= reported + 1 and state == after:
                candidates.append(number)
            if number > reported:
                break
            if number < reported and step.level is not Durability.ASYNC:
                least = number + 1
            apply_step(state, step)
        kept = [number for number in candidates if number >= least]
        assert kept, (
            f"seed {seed}, writer {writer}: {reported} operations were reported, {least} of them "
            f"must be there; the state fits {candidates or 'no prefix'}"
        )
        length = kept[-1]
        for number, lsn in lsn_of.items():
            if lsn and lsn <= last_lsn:
                assert number < length, (
                    f"seed {seed}: LSN {lsn} is at or below {last_lsn}, and lost"
                )
        self.operations += length
        self.acknowledged += reported
        self.lost_weak += max(0, reported - length)
        return after

    def _kill_one(self, seed: int, writers: int) -> list[tuple[int, int, int]]:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read_end)
                run_child(str(self.path), seed, writers, write_end)
            finally:
                os._exit(1)
        os.close(write_end)
        data = os.read(read_end, 1 << 16)  # it has begun
        killer = threading.Timer(self.rng.random() ** 2 * 0.12, os.kill, (pid, signal.SIGKILL))
        killer.start()
        while piece := os.read(read_end, 1 << 20):
            data += piece
        os.close(read_end)
        killer.join()
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"seed {seed}: the child ended by itself: {status}"
        usable = len(data) - len(data) % REPORT.size
        return list(REPORT.iter_unpack(data[:usable]))


def run_cycles(path: Path, count: int, seed: int, tick: Any = None) -> Cycles:
    """Go through `count` kills, on a new store every 50, and return what was seen."""
    rng = random.Random(seed)
    run = Cycles(path / "0", rng)
    started = time.monotonic()
    for number in range(count):
        if number % 50 == 0:
            run.path, run.state = path / str(number // 50), {}
            if number:
                shutil.rmtree(path / str(number // 50 - 1))
        run.cycle()
        if tick is not None:
            tick(run, time.monotonic() - started)
    return run
