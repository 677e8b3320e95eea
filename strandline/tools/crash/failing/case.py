"""One fault in one run of a script; it crosses to the children in msgpack."""

from __future__ import annotations

import dataclasses
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from strandline.engine.environment import NO_ROOM
from strandline.tools.crash.layers.errors_simulated import script_of
from strandline.tools.crash.script.running import Script, kept_steps
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.steps import Flush, Step
from strandline.tools.crash.shim.control import Action, Kind, Plan

SHORT: Final = 5
"""How many bytes a short write writes."""
_FLUSHING: Final = 0.5

Ending = Literal["left", "closed", "failing"]
"""The fault goes away, and the process ends or closes; or it closes while the fault is there."""


@dataclass(frozen=True)
class Fault:
    """What happens at which call."""

    kind: Kind
    nth: int
    """Of its kind, counted from 1."""
    error: int | None
    """An errno; None for a short write."""
    lasting: bool
    """Whether all calls of its kind after it fail too."""

    @property
    def of_full_disk(self) -> bool:
        """Whether it says that there is no room."""
        return self.error in NO_ROOM

    def plan(self) -> Plan:
        """Return it as the shim takes it."""
        kinds = frozenset({self.kind})
        if self.error is None:
            return Plan(Action.SHORT_ONCE, kinds, self.nth, bytes=SHORT)
        action = Action.FAIL_ON if self.lasting else Action.FAIL_ONCE
        return Plan(action, kinds, self.nth, self.error)

    def __str__(self) -> str:
        name = "a short count" if self.error is None else errno.errorcode[self.error]
        mode = "from then on" if self.lasting else "once"
        return f"{name} at {self.kind.name} {self.nth}, {mode}"


@dataclass(frozen=True)
class FailingCase:
    """A script, and the fault that it meets."""

    place: Path
    seed: int
    kept: tuple[int, ...] | None
    fault: Fault | None = None
    ending: Ending = "left"

    @property
    def root(self) -> Path:
        """The directory that is looked at."""
        return self.place / "root"

    @property
    def store(self) -> Path:
        """The store's directory in it."""
        return self.root / "data"

    @property
    def record(self) -> Path:
        """The record file."""
        return self.place / "record"

    @property
    def board(self) -> Path:
        """The shim's board."""
        return self.place / "board"

    @property
    def told(self) -> Path:
        """The file that the writer speaks to; what it says is in the record as marks."""
        return self.place / "told"

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the store: budgets that no script reaches."""
        budgets = {"max_dirty_bytes": 1 << 20, "max_log_bytes": 1 << 20}
        return {**settings_of(self.seed), **budgets}

    def script(self) -> Script:
        """Return the steps; a flush does not wait long for what fails."""
        steps: list[Step] = [
            dataclasses.replace(step, timeout=_FLUSHING) if isinstance(step, Flush) else step
            for step in script_of(self.seed)
        ]
        return kept_steps(steps, None if self.kept is None else frozenset(self.kept))

    def pack(self) -> dict[str, Any]:
        """Return it as msgpack takes it."""
        return {**dataclasses.asdict(self), "place": str(self.place)}

    @classmethod
    def unpack(cls, data: dict[str, Any]) -> FailingCase:
        """Return what was packed."""
        kept, fault = data["kept"], data["fault"]
        values = {
            **data,
            "place": Path(data["place"]),
            "kept": None if kept is None else tuple(kept),
            "fault": fault and Fault(**{**fault, "kind": Kind(fault["kind"])}),
        }
        return cls(**values)
