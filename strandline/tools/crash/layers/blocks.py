"""L6: everything that a file system writes is recorded, and cut anywhere: ext4, xfs, btrfs.

    run      a child opens the store, writes, closes ──killed, now and then──►
             a child opens it, and holds it against what was told; two more such cycles
    cuts     of the recording: a file system as a disk cache can have left it, mounted,
             and held against what was told before the cut by a child

The recording is made once and cut many times (`blocks.recording`). What was acknowledged is
in it, mark for mark, so a cut knows exactly what was promised before it. Cycles are recorded
with the recoveries between them: a cut can fall into one, and what a judge has seen of a
recovered store must survive every cut after it.

A round that is run again takes the same steps; what the kernel writes, and when, does not
follow from a seed. A finding says which cut it was, and what survived.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from strandline.tools.crash.blocks.blocklog import BlockLog
from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.blocks.obstacle import log_obstacle
from strandline.tools.crash.blocks.recording import Mark, Record, Recording
from strandline.tools.crash.blocks.survivors import Write, at_random
from strandline.tools.crash.forking.client import ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.killing.blow import WHILE_WRITING, choose_moment
from strandline.tools.crash.killing.case import Case, History
from strandline.tools.crash.killing.children import (
    AGAIN,
    WORKS,
    check_told,
    judge,
)
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.layers.mounted import MountedLayer
from strandline.tools.crash.oracle.crash import CrashKind
from strandline.tools.crash.script.model import Model

KINDS: Final[tuple[KindName, ...]] = ("ext4", "xfs", "btrfs")
_CYCLES: Final = 3
_CUTS: Final = 24
"""Images of a recording."""
_QUIET: Final = 0.4
"""The share of them that falls into openings, recoveries and closings: few writes, much at
stake."""
_SLOWER: Final = 5.0
"""How much longer a phase takes than where a sync costs nothing."""
_WRITERS: Final = (1, 1, 3)
_REOPENING: Final = 0.25
_KILLED: Final = 0.5
"""How often a writer is killed before it has ended by itself."""
_BEGINS: Final = b"cycle "
"""What a mark of this side begins with. Those of a writer are msgpack arrays."""


class BlocksLayer(MountedLayer["BlocksBench"]):
    """The layer."""

    name = "blocks"
    number = "L6"
    title = "recorded block writes, cut anywhere: ext4, xfs, btrfs"

    def kinds(self) -> Sequence[KindName]:
        """Return those that it is for."""
        return KINDS

    def reason(self, kind: KindName) -> str | None:
        """Return why one cannot be recorded here."""
        return log_obstacle(kind)

    def make_bench(
        self, directory: Path, server: ForkServer, kinds: Sequence[KindName]
    ) -> BlocksBench:
        """Return a bench on those that can."""
        return BlocksBench(directory, server, kinds)


class BlocksBench:
    """Rounds in one directory, each on a new file system."""

    def __init__(self, directory: Path, server: ForkServer, kinds: Sequence[KindName]) -> None:
        self.cycles: Counter[int] = Counter()
        """In which cycle of a recording the cuts fell."""
        self._directory = directory
        self._server = server
        self._kinds = kinds

    def steps(self, seed: int) -> int:
        """Return the steps of all writers in all cycles."""
        return history_of(seed).steps

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Record one store, and cut the recording."""
        place = self._directory / "round"
        place.mkdir()
        kind = self._kinds[seed % len(self._kinds)]
        try:
            return BlocksRound(place, self._server, kind, seed, kept, self.cycles).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def history_of(seed: int, kept: frozenset[int] | None = None) -> History:
    """Return the scripts of a round."""
    choose = random.Random(f"blocks/history/{seed}")
    return History(
        seed,
        writers=choose.choice(_WRITERS),
        reopens=choose.random() < _REOPENING,
        kept=None if kept is None else tuple(sorted(kept)),
        cycles=_CYCLES,
    )


