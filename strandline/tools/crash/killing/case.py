"""What the children of one cycle have to do: it crosses to them in msgpack."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.killing.blow import Blow, Call, Moment
from strandline.tools.crash.killing.phases import Phase, Target
from strandline.tools.crash.script.many import COUNTERS, OTHER, scripts_of_many
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Put, Step

CYCLES: Final = 16
"""How often one store is killed in a round."""
STEPS: Final = 120
"""Steps of a cycle."""
STEPS_OF_MANY: Final = 40
"""... for each of several writers."""
_BULKY: Final = 12
"""Of so many steps one writes much, so that a cycle needs a segment or two."""
_MUCH: Final = 8000
_BULKY_KEYS: Final = 3


@dataclass(frozen=True)
class History:
    """The scripts of a round: what its writers do, over all cycles."""

    seed: int
    writers: int
    """1 for a writer that is alone."""
    reopens: bool = False
    """Whether a writer that is alone closes and opens the store now and then, which leaves no
    segment the time to become full."""
    kept: tuple[int, ...] | None = None
    """Of all steps, counted through over the writers, only these."""
    cycles: int = CYCLES

    @property
    def length(self) -> int:
        """Steps of a writer in a cycle."""
        return STEPS if self.writers == 1 else STEPS_OF_MANY

    @property
    def steps(self) -> int:
        """Steps of all writers in all cycles."""
        return self.writers * self.cycles * self.length

    def scripts(self, cycle: int) -> list[Script]:
        """Return the script of each writer in a cycle. No number comes in two cycles."""
        seed, length, first = self.seed * self.cycles + cycle, self.length, cycle * self.length
        if self.writers == 1:
            alone = single_script(seed, length, reopen=self.reopens, first=first)
            scripts: list[list[Step]] = [alone]
        else:
            scripts = scripts_of_many(seed, self.writers, length, first=first)
        kept = None if self.kept is None else frozenset(self.kept)
        return [
            {
                number: _bulky(writer, number, step)
                for number, step in enumerate(script, first)
                if kept is None or writer * self.cycles * length + number in kept
            }
            for writer, script in enumerate(scripts)
        ]

    def begun(self, base: Model) -> Model:
        """Return what a store holds when its writers begin: several find their tables made."""
        if self.writers > 1:
            for name in (OTHER, COUNTERS):
                base.tables.setdefault(name, {})
        return base


def _bulky(writer: int, number: int, step: Step) -> Step:
    """Return what stands for a step: itself, or a put of much."""
    if number % _BULKY:
        return step
    key = b"bulk%d" % (number // _BULKY % _BULKY_KEYS)
    return Put(step.level, "", key, b"%d:%d:" % (writer, number) + bytes(_MUCH))


@dataclass(frozen=True)
class Case:
    """One child: the store, the scripts, and when it is to die."""

    store: Path
    board: Path
    history: History
    cycle: int
    opening: int
    """The seed of its options."""
    drain: bool
    """How it closes the store, if it comes to that."""
    target: Target | None = None
    call: Call | None = None
    shim: bool = False
    apart: bool = True
    """Whether LMDB's file is looked at, after an unclean end, by a process of its own."""
    marks: Path | None = None
    """A file that is told, before the bench, what the writers are told."""

    def scripts(self) -> list[Script]:
        """Return what its writers do."""
        return self.history.scripts(self.cycle)

    def ended_by(self, blow: Blow | None) -> Case:
        """Return the case with this blow in it."""
        values = vars(self) | {
            "target": blow.target if isinstance(blow, Moment) else None,
            "call": blow if isinstance(blow, Call) else None,
        }
        return Case(**values)

    def judged(self, *, apart: bool) -> Case:
        """Return the case of the one who judges: it is not killed, and tells no marks."""
        return replace(self, target=None, call=None, shim=False, apart=apart, marks=None)

    def pack(self) -> dict[str, Any]:
        """Return it as msgpack takes it."""
        paths = {"store": str(self.store), "board": str(self.board)}
        return {**asdict(self), **paths, "marks": self.marks and str(self.marks)}

    @classmethod
    def unpack(cls, data: dict[str, Any]) -> Case:
        """Return what was packed."""
        target, call, history = data["target"], data["call"], data["history"]
        kept = history["kept"]
        values = {
            **data,
            "store": Path(data["store"]),
            "board": Path(data["board"]),
            "marks": data["marks"] and Path(data["marks"]),
            "history": History(**{**history, "kept": kept and tuple(kept)}),
            "target": target and Target(Phase(target["phase"]), target["nth"]),
            "call": call and Call(Phase(call["phase"]), call["nth"], call["bytes"]),
        }
        return cls(**values)


def pack_model(model: Model) -> list[Any]:
    """Return a model as msgpack takes it."""
    return [model.tables, model.lsn, model.unlogged]


def unpack_model(data: list[Any]) -> Model:
    """Return what was packed."""
    tables, lsn, unlogged = data
    return Model(tables, lsn, unlogged)
