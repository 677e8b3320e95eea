"""Thousands of SIGKILL cycles: `python -m tests.soak --cycles 2000 --seed 1`.

A run follows from its seed, but for the moments of the kills. At the first fault the store
is left where it is, and what is printed says which cycle of which seed it was.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.support.killed import PER_STORE, Tally, many

_HANG_SECONDS = 120

ROWS = {
    "cycles": "cycles, each ended by SIGKILL",
    "killed_while_opening": "... of these before the store was open",
    "killed_in_recovery": "recoveries that were killed as well",
    "acknowledged": "steps acknowledged",
    "recovered": "steps found again",
    "in_flight": "... of these never acknowledged",
    "lost": "ASYNC steps acknowledged and not on disk yet, as they may be",
    "replayed": "operations replayed from the log",
    "sealed_anew": "unclean ends recovered from",
    "torn": "... of these with a torn tail",
    "checks": "stores compared with their scripts, all equal",
}


def main() -> int:
    """Run the cycles, show how far they are, and print what they came to."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--directory", type=Path, help="where the stores go; a temporary place")
    arguments = parser.parse_args()
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="strandline-soak-", dir=arguments.directory))
    console.print(f"seed {arguments.seed}, {arguments.cycles} cycles, in {directory}")
    started = time.monotonic()
    total = Tally()
    columns = (
        TextColumn("killing and recovering"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=arguments.cycles)
            faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
            for tally in many(directory, arguments.seed, arguments.cycles):
                faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
                total += tally
                progress.advance(task)
                if total.cycles % PER_STORE == 0:
                    _remove(directory, total.cycles // PER_STORE - 1)
    except AssertionError as error:
        console.print_exception()
        console.print(
            f"FAULT in cycle {total.cycles + 1} of seed {arguments.seed}: {error}", style="bold red"
        )
        console.print(f"the store is in {directory}")
        return 1
    seconds = time.monotonic() - started
    shutil.rmtree(directory)
    console.print(_table(total, seconds, arguments.seed))
    return 0


def _remove(directory: Path, number: int) -> None:
    shutil.rmtree(directory / f"store-{number}", ignore_errors=True)


def _table(total: Tally, seconds: float, seed: int) -> Table:
    table = Table(title=f"seed {seed}: no fault", title_style="bold green", show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for name, said in ROWS.items():
        table.add_row(f"{getattr(total, name):,}", said)
    table.add_row(f"{seconds:,.1f} s", f"{total.cycles / seconds:.1f} cycles a second")
    return table


if __name__ == "__main__":
    sys.exit(main())
