"""L4: real processes are killed by SIGKILL, again and again, on one store.

    cycle   a child opens the store, writes, closes ──killed──►
            now and then a child recovers           ──killed──►
            a child opens it, and holds it against what was told

Half of the rounds kill at a moment in some phase of the store's life; the others, where the
preload shim can be had, before the n-th storage call of a phase or in the middle of a write.
How many calls a phase has is counted in the cycle before. One store goes through many
cycles, so that recycled segments, skipped LSNs and recoveries that were killed are part of
what is recovered from. Some rounds have several writers.

Real threads and kernels decide what a process is in the middle of: a round that is run
again takes the same steps, and is killed at about the same places.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from strandline.tools.crash.forking.client import PATIENCE, Ended, ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.killing.blow import (
    WHILE_RECOVERING,
    WHILE_WRITING,
    Blow,
    Moment,
    choose_call,
    choose_moment,
)
from strandline.tools.crash.killing.case import CYCLES, Case, History
from strandline.tools.crash.killing.children import (
    MODULES,
    WORKS,
    check_told,
    judge,
)
from strandline.tools.crash.killing.phases import Phase, Row, innermost, read_board
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.oracle.crash import CrashKind
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.shim import build

_KILLED_AGAIN: Final = 0.25
"""How often the recovery from a kill is killed too, and the one after that."""
_WRITERS: Final = (1, 1, 3)
_REOPENING: Final = 0.25


class KillLayer:
    """The layer."""

    name = "kill"
    number = "L4"
    title = "SIGKILL, at a moment or at the n-th storage call"

    def __init__(self, *, prelude: Sequence[str] = (), patience: float = PATIENCE) -> None:
        """Take what is called first in the server that is started anew, "module:function".

        `patience` is how many seconds a child may take before it counts as hanging.
        """
        self._prelude = prelude
        self._patience = patience

    def obstacle(self) -> str | None:
        """Return why it cannot run: there is no fork."""
        return None if hasattr(os, "fork") else "processes are forked, which this system cannot"

    def left_out(self) -> Sequence[str]:
        """Return that no kill is at a storage call, where the shim cannot work."""
        why = build.obstacle()
        return () if why is None else (f"kills at the n-th storage call: {why}",)

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[KillBench]:
        """Start the fork servers; end them, and with them every child."""
        with contextlib.ExitStack() as servers:

            def start(name: str, **how: Any) -> ForkServer:
                folder = directory / name
                folder.mkdir()
                return servers.enter_context(
                    ForkServer(folder, modules=MODULES, patience=self._patience, **how)
                )

            forked = start("forked")
            shimmed = None
            if build.obstacle() is None:
                library = build.library(directory)
                shimmed = start("shimmed", shim=library, prelude=self._prelude)
            yield KillBench(directory, forked, shimmed)


class KillBench:
    """Rounds in one directory, by two servers or one."""

    def __init__(self, directory: Path, forked: ForkServer, shimmed: ForkServer | None) -> None:
        self.hits: Counter[Phase] = Counter()
        """What the processes were in the middle of when they were killed."""
        self.at_calls: Counter[Phase] = Counter()
        """Of these, those that were killed at a storage call."""
        self.before_opening = 0
        """How many were killed before they had come to the store."""
        self._directory = directory
        self._forked = forked
        self._shimmed = shimmed

    def steps(self, seed: int) -> int:
        """Return the steps of all writers in all cycles."""
        return history_of(seed).steps

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Run one store through its cycles."""
        place = self._directory / "round"
        place.mkdir()
        try:
            return KillRound(self, place, self._forked, self._shimmed, seed, kept).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def history_of(seed: int, kept: frozenset[int] | None = None) -> History:
    """Return the scripts of a round."""
    choose = random.Random(f"kill/history/{seed}")
    return History(
        seed,
        writers=choose.choice(_WRITERS),
        reopens=choose.random() < _REOPENING,
        kept=None if kept is None else tuple(sorted(kept)),
    )


