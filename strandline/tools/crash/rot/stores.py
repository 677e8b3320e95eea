"""`Specimen`: a store to be damaged, and every state that it was in.

    plain         a script, as it comes
    logged        nothing was flushed: several segments lie above the watermark
    checkpointed  a flush every few steps: segments were given back and used again
    dropped       tables that were dropped, after they had been in LMDB
    recovered     a torn tail was dropped before the last steps, and lies in quarantine

A process of its own writes it, with real threads and a real disk, and closes it in order
or is killed. Copies of the whole store are kept from before its last steps, for what is
read from a disk can be old.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import strandline
from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.reading import difference
from strandline.tools.crash.oracle.single import expect_single
from strandline.tools.crash.rot.anatomy import frames_of, header_of, log_files
from strandline.tools.crash.rot.children import Say, run_child
from strandline.tools.crash.rot.looking import scanned
from strandline.tools.crash.script.model import UNLOGGED, Content, Model
from strandline.tools.crash.script.running import Script, kept_steps, run_script, tell_opened
from strandline.tools.crash.script.settings import NeverFlush, settings_of
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import (
    SYNC,
    Drop,
    Flush,
    Put,
    PutMany,
    PutUnlogged,
    Reopen,
    Step,
)
from strandline.tools.crash.script.told import Account, Told
from strandline.wal.format import SEGMENT_HEADER_BYTES

STEPS: Final = 60
SHAPES: Final = ("plain", "logged", "checkpointed", "dropped", "recovered")
SECONDS: Final = 60
"""What a writer may take."""

_LARGE: Final = 24_000
"""A value that takes pages of its own in LMDB; three of them fill a segment."""
_MANY: Final = 150
_EARLIER: Final = (0.3, 0.6, 0.85)
"""After which part of the script the store is copied as it is."""


@dataclass
class Specimen:
    """One store, at rest."""

    path: Path
    shape: str
    closed: bool
    """Closed in order, and so not looked at closely by the next opening."""
    options: dict[str, Any]
    earlier: list[Path] = field(default_factory=list)
    """The whole store, as it was some steps ago; the oldest first."""
    states: list[Model] = field(default_factory=lambda: [Model()])
    """Every state between two commits, the last one as it is found now."""
    unlogged: list[Content] = field(default_factory=list)
    """What was put to the table that is not logged."""
    issued: int = 0
    """No LSN up to here may be issued again."""

    @property
    def now(self) -> Model:
        """What the store holds."""
        return self.states[-1]


def shape_of(seed: int) -> tuple[str, bool]:
    """Return the shape of a seed's store, and whether it is closed in order."""
    choose = random.Random(f"rot/store/{seed}")
    return choose.choice(SHAPES), choose.random() < 0.5


