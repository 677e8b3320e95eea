"""What the terminal shows: the rate while it runs, each crash as it happens, tables at the end."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from strandline import Durability
from strandline.tools.demo.proof import Proof
from strandline.tools.demo.run import Crash, Outcome
from strandline.tools.demo.sheets import Sheet, sheets
from strandline.tools.demo.watch import Watched


class TerminalScreen:
    """Progress on one console. Use it in a `with` block."""

    def __init__(self, console: Console, rows: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:>7,.0f} of {task.total:,.0f} flights"),
            TextColumn("[bold]{task.fields[rate]:>9}[/]"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._task: TaskID = self._progress.add_task("starting", total=rows, rate="", state="")
        self._drawn = 0
        self._crashes = 0

    def __enter__(self) -> TerminalScreen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def writing(self, run: Watched) -> None:
        """Show how a run goes."""
        if len(run.samples) == self._drawn:
            return
        self._drawn = len(run.samples)
        latest = run.samples[-1]
        # Over about a second, so that the figure can be read.
        earlier = run.samples[max(0, len(run.samples) - 11)]
        took = latest.at - earlier.at
        rate = (latest.operations - earlier.operations) / took if took > 0 else 0.0
        self._progress.update(
            self._task,
            description="writing",
            completed=latest.event,
            rate=f"{rate:,.0f}/s",
            state=f"{latest.dirty_entries:>6,} dirty  log {latest.log_bytes / 2**20:5.1f} MiB",
        )

    def killed(self, run: Watched) -> None:
        """Show that a run was killed."""
        self._crashes += 1
        self._drawn = 0
        self._progress.update(self._task, description="reopening", rate="", state="")
        event, steps = run.acknowledged
        self._console.print(
            f"[bold red]SIGKILL {self._crashes}[/]: the last acknowledgement was for operation "
            f"{steps} of flight {event:,}"
        )

    def recovered(self, crash: Crash) -> None:
        """Show what a recovery came to."""
        verdict, report = crash.verdict, crash.report
        self._console.print(
            f"  reopened in {crash.open_seconds * 1e3:.0f} ms, "
            f"{report.operations_replayed:,} operations replayed"
        )
        self._console.print(_proofs(verdict.proofs))
        gone = verdict.lost.get(Durability.ASYNC, 0)
        if verdict.position:
            self._console.print(f"  ASYNC, acknowledged and lost: {gone:,}. The last 10 ms may be")
        self._progress.update(self._task, description="starting")

    def checking(self) -> None:
        """Show that the figures at the end are compared."""
        self._progress.update(self._task, description="checking", rate="", state="")


def show(console: Console, outcome: Outcome) -> None:
    """Print the proofs at the end, all tables, and the verdict."""
    if outcome.final:
        console.print("[bold]At the end[/]")
        console.print(_proofs(outcome.final))
    for sheet in sheets(outcome):
        console.print()
        console.print(_table(sheet))
        if sheet.note:
            console.print(Text(sheet.note, style="dim"))
    console.print()
    console.print(verdict_line(outcome), style="bold green" if outcome.holds else "bold red")


def verdict_line(outcome: Outcome) -> str:
    """Return the outcome in one sentence."""
    failed = [proof for proof in outcome.proofs if not proof.holds]
    if failed:
        return (
            f"{len(failed)} of {len(outcome.proofs)} proofs failed. The store is kept in "
            f"{outcome.store}"
        )
    return (
        f"All {len(outcome.proofs)} proofs hold: {outcome.operations:,} operations of "
        f"{outcome.rows:,} flights, {len(outcome.crashes)} crashes, "
        "no acknowledged SYNC or BUFFERED write lost; "
        f"{outcome.seconds:.1f} s"
    )


def _proofs(proofs: list[Proof]) -> Table:
    table = Table.grid(padding=(0, 0, 0, 2))
    for proof in proofs:
        mark = Text("holds", style="green") if proof.holds else Text("FAILED", style="bold red")
        table.add_row(mark, Text.assemble(f"{proof.claim}: ", (proof.detail, "bold")))
    return table


def _table(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, title_justify="left", title_style="bold")
    for at, column in enumerate(sheet.columns):
        table.add_column(column, justify="right" if at else "left")
    for row in sheet.rows:
        table.add_row(*row)
    return table
