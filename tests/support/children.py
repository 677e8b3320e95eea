"""Doing something in a forked child, so that what happens there cannot happen here.

The child has no store open and no thread but its own. It ends without running any exit
handler, and by SIGALRM if it takes too long.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, NoReturn


class Outcome(NamedTuple):
    """How something ended: with a value, with an exception, or with the child's death."""

    value: Any = None
    error: str = ""
    """The name of the exception's class."""
    message: str = ""
    signal: int = 0

    def unwrap(self) -> Any:
        """Return the value, or fail with what was found instead."""
        assert not self.signal, f"the child was ended by {signal.Signals(self.signal).name}"
        assert not self.error, f"{self.error}: {self.message}"
        return self.value


def run(task: Callable[[], Any], seconds: int = 20) -> Outcome:
    """Run `task` in a child; its value must be picklable."""
    return next(run_all([task], seconds))


def run_all(tasks: Iterable[Callable[[], Any]], seconds: int = 20) -> Iterator[Outcome]:
    """Run tasks in children, as many in one child as it survives; `seconds` is for each."""
    waiting = list(tasks)
    at = 0
    while at < len(waiting):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(waiting[at:], writer, seconds)
        os.close(writer)
        finished = False
        try:
            with os.fdopen(reader, "rb") as results:
                while at < len(waiting) and (outcome := _next(results)) is not None:
                    at += 1
                    yield outcome
            finished = True
        finally:
            if not finished:
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        if at < len(waiting):
            at += 1
            yield Outcome(signal=os.WTERMSIG(status), error="" if os.WTERMSIG(status) else "exit")


def start(task: Callable[[], Any]) -> int:
    """Start `task` in a child and return the child's process id; nobody reads its value."""
    child = os.fork()
    if child == 0:
        try:
            task()
        finally:
            os._exit(0)
    return child


def kill(child: int) -> None:
    """End a child by SIGKILL and wait until it is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _next(results: IO[bytes]) -> Outcome | None:
    try:
        outcome: Outcome = pickle.load(results)
    except (EOFError, pickle.UnpicklingError):
        return None
    return outcome


def _work(tasks: list[Callable[[], Any]], writer: int, seconds: int) -> NoReturn:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        with os.fdopen(writer, "wb") as results:
            for task in tasks:
                signal.alarm(seconds)
                try:
                    outcome = Outcome(task())
                except Exception as error:
                    outcome = Outcome(error=type(error).__name__, message=str(error))
                pickle.dump(outcome, results)
                results.flush()
    finally:
        os._exit(0)
