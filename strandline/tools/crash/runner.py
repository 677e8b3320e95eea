"""Rounds of one layer, side by side in worker processes, until a budget is spent.

    run_layer ──fork──► worker 0 ──► bench.round(seed), bench.round(seed + 1), ...
              ──fork──► worker 1 ──► ...          each takes the next seed that nobody took
              ◄──pipe── tallies

The workers are forked, so that what was changed in this process is changed in them too.
They end with it (`die_with_parent`). The first finding ends the layer: it is shrunk in a
worker of its own. What goes wrong in the harness itself is a `HarnessError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.layer import Finding, Layer, Tally
from strandline.tools.crash.shrink import shrink

_fork: Final = multiprocessing.get_context("fork")
_LOOK: Final = 0.1
"""Seconds between two looks at the clock and the progress."""
_PATIENCE: Final = 120.0
"""How long a worker may take for the round that it is in when time is up, and for its
clean-up, before it is killed. What it is in the middle of is told as hanging."""
_SHRINKING: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_ROOM: Final = 1 << 30

Show = Callable[[Tally, float], None]
"""Called now and then with what there is so far, and for how many seconds it has gone on."""


class HarnessError(Exception):
    """The harness itself failed; nothing is said of the store."""


@dataclass(frozen=True)
class Plan:
    """How much of a layer to run."""

    seconds: float
    seed: int
    jobs: int
    cases: int | None = None
    """Stop after so many, if that is before the time is up."""
    kept: frozenset[int] | None = None
    """Of the script of every round only these steps."""
    directory: Path | None = None


@dataclass
class Result:
    """What a layer came to."""

    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    seed: int | None = None
    """Of the round with the finding."""
    kept: tuple[int, ...] | None = None
    """The steps that are needed for it; None where all are, or shrinking did not repeat it."""


def run_layer(layer: Layer, plan: Plan, show: Show) -> Result:
    """Run rounds of a layer until its budget is spent or something is found.

    Raises:
        HarnessError: a worker failed, died, or does not end.
    """
    began = time.monotonic()
    result = Result()
    with _working_directory(plan.directory) as directory, _Workers(layer, plan, directory) as team:
        deadline = began + plan.seconds
        while team.working():
            for seed, tally in team.receive(_LOOK):
                if tally.finding is not None and result.tally.finding is None:
                    result.seed = seed
                result.tally.add(tally)
            result.seconds = time.monotonic() - began
            show(result.tally, result.seconds)
            enough = plan.cases is not None and result.tally.cases >= plan.cases
            if enough or result.tally.finding is not None or time.monotonic() >= deadline:
                team.stop()
    found = result.tally.finding
    if found is not None and result.seed is not None and plan.kept is None:
        with _working_directory(plan.directory) as directory:
            smaller = _shrunk(layer, directory, result.seed, found)
        if smaller is not None:
            result.kept, result.tally.finding = smaller
    return result


class _Workers:
    """The worker processes of one layer."""

    def __init__(self, layer: Layer, plan: Plan, directory: Path) -> None:
        self._stop = _fork.Event()
        self._next = _fork.Value("q", plan.seed)
        self._processes: dict[Connection, ForkProcess] = {}
        self._seeds: dict[Connection, int] = {}
        """Of the round that each is in, or was in last."""
        self._ending: float | None = None
        for number in range(plan.jobs):
            ours, theirs = _fork.Pipe(duplex=False)
            arguments = (
                layer,
                plan,
                directory / f"worker-{number}",
                theirs,
                self._take,
                self._stop,
            )
            process = _fork.Process(target=_work, args=arguments, name=f"{layer.name}-{number}")
            process.start()
            theirs.close()
            self._processes[ours] = process

    def _take(self) -> int:
        with self._next.get_lock():
            seed: int = self._next.value
            self._next.value += 1
            return seed

    def working(self) -> bool:
        """Tell whether any of them is still there."""
        return bool(self._processes)

    def receive(self, timeout: float) -> Iterator[tuple[int, Tally]]:
        """Yield what was told meanwhile: a seed and its tally."""
        for connection in wait(list(self._processes), timeout):
            assert isinstance(connection, Connection)
            try:
                told = connection.recv()
            except EOFError:
                where = self._where(connection)
                process = self._processes.pop(connection)
                process.join()
                if process.exitcode:
                    raise HarnessError(
                        f"worker {where} ended with status {process.exitcode}"
                    ) from None
                continue
            if isinstance(told, int):
                self._seeds[connection] = told
                continue
            if isinstance(told, str):
                raise HarnessError(told)
            yield told
        if self._ending is not None and time.monotonic() > self._ending:
            names = ", ".join(map(self._where, self._processes))
            raise HarnessError(f"{names}: not ended {_PATIENCE:.0f} s after the time was up")

    def _where(self, connection: Connection) -> str:
        """Return the name of a worker and where it is; a hang has to be found again."""
        name, seed = self._processes[connection].name, self._seeds.get(connection)
        return name if seed is None else f"{name}, in the round of seed {seed}"

    def stop(self) -> None:
        """Let each end with the round that it is in."""
        if self._ending is None:
            self._stop.set()
            self._ending = time.monotonic() + _PATIENCE

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        """End all; those that do not end by themselves are killed."""
        self.stop()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            _join(process)


def _work(
    layer: Layer,
    plan: Plan,
    directory: Path,
    told: Connection,
    take: Callable[[], int],
    stop: Any,
) -> None:
    """Run rounds in a worker process until told to stop."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    try:
        directory.mkdir()
        with layer.bench(directory) as bench:
            cases = 0
            while True:  # once at least: a layer of which nothing ran has not passed
                seed = take()
                told.send(seed)
                tally = bench.round(seed, plan.kept)
                told.send((seed, tally))
                cases += tally.cases
                if tally.finding is not None or stop.is_set() or cases >= (plan.cases or math.inf):
                    break
    except Exception:
        told.send(f"layer {layer.name}: {traceback.format_exc()}")


def _shrunk(
    layer: Layer, directory: Path, seed: int, found: Finding
) -> tuple[tuple[int, ...], Finding] | None:
    """Shrink a finding in a process of its own, which it may hang or kill."""
    ours, theirs = _fork.Pipe(duplex=False)

    def work() -> None:
        die_with_parent()
        signal.signal(signal.SIGTERM, _leave)
        with layer.bench(directory) as bench:
            theirs.send(shrink(bench, seed, found, time.monotonic() + _SHRINKING))

    process = _fork.Process(target=work, name=f"{layer.name}-shrink")
    process.start()
    theirs.close()
    try:
        if not ours.poll(2 * _SHRINKING):
            return None
        smaller: tuple[tuple[int, ...], Finding] | None = ours.recv()
        return smaller
    except EOFError:
        return None
    finally:
        process.terminate()
        _join(process)


def _join(process: ForkProcess) -> None:
    """Wait for a process that was told to end; kill one that does not."""
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()


def die_with_parent() -> None:
    """Have this process killed when the one that made it ends, however that ends."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _leave(_number: int, _frame: object) -> None:
    """End in order, so that what was set up is cleaned up."""
    sys.exit(0)


@contextlib.contextmanager
def _working_directory(wanted: Path | None) -> Iterator[Path]:
    """Make an empty directory, in memory if there is room; remove it in the end."""
    parent = wanted
    memory = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    if parent is None and memory.is_dir() and os.access(memory, os.W_OK):
        parent = memory if shutil.disk_usage(memory).free > _ROOM else None
    path = Path(tempfile.mkdtemp(prefix="strandline-crash-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
