"""Snapshots beside writers: each holds the operations up to its LSN, and none above.

What a snapshot showed is compared with the known writes up to its LSN; where a step was
under way when the crash came, what it may have written is allowed as well. A value that was
shown stands for its write, as with a single read.
"""

from __future__ import annotations

from typing import Any

from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash
from strandline.tools.crash.oracle.history import History, Looked, Name, Write, items_of, operations
from strandline.tools.crash.script.many import COUNTERS
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.steps import seen

_Place = tuple[str, bytes]
"""A table and a key."""


def check_looks(base: Model, history: History, crash: Crash) -> None:
    """Hold every snapshot against the writes; note what must be there by what it showed.

    Raises:
        ViolationError: a snapshot changed, is older than what was acknowledged before it, or
            no prefix.
    """
    for looked in history.looked:
        _check(base, history, looked, crash)


def _check(base: Model, history: History, looked: Looked, crash: Crash) -> None:
    who = f"the snapshot of writer {looked.name.writer}, step {looked.name.step}"
    lsn, first, second = looked.told.answer
    shown, again = _shown(first), _shown(second)
    if shown != again:
        raise ViolationError(2, f"{who} changed while it was open: {_differing(shown, again)}")
    for each in history.known:
        if each.said <= looked.began and each.last > lsn:
            raise ViolationError(
                4, f"{who} is of LSN {lsn}, although {each.last} was acknowledged before it began"
            )
        if each.first <= lsn < each.last:
            raise ViolationError(2, f"{who} is of LSN {lsn}, which lies within a batch")
    increments = _check_counters(base, history, looked, shown, who)
    expected = _expected(base, history, lsn)
    logged = {place: value for place, value in shown.items() if place[0] != COUNTERS}
    if history.under_way or history.counting:
        _explain(history, looked, crash, expected, logged, who)
        return
    if logged != expected:
        raise ViolationError(
            2, f"{who}, of LSN {lsn}, does not hold what was written up to there: "
            f"{_differing(expected, logged)}",
        )  # fmt: skip
    taken = sum(operations(each.write) for each in history.known if each.last <= lsn)
    if history.first + taken + increments != lsn:
        raise ViolationError(
            2, f"{who} is of LSN {lsn}, and holds {taken} operations and {increments} incr behind "
            f"LSN {history.first}",
        )  # fmt: skip


def _shown(told: list[list[Any]]) -> dict[_Place, bytes]:
    return {(table, key): value for table, key, value in told}


def _expected(base: Model, history: History, lsn: int) -> dict[_Place, bytes]:
    """Return what the known writes up to an LSN leave, as a look tells it."""
    model = base.copy()
    for each in history.known:
        if each.last <= lsn:
            each.write.apply(model)
    return {
        (name, key): seen(value)
        for name, content in model.tables.items()
        if name != COUNTERS
        for key, value in content.items()
    }


def _check_counters(
    base: Model, history: History, looked: Looked, shown: dict[_Place, bytes], who: str
) -> int:
    """Hold what counters showed against the answers; return how many `incr`s that is."""
    taken = 0
    before = base.tables.get(COUNTERS, {})
    keys = before.keys() | history.counted.keys() | {key for t, key in shown if t == COUNTERS}
    for key in keys:
        count, start = int(shown.get((COUNTERS, key), b"0")), int(before.get(key, b"0"))
        told = [a for said, k, a in history.counted_by if k == key and said <= looked.began]
        least = max([start, *told])
        most = start + len(history.counted.get(key, ())) + history.counting[key]
        if not least <= count <= most:
            raise ViolationError(
                4, f"{who} shows counter {key!r} as {count}; expected {least}, which "
                f"was told before it began, to {most}",
            )  # fmt: skip
        taken += count - start
    return taken


def _explain(
    history: History,
    looked: Looked,
    crash: Crash,
    expected: dict[_Place, bytes],
    logged: dict[_Place, bytes],
    who: str,
) -> None:
    """Let what differs be the work of steps that were under way; they must be there then."""
    for place in expected.keys() | logged.keys():
        value = logged.get(place)
        if value == expected.get(place):
            continue
        writers = [
            (name, write)
            for name, write in history.under_way.items()
            if (*place, value) in _last_items(write)
        ]
        if not writers:
            raise ViolationError(
                2, f"{who}, of LSN {looked.told.answer[0]}, does not hold what was written up to "
                f"there: {_differing(expected, logged)}",
            )  # fmt: skip
        name, write = writers[0]
        if len(writers) == 1 and crash.respects(write, looked.told._replace(at=crash.at)):
            _require(history, name, who)


def _last_items(write: Write) -> list[tuple[str, bytes, bytes | None]]:
    """Return what a write leaves, key by key, as a look tells it."""
    last = {(name, key): value for name, key, value in items_of(write)}
    return [(*place, None if value is None else seen(value)) for place, value in last.items()]


def _require(history: History, name: Name, who: str) -> None:
    history.required.setdefault(name, f"{who} showed it")


def _differing(expected: dict[_Place, bytes], found: dict[_Place, bytes]) -> str:
    for place in sorted(expected.keys() | found.keys()):
        if expected.get(place) != found.get(place):
            table, key = place
            return (
                f"{table!r}/{key!r}: expected {expected.get(place)!r}, found {found.get(place)!r}"
            )
    return "nothing"
