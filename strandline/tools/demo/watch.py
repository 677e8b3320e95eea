"""The writing process seen from outside: started, listened to, killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from strandline.tools.demo import messages
from strandline.tools.demo.messages import Closed, Finished, Sample, Started
from strandline.tools.demo.workload import Position

_POLL: Final = 0.005
"""Seconds between two looks into the pipe: a reader that waits would be woken by each line."""
_PIPE_BYTES: Final = 1 << 20
_PATIENCE: Final = 60.0
"""Seconds without a word from the writing process after which it is given up."""


class WriterError(Exception):
    """The writing process ended, or fell silent, without having been killed."""


@dataclass(frozen=True, slots=True)
class KillPlan:
    """When to kill: so many seconds after flight `event` was first spoken of, or after the end."""

    event: int
    delay: float


class Watched:
    """One run of the writing process, and all that it has told. Use it in a `with` block."""

    def __init__(self, store: Path, data: Path, rows: int, start: Position) -> None:
        self.start = start
        self.acknowledged = start
        """How far the stream had come when the latest acknowledgement was written."""
        self.samples: list[Sample] = []
        self.started: Started | None = None
        self.finished: Finished | None = None
        self.closed: Closed | None = None
        self.killed_at: float | None = None
        self._rest = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the rest
        module = f"{__package__}.child"
        arguments = [str(store), str(data), str(rows), *map(str, start)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pipesize=_PIPE_BYTES,
            start_new_session=True,  # an interrupt from the keyboard is for this process alone
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    # ---- a run

    def until_killed(self, plan: KillPlan, tick: Callable[[Watched], None]) -> None:
        """Listen until the plan says so, then kill with SIGKILL and hear the rest."""
        self._listen(lambda: self._reached(plan.event), tick)
        time.sleep(plan.delay)
        self._process.kill()
        self.killed_at = time.monotonic()
        self._process.wait()
        while self._hear():
            pass

    def until_closed(self, tick: Callable[[Watched], None]) -> None:
        """Listen to the end of the stream, have the store closed, and hear the rest."""
        self._listen(lambda: self.finished is not None, tick)
        assert self._process.stdin is not None
        self._process.stdin.write(messages.CLOSE)
        self._process.stdin.flush()
        self._listen(lambda: self.closed is not None, tick)
        self._process.wait()

    def _reached(self, event: int) -> bool:
        if self.finished:
            return True
        return self.acknowledged != self.start and self.acknowledged.event >= event

    # ---- listening

    def _listen(self, done: Callable[[], bool], tick: Callable[[Watched], None]) -> None:
        heard = time.monotonic()
        while True:
            before = self.acknowledged, len(self.samples)
            alive = self._hear()
            if done():
                return
            now = time.monotonic()
            if before != (self.acknowledged, len(self.samples)):
                heard = now
            if not alive or now - heard > _PATIENCE:
                self._give_up()
            tick(self)
            time.sleep(_POLL)

    def _hear(self) -> bool:
        """Take in what the pipe holds; False at its end."""
        try:
            data = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        last = b""
        for line in lines:
            if line.startswith(b"{"):
                self._note(messages.decode(line))
            else:
                last = line
        if last:
            self.acknowledged = messages.decode_acknowledgement(last)
        return True

    def _note(self, message: messages.Message) -> None:
        match message:
            case Sample():
                self.samples.append(message)
            case Started():
                self.started = message
            case Finished():
                self.finished = message
            case Closed():
                self.closed = message

    def _give_up(self) -> None:
        silent = self._process.poll() is None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        what = (
            f"said nothing for {_PATIENCE:.0f} s"
            if silent
            else (f"ended with exit status {self._process.returncode}")
        )
        raise WriterError(
            f"the writing process {what} after {self.acknowledged}, though nobody killed it. "
            f"It wrote: {said or 'nothing'}"
        )
