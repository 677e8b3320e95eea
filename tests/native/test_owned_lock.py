"""The lock in C does what `threading.RLock` does, and loses no wake-up."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from strandline.native import native
from strandline.wal.runtime import OwnedLock
from tests.support.calls import Call

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

PATIENCE = 10.0
"""Seconds after which a thread that should have gone on counts as stuck."""


def make_lock() -> OwnedLock:
    """Return a lock that nobody holds."""
    assert native is not None
    lock: OwnedLock = native.OwnedLock()
    return lock


class Held:
    """A thread that holds the lock until it is told to give it back."""

    def __init__(self, lock: OwnedLock) -> None:
        self._let_go = threading.Event()
        held = threading.Event()

        def run() -> None:
            with lock:
                held.set()
                assert self._let_go.wait(PATIENCE)

        self._call = Call(run)
        assert held.wait(PATIENCE)

    def let_go(self) -> None:
        """Tell the thread to give it back, and return at once."""
        self._let_go.set()

    def end(self) -> None:
        """Return when the thread has given it back."""
        self._let_go.set()
        self._call.answer()


def try_elsewhere(lock: OwnedLock) -> bool:
    """Tell whether another thread can have the lock at once; it gives it back."""

    def run() -> bool:
        got = lock.acquire(False)
        if got:
            lock.release()
        return got

    got: bool = Call(run).answer()
    return got


def run_threads(count: int, target: Callable[[int], None]) -> None:
    """Run `target` on so many threads; one that hangs fails the test, and so does an error."""
    calls = [Call(target, number) for number in range(count)]
    for call in calls:
        call.answer()


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have SIGUSR1 handled so; the main thread alone does that."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_main() -> None:
    """Send SIGUSR1 to the main thread, wherever it is."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def interrupt_main_after(go: threading.Event, seconds: float) -> None:
    """Do that in a while."""
    assert go.wait(PATIENCE)
    time.sleep(seconds)
    interrupt_main()


def take_and_give_back(lock: OwnedLock) -> None:
    """Wait for the lock, and let it go at once."""
    with lock:
        pass


def raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def test_one_at_a_time() -> None:
    """Of many threads, however they take it, one at a time is inside; none is left outside."""
    lock = make_lock()
    inside: list[int] = []
    total = 0

    def work(number: int) -> None:
        nonlocal total
        dice = random.Random(number)
        for _ in range(1500):
            assert lock.acquire(True, dice.choice([-1.0, PATIENCE]))
            inside.append(number)
            before = total
            if dice.random() < 0.02:
                time.sleep(0)
            with lock:
                total = before + 1
            assert [number] == inside
            inside.clear()
            lock.release()

    run_threads(8, work)
    assert 8 * 1500 == total
    assert lock.acquire(False)


def test_its_owner_takes_it_again() -> None:
    """The owner gets it as often as he likes; it is free after as many releases."""
    lock = make_lock()
    assert not lock._is_owned()
    with lock:
        assert lock.acquire()
        assert lock.acquire(False)
        assert lock._is_owned()
        assert not Call(lock._is_owned).answer()
        lock.release()
        lock.release()
        assert lock._is_owned()
        assert not try_elsewhere(lock)
    assert not lock._is_owned()
    assert try_elsewhere(lock)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05])
def test_a_wait_ends_in_time(seconds: float) -> None:
    """Who waits no longer than so many seconds gets False then, and leaves nothing behind."""
    lock = make_lock()
    holder = Held(lock)
    started = time.monotonic()
    assert not lock.acquire(True, seconds)
    assert seconds <= time.monotonic() - started < PATIENCE
    assert not lock._is_owned()
    holder.end()
    assert try_elsewhere(lock)


def test_who_does_not_wait_gets_an_answer_at_once() -> None:
    """Without blocking, a free lock is taken, and one that another thread holds is not."""
    lock = make_lock()
    holder = Held(lock)
    assert not lock.acquire(blocking=False)
    holder.end()
    assert lock.acquire(blocking=False)


def test_only_its_owner_gives_it_back() -> None:
    """A release by another thread, or of a free lock, is refused and changes nothing."""
    lock = make_lock()
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    holder = Held(lock)
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    assert not try_elsewhere(lock)
    holder.end()
    assert try_elsewhere(lock)


