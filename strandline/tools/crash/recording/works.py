"""The works of the children: one writes under the shim, one judges images of what it did.

A judge takes a part of a recording's images. It says each before it opens it, so that one
that ends the judge is known; then what it came to, or which promise is broken.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.forking.server import Talk
from strandline.tools.crash.killing.case import pack_model, unpack_model
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.after import (
    check_again,
    check_lsns,
    check_report,
    check_writable,
)
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import judge_many
from strandline.tools.crash.oracle.single import Verdict, judge_single
from strandline.tools.crash.recording.chapter import Chapter
from strandline.tools.crash.recording.images import Image, images
from strandline.tools.crash.recording.opening import open_store, verify_here
from strandline.tools.crash.script.many import COUNTERS, OTHER
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import run_script, run_together, tell_opened
from strandline.tools.crash.script.settings import settings_of
from strandline.tools.crash.script.told import OPENED, Account, Told, unpack
from strandline.tools.crash.shim import control, record
from strandline.tools.crash.shim.replay import write_image

IMAGE: Final = "image"
"""What a judge says of the image that it opens next: where it comes from."""
JUDGED: Final = "judged"
"""... at its end: a `Part`."""
BROKEN: Final = "broken"
"""A broken promise: its invariant, and in what."""

_IMAGES: Final = 150
"""How many images a judge takes before another one goes on."""
_PROBED: Final = 0.1
"""How often LMDB's file is looked at from a process of its own, as users have it."""
_AGAIN: Final = 0.1
"""How often a store is written to, and recovered once more, after it was judged."""
_POWER: Final = Crash(CrashKind.POWER)
_CLOSING: Final = 5.0


# ---- writing


def write(argument: dict[str, Any], talk: Talk) -> None:
    """Open the store, take the scripts' steps, end; all of it recorded."""
    chapter = Chapter.unpack(argument)
    verify_here()
    told = os.open(chapter.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(message: Told) -> None:
        os.write(told, message.pack())

    control.arm(chapter.root, record=chapter.record, marks=told)
    try:
        db = open_store(chapter.store, settings_of(chapter.opening))
        scripts = chapter.scripts()
        if chapter.writers == 1:
            tell_opened(db, tell)
            db = run_script(
                db,
                lambda: open_store(chapter.store, settings_of(chapter.opening)),
                scripts[0],
                tell,
            )
        else:
            for name in (OTHER, COUNTERS):
                db.table(name)
            tell_opened(db, tell)
            run_together(db, scripts, tell)
        if chapter.ending != "left":
            db.close(drain=chapter.ending == "drained")
    except ViolationError as error:
        _say_broken(talk, error)
    except (StrandlineError, OSError) as error:
        what = f"a step failed on a sound disk: {type(error).__name__}: {error}"
        _say_broken(talk, ViolationError(12, what))
    control.disarm()


# ---- judging


@dataclass(frozen=True)
class Start:
    """Where a recording is judged from: the store before it, and the event to begin at."""

    model: Model
    issued: int
    """No LSN up to here may be issued again."""
    event: int = 0

    def pack(self) -> list[Any]:
        """Return it as msgpack takes it."""
        return [pack_model(self.model), self.issued, self.event]

    @classmethod
    def unpack(cls, data: list[Any]) -> Start:
        """Return what was packed."""
        model, issued, event = data
        return cls(unpack_model(model), issued, event)


@dataclass
class Part:
    """What some images came to."""

    acknowledged: int = 0
    following: int | None = None
    """The event at which the next judge begins; None at the end."""
    taken: list[Any] | None = None
    """Of the image that was kept, the `Start` of a chapter that begins with it."""


def judge(argument: dict[str, Any], talk: Talk) -> None:
    """Judge images from `start` on; keep one of them, anyone, in the folder `keep`."""
    chapter, start = Chapter.unpack(argument["chapter"]), Start.unpack(argument["start"])
    keep = Path(argument["keep"])
    seed = f"recorded/{chapter.seed}/{chapter.number}"
    choose = random.Random(f"{seed}/judge/{start.event}")
    judging = _Judging(chapter, start, choose)
    part = Part()
    try:
        for image in images(judging.recording, chapter.base, seed, start=start.event):
            if judging.cases >= _IMAGES and image.position > start.event:
                part.following = image.position
                break
            talk.say(msgpack.packb([IMAGE, image.where]))
            verdict, following = judging.judge(image)
            part.acknowledged += verdict.acknowledged
            if choose.random() < 1 / judging.cases:
                part.taken = following.pack()
                _keep(image, keep)
    except ViolationError as error:
        _say_broken(talk, error)
    else:
        talk.say(msgpack.packb([JUDGED, vars(part)]))


class _Judging:
    """Images of one recording, each in a directory of its own: LMDB opens a path only once."""

    def __init__(self, chapter: Chapter, start: Start, choose: random.Random) -> None:
        self.recording = record.read(chapter.record)
        self._told = list(unpack(b"".join(self.recording.marks)))
        self._chapter = chapter
        self._scripts = chapter.scripts()
        self._start = start
        self._choose = choose
        self.cases = 0
        self._check_first()

    def _check_first(self) -> None:
        for told in self._told:
            if told.kind == OPENED and told.answer[0] < self._start.issued:
                raise ViolationError(
                    12, f"LSN {told.answer[0] + 1} would be issued again, up to "
                    f"{self._start.issued} were before the crash",
                )  # fmt: skip

    def judge(self, image: Image) -> tuple[Verdict, Start]:
        """Open an image and hold it against what was said; return where it leaves the store."""
        self.cases += 1
        folder = self._chapter.place / f"image-{self._start.event}-{self.cases}"
        folder.mkdir()
        write_image(image.disk, folder)
        try:
            return self._judge(folder / "data", Account.of(self._told[: image.said]))
        finally:
            shutil.rmtree(folder)

    def _judge(self, path: Path, account: Account) -> tuple[Verdict, Start]:
        verify_here(here=self._choose.random() >= _PROBED)
        base = self._start.model
        db = open_store(path, settings_of(self._chapter.opening))
        check_report(db.recovery_report, _POWER)
        if self._chapter.writers == 1:
            verdict = judge_single(db, base, self._scripts[0], account, _POWER)
        else:
            verdict = judge_many(db, base, self._scripts, account, _POWER)
        issued = max(verdict.issued, self._start.issued)
        check_lsns(db, issued)
        last = db.recovery_report.last_lsn
        if self._choose.random() < _AGAIN:
            check_writable(db, issued)
            db = check_again(db, lambda: self._reopened(db, path))
        db.close(drain=False, timeout=_CLOSING)
        model = verdict.model.copy()
        model.lsn = last
        return verdict, Start(model, issued)

    def _reopened(self, db: Store, path: Path) -> Store:
        db.close(drain=self._choose.random() < 0.5, timeout=_CLOSING)
        return open_store(path, settings_of(self._chapter.opening))


def _keep(image: Image, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_image(image.disk, folder)


def _say_broken(talk: Talk, error: ViolationError) -> None:
    talk.say(msgpack.packb([BROKEN, error.invariant, str(error)]))
