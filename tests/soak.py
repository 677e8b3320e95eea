"""`python -m tests.soak --cycles 2000`: SIGKILL after SIGKILL, and what must be left of the store.

Prints the seed, which makes a run repeatable as far as a kill's moment can be repeated.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.support.killed import Cycles, run_cycles


def main() -> None:
    """Run the cycles and print what was seen; an assertion ends them."""
    parser = argparse.ArgumentParser(description="kill a writing store again and again")
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    console = Console()
    console.print(f"seed {arguments.seed}")
    seconds = 0.0
    with tempfile.TemporaryDirectory() as directory, Progress(console=console) as progress:
        task = progress.add_task("kills", total=arguments.cycles)

        def tick(run: Cycles, elapsed: float) -> None:
            nonlocal seconds
            seconds = elapsed
            progress.update(task, completed=run.cycles)

        run = run_cycles(Path(directory), arguments.cycles, arguments.seed, tick)
    table = Table("", "count")
    for name, value in (
        ("kills", run.cycles),
        ("operations acknowledged", run.acknowledged),
        ("operations recovered", run.operations),
        ("acknowledged ASYNC operations lost, as they may be", run.lost_weak),
        ("acknowledged SYNC or BUFFERED operations lost", 0),
        ("seconds", round(seconds)),
    ):
        table.add_row(name, f"{value:,}")
    console.print(table)


if __name__ == "__main__":
    main()
