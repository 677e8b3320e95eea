"""Snapshots beside writers: each holds the operations up to its LSN, and none above.

What a snapshot showed is compared with the known writes up to its LSN; where a step was
under way when the crash came, what it may have written is allowed as well. A value that was
shown stands for its write, as with a single read.
"""

from __future__ import annotations

import itertools

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
        ViolationError: a snapshot changed, is out of order, is older than what was
            acknowledged before it, or no prefix.
    """
    for looked in history.looked:
        _Look(base, history, looked, crash).check()


class _Look:
    """One snapshot, and what it is held against."""

    def __init__(self, base: Model, history: History, looked: Looked, crash: Crash) -> None:
        self._base = base
        self._history = history
        self._crash = crash
        self._began = looked.began
        # What counts is that it was seen before the cut, however long ago.
        self._told = looked.told._replace(at=crash.at)
        self._lsn, self._first, self._second = looked.told.answer
        self._who = f"the snapshot of writer {looked.name.writer}, step {looked.name.step}"
        self._shown: dict[_Place, bytes] = {(t, key): value for t, key, value in self._first}

    def check(self) -> None:
        """Raise for whatever it cannot have shown."""
        self._check_readings()
        history, lsn, who = self._history, self._lsn, self._who
        for each in history.known:
            if each.said <= self._began and each.last > lsn:
                raise ViolationError(
                    4, f"{who} is of LSN {lsn}, although {each.last} was acknowledged before it "
                    "began",
                )  # fmt: skip
            if each.first <= lsn < each.last:
                raise ViolationError(2, f"{who} is of LSN {lsn}, which lies within a batch")
            if each.last <= lsn and self._crash.respects(each.write, self._told):
                history.required.setdefault(each.name, f"{who} showed it")
        increments = self._check_counters()
        expected = self._expected()
        logged = {place: value for place, value in self._shown.items() if place[0] != COUNTERS}
        if history.under_way or history.counting:
            self._explain(expected, logged)
            return
        if logged != expected:
            raise ViolationError(2, self._not_so(expected, logged))
        taken = sum(operations(each.write) for each in history.known if each.last <= lsn)
        if history.first + taken + increments != lsn:
            raise ViolationError(
                2, f"{who} is of LSN {lsn}, and holds {taken} operations and {increments} incr "
                f"behind LSN {history.first}",
            )  # fmt: skip

    def _check_readings(self) -> None:
        """Both readings are the same, key by key in order."""
        if self._first != self._second:
            again = {(table, key): value for table, key, value in self._second}
            raise ViolationError(
                2, f"{self._who} changed while it was open: {_differing(self._shown, again)}"
            )
        for before, after in itertools.pairwise(self._first):
            if before[0] == after[0] and before[1] >= after[1]:
                raise ViolationError(
                    2, f"{self._who} is out of order: key {after[1]!r} came after {before[1]!r}"
                )

    def _check_counters(self) -> int:
        """Hold what counters showed against the answers; return how many `incr`s that is."""
        history, taken = self._history, 0
        before = self._base.tables.get(COUNTERS, {})
        shown = {key: value for (table, key), value in self._shown.items() if table == COUNTERS}
        for key in before.keys() | history.counted.keys() | shown.keys():
            count, start = int(shown.get(key, b"0")), int(before.get(key, b"0"))
            told = [a for said, k, a in history.counted_by if k == key and said <= self._began]
            least = max([start, *told])
            most = start + len(history.counted.get(key, ())) + history.counting[key]
            if not least <= count <= most:
                raise ViolationError(
                    4, f"{self._who} shows counter {key!r} as {count}; expected {least}, which was "
                    f"told before it began, to {most}",
                )  # fmt: skip
            taken += count - start
            if count > max([start, *history.counted.get(key, ())]):
                self._require_count(key, count)
        return taken

    def _require_count(self, key: bytes, count: int) -> None:
        """The last `incr` that it showed was under way: it stays, if the crash respects it."""
        steps = [step for step in self._history.counters_under_way if step.key == key]
        if all(self._crash.respects(step, self._told) for step in steps):
            shown = self._history.counts_shown
            shown[key] = max(shown.get(key, (0, "")), (count, self._who))

    def _expected(self) -> dict[_Place, bytes]:
        """Return what the known writes up to its LSN leave, as a look tells it."""
        model = self._base.copy()
        for each in self._history.known:
            if each.last <= self._lsn:
                each.write.apply(model)
        return {
            (name, key): seen(value)
            for name, content in model.tables.items()
            if name != COUNTERS
            for key, value in content.items()
        }

    def _explain(self, expected: dict[_Place, bytes], logged: dict[_Place, bytes]) -> None:
        """Let what differs be the work of steps that were under way; they must be there then."""
        for place in expected.keys() | logged.keys():
            value = logged.get(place)
            if value == expected.get(place):
                continue
            writers = [
                (name, write)
                for name, write in self._history.under_way.items()
                if (place, value) in _left_by(write).items()
            ]
            if not writers:
                raise ViolationError(2, self._not_so(expected, logged))
            if len(writers) == 1:
                name, write = writers[0]
                self._check_whole(name, write, logged)
                if self._crash.respects(write, self._told):
                    self._history.required.setdefault(name, f"{self._who} showed it")

    def _check_whole(self, name: Name, write: Write, logged: dict[_Place, bytes]) -> None:
        """Of a write that it showed it showed all, but for what others wrote over it."""
        own = max((lsn for _, lsn in self._history.order.get(name.writer, ())
                   if isinstance(lsn, int)), default=self._history.first)  # fmt: skip
        others = [each.write for each in self._history.known if own < each.last <= self._lsn]
        others += [other for n, other in self._history.under_way.items() if n != name]
        for place, value in _left_by(write).items():
            shown = logged.get(place)
            if shown != value and not any(
                (place, shown) in _left_by(other).items() for other in others
            ):
                raise ViolationError(
                    2, f"{self._who} shows a part of writer {name.writer}, step {name.step}: "
                    f"{place[0]!r}/{place[1]!r}: expected {value!r}, found {shown!r}",
                )  # fmt: skip

    def _not_so(self, expected: dict[_Place, bytes], logged: dict[_Place, bytes]) -> str:
        return (
            f"{self._who}, of LSN {self._lsn}, does not hold what was written up to there: "
            f"{_differing(expected, logged)}"
        )


def _left_by(write: Write) -> dict[_Place, bytes | None]:
    """Return what a write leaves, key by key, as a look tells it; None for a key that is gone."""
    last = {(name, key): value for name, key, value in items_of(write)}
    return {place: None if value is None else seen(value) for place, value in last.items()}


def _differing(expected: dict[_Place, bytes], found: dict[_Place, bytes]) -> str:
    for place in sorted(expected.keys() | found.keys()):
        if expected.get(place) != found.get(place):
            table, key = place
            return (
                f"{table!r}/{key!r}: expected {expected.get(place)!r}, found {found.get(place)!r}"
            )
    return "nothing"
