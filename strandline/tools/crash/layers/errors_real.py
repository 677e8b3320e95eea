"""L2 on a real store: the shim lets its storage calls fail, LMDB's own included.

A script runs once, and its calls are counted by kind. Then it runs again for every call,
every error and both modes, in a process of its own, which may neither end by a signal nor
hang. What is left is judged in another one: the store as it is, and what kills and power
cuts after the fault leave by the recording; after a failed sync its pages count as lost.

All calls of one script are `SLICES` rounds, with seeds that follow each other.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from strandline.tools.crash.failing.case import Ending, FailingCase, Fault
from strandline.tools.crash.failing.works import BROKEN, IMAGE, JUDGED, STRUCK
from strandline.tools.crash.forking.client import ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.layers.errors_simulated import SLICES
from strandline.tools.crash.shim.control import Board, Kind, read_board

WORKS: Final = "strandline.tools.crash.failing.works"
_ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
_ENDINGS: Final[tuple[Ending, ...]] = ("left", "left", "closed", "failing")


class RealErrors:
    """A round: some of the calls of one script."""

    def __init__(
        self,
        place: Path,
        writers: ForkServer,
        judges: ForkServer,
        seed: int,
        kept: frozenset[int] | None,
    ) -> None:
        self._place = place
        self._writers = writers
        self._judges = judges
        self._seed, self._slice = divmod(seed, SLICES)
        self._kept = None if kept is None else tuple(sorted(kept))
        self._tally = Tally(rounds=1)
        self._where: list[str] = ["without a fault"]

    def run(self) -> Tally:
        """Fail every call of this slice in every way."""
        try:
            for fault in self._faults(self._count()):
                self._tally.cases += 1
                self._tally.faults += 1
                self._where = [str(fault)]
                choose = random.Random(f"{self._seed}/{fault}/ending")
                self._attempt(fault, choose.choice(_ENDINGS))
        except ViolationError as error:
            self._tally.finding = Finding(error.invariant, str(error), "; ".join(self._where))
        return self._tally

    def _count(self) -> Board:
        """Run the script without a fault."""
        case = self._case(None, "left")
        with _directory(case):
            self._write(case)
            return read_board(case.board)

    def _faults(self, board: Board) -> Iterator[Fault]:
        calls = [(kind, nth) for kind in Kind for nth in range(1, board.counts[kind] + 1)]
        for kind, nth in calls[self._slice :: SLICES]:
            errors: list[int | None] = list(_ERRORS)
            if kind in (Kind.OPEN, Kind.CREATE):
                errors.append(errno.EMFILE)
            for error in errors:
                yield Fault(kind, nth, error, lasting=False)
                yield Fault(kind, nth, error, lasting=True)
            if kind is Kind.WRITE:
                yield Fault(kind, nth, None, lasting=False)

    def _case(self, fault: Fault | None, ending: Ending) -> FailingCase:
        return FailingCase(self._place, self._seed, self._kept, fault, ending)

    def _attempt(self, fault: Fault, ending: Ending) -> None:
        """Run the script with one fault, and judge what it leaves."""
        case = self._case(fault, ending)
        with _directory(case):
            self._write(case)
            self._judge(case)

    def _write(self, case: FailingCase) -> None:
        ended = self._writers.run(f"{WORKS}:write", case.pack())
        check_ended(ended)
        for message in _messages(ended.said):
            raise ViolationError(message[1], message[2])

    def _judge(self, case: FailingCase) -> None:
        self._where += ["", ""]
        ended = self._judges.run(f"{WORKS}:judge", case.pack())
        for message in _messages(ended.said):
            match message:
                case [str(kind), what] if kind == STRUCK:
                    self._where[1] = what
                case [str(kind), what] if kind == IMAGE:
                    self._where[2] = f"then {what}"
                case [str(kind), invariant, what] if kind == BROKEN:
                    raise ViolationError(invariant, what)
                case [str(kind), acknowledged] if kind == JUDGED:
                    self._tally.acknowledged += acknowledged
                    return
        check_ended(ended)
        raise RuntimeError("a judge ended without a word")


@contextlib.contextmanager
def _directory(case: FailingCase) -> Iterator[None]:
    """Give a case an empty root, and clear away all that it leaves."""
    case.root.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(case.place)


def _messages(said: bytes) -> Iterator[list[Any]]:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(said)
    yield from unpacker
