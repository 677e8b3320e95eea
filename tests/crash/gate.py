"""The gate: every planted bug against every layer of the harness.

    python -m tests.crash.gate --budget 30s --layer simulation --layer errors
    python -m tests.crash.gate --layer rot --bug value_checksum_unchecked
    python -m tests.crash.gate --pin

Each cell is a process of its own: rounds of one layer with one bug, until something is found
or the budget is spent. The first row is the control, without a bug: there a finding is a
false alarm, or a real bug. Results are merged into docs/crash-testing-matrix.json, layer by
layer, as machines and layers allow; the table in docs/crash-testing.md is made from it.

`--pin` stores for each bug a round that finds it, of a few seeds of the given layers the one
that takes the least processor time, in tests/crash/planted/pins.json.
`tests/crash/test_gate.py` runs those.

The exit status is 1 if the control finds something, a cell fails, or a bug is caught by no
layer in the whole matrix.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Final

from strandline.tools.crash.registry import NAMES
from tests.crash.planted import BUGS
from tests.crash.planted.cell import Cell, Outcome, run_cell
from tests.crash.planted.matrix import CONTROL, Matrix
from tests.crash.planted.pins import REPEATABLE, Pin, pins_of, write_pins

_SEEDS: Final = 8
_CHEAP: Final = 1.2
"""Seconds of processor time below which no cheaper round is looked for."""
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class _Arguments:
    budget: float
    layers: list[str]
    bugs: list[str]
    jobs: int
    seed: int
    pin: bool
    table: bool


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    matrix = Matrix.read()
    if arguments.table:
        matrix.write()
        return 0
    if arguments.pin:
        return _pin(arguments)
    failures = 0
    for layer in arguments.layers:
        for bug, outcome in _column(layer, arguments):
            alarm = bug == CONTROL and outcome.caught
            failures += alarm or outcome.failed is not None
            print(_line(layer, bug, outcome), flush=True)
            matrix.note(layer, bug, outcome)
            if outcome.skipped is not None:
                break
    missed = matrix.missed()
    if missed:
        print(f"caught by no layer: {', '.join(missed)}")
    return 1 if failures or missed else 0


def _column(layer: str, arguments: _Arguments) -> Iterator[tuple[str, Outcome]]:
    """Run one layer with every bug, the control first."""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        run = partial(_cell, layer, arguments)
        yield from zip(arguments.bugs, pool.map(run, arguments.bugs), strict=True)


def _cell(layer: str, arguments: _Arguments, bug: str) -> Outcome:
    planted = None if bug == CONTROL else bug
    return run_cell(Cell(layer, planted, arguments.budget, arguments.seed))


def _pin(arguments: _Arguments) -> int:
    """Store for each bug a round that finds it, the one that takes the least processor time."""
    layers = [name for name in arguments.layers if name in REPEATABLE]
    for bug in arguments.bugs:
        best: Pin | None = None
        for layer, seed in product(layers, range(arguments.seed, arguments.seed + _SEEDS)):
            if best is not None and best.cpu < _CHEAP:
                break
            pin = Pin(layer, seed)
            outcome = pin.run(bug)
            print(_line(layer, bug, outcome), flush=True)
            if outcome.caught and (best is None or outcome.cpu < best.cpu):
                best = replace(pin, cpu=outcome.cpu)
        if best is not None:
            write_pins({**pins_of(), bug: best})
    unpinned = [name for name in BUGS if name not in pins_of()]
    print(f"not pinned: {', '.join(unpinned) or 'none'}")
    return 0


def _line(layer: str, bug: str, outcome: Outcome) -> str:
    if outcome.skipped is not None:
        found = f"skipped: {outcome.skipped}"
    elif outcome.failed is not None:
        found = f"FAILED: {outcome.failed.splitlines()[-1]}"
    elif outcome.caught:
        what = " ".join(outcome.what.split())[:90]
        found = f"invariant {outcome.invariant}, seed {outcome.seed}: {what}"
    else:
        found = "nothing"
    took = f"{outcome.seconds:6.1f} s {outcome.cases:6} cases"
    return f"{layer:10} {bug:34} {took}  {found}"


def _arguments() -> _Arguments:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.gate")
    parser.add_argument("--budget", default="30s", help="for each cell: 30s, 2m")
    parser.add_argument("--layer", action="append", choices=NAMES, help="all without it")
    parser.add_argument("--bug", action="append", choices=[CONTROL, *BUGS], help="all without it")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pin", action="store_true", help="store a cheap round of each bug")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    given = parser.parse_args()
    return _Arguments(
        budget=float(given.budget.rstrip("smh")) * _UNITS.get(given.budget[-1], 1.0),
        layers=given.layer or list(NAMES),
        bugs=given.bug or [CONTROL, *BUGS],
        jobs=given.jobs,
        seed=given.seed,
        pin=given.pin,
        table=given.table,
    )


if __name__ == "__main__":
    sys.exit(main())
