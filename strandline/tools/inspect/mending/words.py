"""What `repair` says: for a person, and as one JSON document."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from strandline.recovery.aside import Aside
from strandline.tools.cli.terminal import harmless, out
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.tools.inspect.mending.plan import Loss, Lsns, Outcome, Plan
from strandline.tools.inspect.summary import finding_plain, log_line, log_plain, style_of

_LABEL_WIDTH: Final = 12
_MOST_LINES: Final = 100
_WHY: Final = {
    "damage": "damaged or missing, and said to have been on disk",
    "torn-tail": "the torn tail, which nothing says was ever on disk",
}


def plain_repair(log: Examination, plan: Plan, outcome: Outcome | None) -> dict[str, Any]:
    """Return the document."""
    found = log_plain(log)
    if outcome is not None:
        found["status"] = 0
    return found | {
        "mode": plan.mode.value,
        "needed": plan.needed,
        "refused": plan.refusal,
        "findings": [finding_plain(log, each) for each in log.findings],
        "stored_lsn": plan.stored_lsn,
        "kept": [_plain_lsns(each) for each in plan.kept],
        "given_up": [_plain_lsns(loss.lsns) | {"why": loss.why} for loss in plan.given_up],
        "quarantine": [_plain_aside(each) for each in plan.asides],
        "repaired": None if outcome is None else _plain_outcome(outcome),
    }


def _plain_lsns(lsns: Lsns) -> dict[str, Any]:
    return {"first_lsn": lsns.first, "last_lsn": lsns.last}


def _plain_aside(aside: Aside) -> dict[str, Any]:
    return {
        "path": aside.path,
        "offset": aside.offset,
        "end": aside.end,
        "lsn": aside.lsn,
        "how": "move" if aside.whole else "copy",
    }


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    report = outcome.report
    return {
        "path": outcome.path,
        "originals": outcome.originals,
        "quarantined": list(report.quarantined),
        "last_lsn": report.last_lsn,
        "operations_replayed": report.operations_replayed,
        "checked": "sound",
    }


def show_repair(log: Examination, plan: Plan, outcome: Outcome | None) -> None:
    """Print what is wrong, what is kept and given up, and where the originals are."""
    out().print(log_line(log))
    for finding in log.findings:
        at = "" if finding.offset is None else f", offset {finding.offset}"
        lsn = "" if finding.lsn is None else f", LSN {finding.lsn}"
        _say(
            "found",
            f"{WORDS[finding.verdict]}: {finding.path}{at}{lsn}: expected {finding.expected}, "
            f"found {finding.found}",
            style_of(finding.verdict),
        )
    if plan.refusal is not None:
        return
    if not plan.needed:
        _say("repair", "nothing to repair", "bold green")
        return
    _show_lsns(plan, done=outcome is not None)
    if outcome is None:
        for aside in plan.asides:
            how = "moved" if aside.whole else "copied"
            _say("quarantine", f"{aside.path}, offset {aside.offset} to {aside.end}: {how}")
        _say("nothing was", "changed; --output DIR or --in-place --yes would do it")
        return
    for path in outcome.report.quarantined:
        _say("quarantine", path)
    _say("originals", outcome.originals)
    _say("repaired", f"{outcome.path}: checked, and sound", "bold green")


def _show_lsns(plan: Plan, *, done: bool) -> None:
    kept, lost = ("kept", "given up") if done else ("would keep", "give up")
    if plan.stored_lsn:
        _say(kept, f"LSN 1 to {plan.stored_lsn}: in LMDB, which stays as it is")
    for text in _first(tuple(f"{each}: in the log" for each in plan.kept)):
        _say(kept, text)
    for text in _first(tuple(map(_said, plan.given_up))):
        _say(lost, text, "bold red")
    if not plan.given_up:
        _say(lost, "nothing")


def _said(loss: Loss) -> str:
    return f"{loss.lsns}: {_WHY[loss.why]}"


def _first(items: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many as a person reads; --json has them all."""
    if len(items) <= _MOST_LINES:
        return items
    return *items[:_MOST_LINES], f"... and {len(items) - _MOST_LINES} more; --json has them all"


def _say(label: str, text: str, style: str = "dim") -> None:
    out().print(Text.assemble((label.ljust(_LABEL_WIDTH), style), harmless(text)))
