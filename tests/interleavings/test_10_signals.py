"""Real SIGINTs at random moments, with the store's threads and a real disk.

What the sweeps over single steps cannot show: interrupts of blocking calls, several in one
write, and threads that are really elsewhere at the time.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability, StrandlineError
from tests.support import children

LEVELS = [Durability.SYNC, Durability.BUFFERED, Durability.ASYNC]
SECONDS = 1.5
OPTIONS: dict[str, Any] = {
    "segment_bytes": 64 << 10,
    "group_bytes": 4 << 10,
    "max_log_bytes": 16 << 20,
    "map_bytes": 64 << 20,
    "sync_interval": 0.05,
    "flush_strategy": None,
}


class Writer:
    """Writes keys of its own over and over, and notes what each of them may hold."""

    def __init__(self, db: strandline.Store, name: bytes, seed: int) -> None:
        self.maybe: dict[bytes, set[bytes]] = {}
        """What a key can hold: the last value that was acknowledged, and what came after."""
        self.counted = self.tried = 0
        self.writes = 0
        self._db = db
        self._name = name
        self._random = random.Random(seed)

    def step(self) -> None:
        """Make one write. It is noted before it is tried, and again when it returned."""
        number, level = self.writes, self._random.choice(LEVELS)
        self.writes += 1
        value = b"%d" % number
        match self._random.randrange(5):
            case 0:
                self.tried += 1
                self._db.incr(self._name, durability=level)
                self.counted += 1
            case 1:
                keys = [b"%s-batch-%d" % (self._name, i) for i in range(3)]
                self._note(keys, value)
                with self._db.batch(durability=level) as batch:
                    for key in keys:
                        batch.put(key, value)
                self._acknowledged(keys, value)
            case 2:
                keys = [b"%s-large" % self._name]
                large = value * 3000
                self._note(keys, large)
                self._db.put(keys[0], large, durability=level)
                self._acknowledged(keys, large)
            case _:
                keys = [b"%s-%d" % (self._name, number % 20)]
                self._note(keys, value)
                self._db.put(keys[0], value, durability=level)
                self._acknowledged(keys, value)

    def _note(self, keys: list[bytes], value: bytes) -> None:
        for key in keys:
            self.maybe.setdefault(key, {b""}).add(value)

    def _acknowledged(self, keys: list[bytes], value: bytes) -> None:
        self.maybe |= {key: {value} for key in keys}

    def check(self, db: strandline.Store) -> None:
        """Assert that a store holds what was acknowledged, and all of a batch or nothing."""
        for key, values in self.maybe.items():
            assert db.get(key, b"") in values, key
        batch = {db.get(b"%s-batch-%d" % (self._name, i)) for i in range(3)}
        assert len(batch) == 1, f"part of a batch: {batch}"
        assert self.counted <= int(db.get(self._name, b"0")) <= self.tried


def _write_under_fire(path: str, seed: int) -> tuple[Writer, Writer, int]:
    """Write from two threads while signals strike this one; leave the store open."""
    db = strandline.open(path, **OPTIONS)
    mine, other = Writer(db, b"mine", seed), Writer(db, b"other", seed + 1)
    over = threading.Event()
    armed = [False]
    hits = 0

    def strike(number: int, frame: object) -> None:
        if armed[0]:
            raise KeyboardInterrupt

    def fire() -> None:
        pauses = random.Random(seed + 2)
        while not over.is_set():
            time.sleep(pauses.uniform(0.0001, 0.003))
            os.kill(os.getpid(), signal.SIGINT)

    def keep_writing() -> None:
        while not over.is_set():
            other.step()

    signal.signal(signal.SIGINT, strike)
    threads = [threading.Thread(target=target) for target in (fire, keep_writing)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            armed[0] = True
            mine.step()
            armed[0] = False
        except KeyboardInterrupt:
            armed[0] = False
            hits += 1
    over.set()
    for thread in threads:
        thread.join()
    db.sync()
    mine.check(db)
    other.check(db)
    mine._db = other._db = None  # type: ignore[assignment]
    return mine, other, hits


@pytest.mark.parametrize("seed", [1, 2])
def test_random_interrupts_of_a_writing_main_thread(tmp_path: Path, seed: int) -> None:
    """Nobody hangs; after the process's death all that it had synced is there, and whole."""
    path = str(tmp_path / "data")
    task: Callable[[], Any] = lambda: _write_under_fire(path, seed)  # noqa: E731
    mine, other, hits = children.run(task, seconds=60).unwrap()
    assert hits > 20
    assert min(mine.writes, other.writes) > 20
    with strandline.open(path, **OPTIONS) as db:
        mine.check(db)
        other.check(db)
        assert db.put(b"next", b"1") is not None


def test_interrupt_that_ends_the_program(tmp_path: Path) -> None:
    """Ctrl-C ends a `with` block: the store is closed in order, and nothing is replayed."""
    path = str(tmp_path / "data")

    def task() -> int:
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        number = 0
        try:
            with strandline.open(path, durability=Durability.ASYNC, **OPTIONS) as db:
                timer.start()
                while True:
                    db.put(b"k%d" % (number % 10), b"%d" % number)
                    number += 1
        except KeyboardInterrupt:
            pass
        return number

    last = children.run(task, seconds=60).unwrap() - 1
    with strandline.open(path, **OPTIONS) as db:
        assert db.recovery_report.clean
        assert int(db.get(b"k%d" % (last % 10))) in (last, last + 10)
    with pytest.raises(StrandlineError):
        db.put(b"k", b"v")
