"""What a child does with a damaged store: check it, open it, read it, write to it, open it again.

What it is about to do is said (`Say`) before it does so, and with it all that it found: the
next step can end the child. Errors of the store are said by class and message; any other
exception goes through, and is a fault of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import strandline
from strandline import Durability, Store
from strandline.errors import StrandlineError
from strandline.tools.check import check_store
from strandline.tools.crash.rot.children import Say, forked_probe
from strandline.tools.crash.script.model import UNLOGGED
from strandline.tools.crash.script.steps import table_of

AFTERWARDS: Final = b"after the damage"
NOT_FLUSHED: Final = "FlushReport"
"""Stands for an error: a flush does not raise, it reports what remains."""
_PATIENCE: Final = 3.0
"""Seconds for a flush; one that meets damaged pages is tried again and again."""


def read_back(db: Store, name: str) -> Any:
    """Return a table that is there; what a table is, is stored."""
    return db.table(UNLOGGED, logged=False) if name == UNLOGGED else table_of(db, name)


def look(path: Path, keys: dict[str, list[Any]], options: dict[str, Any], say: Say) -> None:
    """Do all of it. `keys` are those that each table ever held."""
    with forked_probe():
        _check(path, say)
        db = _tried(say, "opening", partial(strandline.open, path, **options))
        if db is None:
            return
        try:
            _read(db, keys, say)
            worked = _tried(say, "writing", _write, db, say)
        finally:
            closed = _tried(say, "closing", _close, db)
        if worked and closed:
            _tried(say, "reopening", _again, path, options, say)
        say("done", True)


def _tried(say: Say, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
    """Take a step; an error of the store is said, and None returned."""
    say("at", name)
    try:
        return step(*arguments)
    except StrandlineError as error:
        say("error", [name, type(error).__name__, str(error)])
        return None


def _check(path: Path, say: Say) -> None:
    say("at", "checking")
    report = check_store(path)
    findings = [f"{each.path}: expected {each.expected}, found {each.found}"
                for each in report.findings]  # fmt: skip
    say("check", [report.verdict.value, findings])


def _read(db: Store, keys: dict[str, list[Any]], say: Say) -> None:
    report = db.recovery_report
    told = [str(each) for each in (*report.damages, *report.gaps, *report.given_up)]
    torn = report.torn_tail
    say("report", [told, torn is not None, report.summary()])
    say("next", db.engine.log.next_lsn())
    names = ["", *db.tables()]
    asked = {name: dict.fromkeys(keys.get(name, ())) for name in names}
    for name in names:
        read = _tried(say, "scanning", scanned, db, name)
        if read is not None:
            say("scanned", [name, read])
            asked[name].update(read)
    say("at", "getting")
    for name in names:
        _get(db, name, asked[name], say)
    counts = _tried(say, "counting", _counts, db)
    say("lengths", counts)


def scanned(db: Store, name: str) -> dict[Any, Any]:
    """Return what a table holds, by a scan."""
    return dict(read_back(db, name).scan())


def _get(db: Store, name: str, keys: Iterable[Any], say: Say) -> None:
    table = read_back(db, name)
    for key in keys:
        try:
            value = table.get(key)
        except StrandlineError as error:
            say("error", ["getting", type(error).__name__, str(error)])
            continue
        if value is not None:
            say("got", [name, key, value])


def _counts(db: Store) -> dict[str, int]:
    return {name: len(read_back(db, name)) for name in ["", *db.tables()]}


def _close(db: Store) -> bool:
    db.close(timeout=_PATIENCE)
    return True


def _write(db: Store, say: Say) -> bool:
    """Write at every level and bring it to LMDB; say what remains, and why."""
    for number, level in enumerate(Durability):
        db.put(b"%s %d" % (AFTERWARDS, number), b"goes on", durability=level)
    remaining = db.flush(timeout=_PATIENCE).remaining
    if remaining:
        say("error", ["flushing", NOT_FLUSHED, f"{remaining} remain: {db.health().reason}"])
    return True


def _again(path: Path, options: dict[str, Any], say: Say) -> None:
    db = strandline.open(path, **options)
    try:
        say("again", {name: scanned(db, name) for name in ["", *db.tables()]})
    finally:
        _close(db)
