"""L5: a file system's power is cut under a store, again and again: ext4 and xfs in turn.

    cycle   a child opens the store, writes, closes ──cut──► mounted again
            now and then a child recovers           ──cut──► mounted again
            a child opens it, and holds it against what was told

The kernel itself stops the file system (`blocks.shutdown`), with the part of its journal
that is in memory or without it. A cut falls at a moment in some phase of the store's life,
or when the writer has ended by itself. What counts as acknowledged is what was received
before the cut; what is received under it may be there or not, as a step is that was under
way. One store goes through many cuts, on one file system.

Real threads and kernels decide what is where at a cut: a round that is run again takes the
same steps, and is cut at about the same places. Its finding says where that was.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from strandline.tools.crash.blocks.filesystem import LoopFilesystem
from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.blocks.obstacle import shutdown_obstacle
from strandline.tools.crash.blocks.shutdown import Journal
from strandline.tools.crash.forking.client import Ended, ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.killing.blow import (
    WHILE_RECOVERING,
    WHILE_WRITING,
    choose_moment,
)
from strandline.tools.crash.killing.case import CYCLES, Case, History
from strandline.tools.crash.killing.children import (
    WORKS,
    check_told,
    judge,
)
from strandline.tools.crash.killing.phases import Phase, innermost, read_board
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.layers.mounted import MountedLayer
from strandline.tools.crash.oracle.crash import CrashKind
from strandline.tools.crash.script.model import Model

KINDS: Final[tuple[KindName, ...]] = ("ext4", "xfs")
"""Those that their kernel can stop; `--layer blocks` has btrfs."""
_CUT_AGAIN: Final = 0.3
"""How often the recovery from a cut is cut too, and the one after that."""
_SLOWER: Final = 3.0
"""How much longer a phase takes than where a sync costs nothing."""
_WRITERS: Final = (1, 1, 3)
_REOPENING: Final = 0.25
_LIVES_ON: Final = 0.3
"""How often a writer lives on without its disk for a while."""
_UNDER_THE_CUT: Final = 0.004
"""The most seconds that it does."""


class ShutdownLayer(MountedLayer["ShutdownBench"]):
    """The layer."""

    name = "shutdown"
    number = "L5"
    title = "a file system's power is cut by the kernel: ext4, xfs"

    def kinds(self) -> Sequence[KindName]:
        """Return those that it is for."""
        return KINDS

    def reason(self, kind: KindName) -> str | None:
        """Return why one cannot be cut here."""
        return shutdown_obstacle(kind)

    def make_bench(
        self, directory: Path, server: ForkServer, kinds: Sequence[KindName]
    ) -> ShutdownBench:
        """Return a bench on those that can."""
        return ShutdownBench(directory, server, kinds)


class ShutdownBench:
    """Rounds in one directory, each on a new file system."""

    def __init__(self, directory: Path, server: ForkServer, kinds: Sequence[KindName]) -> None:
        self.hits: Counter[Phase] = Counter()
        """What the stores were in the middle of when they were cut."""
        self._directory = directory
        self._server = server
        self._kinds = kinds

    def steps(self, seed: int) -> int:
        """Return the steps of all writers in all cycles."""
        return history_of(seed).steps

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Run one store through its cuts."""
        place = self._directory / "round"
        place.mkdir()
        kind = self._kinds[seed % len(self._kinds)]
        try:
            return ShutdownRound(place, self._server, kind, seed, kept, self.hits).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def history_of(seed: int, kept: frozenset[int] | None = None) -> History:
    """Return the scripts of a round."""
    choose = random.Random(f"shutdown/history/{seed}")
    return History(
        seed,
        writers=choose.choice(_WRITERS),
        reopens=choose.random() < _REOPENING,
        kept=None if kept is None else tuple(sorted(kept)),
    )


class ShutdownRound:
    """One store on one file system."""

    def __init__(
        self,
        place: Path,
        server: ForkServer,
        kind: KindName,
        seed: int,
        kept: frozenset[int] | None,
        hits: Counter[Phase],
    ) -> None:
        self.tally = Tally(rounds=1)
        self._place = place
        self._server = server
        self._kind: KindName = kind
        self._choose = random.Random(f"shutdown/{seed}")
        self._history = history_of(seed, kept)
        self._hits = hits
        self._base = self._history.begun(Model())
        self._where = ""

    def run(self) -> Tally:
        """Cut it until something is found, or all cycles were."""
        try:
            with LoopFilesystem(self._kind, self._place) as disk:
                for cycle in range(CYCLES):
                    if self._history.kept is None or any(self._history.scripts(cycle)):
                        self._cycle(cycle, disk)
        except ViolationError as error:
            self.tally.finding = Finding(error.invariant, str(error), self._where)
        return self.tally

    def _cycle(self, cycle: int, disk: LoopFilesystem) -> None:
        self._where = f"{self._kind}, cycle {cycle}"
        ended = self._live("write", self._case(cycle, disk), WHILE_WRITING, disk)
        while self._choose.random() < _CUT_AGAIN:
            self._where += "; its recovery"
            self._live("recover", self._case(cycle, disk), WHILE_RECOVERING, disk)
        self.tally.cases += 1
        self._base = judge(
            self._server,
            self._choose,
            self.tally,
            self._case(cycle, disk),
            self._base,
            kind=CrashKind.POWER,
            said=ended.said,
            late=ended.late,
        )

    def _case(self, cycle: int, disk: LoopFilesystem) -> Case:
        return Case(
            disk.path / "store",
            self._place / "board",
            self._history,
            cycle,
            opening=self._choose.randrange(1 << 30),
            drain=self._choose.random() < 0.5,
            # Nobody but the one who is cut has a file open on the file system.
            apart=False,
        )

    def _live(
        self, work: str, case: Case, phases: tuple[Phase, ...], disk: LoopFilesystem
    ) -> Ended:
        """Let a child do its work until the cut, or until it has done it; mount what is left."""
        moment = choose_moment(self._choose, phases)
        moment = replace(moment, seconds=moment.seconds * _SLOWER)
        case = case.ended_by(moment)
        cut = _Cut(disk, case.board, self._choose)
        case.board.unlink(missing_ok=True)
        ended = self._server.run(
            f"{WORKS}:{work}", case.pack(), kill_after=moment.kill_after, blow=cut
        )
        in_time = cut.fallen
        if not in_time:
            cut()
        elif cut.within is not None:
            self._hits[cut.within] += 1
        when = moment.when if in_time else "when it had ended"
        self._where += f" cut {when}, its journal {cut.journal.name.lower()}"
        self.tally.faults += 1
        check_ended(ended)
        check_told(ended.said)
        disk.remount()
        return ended


class _Cut:
    """One cut of a file system: the blow that falls on a child."""

    def __init__(self, disk: LoopFilesystem, board: Path, choose: random.Random) -> None:
        self._disk = disk
        self._board = board
        lives_on = choose.random() < _LIVES_ON
        self._seconds = choose.random() * _UNDER_THE_CUT if lives_on else 0.0
        self.journal = choose.choice([Journal.LOST, Journal.LOST, Journal.FLUSHED])
        self.fallen = False
        self.within: Phase | None = None
        """What the store was in the middle of."""

    def __call__(self) -> None:
        self.fallen = True
        self.within = innermost(read_board(self._board))
        self._disk.cut(self.journal)
        time.sleep(self._seconds)