def kills_at_calls(seed: int) -> bool:
    """Tell whether a round kills at storage calls, where it can, or at moments."""
    return random.Random(f"kill/calls/{seed}").random() < 0.5


class KillRound:
    """One store."""

    def __init__(
        self,
        bench: KillBench,
        place: Path,
        forked: ForkServer,
        shimmed: ForkServer | None,
        seed: int,
        kept: frozenset[int] | None,
    ) -> None:
        self.tally = Tally(rounds=1)
        self._bench = bench
        self._place = place
        self._choose = random.Random(f"kill/{seed}")
        self._history = history_of(seed, kept)
        self._forked = forked
        self._shimmed = shimmed if kills_at_calls(seed) else None
        self._counted: dict[Phase, Row] = {}
        self._base = self._history.begun(Model())
        self._where = ""

    def run(self) -> Tally:
        """Kill it until something is found, or all cycles were."""
        stores = self._place / "stores"
        stores.mkdir()
        try:
            if self._shimmed is not None:
                self._count(stores / "counted")
            for cycle in range(CYCLES):
                if self._history.kept is None or any(self._history.scripts(cycle)):
                    self._cycle(cycle, stores / "store")
        except ViolationError as error:
            self.tally.finding = Finding(error.invariant, str(error), self._where)
        return self.tally

    def _case(self, store: Path, cycle: int) -> Case:
        return Case(
            store,
            self._place / "board",
            self._history,
            cycle,
            opening=self._choose.randrange(1 << 30),
            drain=self._choose.random() < 0.5,
            shim=self._shimmed is not None,
        )

    def _count(self, store: Path) -> None:
        """Count the storage calls of each phase in a life that nobody ends."""
        self._where = "a store that is not killed"
        self._live("write", self._case(store, 0), None)
        shutil.rmtree(store)

    # ---- a cycle

    def _cycle(self, cycle: int, store: Path) -> None:
        self._where = f"cycle {cycle}"
        ended = self._live("write", self._case(store, cycle), self._blow(WHILE_WRITING))
        while self._choose.random() < _KILLED_AGAIN:
            self._where += "; its recovery"
            self._live("recover", self._case(store, cycle), self._blow(WHILE_RECOVERING))
        self._judge(self._case(store, cycle), ended.said)

    def _blow(self, phases: tuple[Phase, ...]) -> Blow:
        """Choose a call, where any were counted, or a moment."""
        call = None
        if self._shimmed is not None:
            call = choose_call(self._choose, phases, self._counted)
        return call or choose_moment(self._choose, phases)

    def _live(self, work: str, case: Case, blow: Blow | None) -> Ended:
        """Let a child do its work until it is killed or has done it."""
        server = self._shimmed or self._forked
        case = case.ended_by(blow)
        self._where += f" {blow}" if blow is not None else ""
        case.board.unlink(missing_ok=True)
        seconds = blow.kill_after if isinstance(blow, Moment) else None
        ended = server.run(f"{WORKS}:{work}", case.pack(), kill_after=seconds)
        check_ended(ended)
        board = read_board(case.board) if case.board.exists() else {}
        if ended.killed:
            self.tally.faults += 1
            self._note_hit(innermost(board), at_call=not isinstance(blow, Moment))
        for phase, row in board.items():
            if phase not in self._counted or row.calls:
                self._counted[phase] = row
        check_told(ended.said)
        return ended

    def _note_hit(self, within: Phase | None, *, at_call: bool) -> None:
        if within is None:
            self._bench.before_opening += 1
            return
        self._bench.hits[within] += 1
        if at_call:
            self._bench.at_calls[within] += 1

    def _judge(self, case: Case, said: bytes) -> None:
        self.tally.cases += 1
        self._base = judge(
            self._forked,
            self._choose,
            self.tally,
            case,
            self._base,
            kind=CrashKind.PROCESS,
            said=said,
        )