def rot_script(seed: int, shape: str) -> list[Step]:
    """Return the steps of a seed: those of any single writer, large values, and the shape's own."""
    choose = random.Random(f"rot/script/{seed}")
    steps = list(single_script(seed, STEPS))
    for number in range(0, STEPS, 7):
        key = b"large%d" % choose.randrange(5)
        steps[number] = Put(SYNC, "", key, b"0:%d:" % number + choose.randbytes(_LARGE))
    for number in (STEPS // 4, STEPS * 3 // 5):
        steps[number] = PutMany(SYNC, tuple(_many(choose, number)))
    if shape == "logged":
        for number, step in enumerate(steps):
            if isinstance(step, Flush | Reopen):
                steps[number] = Put(SYNC, "", b"large", choose.randbytes(_LARGE))
    if shape == "checkpointed":
        for number in range(3, STEPS, 5):
            steps[number] = Flush(SYNC)
    if shape == "dropped":
        for at in (STEPS // 3, STEPS * 4 // 5):
            steps[at] = Put(SYNC, "passing", b"gone%d" % at, b"0:%d:" % at + choose.randbytes(3000))
            steps[at + 1] = Flush(SYNC)
            steps[at + 2] = Drop(SYNC, "passing")
    return steps


def _many(choose: random.Random, number: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield enough small entries for a tree of several levels."""
    for _ in range(_MANY):
        yield b"many%03d" % choose.randrange(1000), b"0:%d:" % number + choose.randbytes(40)


def make_specimen(place: Path, seed: int, kept: frozenset[int] | None) -> Specimen:
    """Write the store of a seed in an empty directory.

    Raises:
        ViolationError: it does not hold what was written, with nothing damaged yet.
    """
    choose = random.Random(f"rot/tear/{seed}")
    shape, closed = shape_of(seed)
    # A reserve is a file of its own, and so can rot.
    options = {**settings_of(seed), "disk_reserve_bytes": 8192}
    if shape == "logged":
        options |= {
            "flush_strategy": NeverFlush(),
            "max_dirty_bytes": 1 << 20,
            "max_log_bytes": 1 << 20,
        }
    specimen = Specimen(place / "store", shape, closed, options)
    script = kept_steps(rot_script(seed, shape), kept)
    turn = STEPS // 2 if shape == "recovered" else 0
    first = {number: step for number, step in script.items() if number < turn}
    rest = {number: step for number, step in script.items() if number >= turn}
    if turn:
        _write(specimen, place, first, closed=False)
        _tear(specimen.path, choose)
    _write(specimen, place, rest, closed=specimen.closed)
    return specimen


def _write(specimen: Specimen, place: Path, script: Script, *, closed: bool) -> None:
    """Let a child take the steps; then find out which of its states the store is in."""
    numbers = list(script)
    copied = {numbers[int(part * len(numbers))] for part in _EARLIER} if numbers else set()

    def work(say: Say) -> None:
        def tell(told: Told) -> None:
            say("told", list(told[:4]))
            if told.step in copied:
                _copy_live(specimen.path, place / f"earlier-{told.step:03d}")

        def reopen() -> Store:
            return strandline.open(specimen.path, **specimen.options)

        db = reopen()
        tell_opened(db, tell)
        db = run_script(db, reopen, script, tell)
        if closed:
            db.close(drain=specimen.shape != "logged")
            say("closed", True)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    said = run_child(work, SECONDS)
    if said.fault or said.signal not in (0, signal.SIGKILL) or (closed and not said.of("closed")):
        raise ViolationError(13, f"the writer ended by signal {said.signal}: {said.fault}")
    specimen.earlier = sorted(place.glob("earlier-*"))
    account = Account.of(Told(*message[1]) for message in said.messages if message[0] == "told")
    base = specimen.now.copy()
    prefixes = expect_single(base, script, account, Crash(CrashKind.PROCESS))
    found, unlogged = _found(specimen, place)
    least = prefixes.least
    equal = [n for n, each in enumerate(prefixes.all) if n >= least and each.model.tables == found]
    if not equal:
        nearest = prefixes.all[-1].model.tables
        raise ViolationError(2, f"before any damage: {difference(nearest, found)}")
    specimen.states += [each.model for each in prefixes.all[: equal[-1] + 1]]
    specimen.unlogged += [
        {step.key: step.value} for step in script.values() if isinstance(step, PutUnlogged)
    ]
    specimen.now.unlogged = unlogged
    specimen.issued = max(specimen.issued, prefixes.issued, specimen.now.lsn)


def _found(specimen: Specimen, place: Path) -> tuple[dict[str, Content], Content]:
    """Read a copy of the store in a child."""
    copy = place / "copy"
    shutil.copytree(specimen.path, copy)

    def work(say: Say) -> None:
        with strandline.open(copy, **specimen.options) as db:
            say("found", {name: scanned(db, name) for name in ["", *db.tables()]})

    said = run_child(work, SECONDS)
    shutil.rmtree(copy)
    found = said.of("found")
    if found is None:
        raise ViolationError(1, f"opening fails before any damage: {said.signal}, {said.fault}")
    unlogged = found.get(UNLOGGED, {})
    return {name: {} if name == UNLOGGED else table for name, table in found.items()}, unlogged


def _copy_live(source: Path, target: Path) -> None:
    """Copy a store that is in use; its files may be from different moments."""
    for at, _, names in os.walk(source):
        into = target / Path(at).relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(Path(at, name), into / name)


def _tear(store: Path, choose: random.Random) -> None:
    """Begin a frame at the end of the log that was never finished."""
    path, end = _end_of_log(store)
    data = bytearray(path.read_bytes())
    torn = choose.randbytes(choose.randrange(1, 200))
    data[end : end + len(torn)] = torn
    path.write_bytes(data)


def _end_of_log(store: Path) -> tuple[Path, int]:
    """Return the segment that was written last, and where its frames end."""
    # A prepared segment can hold those of an earlier use.
    begun = [path for path in log_files(store) if header_of(path.read_bytes(), path)]
    last = begun[-1]
    return last, max([SEGMENT_HEADER_BYTES, *(f.end for f in frames_of(last.read_bytes()))])


def values_of(specimen: Specimen) -> Iterator[tuple[str, Any, Any]]:
    """Yield every table, key and value that the store ever held."""
    for model in specimen.states:
        for name, content in model.tables.items():
            for key, value in content.items():
                yield name, key, value
    for content in specimen.unlogged:
        for key, value in content.items():
            yield UNLOGGED, key, value
