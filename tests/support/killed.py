"""A child process that writes until it is killed, and what must be left of its work.

    child   opens the store, takes the steps of a script, acknowledges each over a pipe
    parent  kills it at a random moment, opens the store, holds it against the script

A script follows from its seed, so the parent knows every step, also the one that was on
its way. SIGKILL respects the levels SYNC and BUFFERED: what was acknowledged at these must
be there, and what is there must be a prefix: all steps up to the recovered LSN and n
above it, batches whole. One store goes through many cycles, so that recycled segments,
skipped LSNs and recoveries that were killed themselves are part of what is recovered from.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import strandline
from strandline import HybridFlush, Store
from tests.api.stores import Always, Never
from tests.support.script import (
    THREADED_TABLES,
    Content,
    Model,
    StepsOfOneThread,
    content_by_thread,
    steps,
)

_MESSAGE = struct.Struct("<BIq")
_OPENED = 255
_MOST_STEPS = 4000
PER_STORE = 25
_HANG_SECONDS = 60


@dataclass
class Tally:
    """What was done and seen over many cycles."""

    cycles: int = 0
    killed_while_opening: int = 0
    killed_in_recovery: int = 0
    acknowledged: int = 0
    recovered: int = 0
    replayed: int = 0
    lost: int = 0
    """ASYNC steps that were acknowledged and are gone, as they may be."""
    in_flight: int = 0
    """Steps that were there without having been acknowledged."""
    torn: int = 0
    sealed_anew: int = 0
    checks: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass
class Ledger:
    """What a child said before it was killed."""

    first_lsn: int | None = None
    """The first LSN that it could issue, None if it did not get as far as to open the store."""
    told: dict[int, list[int]] = field(default_factory=dict)
    """By thread: what each acknowledged step told, its LSN or a counter's value."""


