"""Running scripts: one step after the other, each told when it came back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from strandline import Store
from strandline.errors import StrandlineError, WriteOutcomeUnknownError
from strandline.tools.crash.script.model import UNLOGGED
from strandline.tools.crash.script.steps import Flush, Reopen, Step
from strandline.tools.crash.script.told import DONE, OPENED, REFUSED, UNKNOWN, Told

Tell = Callable[[Told], object]
Script = Mapping[int, Step]
"""Steps by number, in order; a script that was shortened keeps its numbers."""


def kept_steps(steps: list[Step], kept: frozenset[int] | None) -> Script:
    """Return a script, or those of its steps that were kept."""
    return {number: step for number, step in enumerate(steps) if kept is None or number in kept}


def tell_opened(db: Store, tell: Tell) -> None:
    """Say that the store is open, from where its LSNs go on, and what is there outside the log."""
    unlogged = dict(db.table(UNLOGGED, logged=False).items()) if UNLOGGED in db.tables() else {}
    tell(Told(OPENED, 0, 0, [db.engine.log.next_lsn() - 1, unlogged]))


def run_script(
    db: Store, reopen: Callable[[], Store], script: Script, tell: Tell, *, writer: int = 0
) -> Store:
    """Take a script's steps on an open store; return the one that is open at the end."""
    for number, step in script.items():
        answer = step.do(db)
        if isinstance(step, Reopen):
            db = reopen()
        tell(Told(DONE, writer, number, answer))
        if isinstance(step, Reopen):
            tell_opened(db, tell)
    return db


def run_together(db: Store, scripts: Sequence[Script], tell: Tell) -> None:
    """Let each writer take its script on a thread of its own; raise the first error of any."""
    errors: list[BaseException] = []

    def take(writer: int, script: Script) -> None:
        try:
            run_script(db, lambda: db, script, tell, writer=writer)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=take, args=(writer, script), daemon=True)
        for writer, script in enumerate(scripts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def attempt(db: Store, number: int, step: Step, tell: Tell, *, writer: int = 0) -> Any:
    """Take one step that may fail, and say how it went; return the error, None without one."""
    try:
        answer = step.do(db)
    except WriteOutcomeUnknownError as error:
        tell(Told(UNKNOWN, writer, number, None))
        return error
    except (StrandlineError, OSError) as error:
        tell(_refused(db, writer, number))
        return error
    if isinstance(step, Flush) and answer:
        tell(_refused(db, writer, number))  # it says itself that something is left
    else:
        tell(Told(DONE, writer, number, answer))
    return None


def _refused(db: Store, writer: int, number: int) -> Told:
    """A refused step can have made tables; its LSNs are filled with what has no effect."""
    return Told(REFUSED, writer, number, [db.tables(), db.engine.log.next_lsn() - 1])
