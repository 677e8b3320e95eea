"""Works for fork servers, and a bug to plant: what the tests of L4 let children do."""

from __future__ import annotations

import os
import time
from typing import Any

from strandline.tools.crash.forking.server import Talk
from strandline.wal.group import Group
from strandline.wal.log import Log


def wait_for_nothing(self: Log, group: Group, lsn: int) -> None:
    """Stand for `Log.wait_written`: a BUFFERED write returns before it is in the page cache."""


def acknowledge_early() -> None:
    """Plant that."""
    Log.wait_written = wait_for_nothing  # type: ignore[method-assign]


def echo(argument: Any, talk: Talk) -> None:
    """Say the argument."""
    talk.say(repr(argument).encode())


def say_process(argument: Any, talk: Talk) -> None:
    """Say which process this is."""
    talk.say(b"%d\n" % os.getpid())
    if argument == "and wait":
        time.sleep(100)


def count(argument: int, talk: Talk) -> None:
    """Say numbers without end, a mark after the first so many."""
    number = 0
    while True:
        talk.say(b"%d\n" % number)
        number += 1
        if number == argument:
            talk.mark()


def hang_in_a_function_of_this_name(_: Any, talk: Talk) -> None:
    """Hang."""
    time.sleep(100)


def abort(_: Any, talk: Talk) -> None:
    """End by SIGABRT."""
    os.abort()


def fail(argument: Any, talk: Talk) -> None:
    """Raise an error."""
    raise ValueError(f"no such thing as {argument}")


def say_and_fail(seconds: float, talk: Talk) -> None:
    """Say something, and raise an error a while after the mark."""
    talk.say(b"said")
    talk.mark()
    time.sleep(seconds)
    raise ValueError


def say_and_abort(seconds: float, talk: Talk) -> None:
    """The same, ended by a signal."""
    talk.say(b"said")
    talk.mark()
    time.sleep(seconds)
    os.abort()


def preloaded(_: Any, talk: Talk) -> None:
    """Say whether the shim is under this process, and whether the bug was planted."""
    shim = "strandline_shim" if "LD_PRELOAD" in os.environ else "none"
    talk.say(f"{shim} {Log.wait_written.__module__}".encode())
