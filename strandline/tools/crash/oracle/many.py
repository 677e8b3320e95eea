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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash
from strandline.tools.crash.oracle.history import (
    History,
    Name,
    Write,
    history_of,
    keys_of,
    operations,
)
from strandline.tools.crash.oracle.looking import check_looks
from strandline.tools.crash.oracle.reading import difference, read_whole
from strandline.tools.crash.oracle.single import Verdict
from strandline.tools.crash.script.many import COUNTERS
from strandline.tools.crash.script.model import Content, Model
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.told import Account


@dataclass(frozen=True)
class _Place:
    """Where a step that was under way is taken to be: behind so many known writes."""

    name: Name
    write: Write
    behind: int


def judge_many(
    db: Store, base: Model, scripts: Sequence[Script], account: Account, crash: Crash
) -> Verdict:
    """Hold a recovered store against the scripts of several writers.

    `base` is the store before they began, with every table that they use.

    Raises:
        ViolationError: a promise is broken.
    """
    found = read_whole(db, keys_of(scripts))
    if not account.opened:
        _check_nothing_new(base, found)
        return Verdict(Model(dict(found), base.lsn), 0, base.lsn)
    history = history_of(base, scripts, account, crash)
    check_looks(base, history, crash)
    counters = found.get(COUNTERS, {})
    counts = _check_counters(history, base.tables.get(COUNTERS, {}), counters)
    cut = _cut(db.recovery_report.last_lsn, history)
    nearest: str | None = None
    refused: ViolationError | None = None
    for known in _cuts(history, cut):
        for places in _arrangements(history, known, cut, counts):
            state = _state(base, history, known, places, counters)
            if state != found:
                nearest = nearest or difference(state, found)
                continue
            try:
                _check_required(history, known, places, counters)
                _check_programs(history, known, counters)
            except ViolationError as error:
                refused = refused or error  # another way to the same state may be lawful
                continue
            issued = history.issued()
            return Verdict(Model(dict(found), issued), history.acknowledged, issued)
    raise refused or ViolationError(
        2, f"the store is no prefix of what its writers were told; up to LSN "
        f"{db.recovery_report.last_lsn} it differs in: {nearest or 'how many LSNs were taken'}",
    )  # fmt: skip


def check_living_many(db: Store, base: Model, scripts: Sequence[Script], account: Account) -> None:
    """Hold a store that never crashed against its writers, who have all come to their end.

    Raises:
        ViolationError: a promise is broken.
    """
    history = history_of(base, scripts, account, Crash.none())
    check_looks(base, history, Crash.none())
    assert not history.under_way, "a writer has not come to its end"
    assert not history.counting, "a writer has not come to its end"
    found = read_whole(db, keys_of(scripts))
    counters = found.get(COUNTERS, {})
    counts = _check_counters(history, base.tables.get(COUNTERS, {}), counters)
    if counts != sum(len(answers) for answers in history.counted.values()):
        raise ViolationError(2, f"the counters are {counters!r}, and {counts} incr were told")
    state = _state(base, history, len(history.known), [], counters)
    if state != found:
        raise ViolationError(2, f"nothing crashed, and reads differ: {difference(state, found)}")


# ---- where the log ends, and what lies where


def _cut(last_lsn: int, history: History) -> int | None:
    """Return the last LSN that was recovered, None where LSNs were skipped since."""
    known = max([history.first, *(each.last for each in history.known)])
    pending = sum(operations(each) for each in history.under_way.values())
    most = known + pending + sum(history.counting.values())
    counted = sum(len(answers) for answers in history.counted.values())
    return last_lsn if last_lsn <= most + counted else None


def _cuts(history: History, cut: int | None) -> Iterator[int]:
    """Yield how many known writes may be there, the most first."""
    if cut is None:
        yield from range(len(history.known), -1, -1)
        return
    whole = sum(each.last <= cut for each in history.known)
    if any(each.first <= cut < each.last for each in history.known):
        raise ViolationError(2, f"the log ends at LSN {cut}, within a batch")
    yield whole


def _arrangements(
    history: History, known: int, cut: int | None, counts: int
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
    history: History, name: Name, write: Write, known: int, cut: int | None
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
    base: Model, history: History, known: int, places: list[_Place], counters: Content
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


def _check_counters(history: History, before: Content, found: Content) -> int:
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


def _check_required(history: History, known: int, places: list[_Place], counters: Content) -> None:
    there = {each.name for each in history.known[:known]} | {place.name for place in places}
    for key, answers in history.counted.items():
        value = int(counters.get(key, b"0"))
        there |= {name for answer, name in answers.items() if answer <= value}
    for key, (least, who) in history.counts_shown.items():
        if int(counters.get(key, b"0")) < least:
            raise ViolationError(1, f"counter {key!r} is below {least}, which {who} showed")
    for name, why in history.required.items():
        if name not in there:
            raise ViolationError(1, f"writer {name.writer}, step {name.step} is missing: {why}")


def _check_programs(history: History, known: int, counters: Content) -> None:
    """Of each writer's steps, in its own order, a prefix is there."""
    last = history.known[known - 1].last if known else history.first
    for writer, order in history.order.items():
        missing: Name | None = None
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
