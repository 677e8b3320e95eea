"""L3: the calls of a real store are recorded, and power cuts are made up from them.

    a child under the shim  ──record──►  a child that judges
    opens, writes, closes                at every call some images: written as real files,
          ▲                              opened, held against what was said before the cut
          └──────── one of the images ◄──┘

A round is a store of some chapters. The first begins with nothing; each other one with an
image of the one before, so that its recovery is recorded, and cut short, in turn.

What the store's threads do, and when, is decided by the machine: a round that is run again
takes the same steps, and its recording is about the same.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from strandline.tools.crash.forking.client import PATIENCE, ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.layer import Finding, Tally, ViolationError
from strandline.tools.crash.recording.chapter import CHAPTERS, Chapter, Ending, steps_of
from strandline.tools.crash.recording.works import BROKEN, IMAGE, JUDGED, Part, Start
from strandline.tools.crash.script.many import COUNTERS, OTHER
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.shim import build

_WORKS: Final = "strandline.tools.crash.recording.works"
_MODULES: Final = (_WORKS, "lmdb.verify")
_WRITERS: Final = (1, 1, 3)
_ENDINGS: Final[tuple[Ending, ...]] = ("left", "closed", "drained")


class RecordedLayer:
    """The layer."""

    name = "recorded"
    number = "L3"
    title = "recorded calls, cut anywhere, reordered and torn"

    def __init__(self, *, prelude: Sequence[str] = (), patience: float = PATIENCE) -> None:
        """Take what is called first in the server that is started anew, "module:function".

        `patience` is how many seconds a child may take before it counts as hanging.
        """
        self._prelude = prelude
        self._patience = patience

    def obstacle(self) -> str | None:
        """Return why it cannot run: the shim cannot work here."""
        return build.obstacle()

    def left_out(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[RecordedBench]:
        """Start the fork servers; end them, and with them every child."""
        forked, shimmed = directory / "forked", directory / "shimmed"
        for folder in (forked, shimmed):
            folder.mkdir()
        library = build.library(directory)
        with (
            ForkServer(forked, modules=_MODULES, patience=self._patience) as judges,
            ForkServer(
                shimmed,
                modules=_MODULES,
                patience=self._patience,
                shim=library,
                prelude=self._prelude,
            ) as writers,
        ):
            yield RecordedBench(directory, writers, judges)


class RecordedBench:
    """Rounds in one directory, by two servers."""

    def __init__(self, directory: Path, writers: ForkServer, judges: ForkServer) -> None:
        self._directory = directory
        self._writers = writers
        self._judges = judges

    def steps(self, seed: int) -> int:
        """Return the steps of all writers in all chapters."""
        writers = _writers(seed)
        return writers * CHAPTERS * steps_of(writers)

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Record one store through its chapters, and judge images of each."""
        place = self._directory / "round"
        place.mkdir()
        try:
            return RecordedRound(place, self._writers, self._judges, seed, kept).run()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _writers(seed: int) -> int:
    return _WRITERS[seed % len(_WRITERS)]


class RecordedRound:
    """One store."""

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
        self._seed = seed
        self._kept = None if kept is None else tuple(sorted(kept))
        self._choose = random.Random(f"recorded/{seed}")
        self._tally = Tally(rounds=1)
        self._where: list[str] = []

    def run(self) -> Tally:
        """Write, cut and judge until something is found, or all chapters were."""
        start = Start(Model(), 0)
        try:
            for number in range(CHAPTERS):
                self._where.append("")
                start = self._chapter(number, start)
        except ViolationError as error:
            where = "; then ".join(filter(None, self._where))
            self._tally.finding = Finding(error.invariant, str(error), where)
        return self._tally

    def _chapter(self, number: int, start: Start) -> Start:
        """Record a chapter and judge it; return where the next one begins."""
        chapter = Chapter(
            self._place / str(number),
            number,
            self._seed,
            _writers(self._seed),
            opening=self._choose.randrange(1 << 30),
            ending=self._choose.choice(_ENDINGS),
            kept=self._kept,
        )
        if chapter.base is None:
            chapter.root.mkdir(parents=True)
        else:
            shutil.copytree(chapter.base, chapter.root)
        self._where[-1] = f"chapter {number}, while it was written"
        self._write(chapter)
        if chapter.writers > 1:
            for name in (OTHER, COUNTERS):
                start.model.tables.setdefault(name, {})
        return self._judge(chapter, start)

    def _write(self, chapter: Chapter) -> None:
        ended = self._writers.run(f"{_WORKS}:write", chapter.pack())
        check_ended(ended)
        for message in _messages(ended.said):
            raise ViolationError(message[1], message[2])

    def _judge(self, chapter: Chapter, start: Start) -> Start:
        """Let judges take the recording's images, one after the other."""
        following = self._place / str(chapter.number + 1)
        following.mkdir()
        kept = start
        event: int | None = 0
        parts = 0
        while event is not None:
            keep = self._place / "keep"
            argument = {
                "chapter": chapter.pack(),
                "start": Start(start.model, start.issued, event).pack(),
                "keep": str(keep),
            }
            part = self._take_part(chapter, argument)
            parts += 1
            self._tally.acknowledged += part.acknowledged
            if part.taken is not None and self._choose.random() < 1 / parts:
                kept = Start.unpack(part.taken)
                base = following / "base"
                shutil.rmtree(base, ignore_errors=True)
                keep.rename(base)
            event = part.following
        shutil.rmtree(chapter.place)
        return kept

    def _take_part(self, chapter: Chapter, argument: dict[str, Any]) -> Part:
        ended = self._judges.run(f"{_WORKS}:judge", argument)
        for message in _messages(ended.said):
            match message:
                case [str(kind), where] if kind == IMAGE:
                    self._where[-1] = f"chapter {chapter.number}, {where}"
                    self._tally.cases += 1
                    self._tally.faults += chapter.number + 1
                case [str(kind), invariant, what] if kind == BROKEN:
                    raise ViolationError(invariant, what)
                case [str(kind), part] if kind == JUDGED:
                    return Part(**part)
        check_ended(ended)
        raise RuntimeError("a judge ended without a word")


def _messages(said: bytes) -> Iterator[list[Any]]:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(said)
    yield from unpacker
