"""What a planted bug is: a change of strandline's own classes, while it is wanted.

A bug is a function that is handed a `Planting` and replaces methods with it. `@bug` makes a
`Bug` of it, which can be planted for a while (`planted`) or for the rest of the process (by
calling it, as the prelude of a child does).

Where C does what the replaced Python says, the bug is `in_python`: whoever plants it runs
with STRANDLINE_NATIVE=0 in the environment, set before strandline is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from strandline.native import native
from strandline.tools.crash.layer import INVARIANTS

BUGS: Final[dict[str, Bug]] = {}
"""All of them by name, in the order in which their modules are imported."""


class Planting:
    """Replacements that are undone together."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def replace(self, owner: object, name: str, new: Any) -> None:
        """Put `new` in the place of an attribute that is there."""
        self._stack.enter_context(mock.patch.object(owner, name, new))

    def undo(self) -> None:
        """Put everything back."""
        self._stack.close()


@dataclass(frozen=True)
class Bug:
    """One planted bug."""

    name: str
    breaks: int
    """The invariant that it breaks, as `strandline.tools.crash.layer.INVARIANTS` counts."""
    in_python: bool
    plant: Callable[[Planting], None]
    what: str
    """The first line of its docstring."""

    def __call__(self) -> None:
        """Plant it for the rest of the process."""
        self._require_python()
        self.plant(Planting())

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Plant it for a while."""
        self._require_python()
        planting = Planting()
        try:
            self.plant(planting)
            yield
        finally:
            planting.undo()

    def _require_python(self) -> None:
        if self.in_python and native is not None:
            raise RuntimeError(f"{self.name} is planted in Python; set STRANDLINE_NATIVE=0 first")


def bug(*, breaks: int, in_python: bool = False) -> Callable[[Callable[[Planting], None]], Bug]:
    """Make a bug of a function that plants it."""

    def make(plant: Callable[[Planting], None]) -> Bug:
        name = plant.__name__
        assert breaks in INVARIANTS, f"{name}: there is no invariant {breaks}"
        assert name not in BUGS, f"there are two bugs {name}"
        assert plant.__doc__, f"{name} has no docstring"
        made = Bug(name, breaks, in_python, plant, plant.__doc__.splitlines()[0])
        BUGS[name] = made
        return made

    return make
