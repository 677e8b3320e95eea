"""The page: verdict, charts over time, tables. One file that needs nothing from elsewhere."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import Final

from strandline.tools.demo.chart import Interruption, Panel, Points, draw
from strandline.tools.demo.display import verdict_line
from strandline.tools.demo.messages import Sample
from strandline.tools.demo.proof import Proof
from strandline.tools.demo.run import Outcome
from strandline.tools.demo.sheets import Sheet, sheets
from strandline.tools.pages.axes import WIDTHS
from strandline.tools.pages.document import document, read_text

_RATE_WINDOW: Final = 0.25
"""Seconds that a rate is taken over; less in a run that is over at once."""

_LEGEND: Final = (
    '<p class="legend"><span><i class="key-crash"></i>SIGKILL</span>'
    '<span><i class="key-pause"></i>reopening, proof, start of the next run</span>'
    '<span><i class="key-mark"></i>checkpoint</span></p>'
)


def render(outcome: Outcome) -> str:
    """Return the page as text."""
    verdict = "holds" if outcome.holds else "failed"
    body = f"""<header>
<h1>strandline demo</h1>
<p>{outcome.rows:,} flights that left New York in 2013, written in order by a process that is
killed with SIGKILL at random moments (seed {outcome.seed}); each time the store is reopened and
compared with the input.</p>
<p class="verdict {verdict}">{escape(verdict_line(outcome))}</p>
</header>
<main>
{_tiles(outcome)}
<section>
<h2>The run</h2>
{_LEGEND}
{_charts(outcome)}
</section>
<section>
<h2>What was proved</h2>
{_proofs(outcome)}
</section>
<section class="sheets">
{"".join(map(_sheet, sheets(outcome)))}
</section>
</main>"""
    style = read_text(__package__, "page.css")
    return document(title="strandline demo", body=body, style=style)


def _tiles(outcome: Outcome) -> str:
    known = all(crash.verdict.position for crash in outcome.crashes)
    lost = [
        count
        for crash in outcome.crashes
        for level, count in crash.verdict.lost.items()
        if level.name != "ASYNC"
    ]
    slowest = max((crash.open_seconds for crash in outcome.crashes), default=0.0)
    tiles = [
        (f"{len(outcome.crashes)}", "crashes"),
        (f"{sum(lost)}" if known else "?", "acknowledged SYNC and BUFFERED writes lost"),
        (f"{slowest * 1e3:.0f} ms", "slowest reopening after a crash"),
    ]
    if outcome.final:
        spared = 1 - outcome.stored / outcome.operations
        tiles.insert(0, (f"{outcome.operations:,}", "operations"))
        tiles.append((f"{spared:.0%}", "of the writes LMDB was spared"))
    cells = "".join(f"<div><dt>{what}</dt><dd>{number}</dd></div>" for number, what in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _charts(outcome: Outcome) -> str:
    runs = [run for run in outcome.runs if run.samples]
    began = outcome.began
    interruptions: list[Interruption] = []
    until = max((run.samples[-1].at - began for run in runs), default=0.0)
    for number, crash in enumerate(outcome.crashes):
        killed = crash.at - began
        resumed = killed + crash.open_seconds
        if number + 1 < len(runs):
            resumed = runs[number + 1].samples[0].at - began
        interruptions.append(Interruption(f"SIGKILL {number + 1}", killed, resumed))
        until = max(until, resumed)
    checkpoints = [at - began for run in runs for at in checkpoint_times(run.samples)]
    panels = [
        Panel("Operations per second", [rate_line(run.samples, began) for run in runs]),
        Panel(
            "Dirty entries: written, and not in LMDB yet",
            [[(s.at - began, s.dirty_entries) for s in run.samples] for run in runs],
            checkpoints,
        ),
        Panel(
            "Log, MiB",
            [[(s.at - began, s.log_bytes / 2**20) for s in run.samples] for run in runs],
            checkpoints,
        ),
    ]
    return "".join(
        f"<figure><figcaption>{escape(panel.title)}</figcaption>"
        + "".join(draw(panel, max(until, 0.1), interruptions, width) for width in WIDTHS)
        + "</figure>"
        for panel in panels
    )


def checkpoint_times(samples: list[Sample]) -> list[float]:
    """Return when checkpoints were first seen to have ended."""
    return [
        later.at for earlier, later in pairwise(samples) if later.checkpoints > earlier.checkpoints
    ]


def rate_line(samples: list[Sample], began: float) -> Points:
    """Return operations per second over short windows, each in the middle of its window."""
    window = min(_RATE_WINDOW, (samples[-1].at - samples[0].at) / 8)
    line: list[tuple[float, float]] = []
    earlier = samples[0]
    for sample in samples[1:]:
        took = sample.at - earlier.at
        if took >= window > 0:
            rate = (sample.operations - earlier.operations) / took
            line.append((earlier.at + took / 2 - began, rate))
            earlier = sample
    return line


def _proofs(outcome: Outcome) -> str:
    groups = [
        (f"After SIGKILL {number}", crash.verdict.proofs)
        for number, crash in enumerate(outcome.crashes, 1)
    ]
    if outcome.final:
        groups.append(("At the end", outcome.final))
    lists = "".join(
        f'<div><h3>{title}</h3><ul class="proofs">{"".join(map(_proof, proofs))}</ul></div>'
        for title, proofs in groups
    )
    return f'<div class="groups">{lists}</div>'


def _proof(proof: Proof) -> str:
    word = "holds" if proof.holds else "failed"
    return (
        f'<li class="{word}"><b>{word}</b><span>{escape(proof.claim)}'
        f"<small>{escape(proof.detail)}</small></span></li>"
    )


def _sheet(sheet: Sheet) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in sheet.columns)
    body = ""
    for at, row in enumerate(sheet.rows):
        bar = f' class="bar" style="--share:{sheet.shares[at]:.3f}"' if sheet.shares else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        body += f"<tr><th{bar}>{escape(row[0])}</th>{cells}</tr>"
    note = f"<p>{escape(sheet.note)}</p>" if sheet.note else ""
    return (
        f'<article><h2>{escape(sheet.title)}</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}</article>"
    )
