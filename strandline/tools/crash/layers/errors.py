"""L2: every storage call fails, in every way, once or from then on.

    errors_simulated   on the simulated disk: rounds with an even seed
    errors_real        a real store, LMDB's calls included: those with an odd one

A script is `2 * SLICES` rounds with seeds that follow each other: those of seeds 0 to 191 let
every call of the first script fail in every way, in both forms. Where the shim cannot work all
rounds are simulated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from strandline.tools.crash.forking.client import PATIENCE, ForkServer
from strandline.tools.crash.layer import Tally
from strandline.tools.crash.layers import errors_simulated
from strandline.tools.crash.layers.errors_real import WORKS, RealErrors
from strandline.tools.crash.layers.errors_simulated import SimulatedErrors
from strandline.tools.crash.shim import build

_MODULES: Final = (WORKS, "lmdb.verify")
_STANDING_IN: Final = 1 << 40
"""Added to the seeds of simulated rounds that stand in for real ones."""


class ErrorsLayer:
    """The layer."""

    name = "errors"
    number = "L2"
    title = "every storage call fails in every way"

    def __init__(self, *, prelude: Sequence[str] = (), patience: float = PATIENCE) -> None:
        """Take what is called first in the server that is started anew, "module:function".

        `patience` is how many seconds a child may take before it counts as hanging.
        """
        self._prelude = prelude
        self._patience = patience

    def obstacle(self) -> str | None:
        """It runs everywhere."""
        return None

    def left_out(self) -> Sequence[str]:
        """Return that no real call fails, where the shim cannot work."""
        why = build.obstacle()
        return () if why is None else (f"errors of real calls, those of LMDB: {why}",)

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[ErrorsBench]:
        """Give rounds a place; end the fork servers, and with them every child."""
        with contextlib.ExitStack() as servers:
            yield ErrorsBench(directory, servers, self._prelude, self._patience)


class ErrorsBench:
    """Rounds in one directory. The servers are started for the first real one."""

    def __init__(
        self,
        directory: Path,
        servers: contextlib.ExitStack,
        prelude: Sequence[str],
        patience: float,
    ) -> None:
        self._directory = directory
        self._servers = servers
        self._prelude = prelude
        self._patience = patience
        self._real = build.obstacle() is None
        self._started: tuple[ForkServer, ForkServer] | None = None

    def steps(self, seed: int) -> int:
        """Every script has the same length."""
        return errors_simulated.STEPS

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Fail a slice of a script's calls."""
        place = self._directory / "round"
        number, odd = divmod(seed, 2)
        if not odd:
            return SimulatedErrors(place, number, kept).run()
        if not self._real:
            return SimulatedErrors(place, number + _STANDING_IN, kept).run()
        return RealErrors(place, *self._servers_of(), number, kept).run()

    def _servers_of(self) -> tuple[ForkServer, ForkServer]:
        """Return the server of the writers and that of the judges."""
        if self._started is None:
            library = build.library(self._directory)
            self._started = (
                self._start("writers", shim=library, prelude=self._prelude),
                self._start("judges"),
            )
        return self._started

    def _start(
        self, name: str, *, shim: Path | None = None, prelude: Sequence[str] = ()
    ) -> ForkServer:
        folder = self._directory / name
        folder.mkdir()
        server = ForkServer(
            folder, modules=_MODULES, patience=self._patience, shim=shim, prelude=prelude
        )
        return self._servers.enter_context(server)
