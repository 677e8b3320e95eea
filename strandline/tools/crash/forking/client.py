"""The bench's side of a fork server: run a work in a child, kill it, say how it ended."""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgpack

from strandline.tools.crash.forking.server import (
    ANSWER,
    FAILED,
    FORK,
    REQUEST,
    STACKS,
    WAIT,
    serve,
)
from strandline.tools.crash.runner import die_with_parent
from strandline.tools.crash.shim import control

PATIENCE: Final = 40.0
"""Seconds that a child may take. No step takes a tenth of it on a busy machine."""
_MORE: Final = 2.0
"""How much longer it has, so that its stacks are written before it is killed."""
_STARTING: Final = 60.0


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    said: bytes
    late: bytes
    """What it said, or may have said, under a blow; empty where there was none."""
    killed: bool
    """By SIGKILL: this side's, or that of the shim."""
    hung: bool
    """It was killed because it had taken too long."""
    crashed: str
    """The name of the signal that ended it, an empty string if none but SIGKILL did."""
    stacks: str
    """Where its threads were, if it hung or crashed."""


class _Heard(NamedTuple):
    """What a child said until its end."""

    said: bytes
    late: bytes | None = None
    """None if no blow fell."""
    hung: bool = False


class ForkServer:
    """A server process and one child at a time. Use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        modules: Sequence[str],
        prelude: Sequence[str] = (),
        shim: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Start it: forked from this process, or anew with the shim under it.

        `folder` is empty and the server's own. `modules` are imported before anything is
        forked. `prelude` are functions, "module:function", that are called before that in a
        server that is started anew; a forked one has what was done here.
        """
        self._folder = folder
        self._patience = patience
        self._ours, theirs = socket.socketpair()
        self._errors = folder / "errors"
        self._process: subprocess.Popen[bytes] | None = None
        with theirs:
            if shim is None:
                self.pid = self._fork(theirs, modules)
                """Of the server."""
            else:
                self._process = self._start(theirs, modules, prelude, shim)
                self.pid = self._process.pid
        self._ours.settimeout(_STARTING)

    def _fork(self, theirs: socket.socket, modules: Sequence[str]) -> int:
        for module in modules:
            importlib.import_module(module)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                die_with_parent()
                self._ours.close()
                serve(theirs, self._folder, self._patience)
                code = 0
            finally:
                os._exit(code)
        return pid

    def _start(
        self, theirs: socket.socket, modules: Sequence[str], prelude: Sequence[str], shim: Path
    ) -> subprocess.Popen[bytes]:
        arguments = [
            str(theirs.fileno()),
            str(self._folder),
            str(self._patience),
            " ".join(modules),
            " ".join(prelude),
        ]
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "strandline.tools.crash.forking.server", *arguments],
                env=control.environment(shim),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def run(
        self,
        work: str,
        argument: Any,
        *,
        kill_after: float | None = None,
        blow: Callable[[], object] | None = None,
    ) -> Ended:
        """Let a child do one work; return when it has ended.

        `kill_after`: so many seconds after its mark it is killed. A child without a mark is
        left to end by itself. One that takes longer than `patience` is killed, and `hung`.
        `blow`: what strikes it just before it is killed. Only what was taken in by then is
        `said`, the rest is `late`; and whatever it does under the blow is no error.

        Raises:
            RuntimeError: The work raised an error; the text has its traceback.
        """
        (self._folder / REQUEST).write_bytes(msgpack.packb([work, argument]))
        answers, answers_end = os.pipe()
        marks, marks_end = os.pipe()
        with contextlib.ExitStack() as open_ends:
            for descriptor in (answers, marks):
                open_ends.callback(os.close, descriptor)
            try:
                pid = self._ask(FORK, [answers_end, marks_end])
            finally:
                os.close(answers_end)
                os.close(marks_end)
            heard = self._listen(pid, answers, marks, kill_after, blow)
            status = self._ask(WAIT)
        return self._ended(work, heard, status)

    def _listen(
        self,
        pid: int,
        answers: int,
        marks: int,
        kill_after: float | None,
        blow: Callable[[], object] | None,
    ) -> _Heard:
        """Take in all that a child says until it ends, and kill it when it is time."""
        said = bytearray()
        limit = time.monotonic() + self._patience + _MORE
        kill_at: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            if kill_after is not None:
                selector.register(marks, selectors.EVENT_READ)
            while True:
                until = limit if kill_at is None else kill_at
                ready = {key.fd for key, _ in selector.select(max(0.0, until - time.monotonic()))}
                if marks in ready:
                    selector.unregister(marks)
                    if os.read(marks, 1):
                        kill_at = time.monotonic() + (kill_after or 0.0)
                if answers in ready:
                    piece = os.read(answers, 1 << 16)
                    if not piece:
                        return _Heard(bytes(said))
                    said += piece
                now = time.monotonic()
                if kill_at is not None and now >= kill_at:
                    if blow is not None:
                        return _Heard(bytes(said), _struck(pid, answers, blow))
                    os.kill(pid, signal.SIGKILL)
                    kill_at = None
                elif now >= limit:
                    os.kill(pid, signal.SIGKILL)
                    return _Heard(bytes(said) + _rest(answers), hung=True)

    def _ended(self, work: str, heard: _Heard, status: int) -> Ended:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        stacks = (self._folder / STACKS).read_text(errors="replace")
        struck = heard.late is not None
        if os.WIFEXITED(status) and (code := os.WEXITSTATUS(status)) and not struck:
            what = "raised" if code == FAILED else f"ended its process with status {code}"
            raise RuntimeError(f"{work} {what}:\n{stacks}")
        crashed = ""
        if number not in (0, signal.SIGKILL) and not struck:
            crashed = signal.Signals(number).name
        killed = number == signal.SIGKILL
        return Ended(heard.said, heard.late or b"", killed, heard.hung, crashed, stacks)

    def _ask(self, word: bytes, descriptors: Sequence[int] = ()) -> int:
        try:
            socket.send_fds(self._ours, [word], list(descriptors))
            answer = self._ours.recv(ANSWER.size, socket.MSG_WAITALL)
        except OSError as error:
            raise RuntimeError(f"the fork server: {error}{self._said()}") from error
        if len(answer) != ANSWER.size:
            raise RuntimeError(f"the fork server ended{self._said()}")
        number: int = ANSWER.unpack(answer)[0]
        return number

    def _said(self) -> str:
        text = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        return f"; it said:\n{text}" if text else ""

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and with it the child that it may have."""
        self._ours.close()
        if self._process is not None:
            try:
                self._process.wait(_MORE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        else:
            os.waitpid(self.pid, 0)


def _struck(pid: int, answers: int, blow: Callable[[], object]) -> bytes:
    """Let the blow fall and kill the child; return what it said meanwhile."""
    try:
        blow()
    finally:
        os.kill(pid, signal.SIGKILL)
    return _rest(answers)


def _rest(answers: int) -> bytes:
    """Return all that comes until the other side has ended."""
    said = bytearray()
    while piece := os.read(answers, 1 << 16):
        said += piece
    return bytes(said)
