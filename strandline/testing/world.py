"""`World`: where `strandline.open` leads while a program runs under test.

    strandline.open(home / ...) ──► Rig.open ──► the log on a SimulatedDisk, LMDB in a file

The program's options are kept, but for these: the disk and the runtime are simulated; the
segments are short and the disk's reserve is none, for they cost time and memory in every
image, and decide about room, not about what survives. Paths elsewhere lead where they say.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import FrameSummary
from types import FrameType
from typing import Any, Final, NoReturn
from unittest import mock

from strandline.engine.store import Store
from strandline.options import Options
from strandline.recovery import opening
from strandline.testing.cut import Crash
from strandline.testing.runtime import BackgroundRuntime
from strandline.tools.crash.simulation.rig import CHANGES, Rig
from strandline.wal.lockfile import WriterLock

_DRAIN: Final = 0.5
_HOUSEKEEP: Final = 0.1
_FLUSH: Final = 0.05
"""How often each background thread does its work where it could."""

Hook = Callable[[int, str], object]
"""Called before each change, with its number and its description."""


class World:
    """One store at a path, and everything that befalls it in one run of a function."""

    def __init__(self, rig: Rig, home: Path, seed: int) -> None:
        self.rig = rig
        self.changes: list[str] = []
        """Every change so far, in words."""
        self._home = os.path.realpath(home)
        self._seed = seed
        self._inside = rig.directory + os.sep
        self._names = {
            rig.directory: "the store's directory",
            os.path.dirname(rig.directory): "the directory above the store's",
        }
        self._place: str | None = None
        self._now = 1000.0
        self._openings = 0
        self._runtime: BackgroundRuntime | None = None

    @property
    def now(self) -> float:
        """What the clock says."""
        return self._now if self._runtime is None else self._runtime.now

    def after(self, crash: Crash) -> World:
        """Return the world that a crash at this moment leaves."""
        policy = crash.policy(self._seed)
        return self._next(self.rig.kill() if policy is None else self.rig.power_cut(policy))

    def again(self) -> World:
        """Return another world that is as this one, in which nothing has happened yet."""
        return self._next(self.rig.kill())

    def likeness(self) -> tuple[bytes, float]:
        """Return what two worlds have in common that no program can tell apart."""
        return self.rig.fingerprint(), self.now

    def run(self, function: Callable[[], object], before_change: Hook) -> None:
        """Call `function` with `strandline.open` leading here; tell of every change.

        A store that it leaves open is closed afterwards, without a flush.
        """

        def change(op: str, path: str) -> None:
            if op in CHANGES:
                with one_at_a_time:
                    self.changes.append(f"{op} of {self._shown(path)}")
                    before_change(len(self.changes), self.changes[-1])

        __tracebackhide__ = True
        one_at_a_time = threading.Lock()
        self.rig.disk.faults = change
        try:
            with self._reached():
                function()
            before_change(len(self.changes) + 1, "the end")
        finally:
            self.rig.disk.faults = None
            self.rig.close()

    def release(self) -> None:
        """Forget the world; its files in memory go."""
        self.rig.release()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Let every way of opening lead here, whoever imported it under which name."""
        really = opening._open

        def landing(path: Any, options: dict[str, Any], lock: WriterLock | None) -> Store:
            if lock is None and isinstance(path, str | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if place == self._home or place.startswith(self._home + os.sep):
                    return self._open(place, options)
            return really(path, options, lock)

        with mock.patch.object(opening, "_open", landing):
            yield

    def _next(self, rig: Rig) -> World:
        world = World(rig, Path(self._home), self._seed)
        world._now, world._place = self.now, self._place
        return world

    def _open(self, place: str, options: dict[str, Any]) -> Store:
        if self._place not in (None, place):
            _refuse_second(self._place, place)
        self._place = place
        self._openings += 1
        runtime = BackgroundRuntime(self._openings, self.now)
        self._runtime = runtime
        store = self.rig.open(
            runtime=runtime,
            **(_DEFAULTS | {n: value for n, value in options.items() if n not in _REPLACED}),
        )
        choose = random.Random(f"{self._seed}/{self._openings}")
        runtime.behind = lambda: self._work(store, choose)
        runtime.while_asleep = lambda: self._serve(store)
        return store

    def _work(self, store: Store, choose: random.Random) -> None:
        """Do what the threads of the store might do now."""
        if store.engine.closed_because is not None:
            return
        if choose.random() < _DRAIN:
            store.engine.log.drain()
        if choose.random() < _HOUSEKEEP:
            store.engine.log.housekeep()
        if choose.random() < _FLUSH:
            store.engine.checkpointer.tick()

    def _serve(self, store: Store) -> None:
        """Do what the threads of the store do while the program sleeps."""
        store.engine.log.drain()
        store.engine.checkpointer.tick()

    def _shown(self, path: str) -> str:
        """Return a path in words that are the same in every run."""
        return self._names.get(path) or path.removeprefix(self._inside)


_DEFAULTS: Final[dict[str, Any]] = {
    name: getattr(Options(), name)
    for name in ("flush_strategy", "group_bytes", "max_log_bytes", "max_tables")
}
"""What a program finds that does not say otherwise, though a `Rig` has it smaller."""

_REPLACED: Final = ("disk", "runtime", "segment_bytes", "disk_reserve_bytes")


def _refuse_second(first: str | None, second: str) -> NoReturn:
    raise NotImplementedError(
        f"strandline.testing cuts the power of one store at a time: the program opened {first}, "
        f"then {second}. Give the second a path outside of power_cuts.path (it is a real store "
        "then, and survives every cut), or test them apart"
    )


def calling_lines() -> list[FrameSummary]:
    """Return where the program is: its lines that led here, the innermost last."""
    lines: list[FrameSummary] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "strandline.testing.world" and frame.f_code is World.run.__code__:
            break
        if module.partition(".")[0] not in _NOT_THE_PROGRAM:
            code = frame.f_code
            lines.append(FrameSummary(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return lines[::-1]


_NOT_THE_PROGRAM: Final = {"strandline", *sys.stdlib_module_names} - {"__main__"}
