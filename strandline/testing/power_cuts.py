"""`PowerCuts`: a program's power is cut at every point, and its invariant checked each time.

    program ──► store ──before each change──► images ──► invariant, on each
                                                           └─before one change─► image ─► invariant

The program is run once to count its changes, then again for every few cuts; images are looked
at when the program has ended, so that an invariant never runs in the middle of the program.
"""

from __future__ import annotations

import contextlib
import copy
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import pytest

from strandline.testing.cut import WAYS, Crash, Crashes, Cut, name_of
from strandline.testing.failure import Stage, describe, may_not_repeat
from strandline.testing.world import Hook, World, calling_lines
from strandline.tools.crash.simulation.rig import Rig

_AT_ONCE: Final = 64
"""How many images are kept at one time."""
_DEEPER: Final = 3
"""How often the recovery of one image is cut."""

Program = Callable[[], object]
Invariant = Callable[[Cut], object]


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    seed: int = 0
    cuts: int = 400
    """The most cuts of one program, not counting those of recoveries."""
    depth: int = 2
    """1: the program is cut; 2: a recovery from each of these cuts too; and so on."""
    only: Crashes | None = None
    """The one cut to be made."""


@dataclass
class _Image:
    """What a cut left."""

    world: World
    stages: tuple[Stage, ...]
    acknowledged: list[Any]

    @property
    def crashes(self) -> Crashes:
        return tuple(stage.crash for stage in self.stages)

    @property
    def kind(self) -> Literal["power cut", "kill"]:
        return "kill" if all(crash.way == "killed" for crash in self.crashes) else "power cut"

    def cut(self) -> Cut:
        return Cut(name_of(self.crashes), self.kind, copy.deepcopy(self.acknowledged))