class Cycles:
    """Cycles over one store. `run` makes one, and raises AssertionError at the first fault."""

    def __init__(self, path: Path, seed: int, *, threads: int = 1) -> None:
        self.path = path
        self.seed = seed
        self.threads = threads
        self.tally = Tally()
        self._random = random.Random(seed)
        self._model = Model()
        self._highest_lsn = 0
        """No LSN up to here may be issued again."""
        self._own: list[Content] = [{} for _ in range(threads)]
        self._counted: dict[bytes, int] = {}

    def run(self) -> None:
        """Let a child write, kill it, recover, compare; leave the store closed."""
        self.tally.cycles += 1
        seed = self._random.randrange(1 << 48)
        work = _write_steps if self.threads == 1 else _write_in_threads
        patience = self._random.choice([0.01, 0.03, 0.08]) * self._random.random()
        ledger = _killed(lambda tell: work(self.path, seed, self.threads, tell), patience)
        while self._random.random() < 0.2:
            self.tally.killed_in_recovery += 1
            brief = self._random.random() * 0.02
            _killed(lambda tell: _recover(self.path, seed), brief, after_opening=False)
        db = _open(self.path, seed + 1)
        try:
            self._look(db, ledger, seed)
        finally:
            db.close(drain=self._random.random() < 0.5)

    def _look(self, db: Store, ledger: Ledger, seed: int) -> None:
        report = db.recovery_report
        assert not report.damages, report.summary()
        assert not report.gaps, report.summary()
        assert not report.given_up, report.summary()
        self.tally.torn += report.torn_tail is not None
        self.tally.sealed_anew += not report.clean
        self.tally.replayed += report.operations_replayed
        if ledger.first_lsn is None:
            self.tally.killed_while_opening += 1
        else:
            assert ledger.first_lsn > self._highest_lsn, "an LSN was issued twice"
        if self.threads == 1:
            self._look_at_steps(db, ledger, seed)
        else:
            self._look_at_threads(db, ledger, seed)
        self.tally.checks += 1
        assert db.engine.log.next_lsn() > self._highest_lsn, "an LSN would be issued twice"
        self._highest_lsn = db.engine.log.next_lsn() - 1

    # ---- one thread: the whole store is a prefix of the script

    def _look_at_steps(self, db: Store, ledger: Ledger, seed: int) -> None:
        model = self._model
        model.begin_unlogged()
        acknowledged = len(ledger.told.get(0, []))
        taken = 0
        if ledger.first_lsn is not None:
            recovered = max(db.recovery_report.last_lsn, ledger.first_lsn - 1)
            model.lsn = promised = ledger.first_lsn - 1
            kept: Model | None = None
            for number, step in enumerate(islice(steps(seed), acknowledged + 1)):
                before, unlogged = model.copy(), model.unlogged_since
                step.apply(model)
                if number == acknowledged:  # it was on its way and may not have happened
                    model.unlogged_since = unlogged + model.unlogged_since
                elif step.survives and (step.covers_all or model.lsn > before.lsn):
                    # One that found nothing to do says nothing of the weaker ones before it.
                    promised = model.lsn
                if kept is None and model.lsn > recovered:
                    assert before.lsn == recovered, f"step {number}, {step}, was recovered in half"
                    kept, taken = before, number
            assert promised <= recovered, (
                f"LSN {promised} was acknowledged, and only {recovered} are there"
            )
            self._highest_lsn = max(self._highest_lsn, model.lsn, recovered)
            candidates = model.unlogged_since
            if kept is None:
                kept, taken = model, acknowledged
            self._model, model = kept, kept
            model.unlogged_since = candidates
        model.compare(db)
        model.take_unlogged(db)
        self.tally.acknowledged += acknowledged
        self.tally.recovered += taken
        self.tally.in_flight += max(0, taken - acknowledged)
        self.tally.lost += max(0, acknowledged - taken)

    # ---- several threads: each thread's own keys are a prefix of its script

    def _look_at_threads(self, db: Store, ledger: Ledger, seed: int) -> None:
        recovered = db.recovery_report.last_lsn
        found = content_by_thread(db)
        begun = ledger.first_lsn is not None
        attempts, least = Counter(self._counted), Counter(self._counted)
        answers: dict[bytes, list[int]] = {}
        for thread in range(self.threads):
            told = ledger.told.get(thread, [])
            script = StepsOfOneThread(seed, thread, dict(self._own[thread]))
            kept, lost, in_flight = dict(script.state), False, None
            for number in range(len(told) + begun):
                step, answer = script.take(), told[number] if number < len(told) else None
                if step.counter is not None:
                    attempts[step.counter] += 1
                    if answer is not None:
                        answers.setdefault(step.counter, []).append(answer)
                        if step.survives:
                            least[step.counter] = max(least[step.counter], answer)
                elif answer is None:
                    in_flight = dict(script.state)
                elif answer <= recovered:
                    kept = dict(script.state)
                    self.tally.recovered += 1
                else:
                    lost = True
                    assert not step.survives, (
                        f"thread {thread}, step {number}: LSN {answer} was acknowledged at "
                        f"{step.level}, and only {recovered} are there"
                    )
                    self.tally.lost += 1
            own = found.get(thread, {})
            if own != kept:
                assert not lost, f"thread {thread} is not as LSN {recovered} left it"
                assert own == in_flight, f"thread {thread} is not a prefix of its steps"
                self.tally.in_flight += 1
            self._own[thread] = own
            self.tally.acknowledged += len(told)
            self._highest_lsn = max([self._highest_lsn, recovered, *told])
        self._count(db, attempts, least, answers)

    def _count(
        self,
        db: Store,
        attempts: Counter[bytes],
        least: Counter[bytes],
        answers: dict[bytes, list[int]],
    ) -> None:
        for values in answers.values():
            assert len(values) == len(set(values)), "a counter gave one answer twice"
        names = db.tables()
        items = db.table("counters").items() if "counters" in names else ()
        self._counted = {key: int(value) for key, value in items}
        for key, most in attempts.items():
            assert least[key] <= self._counted.get(key, 0) <= most, f"counter {key!r} is off"


Tell = Callable[[int, int, int], None]
"""Says over the pipe: thread, step, and what the step told."""


