"""A forked child that says what it finds while it goes; it may die of what it looks at.

The child has no store open when it begins and no thread but its own. What it said before
its end is known, so what it was doing when a signal ended it is known too.

`forked_probe` lets the store's own child process, which looks at LMDB first, be forked as
well: it does the same, without the tenth of a second that a new interpreter takes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, NamedTuple, NoReturn
from unittest import mock

import lmdb.verify  # noqa: F401 - what the probes import, once instead of in each
import msgpack

from strandline.engine import probe
from strandline.tools.crash.runner import die_with_parent

Say = Callable[..., None]
"""What a child calls: the name of what it found, and what can be packed."""

_AT_ONCE: Final = ("at", "told")
"""What must be known even if the next step ends the child: what that is, what it may undo."""

MEMORY_BYTES: Final = 4 << 30
"""The address space of a child: a length that rot made up must not take the machine with it."""


class Said(NamedTuple):
    """What a child said, in order, and how it ended."""

    messages: list[list[Any]]
    signal: int
    fault: str
    """The traceback of an exception that the task let through."""

    def of(self, name: str) -> Any:
        """Return what was said last under a name, None if nothing was."""
        return next((said[1] for said in reversed(self.messages) if said[0] == name), None)

    @property
    def last(self) -> str:
        """The name of what was said last."""
        return str(self.messages[-1][0]) if self.messages else "nothing"


def run_child(task: Callable[[Say], object], seconds: int) -> Said:
    """Run a task in a child, which SIGALRM ends after so many seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(task, writer, seconds)
    os.close(writer)
    ended = False
    try:
        with os.fdopen(reader, "rb") as pipe:
            # A child that is cut short leaves a last message that was never said.
            unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=0)
            unpacker.feed(pipe.read())
            messages = list(unpacker)
        ended = True
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    fault = next((said[1] for said in messages if said[0] == "fault"), "")
    return Said(messages, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, fault)


def _work(task: Callable[[Say], object], writer: int, seconds: int) -> NoReturn:
    try:
        die_with_parent()
        # LMDB says there what it ends the process for; the parent says it in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

        pipe = os.fdopen(writer, "wb")

        def say(*message: Any) -> None:
            pipe.write(msgpack.packb(message))
            if message[0] in _AT_ONCE:
                pipe.flush()

        try:
            task(say)
        except BaseException:
            say("fault", traceback.format_exc(limit=-8))
        pipe.flush()
    finally:
        os._exit(0)


class _Forked:
    """As much of a `subprocess.Popen` as the probe uses, of a child that is forked."""

    def __init__(self, module: str, arguments: tuple[Any, ...]) -> None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _be_probe(module, arguments, writer)
        os.close(writer)
        self.stdout: IO[bytes] = os.fdopen(reader, "rb")
        self._code: int | None = None

    def wait(self, _timeout: float | None = None) -> int:
        """Return the exit status, or the negative number of a signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def kill(self) -> None:
        """End the child, if it is there."""
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)


def _be_probe(module: str, arguments: tuple[Any, ...], writer: int) -> NoReturn:
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115
        importlib.import_module(module).main(*arguments)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


@contextlib.contextmanager
def forked_probe() -> Iterator[None]:
    """Let the store's probes be forked children of this process."""

    def start(module: str, *arguments: Any, stderr: int) -> _Forked:
        if stderr != subprocess.STDOUT:
            raise AssertionError("the probe's errors go to its output")
        return _Forked(module, arguments)

    with mock.patch.object(probe, "start_child", start):
        yield
