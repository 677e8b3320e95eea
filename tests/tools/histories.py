"""Stores with a history: what every table held after each of its commits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from strandline.tools.cli.dumps import DumpTable, read_dump
from strandline.tools.cli.sources import Source
from strandline.tools.crash.script.model import Content, Model
from strandline.tools.crash.script.single import single_script
from strandline.tools.crash.script.steps import Flush, Step
from tests.api.stores import TINY, open_small
from tests.recovery.check_stores import copy_open, frames, segments


class Dumped(NamedTuple):
    """What the lines of an export say."""

    lsn: int
    tables: dict[str, Content]
    definitions: dict[str, tuple[str, bool]]


class History:
    """The states of a store, from the empty one on."""

    def __init__(self) -> None:
        self.states = [Model()]
        self.watermark = 0

    @property
    def last_lsn(self) -> int:
        return self.states[-1].lsn

    def at(self, lsn: int) -> Model:
        """The state after the last commit that ends at or before an LSN."""
        return next(state for state in reversed(self.states) if state.lsn <= lsn)

    def take(self, step: Step) -> None:
        """Add the state after each commit of a step: tables that it makes are made before."""
        model = self.states[-1].copy()
        for name in step.tables:
            model.ensure(name)
            self.states.append(model.copy())
        step.apply(model)
        self.states.append(model)


def written(seed: int, count: int, target: Path, *, flush_after: int | None = None) -> History:
    """Take the steps of a script but its flushes; leave the open store's files at `target`."""
    history = History()
    beside = target.with_name(f"{target.name}-open")
    with open_small(beside, **{**TINY, "max_log_bytes": 1 << 24, "max_dirty_bytes": 1 << 24}) as db:
        script = single_script(seed, count, reopen=False)
        for number, step in enumerate(script):
            if not isinstance(step, Flush):
                step.do(db)
                history.take(step)
            assert db.stats().last_lsn == history.last_lsn
            if number == flush_after:
                db.flush()
                history.watermark = history.last_lsn
        db.sync()
        copy_open(beside, target)
    return history


def tear(store: Path) -> None:
    """Let the last frame of a log be written in part only, and nothing behind it.

    A sync mark can stand there, if the writer had a moment: it would claim the frame.
    """
    last = segments(store)[-1]
    data = last.read_bytes()
    at = frames(last)[-1] + 80
    last.write_bytes(data[:at].ljust(len(data), b"\0"))


def dumped(text: str | bytes) -> Dumped:
    """Read an export's lines."""
    data = text.encode() if isinstance(text, str) else text
    tables: dict[str, Content] = {}
    definitions: dict[str, tuple[str, bool]] = {}
    here: Content = {}
    for each in read_dump(Source("export", io.BytesIO(data))):
        if isinstance(each, DumpTable):
            here = tables[each.name] = {}
            definitions[each.name] = each.codec.name, each.logged
        else:
            here[each.key] = each.value
    return Dumped(_lsn(data), tables, definitions)


def _lsn(data: bytes) -> Any:
    return json.loads(data.split(b"\n", 1)[0])["lsn"]
