"""What is known of several writers: their writes in the order of the LSNs, and what was read.

    known      acknowledged writes, with their LSN: their order is certain
    counted    acknowledged `incr`s: their answers order those of one counter
    under way  at most one step of each writer
    required   what must be there after a crash

A reader is shown nothing older than what was acknowledged, to anybody, before it asked. What
it is shown, a value or that one is gone, stands for the write that made it so: a crash that
respects that write's level keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.steps import (
    Get,
    Incr,
    Look,
    Put,
    PutMany,
    Step,
    Sync,
    WriteBatch,
)
from strandline.tools.crash.script.told import DONE, OPENED, Account, Told

Write = Put | PutMany | WriteBatch
_CHANGES_NOTHING: Final = Get | Look | Sync


class Name(NamedTuple):
    """A step of a writer."""

    writer: int
    step: int


@dataclass(frozen=True)
class Known:
    """An acknowledged write."""

    name: Name
    write: Write
    first: int
    last: int
    said: int
    """Its place among all that was told."""


@dataclass(frozen=True)
class _Read:
    """A `get` that came back."""

    name: Name
    key: bytes
    told: Told
    began: int
    """How much had been told, for certain, when it began."""


@dataclass(frozen=True)
class Looked:
    """A snapshot that was read to its end."""

    name: Name
    told: Told
    began: int
    """How much had been told, for certain, when it began."""


@dataclass
class History:
    """What is known of a run."""

    first: int = 0
    """The last LSN before it."""
    known: list[Known] = field(default_factory=list)
    counted: dict[bytes, dict[int, Name]] = field(default_factory=dict)
    under_way: dict[Name, Write] = field(default_factory=dict)
    counted_by: list[tuple[int, bytes, int]] = field(default_factory=list)
    """Of each `incr` its place among all that was told, its counter and its answer."""
    counting: Counter[bytes] = field(default_factory=Counter)
    """How many `incr`s of each counter were under way."""
    counters_under_way: list[Incr] = field(default_factory=list)
    counts_shown: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    """What counters must have come to, because somebody was shown it, and by what."""
    order: dict[int, list[tuple[Name, int | tuple[bytes, int]]]] = field(default_factory=dict)
    """Of each writer its writes as told: an LSN, or a counter and its answer."""
    looked: list[Looked] = field(default_factory=list)
    required: dict[Name, str] = field(default_factory=dict)
    """What must be there, and why."""
    acknowledged: int = 0

    def issued(self) -> int:
        """Return up to where LSNs were issued for certain: dense, and an `incr` takes one."""
        taken = sum(each.last - each.first + 1 for each in self.known)
        taken += sum(len(answers) for answers in self.counted.values())
        return max([self.first + taken, *(each.last for each in self.known)])


def history_of(base: Model, scripts: Sequence[Script], account: Account, crash: Crash) -> History:
    """Bring what was told into an order.

    Raises:
        ViolationError: what was told cannot be, whatever is on the disk.
    """
    history = History()
    told_so_far: list[Name] = []
    seen_at_last: dict[int, int] = {}
    said_last: dict[int, int] = {}
    reads: list[_Read] = []
    done: dict[int, set[int]] = {writer: set() for writer in range(len(scripts))}
    for place, told in enumerate(account.messages):
        if told.kind == OPENED:
            history.first = told.answer[0]
            continue
        assert told.kind == DONE, told
        name, step = Name(told.writer, told.step), scripts[told.writer][told.step]
        done[told.writer].add(told.step)
        _take(history, name, step, told, place)
        if isinstance(step, Get) and not crash.is_late(told):
            reads.append(_Read(name, step.key, told, said_last.get(told.writer, -1)))
        if isinstance(step, Look) and not crash.is_late(told):
            history.looked.append(Looked(name, told, said_last.get(told.writer, -1)))
        said_last[told.writer] = place
        if crash.respects(step, told) and not isinstance(step, _CHANGES_NOTHING):
            history.required[name] = f"writer {name.writer}, step {name.step}: it was acknowledged"
        if isinstance(step, Sync) and not crash.is_late(told):
            # It began after the last thing that its writer said, so it covers all before that.
            for covered in told_so_far[: seen_at_last.get(told.writer, 0)]:
                history.required.setdefault(covered, "a later sync() covers it")
        if not isinstance(step, _CHANGES_NOTHING):
            told_so_far.append(name)
        seen_at_last[told.writer] = len(told_so_far)
    _note_under_way(history, scripts, done)
    _sort(history)
    for read in reads:
        _check_read(history, base, read, crash)
    return history


def _take(history: History, name: Name, step: Step, told: Told, place: int) -> None:
    order = history.order.setdefault(name.writer, [])
    if isinstance(step, Put | PutMany | WriteBatch):
        first = told.answer - operations(step) + 1
        history.known.append(Known(name, step, first, told.answer, place))
        order.append((name, told.answer))
        history.acknowledged += 1
    elif isinstance(step, Incr):
        answers = history.counted.setdefault(step.key, {})
        if told.answer in answers:
            raise ViolationError(
                2, f"counter {step.key!r} answered {told.answer} to {answers[told.answer]} and "
                f"to {name}: an incr was lost",
            )  # fmt: skip
        answers[told.answer] = name
        history.counted_by.append((place, step.key, told.answer))
        order.append((name, (step.key, told.answer)))
        history.acknowledged += 1


def _note_under_way(history: History, scripts: Sequence[Script], done: dict[int, set[int]]) -> None:
    """Of each writer the first step that was not told."""
    for writer, script in enumerate(scripts):
        number = next((n for n in script if n not in done[writer]), None)
        if number is not None:
            step = script[number]
            if isinstance(step, Put | PutMany | WriteBatch):
                history.under_way[Name(writer, number)] = step
            elif isinstance(step, Incr):
                history.counting[step.key] += 1
                history.counters_under_way.append(step)


def _sort(history: History) -> None:
    """Bring the known writes into their order; LSNs are issued once, and rise for a writer."""
    history.known.sort(key=lambda each: each.last)
    last = history.first
    for each in history.known:
        if each.first <= last:
            raise ViolationError(
                12, f"LSN {each.first} was issued twice, or below {history.first}: {each.name}"
            )
        last = each.last
    for order in history.order.values():
        lsns = [told for _, told in order if isinstance(told, int)]
        if lsns != sorted(lsns):
            raise ViolationError(12, f"a writer was told LSNs that fall: {lsns}")


# ---- what readers were shown


def _check_read(history: History, base: Model, read: _Read, crash: Crash) -> None:
    """Hold what was shown against what was acknowledged before; note what must be there by it."""
    key, answer = read.key, read.told.answer
    newest, said = 0, "nothing"
    for each in history.known:
        if each.said <= read.began and _writes(each.write, key):
            newest, said = each.last, f"writer {each.name.writer}, step {each.name.step}"
    possible = [(each.name, each.write) for each in history.known if each.last >= newest]
    possible += history.under_way.items()
    shown = [(name, write) for name, write in possible if _writes(write, key, answer)]
    before = base.tables[""].get(key) == answer
    if before and not newest:
        return
    if not shown:
        who = f"writer {read.name.writer}, step {read.name.step}"
        found = "is absent" if answer is None else f"is {answer!r:.60}"
        if before or answer is None or any(_writes(e.write, key, answer) for e in history.known):
            raise ViolationError(
                4, f"key {key!r} {found} for {who}, although {said} was acknowledged before"
            )
        raise ViolationError(3, f"key {key!r} {found} for {who}, never written for it")
    name, write = shown[0]
    if len(shown) == 1 and crash.respects(write, read.told._replace(at=crash.at)):
        why = f"writer {read.name.writer}, step {read.name.step} was shown it"
        history.required.setdefault(name, why)


# ---- steps


def operations(step: Write) -> int:
    """Return how many LSNs a write takes."""
    if isinstance(step, PutMany):
        return len(step.items)
    return len(step.parts) if isinstance(step, WriteBatch) else 1


def keys_of(scripts: Sequence[Script]) -> dict[str, set[bytes]]:
    """Return all keys that anybody would write, by table."""
    keys: dict[str, set[bytes]] = {}
    for script in scripts:
        for step in script.values():
            for name, key, _ in items_of(step):
                keys.setdefault(name, set()).add(key)
    return keys


def items_of(step: Step) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Yield what a step writes, a value of None where it deletes, by table and key."""
    match step:
        case Put():
            yield step.table, step.key, step.value
        case PutMany():
            yield from (("", key, value) for key, value in step.items)
        case WriteBatch():
            yield from step.parts


_ANY: Final = object()


def _writes(step: Write, key: bytes, value: object = _ANY) -> bool:
    """Tell whether a write changes a key of the default table, in the end to a value."""
    last = [each for name, changed, each in items_of(step) if (name, changed) == ("", key)][-1:]
    return bool(last) and (value is _ANY or last[0] == value)
