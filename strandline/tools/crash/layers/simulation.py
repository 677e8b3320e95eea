"""L1: the store on a simulated disk, crashed before every change of it, and in every recovery.

    simulated_script    rounds of one writer, every verb, the background work by hand
    simulated_threads   rounds of several, with all threads, taking turns

Every other round is of either kind.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from strandline.tools.crash.layer import Tally
from strandline.tools.crash.layers import simulated_script, simulated_threads
from strandline.tools.crash.layers.simulated_script import ScriptRound
from strandline.tools.crash.layers.simulated_threads import ThreadsRound


class SimulationLayer:
    """The layer."""

    name = "simulation"
    number = "L1"
    title = "simulated disk, a crash before every change"

    def obstacle(self) -> str | None:
        """It runs everywhere."""
        return None

    def left_out(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[SimulationBench]:
        """Give each round a place for LMDB's files."""
        yield SimulationBench(directory)


class SimulationBench:
    """Rounds in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, seed: int) -> int:
        """The script's, or those of all writers that there can be."""
        if seed % 2:
            return simulated_threads.MOST_WRITERS * simulated_threads.STEPS
        return simulated_script.STEPS

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Crash one run everywhere."""
        place = self._directory / "round"
        kind = ThreadsRound if seed % 2 else ScriptRound
        try:
            return kind(place, seed, kept).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)