class PowerCuts:
    """What the fixture `power_cuts` gives."""

    def __init__(self, directory: Path, settings: Settings, test: str) -> None:
        self.path = directory / "data"
        """`strandline.open` leads to the simulated disk here, and below here."""
        self.tally = {"cuts": 0, "in recoveries": 0}
        """How many crashes of the program, and of recoveries, were looked at."""
        self._directory = directory
        self._settings = settings
        self._test = test
        self._acknowledged: list[Any] = []
        self._runs = 0
        self._first_run: list[str] = []
        self._strays: int | None = None
        self._seen: set[object] = set()

    def acknowledge(self, what: Any) -> None:
        """Record that the program has promised something; call it where it tells somebody.

        `what` is copied, deeply. From here on every cut's `acknowledged` holds it.
        """
        self._acknowledged.append(copy.deepcopy(what))

    def run(self, program: Program, invariant: Invariant) -> None:
        """Run `program`, cut it short everywhere, and call `invariant` on what each cut left.

        `program` is called several times, each time on an empty disk. `invariant` opens the
        store at the same path, which recovers it, and raises if something is not as it must
        be. What it raises first is raised here, with notes that say which cut it was.
        """
        __tracebackhide__ = True
        self._seen.clear()
        total = self._count(program)
        only = self._settings.only
        if only is not None:
            with self._ran(program, [only[0]]) as images:
                if not images:
                    _no_such_cut(only, f"the program ends with change {total}")
                self._look_at(images[0], only[1:], invariant)
            return
        chosen = self._sample(total)
        for first in range(0, len(chosen), _AT_ONCE):
            with self._ran(program, chosen[first : first + _AT_ONCE]) as images:
                for image in images:
                    self._look(image, invariant, self._settings.depth)

    # ---- the program

    def _count(self, program: Program) -> int:
        """Run the program uncut; return the number of its last moment, its end."""
        __tracebackhide__ = True
        self._first_run = []
        with self._ran(program, []):
            pass
        if not self._first_run:
            raise AssertionError(
                "the program changed nothing on the simulated disk, so there is nothing to cut: "
                f"expected it to call strandline.open({str(self.path)!r}), or with a path below it"
            )
        return len(self._first_run) + 1

    def _sample(self, total: int) -> list[Crash]:
        """Choose the cuts: at every moment if they are not too many, else evenly over them."""
        moments = max(1, min(total, self._settings.cuts // len(WAYS)))
        numbers = [total - total * index // moments for index in range(moments)]
        return [Crash(number, way) for number in reversed(numbers) for way in WAYS]

    @contextlib.contextmanager
    def _ran(self, program: Program, crashes: list[Crash]) -> Iterator[list[_Image]]:
        """Run the program to its end; give what these crashes leave, but nothing twice."""
        __tracebackhide__ = True
        self._acknowledged = []
        self._runs += 1
        base = self._directory / f"run-{self._runs}"
        images: list[_Image] = []

        def before_change(number: int, change: str) -> None:
            for crash in crashes:
                if crash.change == number:
                    image = self._image(world, Stage(crash, change, calling_lines()))
                    self._keep_new(image, images)

        try:
            with Rig(base) as rig:
                world = World(rig, self.path, self._settings.seed)
                try:
                    world.run(program, before_change)
                except BaseException as error:
                    error.add_note("raised by the program itself; no power was cut")
                    raise
                self._compare(world.changes)
                yield images
        finally:
            shutil.rmtree(base)

    def _compare(self, changes: list[str]) -> None:
        """Find out where the program did something else than in its first run."""
        self._first_run = self._first_run or changes
        if changes != self._first_run:
            pairs = zip([*self._first_run, ""], [*changes, ""], strict=False)
            self._strays = next(n for n, (one, other) in enumerate(pairs, 1) if one != other)

    def _image(self, world: World, *stages: Stage) -> _Image:
        """Cut the power of a world now; the last of the stages says how."""
        # Before the image is taken: another thread may write and promise something meanwhile.
        acknowledged = copy.deepcopy(self._acknowledged)
        return _Image(world.after(stages[-1].crash), stages, acknowledged)

    def _keep_new(self, image: _Image, images: list[_Image]) -> None:
        """Keep an image, unless an invariant could not tell it from an earlier one."""
        # What was promised is told by its number: nothing is ever taken back.
        likeness = (*image.world.likeness(), image.kind, len(image.acknowledged))
        if likeness in self._seen:
            image.world.release()
        else:
            self._seen.add(likeness)
            images.append(image)

    # ---- the invariant

    def _look(self, image: _Image, invariant: Invariant, depth: int) -> None:
        """Check an image; then cut its recovery too, here and there, and check what that leaves."""
        __tracebackhide__ = True
        if depth == 1:
            self._check(image, image.world, invariant)
        else:
            world = image.world.again()
            self._check(image, world, invariant)
            crashes = self._sample_recovery(image, len(world.changes) + 1)
            world.release()
            for deeper in self._deeper(image, crashes, invariant):
                self._look(deeper, invariant, depth - 1)
        image.world.release()

    def _look_at(self, image: _Image, crashes: Crashes, invariant: Invariant) -> None:
        """Check one image that was asked for, or what cuts of its recovery leave."""
        __tracebackhide__ = True
        for crash in crashes:
            self._seen.clear()  # this one was asked for, whatever it is like
            deeper = self._deeper(image, [crash], invariant)
            if not deeper:
                _no_such_cut((*image.crashes, crash), "the recovery ends before that")
            image = deeper[0]
        self._check(image, image.world, invariant)

    def _sample_recovery(self, image: _Image, total: int) -> list[Crash]:
        """Choose cuts of a recovery: in each part of it one, at random."""
        choose = random.Random(f"{self._settings.seed}/{name_of(image.crashes)}")
        bounds = [total * part // _DEEPER for part in range(_DEEPER + 1)]
        return [
            Crash(choose.randint(first + 1, last), choose.choice(list(WAYS)))
            for first, last in pairwise(bounds)
            if first < last
        ]

    def _check(self, image: _Image, world: World, invariant: Invariant) -> None:
        __tracebackhide__ = True
        self.tally["cuts" if len(image.stages) == 1 else "in recoveries"] += 1
        self._recover(image, world, invariant, lambda _number, _change: None)

    def _deeper(self, image: _Image, crashes: list[Crash], invariant: Invariant) -> list[_Image]:
        """Run the recovery of an image to its end; return what these crashes of it leave."""
        __tracebackhide__ = True
        images: list[_Image] = []

        def before_change(number: int, change: str) -> None:
            for crash in crashes:
                if crash.change == number:
                    stages = (*image.stages, Stage(crash, change, calling_lines()))
                    self._keep_new(self._image(image.world, *stages), images)

        self._recover(image, image.world, invariant, before_change)
        return images

    def _recover(self, image: _Image, world: World, invariant: Invariant, hook: Hook) -> None:
        """Call the invariant; add to what it raises which cut it was."""
        __tracebackhide__ = True
        self._acknowledged = copy.deepcopy(image.acknowledged)
        try:
            world.run(partial(invariant, image.cut()), hook)
        except (Exception, pytest.fail.Exception) as error:
            told = describe(image.stages, image.acknowledged, self._settings.seed, self._test)
            error.add_note(told)
            if self._strays is not None:
                error.add_note(may_not_repeat(self._strays))
            raise


def _no_such_cut(crashes: Crashes, why: str) -> NoReturn:
    pytest.fail(f"--strandline-cut {name_of(crashes)}: there is no such cut: {why}", pytrace=False)
