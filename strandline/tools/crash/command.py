"""`strandline crash-test`: the arguments, the progress, and the exit status."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.params import AsJson
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import err, harmless, out, write_line
from strandline.tools.crash.layer import Layer, Tally
from strandline.tools.crash.registry import NAMES, load_layer
from strandline.tools.crash.report import Row, as_json, as_text
from strandline.tools.crash.runner import HarnessError, Plan, Result, run_layer

EXAMPLES: Final = (
    "strandline crash-test --budget 1m",
    "strandline crash-test --layer simulation --layer kill --budget 10m",
    "strandline crash-test --layer simulation --seed 17 --cases 1 --steps 3,4",
)

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

VIOLATED: Final = 1
NOTHING_RAN: Final = 3
HARNESS_FAILED: Final = 4


def crash_test(
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help=f"A layer to run, again for more: {', '.join(NAMES)}. All without it.",
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long each layer runs: 30s, 10m, 1h.")
    ] = "30s",
    cases: Annotated[
        int | None,
        typer.Option(min=1, help="End a layer after so many cases, if that is earlier."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the first round; a new one each time without it."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one a core without it.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Of each script only these steps: to repeat a violation."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            exists=True,
            file_okay=False,
            help="Where stores are made and removed; in memory without it, where there is room.",
        ),
    ] = None,
    *,
    json: AsJson = False,
) -> None:
    """Break stores in every way that the promises name, and look whether they hold.

    Simulated disks, failing calls, kills, cut file systems, rotten files: each is a layer.
    What this machine cannot run is left out, and the table says why. A broken promise is
    told with the command that repeats it, with as few steps as still break it.

    The exit status is 0 if nothing was found, 1 if a promise is broken, 3 if no layer
    could run, 4 if the harness itself failed.
    """
    names = _known(layer or NAMES)
    first = random.randrange(1 << 31) if seed is None else seed
    plan = Plan(
        seconds=_seconds(budget),
        seed=first,
        jobs=jobs or len(os.sched_getaffinity(0)),
        cases=cases,
        kept=_numbers(steps),
        directory=directory,
    )
    try:
        rows = [_run(load_layer(name), plan) for name in names]
    except HarnessError as error:
        *trace, last = str(error).strip().splitlines()
        for line in trace:
            err().print(Text(harmless(line)))
        raise CommandError(f"the harness failed: {last}", HARNESS_FAILED) from error
    if json:
        write_line(to_json(as_json(rows, first)))
    else:
        out().print(as_text(rows))
    raise typer.Exit(_status(rows))


def _run(layer: Layer, plan: Plan) -> Row:
    """Run a layer, or say why it cannot run."""
    reason = layer.obstacle()
    if reason is not None:
        return Row(layer.name, layer.number, layer.title, skipped=reason)
    with _Display(layer, plan) as display:
        result: Result = run_layer(layer, plan, display.show)
    return Row(layer.name, layer.number, layer.title, result, left_out=layer.left_out())


class _Display:
    """A line on stderr that says how a layer goes; nothing where that is no terminal."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self._plan = plan
        # Refreshed by hand: a thread of its own would be in the way of forking.
        self._progress = Progress(
            TextColumn(f"{layer.number} {layer.name}".ljust(14)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            console=err(),
            transient=True,
            expand=True,
            auto_refresh=False,
            disable=not err().is_terminal,
        )
        self._task = self._progress.add_task("", total=1.0, said="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, tally: Tally, seconds: float) -> None:
        """Show how far it is."""
        done = seconds / self._plan.seconds
        if self._plan.cases is not None:
            done = max(done, tally.cases / self._plan.cases)
        rate = tally.cases / seconds if seconds else 0.0
        said = (
            f"{tally.cases:,} cases, {rate:,.0f}/s, {max(0.0, self._plan.seconds - seconds):.0f} s"
        )
        self._progress.update(self._task, completed=min(1.0, done), said=said)
        self._progress.refresh()


def _known(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise CommandError(f"--layer: expected one of {', '.join(NAMES)}, found {unknown[0]!r}", 2)
    return [name for name in NAMES if name in names]


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None or not float(found[1]):
        raise CommandError(f"--budget: expected a time as 30s, 10m or 1h, found {text!r}", 2)
    return float(found[1]) * _UNITS[found[2]]


def _numbers(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    try:
        return frozenset(map(int, text.split(",")))
    except ValueError as error:
        raise CommandError(f"--steps: expected numbers as 3,4,9, found {text!r}", 2) from error


def _status(rows: Sequence[Row]) -> int:
    statuses = {row.status for row in rows}
    if "violated" in statuses:
        return VIOLATED
    return 0 if "passed" in statuses else NOTHING_RAN