def _open(path: Path, seed: int) -> Store:
    """Open with settings that follow from the seed; every one of them small."""
    choose = random.Random(seed)
    return strandline.open(
        path,
        segment_bytes=1 << 16,
        group_bytes=choose.choice([1 << 12, 1 << 14]),
        max_log_bytes=choose.choice([1 << 18, 1 << 20]),
        max_dirty_bytes=choose.choice([1 << 17, 1 << 20]),
        log_interval=choose.choice([0.0005, 0.01]),
        sync_interval=choose.choice([0.001, 0.05, 1.0]),
        flush_strategy=choose.choice(
            [Always(), Never(), HybridFlush(max_count=20, min_interval=0.002)]
        ),
        disk_reserve_bytes=0,
    )


def _recover(path: Path, seed: int) -> None:
    db = _open(path, seed)
    signal.pause()
    db.close()


def _write_steps(path: Path, seed: int, _threads: int, tell: Tell) -> None:
    db = _open(path, seed)
    tell(_OPENED, 0, db.engine.log.next_lsn())
    for number, step in enumerate(steps(seed)):
        step.do(db)
        tell(0, number, 0)
        if number == _MOST_STEPS:
            signal.pause()


def _write_in_threads(path: Path, seed: int, threads: int, tell: Tell) -> None:
    db = _open(path, seed)
    for name in THREADED_TABLES:
        db.table(name)
    tell(_OPENED, 0, db.engine.log.next_lsn())

    def write(thread: int) -> None:
        script = StepsOfOneThread(seed, thread, {})
        try:
            for number in range(_MOST_STEPS):
                tell(thread, number, script.take().do(db))
        except BaseException as error:
            _say(error)
            os._exit(1)

    for thread in range(threads):
        threading.Thread(target=write, args=(thread,), daemon=True).start()
    signal.pause()


def _killed(
    work: Callable[[Tell], object], patience: float, *, after_opening: bool = True
) -> Ledger:
    """Run `work` in a child, kill it after a while, and return what it said until then.

    The clock starts when the store is open, so that there is something to kill; where
    the wait is very short, and without `after_opening`, it starts at once.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_HANG_SECONDS)

        def tell(thread: int, number: int, lsn: int) -> None:
            os.write(writer, _MESSAGE.pack(thread, number, lsn))

        try:
            work(tell)
        except BaseException as error:
            _say(error)
        finally:
            os._exit(1)
    os.close(writer)
    deadline = time.monotonic() + patience
    waiting = after_opening and patience > 0.004
    data = bytearray()
    try:
        while True:
            left = _HANG_SECONDS if waiting else deadline - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                break
            piece = os.read(reader, 1 << 16)
            assert piece, "the child ended by itself"
            data += piece
            if waiting:
                waiting = False
                deadline = time.monotonic() + patience
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    while piece := os.read(reader, 1 << 16):
        data += piece
    os.close(reader)
    return _ledger(bytes(data))


def _say(error: BaseException) -> None:
    os.write(2, f"the child failed: {type(error).__name__}: {error}\n".encode())


def _ledger(data: bytes) -> Ledger:
    ledger = Ledger()
    for thread, number, lsn in _MESSAGE.iter_unpack(data):
        if thread == _OPENED:
            ledger.first_lsn = lsn
        else:
            told = ledger.told.setdefault(thread, [])
            assert len(told) == number
            told.append(lsn)
    return ledger


def many(directory: Path, seed: int, cycles: int) -> Iterator[Tally]:
    """Run cycles over a row of stores, every third with threads; yield each cycle's tally.

    The stores are `directory`/store-0 and so on, `PER_STORE` cycles each.
    """
    for first in range(0, cycles, PER_STORE):
        number = first // PER_STORE
        threads = 6 if number % 3 == 2 else 1
        store = Cycles(directory / f"store-{number}", seed * 1_000_003 + number, threads=threads)
        for _ in range(min(PER_STORE, cycles - first)):
            store.tally = Tally()
            store.run()
            yield store.tally


__all__ = ["PER_STORE", "Cycles", "Tally", "many"]
