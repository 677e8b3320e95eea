"""One cell of the matrix: rounds of one layer with one bug, in a process of its own.

    python -m tests.crash.planted.cell '{"layer": "simulation", "bug": "log_never_synced", ...}'

The answer is one line of JSON on stdout. `run_cell` starts such a process and reads it; the
environment says whether strandline's C is used, which is decided when it is imported.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.layer import Bench, Layer, Tally
from strandline.tools.crash.registry import load_layer
from strandline.tools.crash.runner import die_with_parent
from tests.crash.planted import BUGS

HUNG: Final = 13
"""The invariant that a cell which does not end breaks."""
_PATIENCE: Final = 90.0
_REPOSITORY: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Cell:
    """What is to be run."""

    layer: str
    bug: str | None
    """None for the control."""
    seconds: float
    """No round begins later; one that has begun may end."""
    seed: int = 0
    rounds: int | None = None
    in_python: bool = False
    """Without strandline's C. A bug that needs that says so itself."""


@dataclass(frozen=True)
class Outcome:
    """What it came to."""

    seconds: float = 0.0
    """Until the finding, or in all."""
    rounds: int = 0
    cases: int = 0
    seed: int | None = None
    """Of the round with the finding; None without one."""
    invariant: int | None = None
    what: str = ""
    where: str = ""
    skipped: str | None = None
    """Why this machine cannot run the layer."""
    failed: str | None = None
    """What went wrong in the harness itself."""
    cpu: float = 0.0
    """Seconds of processor time, those of the children included."""

    @property
    def caught(self) -> bool:
        """Whether something was found."""
        return self.invariant is not None


def run_cell(cell: Cell) -> Outcome:
    """Run a cell in a process of its own; one that does not end is killed, and has hung."""
    in_python = cell.in_python or (cell.bug is not None and BUGS[cell.bug].in_python)
    environment = {**os.environ, "STRANDLINE_NATIVE": "0" if in_python else "1"}
    limit = cell.seconds + _PATIENCE
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(asdict(cell))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_REPOSITORY,
        env=environment,
        text=True,
        start_new_session=True,
    )
    try:
        told, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Outcome(
            seconds=time.monotonic() - began, invariant=HUNG, what=f"not ended after {limit:.0f} s"
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    try:
        fields = json.loads(told.splitlines()[-1])
    except (IndexError, ValueError):
        return Outcome(failed=f"status {process.returncode}: {errors[-2000:]}")
    return Outcome(**fields)


def _run(cell: Cell) -> Outcome:
    """Run a cell in this process."""
    layer = _layer(cell)
    obstacle = layer.obstacle()
    if obstacle is not None:
        return Outcome(skipped=obstacle)
    bug = contextlib.nullcontext() if cell.bug is None else BUGS[cell.bug].planted()
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as directory, bug:
        place = Path(directory, "bench")
        place.mkdir()
        with layer.bench(place) as bench:
            return _rounds(cell, bench)


def _layer(cell: Cell) -> Layer:
    """Return the layer; one that starts programs anew is told to plant the bug in them first."""
    layer = load_layer(cell.layer)
    kind: Any = type(layer)
    if cell.bug is None or "prelude" not in inspect.signature(kind).parameters:
        return layer
    prelude = f"{BUGS[cell.bug].plant.__module__}:{cell.bug}"
    told: Layer = kind(prelude=(prelude,))
    return told


def _rounds(cell: Cell, bench: Bench) -> Outcome:
    total = Tally()
    seed = cell.seed
    began = time.monotonic()
    while total.rounds != cell.rounds and time.monotonic() - began < cell.seconds:
        try:
            tally = bench.round(seed)
        except Exception:
            return Outcome(time.monotonic() - began, failed=traceback.format_exc()[-2000:])
        total.add(tally)
        if tally.finding is not None:
            break
        seed += 1
    seconds = round(time.monotonic() - began, 3)
    found = total.finding
    if found is None:
        return Outcome(seconds, total.rounds, total.cases)
    return Outcome(
        seconds,
        total.rounds,
        total.cases,
        seed,
        found.invariant,
        found.what[:500],
        found.where[:300],
    )


if __name__ == "__main__":
    die_with_parent()
    told = _run(Cell(**json.loads(sys.argv[1])))
    print(json.dumps(asdict(replace(told, cpu=round(sum(os.times()[:4]), 3)))))
