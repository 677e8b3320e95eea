"""One life of a store: it is opened, written to and closed, and all its calls are recorded.

first chapter    on an empty directory
later chapters   on an image of the chapter before: a recovery, and what is written then

place/root/data     the store           place/record   its calls and what was said
place/base/         the root as it was before, none for the first chapter
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from strandline.tools.crash.script.many import scripts_of_many
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Step

CHAPTERS: Final = 2
STEPS: Final = 10
"""Steps of a writer that is alone, in a chapter."""
STEPS_OF_MANY: Final = 4
"""... of each of several writers."""

Ending = Literal["left", "closed", "drained"]


@dataclass(frozen=True)
class Chapter:
    """What its children have to know; it crosses to them in msgpack."""

    place: Path
    number: int
    seed: int
    writers: int
    """1 for a writer that is alone."""
    opening: int
    """The seed of the store's options."""
    ending: Ending
    """How the store is closed, if at all."""
    kept: tuple[int, ...] | None = None
    """Of the steps of all writers in all chapters, only these."""

    @property
    def root(self) -> Path:
        """The directory that is looked at."""
        return self.place / "root"

    @property
    def store(self) -> Path:
        """The store's directory in it."""
        return self.root / "data"

    @property
    def base(self) -> Path | None:
        """A copy of the root from before."""
        return self.place / "base" if self.number else None

    @property
    def record(self) -> Path:
        """The record file."""
        return self.place / "record"

    @property
    def told(self) -> Path:
        """The file that the writers speak to; what they say is in the record as marks."""
        return self.place / "told"

    def scripts(self) -> list[Script]:
        """Return the script of each writer. No number comes in two chapters."""
        length = steps_of(self.writers)
        seed, first = self.seed * CHAPTERS + self.number, self.number * length
        if self.writers == 1:
            alone = single_script(seed, length, reopen=seed % 3 == 0, first=first)
            scripts: list[list[Step]] = [alone]
        else:
            scripts = scripts_of_many(seed, self.writers, length, first=first)
        kept = None if self.kept is None else frozenset(self.kept)
        return [
            {
                number: step
                for number, step in enumerate(script, first)
                if kept is None or writer * CHAPTERS * length + number in kept
            }
            for writer, script in enumerate(scripts)
        ]

    def pack(self) -> dict[str, Any]:
        """Return it as msgpack takes it."""
        return {**asdict(self), "place": str(self.place)}

    @classmethod
    def unpack(cls, data: dict[str, Any]) -> Chapter:
        """Return what was packed."""
        kept = data["kept"]
        place = Path(data["place"])
        return cls(**{**data, "place": place, "kept": None if kept is None else tuple(kept)})


def steps_of(writers: int) -> int:
    """Return how many steps each of them takes in a chapter."""
    return STEPS if writers == 1 else STEPS_OF_MANY
