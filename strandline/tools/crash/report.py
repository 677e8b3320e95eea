"""What a run came to: a row for each layer, as a table or as JSON."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from strandline.tools.cli.terminal import harmless
from strandline.tools.crash.layer import INVARIANTS
from strandline.tools.crash.runner import Result


@dataclass(frozen=True)
class Row:
    """One layer: what it came to, or why it was left out."""

    name: str
    number: str
    title: str
    result: Result | None = None
    skipped: str = ""
    """Why the layer cannot run here."""
    left_out: Sequence[str] = ()
    """Parts of it that cannot."""

    @property
    def status(self) -> str:
        """passed, violated or skipped."""
        if self.result is None:
            return "skipped"
        return "passed" if self.result.tally.finding is None else "violated"

    @property
    def command(self) -> str | None:
        """The command that repeats a violation."""
        if self.result is None or self.result.seed is None:
            return None
        words = ["strandline", "crash-test", "--layer", self.name]
        words += ["--seed", str(self.result.seed), "--cases", "1", "--jobs", "1"]
        if self.result.kept is not None:
            words += ["--steps", ",".join(map(str, self.result.kept))]
        return shlex.join(words)


def as_json(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Return a run as JSON has it."""
    return {"seed": seed, "layers": [_row_as_json(row) for row in rows]}


def _row_as_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "layer": row.name,
        "number": row.number,
        "title": row.title,
        "status": row.status,
        "left_out": list(row.left_out),
    }
    if row.result is None:
        return {**found, "reason": row.skipped}
    tally = row.result.tally
    found |= {
        "seconds": round(row.result.seconds, 3),
        "rounds": tally.rounds,
        "cases": tally.cases,
        "cases_per_second": round(_rate(row.result), 1),
        "faults": tally.faults,
        "acknowledged_checked": tally.acknowledged,
    }
    if tally.outcomes:
        found["outcomes"] = [
            {"struck": struck, "how": how, "outcome": outcome, "cases": cases}
            for (struck, *how, outcome), cases in sorted(tally.outcomes.items())
        ]
    if tally.finding is not None:
        found["violation"] = {
            "invariant": tally.finding.invariant,
            "promise": INVARIANTS[tally.finding.invariant],
            "what": tally.finding.what,
            "where": tally.finding.where,
            "seed": row.result.seed,
            "steps": None if row.result.kept is None else list(row.result.kept),
            "command": row.command,
        }
    return found


def as_text(rows: Sequence[Row]) -> RenderableType:
    """Return a run as a table, with what was found below it."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("layer", ""):
        table.add_column(title, no_wrap=True)
    for title in ("cases", "faults", "writes checked", "cases/s", "violations"):
        table.add_column(title, justify="right", no_wrap=True)
    below: list[RenderableType] = []
    for row in rows:
        if row.result is None:
            table.add_row(row.number, row.name, *[Text("-", style="dim")] * 5)
            below.append(_line(f"{row.name} was left out: {row.skipped}", "yellow"))
            continue
        tally = row.result.tally
        found = Text("0", style="green") if tally.finding is None else Text("1", style="bold red")
        table.add_row(
            row.number,
            row.name,
            f"{tally.cases:,}",
            f"{tally.faults:,}",
            f"{tally.acknowledged:,}",
            f"{_rate(row.result):,.1f}",
            found,
        )
        below += [_line(f"{row.name}, left out: {each}", "yellow") for each in row.left_out]
        if tally.outcomes:
            below += [Text(), _outcomes(row.name, tally.outcomes)]
        below += _violation(row)
    return Group(table, *below)


def _outcomes(name: str, outcomes: Counter[tuple[str, ...]]) -> Table:
    """Return what became of cases, by what was struck; how is left to the JSON."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(name, no_wrap=True)
    columns = list(dict.fromkeys(outcome for *_, outcome in outcomes))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    sums: dict[str, Counter[str]] = {}
    for (struck, *_, outcome), cases in sorted(outcomes.items()):
        sums.setdefault(struck, Counter())[outcome] += cases
    for struck, row in sums.items():
        table.add_row(struck, *(f"{row[column]:,}" for column in columns))
    return table


def _violation(row: Row) -> list[RenderableType]:
    if row.result is None or row.result.tally.finding is None:
        return []
    finding = row.result.tally.finding
    broken = f"{row.name}: promise {finding.invariant} is broken: {INVARIANTS[finding.invariant]}"
    return [
        Text(),
        _line(broken, "bold red"),
        _line(f"  {finding.what}"),
        _line(f"  {finding.where}"),
        _line(f"  again: {row.command}", "bold"),
    ]


def _line(text: str, style: str = "") -> Text:
    return Text(harmless(text), style=style)


def _rate(result: Result) -> float:
    return result.tally.cases / result.seconds if result.seconds else 0.0
