"""L2: every storage call fails, in every way, once or from then on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from strandline.tools.crash.layer import Tally
from strandline.tools.crash.layers import errors_simulated
from strandline.tools.crash.layers.errors_simulated import SimulatedErrors


class ErrorsLayer:
    """The layer."""

    name = "errors"
    number = "L2"
    title = "every storage call fails in every way"

    def obstacle(self) -> str | None:
        """It runs everywhere."""
        return None

    def left_out(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[ErrorsBench]:
        """Give each round a place for LMDB's files."""
        yield ErrorsBench(directory)


class ErrorsBench:
    """Rounds in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, seed: int) -> int:
        """Every script has the same length."""
        return errors_simulated.STEPS

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Fail a slice of a script's calls."""
        return SimulatedErrors(self._directory / "round", seed, kept).run()
