"""`Scheduler`: threads that take turns, one at a time, in an order that follows from a seed.

Every task is a real thread, but only the one that has the turn runs. It can lose the turn
where a real thread could be overtaken with an effect: at a lock, at a sleep, before a disk
operation (`pause`). Who goes on is drawn from the seed. The clock stands still as long as
anybody can run, and jumps to the next deadline when nobody can; so a timeout of an hour
costs nothing, and an age in virtual seconds is an age that the program let pass.

If nobody can run and nobody has a deadline, everybody hangs: a `ViolationError`.
"""

from __future__ import annotations

import math
import queue
import random
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.simulation.runtime import WallClock
from strandline.wal.runtime import Lock, Mailbox, OwnedLock, Worker

_TICK: Final = 1e-9
"""What a change of turns takes, so that no loop over the clock stands still."""
_MOST_TURNS: Final = 2_000_000


class Task:
    """A thread of the simulation."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.done = False
        self.deadline = math.inf
        """When it goes on by itself, while it is not runnable."""
        self.runnable = True
        self.looks_again = False
        """Whether any change can be what it waits for."""
        self.turn = threading.Semaphore(0)
        self.thread: threading.Thread | None = None
        self._scheduler = scheduler

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or `timeout` seconds of the clock."""
        self._scheduler.wait(lambda: self.done, timeout)

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        return not self.done


class Scheduler:
    """A runtime whose threads take turns. The thread that makes it is its first task."""

    def __init__(self, seed: int | str) -> None:
        self.now = 1000.0
        """Seconds on the clock."""
        self.failures: list[BaseException] = []
        """What ended a task that should not have ended so."""
        self._choose = random.Random(f"scheduler/{seed}")
        self._eagerness = self._choose.choice((0.02, 0.1, 0.3, 0.7))
        self._random = random.Random(f"runtime/{seed}")
        self._wall = WallClock(seed, jumps=True)
        self._current = Task(self, "main")
        self._tasks = [self._current]
        self._turns = 0
        self._hang: ViolationError | None = None

    # The runtime ----------------------------------------------------------------------

    def monotonic(self) -> float:
        """Return the clock."""
        return self.now

    def time_ns(self) -> int:
        """Return a wall clock that goes on with it, and is set now and then."""
        return self._wall.time_ns(self.now)

    def sleep(self, seconds: float) -> None:
        """Let others run, and at least so much time pass."""
        self._block(self.now + seconds)

    def random_bytes(self, length: int) -> bytes:
        """Return bytes from the seed."""
        return self._random.randbytes(length)

    def random(self) -> float:
        """Return a number from the seed."""
        return self._random.random()

    def lock(self) -> Lock:
        """Make a lock that any task may release."""
        return _TurnLock(self)

    def owned_lock(self) -> OwnedLock:
        """Make a re-entrant lock that knows its owner."""
        return _OwnedTurnLock(self)

    def mailbox(self) -> Mailbox:
        """Make a mailbox for one task to sleep at."""
        return _TurnMailbox(self)

    def spawn(self, name: str, target: Callable[..., None], *args: Any) -> Worker:
        """Start a task."""
        task = Task(self, name)

        def run() -> None:
            task.turn.acquire()
            try:
                target(*args)
            except BaseException as error:
                self.failures.append(error)
            task.done = True
            task.runnable = False
            self._tasks.remove(task)
            self.wake()
            self._hand_over(self._next())

        task.thread = threading.Thread(target=run, name=name, daemon=True)
        task.thread.start()
        self._tasks.append(task)
        self.pause()
        return task

    # Turns ----------------------------------------------------------------------------

    @property
    def current(self) -> Task:
        """Whose turn it is."""
        return self._current

    def pause(self) -> None:
        """Let somebody else go on, now and then."""
        if self._choose.random() < self._eagerness:
            self._give_turn()

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Give up the turn until something holds; False if it does not in time."""
        deadline = math.inf if timeout is None or timeout < 0 else self.now + timeout
        while not ready():
            if self.now >= deadline:
                return False
            self._block(deadline, looks_again=True)
        return True

    def wake(self) -> None:
        """Let all look again who wait for something; call it after every change."""
        for task in self._tasks:
            if task.looks_again:
                task.looks_again, task.runnable = False, True

    def _block(self, deadline: float, *, looks_again: bool = False) -> None:
        """Give up the turn until a deadline, or with `looks_again` until something changed."""
        task = self._current
        task.runnable, task.deadline, task.looks_again = False, deadline, looks_again
        self._give_turn()

    def _give_turn(self) -> None:
        task, following = self._current, self._next()
        if following is not task:
            self._hand_over(following)
            task.turn.acquire()
        if self._hang is not None:
            raise self._hang

    def _hand_over(self, following: Task) -> None:
        self._current = following
        following.turn.release()

    def _next(self) -> Task:
        """Choose who goes on; move the clock if nobody can."""
        self._turns += 1
        self.now += _TICK
        ready = [task for task in self._tasks if task.runnable or task.deadline <= self.now]
        if not ready:
            earliest = min(task.deadline for task in self._tasks)
            if earliest == math.inf or self._turns > _MOST_TURNS:
                # The first task tells it; the others stay where they are.
                self._hang = ViolationError(13, f"everybody waits: {self._stacks()}")
                return self._tasks[0]
            self.now = earliest
            ready = [task for task in self._tasks if task.deadline <= self.now]
        chosen = self._choose.choice(ready)
        chosen.runnable, chosen.deadline, chosen.looks_again = True, math.inf, False
        return chosen

    def _stacks(self) -> str:
        frames = sys._current_frames()
        told = []
        for task in self._tasks:
            ident = task.thread.ident if task.thread else threading.main_thread().ident
            frame = frames.get(ident or 0)
            where = traceback.extract_stack(frame)[-8:] if frame else []
            told.append(f"{task.name}: " + " < ".join(f"{f.name}:{f.lineno}" for f in where[::-1]))
        return "; ".join(told)


class _TurnLock:
    """A lock that any task may release."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._scheduler.pause()
        if self._taken and not (
            blocking and self._scheduler.wait(lambda: not self._taken, timeout)
        ):
            return False
        self._taken = True
        return True

    def release(self) -> None:
        if not self._taken:
            raise RuntimeError("release of a lock that nobody holds")
        self._taken = False
        self._scheduler.wake()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _OwnedTurnLock:
    """A re-entrant lock that knows its owner."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._scheduler.current
        if self._owner is not me:
            self._scheduler.pause()
            if self._owner is not None and not (
                blocking and self._scheduler.wait(lambda: self._owner is None, timeout)
            ):
                return False
            self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        if self._owner is not self._scheduler.current:
            raise RuntimeError("release of a lock that this task does not hold")
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._scheduler.wake()

    def _is_owned(self) -> bool:
        return self._owner is self._scheduler.current

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _TurnMailbox:
    """Where a task sleeps until it is woken."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting = 0

    def put(self, item: None, /) -> None:
        self._waiting += 1
        self._scheduler.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        if not self._waiting and not (
            block and self._scheduler.wait(lambda: self._waiting > 0, timeout)
        ):
            raise queue.Empty
        self._waiting -= 1

    def empty(self) -> bool:
        return not self._waiting
