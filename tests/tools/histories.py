"""Stores with a history: what every table held after each of its commits."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from strandline.tools.cli.dumps import DumpTable, read_dump
from strandline.tools.cli.sources import Source
from tests.api.stores import TINY, open_small
from tests.recovery.check_stores import copy_open, frames, segments
from tests.support.script import Content, Model, steps


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


def written(seed: int, count: int, target: Path, *, flush_after: int | None = None) -> History:
    """Take so many steps of a script; leave the files of the open store at `target`."""
    history, model = History(), Model()
    beside = target.with_name(f"{target.name}-open")
    with open_small(beside, **{**TINY, "max_log_bytes": 1 << 24, "max_dirty_bytes": 1 << 24}) as db:
        script = (step for step in steps(seed) if step.name != "flush")
        for number, step in enumerate(islice(script, count)):
            step.do(db)
            step.apply(model)
            history.states.append(model.copy())
            assert db.stats().last_lsn == model.lsn
            if number == flush_after:
                db.flush()
                history.watermark = model.lsn
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
