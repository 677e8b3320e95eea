"""What is told of a cut after which an invariant did not hold."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from traceback import FrameSummary
from typing import Any, Final

from strandline.testing.cut import WAYS, Crash, name_of

_LINES: Final = 4
_ACKNOWLEDGED: Final = 8


@dataclass(frozen=True)
class Stage:
    """One crash of a cut, and what was going on."""

    crash: Crash
    change: str
    """The change that it came before."""
    lines: list[FrameSummary]
    """Where the program was, the innermost line last."""


def describe(stages: Sequence[Stage], acknowledged: list[Any], seed: int, test: str) -> str:
    """Return what happened, what had been promised, and how to repeat it."""
    name = name_of(tuple(stage.crash for stage in stages))
    text = ["", f"This was after cut {name}:"]
    for number, stage in enumerate(stages):
        text += _stage(stage, "the program" if number == 0 else "the recovery from that")
    text += ["  acknowledged by then:", f"    {_shown(acknowledged)}"]
    command = shlex.join(["pytest", test, "--strandline-seed", str(seed), "--strandline-cut", name])
    text += ["Repeat it with:", f"  {command}"]
    return "\n".join(text)


def may_not_repeat(change: int) -> str:
    """Return that the runs of a program differ, from a change on."""
    return (
        f"It may not repeat: from change {change} on the program did not do the same in every "
        "run. Threads, the time of day and unseeded random numbers make that so."
    )


def _stage(stage: Stage, whose: str) -> list[str]:
    crash = stage.crash
    when = "at its end" if stage.change == "the end" else f"before its {stage.change}"
    text = [f"  {WAYS[crash.way]}", f"    change {crash.change} of {whose}, {when}"]
    for line in stage.lines[-_LINES:]:
        text += [f"    {_place(line)}: {line.line}"]
    return text


def _place(line: FrameSummary) -> str:
    near = os.path.relpath(line.filename)
    shown = line.filename if near.startswith("..") else near
    return f"{shown}:{line.lineno} in {line.name}"


def _shown(acknowledged: list[Any]) -> str:
    if not acknowledged:
        return "nothing"
    last = ", ".join(repr(what) for what in acknowledged[-_ACKNOWLEDGED:])
    earlier = len(acknowledged) - _ACKNOWLEDGED
    return f"{earlier} others, then {last}" if earlier > 0 else last
