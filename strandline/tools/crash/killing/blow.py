"""When a writer is killed.

A moment is so many seconds after a phase began, which this side's SIGKILL meets more or less.
A call is the n-th storage call of a phase, at which the shim kills: it follows from its
numbers, as far as the store's threads do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from strandline.tools.crash.killing.phases import AHEAD, Phase, Row, Target
from strandline.tools.crash.shim.control import CHANGES, Action, Kind, Plan

_MILLISECONDS: Final = {
    Phase.WRITING: 40.0,
    Phase.OPENING: 90.0,
    Phase.CLOSING: 6.0,
    Phase.CHECKPOINTING: 4.0,
    Phase.RELEASING: 0.5,
    Phase.ROTATING: 0.5,
    Phase.RECOVERING: 5.0,
}
"""How long each takes, about: a moment is somewhere in it."""
_TIMES: Final = {Phase.CHECKPOINTING: 4, Phase.RELEASING: 2}
"""How often each comes in a script, about; once if it is not said."""
_WITHIN: Final = 0.3
"""How often a call is hit in its middle, if it is a write."""
WHILE_WRITING: Final = tuple(Phase)
WHILE_RECOVERING: Final = (Phase.OPENING, Phase.RECOVERING, Phase.RECOVERING, Phase.CLOSING)


@dataclass(frozen=True)
class Moment:
    """Some seconds after a phase began."""

    target: Target
    seconds: float

    @property
    def kill_after(self) -> float:
        """How many seconds that is after the mark, which comes a little ahead."""
        return AHEAD + self.seconds

    @property
    def when(self) -> str:
        """The moment in words."""
        return (
            f"{self.seconds * 1000:.2f} ms after {self.target.phase.name.lower()} began "
            f"for the {self.target.nth}. time"
        )

    def __str__(self) -> str:
        return f"killed {self.when}"


@dataclass(frozen=True)
class Call:
    """The n-th changing call of a phase, or the n-th write of one, in its middle."""

    phase: Phase
    nth: int
    bytes: int | None = None
    """How many bytes a write still gets to write; None before the call."""

    def plan(self) -> Plan:
        """Return it as the shim takes it."""
        if self.bytes is None:
            return Plan(Action.KILL_BEFORE, CHANGES, self.nth, phase=self.phase)
        return Plan(
            Action.KILL_WITHIN,
            frozenset({Kind.WRITE}),
            self.nth,
            bytes=self.bytes,
            phase=self.phase,
        )

    def __str__(self) -> str:
        where = f"of {self.phase.name.lower()}"
        if self.bytes is None:
            return f"killed before change {self.nth} {where}"
        return f"killed {self.bytes} bytes into write {self.nth} {where}"


Blow = Moment | Call


def choose_moment(choose: random.Random, phases: tuple[Phase, ...]) -> Moment:
    """Return a moment in one of these phases."""
    phase = choose.choice(phases)
    nth = choose.randrange(_TIMES.get(phase, 1)) + 1
    # Some at once: phases are shorter than they are on a machine that is busy.
    share = choose.choice([0.0, 0.3, 1.0])
    return Moment(Target(phase, nth), choose.random() * share * _MILLISECONDS[phase] / 1000)


def choose_call(
    choose: random.Random, phases: tuple[Phase, ...], counted: dict[Phase, Row]
) -> Call | None:
    """Return a call in one of these phases, as many as were counted; None if none was."""
    possible = [phase for phase in phases if counted[phase].calls]
    if not possible:
        return None
    phase = choose.choice(possible)
    row = counted[phase]
    if row.writes and choose.random() < _WITHIN:
        most = choose.choice([1, 16, 100, 512, 4096])
        return Call(phase, choose.randrange(row.writes) + 1, choose.randrange(most))
    return Call(phase, choose.randrange(row.calls) + 1)
