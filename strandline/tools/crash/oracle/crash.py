"""Kinds of crashes, and which acknowledgements they respect."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from strandline import Durability
from strandline.tools.crash.script.steps import Step
from strandline.tools.crash.script.told import Told


class CrashKind(enum.Enum):
    """What ended."""

    PROCESS = "process"
    """The process, by SIGKILL: the page cache is still there."""
    POWER = "power"
    """The machine: what was not synced may be lost, reordered and torn."""


@dataclass(frozen=True)
class Crash:
    """One crash. Where there is a clock, what is old enough must have landed by itself."""

    kind: CrashKind
    at: float = 0.0
    """The clock at that moment."""
    logged_after: float = math.inf
    """The age from which an ASYNC write must be in the page cache."""
    synced_after: float = math.inf
    """The age from which any logged write must be on disk."""

    @classmethod
    def none(cls) -> Crash:
        """Return what stands for no crash at all: everything that was told came before it."""
        return cls(CrashKind.PROCESS, at=math.inf)

    def is_late(self, told: Told) -> bool:
        """Tell whether something was said when the crash had come already: it is no promise.

        A kernel that loses its disk can still answer a call, even a sync, as if it had not.
        """
        return told.at > self.at

    def respects(self, step: Step, told: Told) -> bool:
        """Tell whether a step that was acknowledged must be there."""
        if self.is_late(told):
            return False
        if step.covers_all or step.level is Durability.SYNC:
            return True
        age = self.at - told.at
        if age > self.synced_after:
            return True
        if self.kind is CrashKind.POWER:
            return False
        return step.level is Durability.BUFFERED or age > self.logged_after