def test_whoever_waits_is_woken() -> None:
    """Each release lets one of those who wait go on, until all have had it."""
    lock = make_lock()
    order: list[int] = []

    def work(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        calls = [Call(work, number) for number in range(10)]
        time.sleep(0.02)
        assert [] == order
    for call in calls:
        call.answer()
    assert list(range(10)) == sorted(order)


@pytest.mark.parametrize("pause", [0.0, 0.0005])
def test_a_holder_in_a_loop_starves_nobody(pause: float) -> None:
    """One who takes it again and again, asleep or busy inside, lets the other have his turns."""
    lock = make_lock()
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            with lock:
                time.sleep(pause)

    looping = Call(loop)
    try:
        for _ in range(20):
            assert lock.acquire(True, PATIENCE)
            lock.release()
            time.sleep(0.0005)
    finally:
        done.set()
        looping.answer()


def test_an_interrupted_wait_leaves_it_as_it_was() -> None:
    """KeyboardInterrupt ends a wait: the lock stays with its holder, and can be had after him."""
    lock = make_lock()
    holder, go = Held(lock), threading.Event()
    with handling(raise_interrupt):
        call = Call(interrupt_main_after, go, 0.05)
        with pytest.raises(KeyboardInterrupt):
            go.set()
            lock.acquire()
        call.answer()
    assert not lock._is_owned()
    assert not try_elsewhere(lock)
    holder.end()
    assert try_elsewhere(lock)


def test_a_wait_goes_on_after_a_signal() -> None:
    """A handler that returns does not end the wait; it may even use the lock's methods."""
    lock = make_lock()
    holder, handled = Held(lock), threading.Event()
    found: list[bool] = []

    def handle(_number: int, _frame: FrameType | None) -> None:
        found.append(lock.acquire(True, 0.001) or lock._is_owned())
        handled.set()

    def strike() -> None:
        time.sleep(0.02)
        interrupt_main()
        assert handled.wait(PATIENCE)
        holder.let_go()

    with handling(handle):
        call = Call(strike)
        assert lock.acquire(True, PATIENCE)
        call.answer()
    assert [False] == found


def test_an_interrupt_as_it_is_handed_over() -> None:
    """However an interrupt and a release meet, the lock is held by the waiter or is free."""
    lock = make_lock()
    dice = random.Random(1)
    interrupted = 0
    with handling(raise_interrupt):
        for _ in range(150):
            holder, go = Held(lock), threading.Event()
            delay = dice.random() * 2e-4

            def strike(holder: Held, go: threading.Event, wait: float) -> None:
                assert go.wait(PATIENCE)
                time.sleep(0.0005)
                holder.let_go()
                time.sleep(wait)
                interrupt_main()

            call = Call(strike, holder, go, delay)
            try:
                go.set()
                with lock:
                    pass
                call.answer()
            except KeyboardInterrupt:
                interrupted += 1
            call.answer()
            holder.end()
            assert not lock._is_owned()
            assert try_elsewhere(lock)
    assert interrupted > 0


def test_a_wait_that_ends_as_it_is_handed_over() -> None:
    """However a time-out and a release meet, a lock that nobody holds is promised to nobody."""
    lock = make_lock()
    dice = random.Random(2)
    got = 0

    def wait(seconds: float) -> bool:
        mine = lock.acquire(True, seconds)
        if mine:
            lock.release()
        return mine

    for _ in range(400):
        lock.acquire()
        call = Call(wait, 0.0003)
        time.sleep(dice.random() * 6e-4)
        lock.release()
        got += call.answer()
        assert lock.acquire(False)
        lock.release()
    assert 0 < got < 400, "the times are chosen so that some come too late"


def test_no_wake_up_is_lost() -> None:
    """With many who wait, for ever or not, and give up at random, nobody waits in vain."""
    lock = make_lock()
    stop = time.monotonic() + 1.5
    inside = 0

    def work(number: int) -> None:
        nonlocal inside
        dice = random.Random(number)
        while time.monotonic() < stop:
            how = dice.random()
            if how < 0.6:
                got = lock.acquire(True, dice.random() * 0.002)
            elif how < 0.7:
                got = lock.acquire(False)
            else:
                got = lock.acquire()
            if got:
                inside += 1
                assert 1 == inside
                time.sleep(dice.choice([0, 0, 0.0002]))
                inside -= 1
                lock.release()

    run_threads(12, work)
    assert lock.acquire(False)


def in_child(check: Callable[[], object]) -> int:
    """Fork, run a check in the child, and return how it ended: 0 for well."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # one that hangs is ended
        try:
            check()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_a_child_makes_it_anew() -> None:
    """In a forked child nobody holds it and nobody waits, whoever did in the parent."""
    lock = make_lock()
    holder = Held(lock)
    waiting = [Call(take_and_give_back, lock) for _ in range(3)]
    time.sleep(0.02)

    def check() -> None:
        assert not lock.acquire(False)
        lock._at_fork_reinit()  # type: ignore[attr-defined]
        assert lock.acquire(False)
        call = Call(take_and_give_back, lock)
        time.sleep(0.01)
        lock.release()
        call.answer()
        assert lock.acquire(False)

    assert 0 == in_child(check)
    holder.end()
    for call in waiting:
        call.answer()
    assert try_elsewhere(lock)


def test_a_lock_leaves_nothing_behind() -> None:
    """A lock that is dropped, held or not, is freed, and its class is not kept for it."""
    assert native is not None
    kind = type(make_lock())
    before = sys.getrefcount(kind)
    for _ in range(1000):
        make_lock().acquire()
        make_lock()
    assert before == sys.getrefcount(kind)