class BlocksRound:
    """One recording of one store."""

    def __init__(
        self,
        place: Path,
        server: ForkServer,
        kind: KindName,
        seed: int,
        kept: frozenset[int] | None,
        cycles: Counter[int],
    ) -> None:
        self.tally = Tally(rounds=1)
        self._place = place
        self._server = server
        self._kind: KindName = kind
        self._choose = random.Random(f"blocks/{seed}")
        self._seed = seed
        self._history = history_of(seed, kept)
        self._cycles = cycles
        self._base = self._history.begun(Model())
        self._bases: dict[int, Model] = {}
        """What was there when a cycle began."""
        self._where = ""

    def run(self) -> Tally:
        """Record, then cut until something is found, or all cuts were."""
        try:
            with BlockLog(self._kind, self._place) as log:
                self._record(log)
                with log.end() as recording:
                    for number, cut in enumerate(self._cuts(recording)):
                        self._cut(recording, cut, number)
        except ViolationError as error:
            self.tally.finding = Finding(error.invariant, str(error), self._where)
        return self.tally

    # ---- the recording

    def _record(self, log: BlockLog) -> None:
        for cycle in range(_CYCLES):
            if self._history.kept is None or any(self._history.scripts(cycle)):
                self._begin(log, cycle)
                self._live(log, cycle)
        self._begin(log, _CYCLES)

    def _begin(self, log: BlockLog, cycle: int) -> None:
        """Mark that what comes now comes on top of what there is."""
        log.mark(_BEGINS + b"%d" % cycle)
        self._bases[cycle] = self._base

    def _live(self, log: BlockLog, cycle: int) -> None:
        """Let a child write, and another one look at what it left, while all is recorded."""
        case = self._case(log.path, cycle, log.marks)
        kill_after = None
        if self._choose.random() < _KILLED:
            moment = choose_moment(self._choose, WHILE_WRITING)
            moment = replace(moment, seconds=moment.seconds * _SLOWER)
            case, kill_after = case.ended_by(moment), moment.kill_after
        self._where = f"{self._kind}, while cycle {cycle} was recorded"
        ended = self._server.run(f"{WORKS}:write", case.pack(), kill_after=kill_after)
        self.tally.faults += ended.killed
        check_ended(ended)
        check_told(ended.said)
        self._base = self._judge(case, self._base, CrashKind.PROCESS, ended.said, again=0.0)

    # ---- the cuts

    def _cuts(self, recording: Recording) -> list[int]:
        """Choose where to cut: anywhere, and often while the store is opened or closed."""
        quiet = quiet_positions(recording.records)
        count = round(_CUTS * _QUIET) if quiet else 0
        chosen = [self._choose.choice(quiet) for _ in range(count)]
        return sorted([*chosen, *recording.cuts(self._choose, _CUTS - count)])

    def _cut(self, recording: Recording, cut: int, number: int) -> None:
        cycle, said = told_before(recording.marks(cut))
        rng = random.Random(f"blocks/{self._seed}/{number}")
        survivors = Survivors(rng)
        self._where = (
            f"{self._kind}, image {number}: cut {cut - recording.begin} of "
            f"{recording.end - recording.begin}, in cycle {cycle} of {_CYCLES}"
        )
        with recording.image(cut, survivors.choose) as disk:
            self._where += f"; {survivors.what}"
            self.tally.cases += 1
            self.tally.faults += 1
            self._cycles[cycle] += 1
            base = self._bases.get(cycle, self._base)
            self._judge(self._case(disk, cycle), base, CrashKind.POWER, said)

    def _judge(
        self, case: Case, base: Model, kind: CrashKind, said: bytes, *, again: float = AGAIN
    ) -> Model:
        return judge(
            self._server, self._choose, self.tally, case, base, kind=kind, said=said, again=again
        )

    def _case(self, disk: Path, cycle: int, marks: Path | None = None) -> Case:
        return Case(
            disk / "store",
            self._place / "board",
            self._history,
            cycle,
            opening=self._choose.randrange(1 << 30),
            drain=self._choose.random() < 0.5,
            # A process of its own would keep the file system in use when its child is killed.
            apart=False,
            marks=marks,
        )


def told_before(marks: Sequence[bytes]) -> tuple[int, bytes]:
    """Return the cycle that marks end in, and what its writers were told."""
    cycle, said = 0, bytearray()
    for mark in marks:
        if mark.startswith(_BEGINS):
            cycle = int(mark[len(_BEGINS) :])
            said.clear()
        else:
            said += mark
    return cycle, bytes(said)


def quiet_positions(records: Sequence[Record]) -> list[int]:
    """Return the positions about the beginning of a cycle at which nobody is told anything."""
    marks = [(at, record) for at, record in enumerate(records) if isinstance(record, Mark)]
    return [
        position
        for (at, mark), (until, following) in pairwise(marks)
        if mark.data.startswith(_BEGINS) or following.data.startswith(_BEGINS)
        for position in range(at + 1, until + 1)
    ]


class Survivors:
    """A choice of survivors that says how many they were."""

    def __init__(self, rng: random.Random) -> None:
        self._survival = at_random(rng)
        self.what = ""

    def choose(self, pending: Sequence[Write]) -> Sequence[Write]:
        """Choose them."""
        kept = self._survival(pending)
        size, of = (sum(len(write.data) for write in each) for each in (kept, pending))
        self.what = f"of {len(pending)} unflushed writes, {of} bytes, survived {size} bytes"
        return kept
