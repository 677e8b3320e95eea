"""Results as text and as JSON."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import BEST_PEER, SUBJECT, RowResult, Verdict, readable

_MET = {True: "met", False: "NOT MET", None: ""}


def table(result: RowResult) -> str:
    """Return a row as a table: medians, the spread of the rounds, ratios, verdicts."""
    row = result.row
    width = max([20, *(len(contender.name) + 2 for contender in row.contenders)])
    lines = [
        f"{row.name}: {row.title}  ({row.unit}, {row.better} is better)",
        f"  timed: {row.timed}",
        f"  {'':{width}}{'median':>12}{'lowest':>12}{'highest':>12}",
    ]
    own = [c.name for c in row.contenders if c.name.startswith(SUBJECT)]
    lines[-1] += "".join(f"{f'{name} is':>24}" for name in own)
    for contender in row.contenders:
        numbers = result.rounds[contender.name]
        mark = " *" if contender.reference else ""
        cells = "".join(
            f"{readable(number):>12}"
            for number in (result.median(contender.name), min(numbers), max(numbers))
        )
        ratios = "".join(
            f"{result.ratio(name, contender.name):>22.2f} x" if name != contender.name else " " * 24
            for name in own
        )
        lines.append(f"  {contender.name + mark:{width}}{cells}{ratios}".rstrip())
    best = result.best_peer()
    if best is not None:
        lines.append(f"  {BEST_PEER}: {best}")
    lines.extend(_verdict_line(verdict) for verdict in result.verdicts())
    lines.extend(f"  left out: {name}, {reason}" for name, reason in row.left_out.items())
    return "\n".join(lines)


def _verdict_line(verdict: Verdict) -> str:
    text = f"  target {verdict.target.text}: {verdict.measured}"
    return f"{text}: {_MET[verdict.met]}" if verdict.met is not None else text


def configurations(results: list[RowResult]) -> str:
    """Return how each contender was configured, with the rows that it ran so in."""
    rows: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for contender in result.row.contenders:
            rows.setdefault((contender.name, contender.config), []).append(result.row.name)
    lines = ["configured as"]
    for (name, config), names in sorted(rows.items()):
        lines.append(f"  {name}: {config}\n    in {', '.join(names)}")
    return "\n".join(lines)


def verdicts(results: list[RowResult]) -> str:
    """Return every target in one table."""
    lines = ["targets"]
    for result in results:
        for verdict in result.verdicts():
            met = _MET[verdict.met] or "?"
            lines.append(
                f"  {met:<8} {result.row.name:<15} {verdict.target.text}: {verdict.measured}"
            )
    return "\n".join(lines) if len(lines) > 1 else ""


def as_json(result: RowResult) -> dict[str, Any]:
    """Return a row with every round's number."""
    row = result.row
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "better": row.better,
        "timed": row.timed,
        "contenders": [
            {
                "name": contender.name,
                "config": contender.config,
                "reference": contender.reference,
                "median": result.median(contender.name),
                "rounds": result.rounds[contender.name],
            }
            for contender in row.contenders
        ],
        "best_peer": result.best_peer(),
        "targets": [
            {"text": v.target.text, "measured": v.measured, "met": v.met} for v in result.verdicts()
        ],
        "left_out": row.left_out,
    }
