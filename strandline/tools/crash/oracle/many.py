"""Several writers: after a crash the store is a prefix of the order that their LSNs tell.

    known      acknowledged writes, with their LSN: their order is certain
    counted    acknowledged `incr`s: their answers order those of one counter
    under way  at most one step of each writer: absent, or at some place after the last LSN
               that its writer was told, where the LSNs leave room for it

The recovered state must equal the known writes up to some LSN, with every step that was
under way either absent or at one such place; LSNs are dense, so what the known ones leave
out must be just what the others took. A value that somebody was shown stands for its write.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash
from strandline.tools.crash.oracle.reading import difference, read_whole
from strandline.tools.crash.oracle.single import Verdict
from strandline.tools.crash.script.many import COUNTERS
from strandline.tools.crash.script.model import Content, Model
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.steps import Get, Incr, Put, PutMany, Step, Sync, WriteBatch
from strandline.tools.crash.script.told import DONE, OPENED, Account, Told

Write = Put | PutMany | WriteBatch


class _Name(NamedTuple):
    """A step of a writer."""

    writer: int
    step: int


@dataclass(frozen=True)
class _Known:
    """An acknowledged write."""

    name: _Name
    write: Write
    first: int
    last: int


@dataclass(frozen=True)
class _Place:
    """Where a step that was under way is taken to be: behind so many known writes."""

    name: _Name
    write: Write
    behind: int


@dataclass
class _History:
    """What is known of a run."""

    first: int = 0
    """The last LSN before it."""
    known: list[_Known] = field(default_factory=list)
    counted: dict[bytes, dict[int, _Name]] = field(default_factory=dict)
    under_way: dict[_Name, Write] = field(default_factory=dict)
    counting: Counter[bytes] = field(default_factory=Counter)
    """How many `incr`s of each counter were under way."""
    order: dict[int, list[tuple[_Name, int | tuple[bytes, int]]]] = field(default_factory=dict)
    """Of each writer its writes as told: an LSN, or a counter and its answer."""
    required: dict[_Name, str] = field(default_factory=dict)
    """What must be there, and why."""
    acknowledged: int = 0


def judge_many(
    db: Store, base: Model, scripts: Sequence[Script], account: Account, crash: Crash
) -> Verdict:
    """Hold a recovered store against the scripts of several writers.

    `base` is the store before they began, with every table that they use.

    Raises:
        ViolationError: a promise is broken.
    """
    found = read_whole(db)
    if not account.opened:
        _check_nothing_new(base, found)
        return Verdict(Model(dict(found), base.lsn), 0, base.lsn)
    history = _history(scripts, account, crash)
    counters = found.get(COUNTERS, {})
    counts = _check_counters(history, base.tables.get(COUNTERS, {}), counters)
    cut = _cut(db.recovery_report.last_lsn, history)
    nearest: str | None = None
    for known in _cuts(history, cut):
        for places in _arrangements(history, known, cut, counts):
            state = _state(base, history, known, places, counters)
            if state == found:
                _check_required(history, known, places, counters)
                _check_programs(history, known, counters)
                issued = max([history.first, *(each.last for each in history.known)])
                return Verdict(Model(dict(found), issued), history.acknowledged, issued)
            nearest = nearest or difference(state, found)
    raise ViolationError(
        2, f"the store is no prefix of what its writers were told; up to LSN "
        f"{db.recovery_report.last_lsn} it differs in: {nearest or 'how many LSNs were taken'}",
    )  # fmt: skip


# ---- what was told


def _history(scripts: Sequence[Script], account: Account, crash: Crash) -> _History:
    history = _History()
    told_so_far: list[_Name] = []
    seen_at_last: dict[int, int] = {}
    values: dict[bytes, tuple[_Name, Step]] = _values(scripts)
    done: dict[int, set[int]] = {writer: set() for writer in range(len(scripts))}
    for told in account.messages:
        if told.kind == OPENED:
            history.first = told.answer[0]
            continue
        assert told.kind == DONE, told
        name, step = _Name(told.writer, told.step), scripts[told.writer][told.step]
        done[told.writer].add(told.step)
        _take(history, name, step, told, values, crash)
        if crash.respects(step, told) and not isinstance(step, Get | Sync):
            history.required[name] = f"writer {name.writer}, step {name.step}: it was acknowledged"
        if isinstance(step, Sync) and not crash.is_late(told):
            # It began after the last thing that its writer said, so it covers all before that.
            for covered in told_so_far[: seen_at_last.get(told.writer, 0)]:
                history.required.setdefault(covered, "a later sync() covers it")
        if not isinstance(step, Get | Sync):
            told_so_far.append(name)
        seen_at_last[told.writer] = len(told_so_far)
    for writer, script in enumerate(scripts):
        number = next((n for n in script if n not in done[writer]), None)
        if number is not None:
            step = script[number]
            if isinstance(step, Put | PutMany | WriteBatch):
                history.under_way[_Name(writer, number)] = step
            elif isinstance(step, Incr):
                history.counting[step.key] += 1
    _sort(history)
    return history


def _take(
    history: _History,
    name: _Name,
    step: Step,
    told: Told,
    values: Mapping[bytes, tuple[_Name, Step]],
    crash: Crash,
) -> None:
    order = history.order.setdefault(name.writer, [])
    if isinstance(step, Put | PutMany | WriteBatch):
        first = told.answer - operations(step) + 1
        history.known.append(_Known(name, step, first, told.answer))
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
        order.append((name, (step.key, told.answer)))
        history.acknowledged += 1
    elif isinstance(step, Get) and told.answer is not None and not crash.is_late(told):
        _note_shown(history, step, told, values, crash)


def _note_shown(
    history: _History,
    step: Get,
    told: Told,
    values: Mapping[bytes, tuple[_Name, Step]],
    crash: Crash,
) -> None:
    """What a reader was shown must be there if the level of its write says so."""
    tag = _tag(told.answer)
    if tag not in values:
        return  # what a round before this one left
    source, write = values[tag]
    if not _writes(write, step.key, told.answer):
        raise ViolationError(
            3, f"key {step.key!r} was read as {told.answer!r:.60}, never written for it"
        )
    if crash.respects(write, told._replace(at=crash.at)):
        why = f"writer {told.writer}, step {told.step} was shown it"
        history.required.setdefault(source, why)


def _sort(history: _History) -> None:
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


# ---- where the log ends, and what lies where


def _cut(last_lsn: int, history: _History) -> int | None:
    """Return the last LSN that was recovered, None where LSNs were skipped since."""
    known = max([history.first, *(each.last for each in history.known)])
    pending = sum(operations(each) for each in history.under_way.values())
    most = known + pending + sum(history.counting.values())
    counted = sum(len(answers) for answers in history.counted.values())
    return last_lsn if last_lsn <= most + counted else None


def _cuts(history: _History, cut: int | None) -> Iterator[int]:
    """Yield how many known writes may be there, the most first."""
    if cut is None:
        yield from range(len(history.known), -1, -1)
        return
    whole = sum(each.last <= cut for each in history.known)
    if any(each.first <= cut < each.last for each in history.known):
        raise ViolationError(2, f"the log ends at LSN {cut}, within a batch")
    yield whole


def _arrangements(
    history: _History, known: int, cut: int | None, counts: int
) -> Iterator[list[_Place]]:
    """Yield all ways in which the steps under way can lie among the known writes."""
    choices = [
        [None, *_places(history, name, write, known, cut)]
        for name, write in history.under_way.items()
    ]
    for chosen in itertools.product(*choices):
        places = [place for place in chosen if place is not None]
        if cut is not None and cut > history.first:
            taken = sum(each.last - each.first + 1 for each in history.known[:known])
            taken += counts + sum(operations(place.write) for place in places)
            if taken != cut - history.first:
                continue
        yield from (list(order) for order in itertools.permutations(places))


def _places(
    history: _History, name: _Name, write: Write, known: int, cut: int | None
) -> Iterator[_Place]:
    """Yield the places where a step can lie: behind its writer's last, where there is room."""
    own = max((lsn for _, lsn in history.order.get(name.writer, ()) if isinstance(lsn, int)),
              default=history.first)  # fmt: skip
    for behind in range(known, -1, -1):
        before = history.known[behind - 1].last if behind else history.first
        if before < own:
            return
        after = history.known[behind].first - 1 if behind < len(history.known) else None
        if cut is not None:
            after = cut if after is None else min(after, cut)
        if after is None or after - before >= operations(write):
            yield _Place(name, write, behind)


