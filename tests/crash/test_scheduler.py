"""Tasks take turns in an order that follows from a seed, on a clock of their own."""

from __future__ import annotations

import queue

import pytest

from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.simulation.scheduler import Scheduler
from strandline.wal.runtime import Lock


def interleaving(seed: int) -> list[int]:
    """Return the order in which three tasks get past a lock."""
    scheduler = Scheduler(seed)
    lock = scheduler.lock()
    order: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with lock:
                order.append(number)
            scheduler.pause()

    for task in [scheduler.spawn(f"t{n}", work, n) for n in range(3)]:
        task.join()
    return order


def test_the_order_follows_from_the_seed() -> None:
    """The same seed gives the same order, others give others."""
    assert interleaving(1) == interleaving(1)
    assert len({tuple(interleaving(seed)) for seed in range(10)}) > 5


def test_one_task_runs_at_a_time() -> None:
    """What lies between two places where the turn can be lost is not interrupted."""
    scheduler = Scheduler(3)
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            inside += 1
            most = max(most, inside)
            inside -= 1
            scheduler.pause()

    for task in [scheduler.spawn("t", work) for _ in range(4)]:
        task.join()
    assert most == 1


def test_the_clock_jumps_when_everybody_sleeps() -> None:
    """An hour costs nothing; who sleeps shorter wakes first."""
    scheduler = Scheduler(0)
    woken: list[float] = []

    def nap(seconds: float) -> None:
        scheduler.sleep(seconds)
        woken.append(seconds)

    started = scheduler.monotonic()
    for task in [scheduler.spawn("t", nap, seconds) for seconds in (3600.0, 5.0, 60.0)]:
        task.join()
    assert woken == [5.0, 60.0, 3600.0]
    assert 3600 <= scheduler.monotonic() - started < 3601


@pytest.mark.parametrize("kind", ["lock", "owned_lock"])
def test_a_lock_excludes_and_times_out(kind: str) -> None:
    """Whoever waits too long gets False, at the time that it asked for."""
    scheduler = Scheduler(0)
    lock: Lock = getattr(scheduler, kind)()
    found: list[tuple[bool, float]] = []

    def wait() -> None:
        began = scheduler.now
        taken = lock.acquire(timeout=2.0)
        found.append((taken, scheduler.now - began))
        assert not lock.acquire(blocking=False)

    with lock:
        scheduler.spawn("t", wait).join()
    assert not scheduler.failures
    assert not found[0][0]
    assert found[0][1] == pytest.approx(2.0, abs=1e-3)


def test_an_owned_lock_knows_its_owner() -> None:
    """Its owner may take it again; others may neither take nor release it."""
    scheduler = Scheduler(0)
    lock = scheduler.owned_lock()

    def other() -> None:
        assert not lock._is_owned()
        assert not lock.acquire(blocking=False)
        with pytest.raises(RuntimeError):
            lock.release()

    with lock, lock:
        assert lock._is_owned()
        scheduler.spawn("t", other).join()
    assert not lock._is_owned()
    assert not scheduler.failures


def test_a_mailbox_wakes_its_sleeper() -> None:
    """A message that came before is not lost; without one the wait ends at its timeout."""
    scheduler = Scheduler(0)
    box = scheduler.mailbox()
    box.put(None)
    assert not box.empty()
    box.get()
    with pytest.raises(queue.Empty):
        box.get(timeout=1.0)
    scheduler.spawn("t", lambda: box.put(None))
    box.get(timeout=1.0)


def test_everybody_waiting_is_a_violation() -> None:
    """Where nobody can run any more, the first task says so, with everybody's place."""
    scheduler = Scheduler(0)
    first, second = scheduler.lock(), scheduler.lock()
    first.acquire()
    second.acquire()

    def wait() -> None:
        first.acquire()

    task = scheduler.spawn("stuck", wait)
    with pytest.raises(ViolationError, match=r"everybody waits.*stuck") as caught:
        task.join()
    assert caught.value.invariant == 13


def test_what_ends_a_task_is_kept() -> None:
    """An exception ends its own task only, and is there to be raised."""
    scheduler = Scheduler(0)

    def fail() -> None:
        raise ValueError("mine")

    task = scheduler.spawn("t", fail)
    task.join()
    assert not task.is_alive()
    assert [str(error) for error in scheduler.failures] == ["mine"]
