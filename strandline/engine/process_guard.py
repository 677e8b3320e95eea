"""What a process does to its open stores: forks, exits, and drops them.

A forked child closes what it inherited and marks its handles dead. At interpreter exit
every store that is still open has its log drained and synced, within a time limit.
Finalizers only set flags; a worker thread does the rest.
"""

from __future__ import annotations

import atexit
import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from strandline.engine.engine import Engine

EXIT_TIMEOUT: Final = 30.0
"""Seconds that the interpreter's exit waits for the stores that were left open."""

_POLL: Final = 0.002

_open: dict[int, tuple[Engine, Callable[[], None]]] = {}


def register(engine: Engine, close: Callable[[], None]) -> None:
    """Remember an open store; `close` is what its checkpointer's thread does at an exit."""
    _open[id(engine)] = (engine, close)


def unregister(engine: Engine) -> None:
    """Forget a store that was closed."""
    _open.pop(id(engine), None)


def _after_fork_in_child() -> None:
    """Runs before anything else in the child; takes no lock, for its holder is gone."""
    for engine, _ in list(_open.values()):
        engine.forget_after_fork()
    _open.clear()


def _at_exit() -> None:
    """Close what was left open, within the time limit, and say so.

    By the stores' own threads, so that a disk that hangs cannot hang the exit: from Python
    3.12 on no new thread can be started any more. The warnings come last, for where they
    are errors the first one is an exception.
    """
    left = list(_open.values())
    deadline = time.monotonic() + EXIT_TIMEOUT
    for engine, close in left:
        if engine.checkpointer.is_alive():
            engine.on_orphaned = close
            engine.orphaned = True
            engine.checkpointer.wake()
        else:
            close()
    for engine, _ in left:
        while not engine.closed_fully and time.monotonic() < deadline:
            time.sleep(_POLL)
    for engine, _ in left:
        warnings.warn(
            f"{engine.path}: the store was not closed before the interpreter's exit; its log was "
            "drained and synced now. Use `with strandline.open(...)` or call close()",
            ResourceWarning,
            stacklevel=1,
        )


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