def _state(
    base: Model, history: _History, known: int, places: list[_Place], counters: Content
) -> dict[str, Content]:
    """Return what a store holds with these writes."""
    model = base.copy()
    for number in range(known + 1):
        if number:
            history.known[number - 1].write.apply(model)
        for place in places:
            if place.behind == number:
                place.write.apply(model)
    if COUNTERS in model.tables:
        model.tables[COUNTERS] = counters
    return model.tables


# ---- what must hold beside


def _check_counters(history: _History, before: Content, found: Content) -> int:
    """Hold each counter against the answers; return how many `incr`s are there."""
    taken = 0
    for key in found.keys() | before.keys() | history.counted.keys():
        base, value = int(before.get(key, b"0")), int(found.get(key, b"0"))
        answers = history.counted.get(key, {})
        there = sum(answer <= value for answer in answers)
        unexplained = value - base - there
        if not 0 <= unexplained <= history.counting[key]:
            raise ViolationError(
                2, f"counter {key!r} is {value}: it was {base}, {there} acknowledged incr count, "
                f"and {history.counting[key]} more were under way",
            )  # fmt: skip
        taken += value - base
    return taken


def _check_required(history: _History, known: int, places: list[_Place], counters: Content) -> None:
    there = {each.name for each in history.known[:known]} | {place.name for place in places}
    for key, answers in history.counted.items():
        value = int(counters.get(key, b"0"))
        there |= {name for answer, name in answers.items() if answer <= value}
    for name, why in history.required.items():
        if name not in there:
            raise ViolationError(1, f"writer {name.writer}, step {name.step} is missing: {why}")


