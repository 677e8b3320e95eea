"""A cut: one crash of a program, or of the recovery from one.

    41:lost              before change 41 of the program; nothing unsynced survived
    41:killed,7:random-1 the same moment, a kill; then before change 7 of that recovery

A change is a call that alters what is on the disk: a write, a sync, a new name. A cut comes
before one; the number after the last change means the end of the program.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from strandline.tools.crash.simulation.media import CrashPolicy

WAYS: Final = {
    "lost": "power cut: nothing survived that was not synced",
    "killed": "kill of the process: all that was written survived",
    "random-1": "power cut: of what was not synced a random part survived",
    "random-2": "power cut: of what was not synced a random part survived",
}
"""What is done at each moment. A power cut that loses nothing leaves what a kill leaves."""

_STEP: Final = re.compile(rf"([1-9][0-9]*):({'|'.join(WAYS)})")


@dataclass(frozen=True)
class Crash:
    """Before which change, and how."""

    change: int
    way: str

    def __str__(self) -> str:
        """As `--strandline-cut` takes it."""
        return f"{self.change}:{self.way}"

    def policy(self, seed: int) -> CrashPolicy | None:
        """Return what survives on a simulated disk; None for a kill."""
        if self.way == "killed":
            return None
        return "none" if self.way == "lost" else random.Random(f"{seed}/{self}")


Crashes = tuple[Crash, ...]
"""The crash of a program, then that of its recovery, then that of the recovery's recovery."""


def name_of(crashes: Crashes) -> str:
    """Return a cut's name."""
    return ",".join(map(str, crashes))


def crashes_of(name: str) -> Crashes:
    """Parse a cut's name; ValueError if it is none."""
    steps = [_STEP.fullmatch(step) for step in name.split(",")]
    if not all(steps):
        raise ValueError(
            f"{name!r} names no cut: expected a change and one of {', '.join(WAYS)}, "
            "as in 41:lost, or several for cuts in recoveries, as in 41:killed,7:lost"
        )
    return tuple(Crash(int(step[1]), step[2]) for step in steps if step)


@dataclass(frozen=True)
class Cut:
    """What an invariant is told of the moment of the crash."""

    name: str
    """As `--strandline-cut` takes it."""

    kind: Literal["power cut", "kill"]
    """A kill of the process loses nothing that was written, be it synced or not.

    Where a recovery was cut too: "kill" only if all of them were kills.
    """

    acknowledged: list[Any]
    """What had been given to `PowerCuts.acknowledge` before, in order; copies."""