def _check_programs(history: _History, known: int, counters: Content) -> None:
    """Of each writer's steps, in its own order, a prefix is there."""
    last = history.known[known - 1].last if known else history.first
    for writer, order in history.order.items():
        missing: _Name | None = None
        for name, told in order:
            if isinstance(told, int):
                there = told <= last
            else:
                there = told[1] <= int(counters.get(told[0], b"0"))
            if there and missing is not None:
                raise ViolationError(
                    2, f"writer {writer}: step {missing.step} is missing, step {name.step}, which "
                    "came after it, is there",
                )  # fmt: skip
            if not there:
                missing = missing or name


def _check_nothing_new(base: Model, found: dict[str, Content]) -> None:
    """Before the store was open for anybody, nothing changes but that tables are made."""
    for name in found.keys() | base.tables.keys():
        if found.get(name, {}) != base.tables.get(name, {}):
            raise ViolationError(
                2, f"nobody wrote, and table {name!r} changed: {difference(base.tables, found)}"
            )


# ---- steps


def operations(step: Write) -> int:
    """Return how many LSNs a write takes."""
    if isinstance(step, PutMany):
        return len(step.items)
    return len(step.parts) if isinstance(step, WriteBatch) else 1


def _items(step: Step) -> Iterator[tuple[str, bytes, bytes | None]]:
    match step:
        case Put():
            yield step.table, step.key, step.value
        case PutMany():
            yield from (("", key, value) for key, value in step.items)
        case WriteBatch():
            yield from step.parts


def _tag(value: bytes) -> bytes:
    """Return the part of a value that says which step it is from."""
    return b":".join(value.split(b":")[:2])


def _values(scripts: Sequence[Script]) -> dict[bytes, tuple[_Name, Step]]:
    return {
        _tag(value): (_Name(writer, number), step)
        for writer, script in enumerate(scripts)
        for number, step in script.items()
        for _, _, value in _items(step)
        if value is not None
    }


def _writes(step: Step, key: bytes, value: bytes) -> bool:
    return any(each == ("", key, value) for each in _items(step))
