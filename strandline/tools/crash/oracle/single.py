"""A writer that was alone: after a crash the store is a prefix of its script.

The prefix holds every step that was acknowledged at a level that the crash respects, and
with it all steps before that one. A step that was under way is there whole or not at all.
A step that makes tables does so in commits of its own, so a prefix can end between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash
from strandline.tools.crash.oracle.reading import difference, read_whole
from strandline.tools.crash.script.model import UNLOGGED, Content, Model
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.steps import Flush, PutUnlogged, Reopen, Step
from strandline.tools.crash.script.told import DONE, OPENED, REFUSED, Account, Told


@dataclass(frozen=True)
class _Prefix:
    """The store after some commit."""

    model: Model
    after: str


@dataclass
class _Prefixes:
    """The states that a store can be in, oldest first."""

    model: Model
    all: list[_Prefix] = field(default_factory=list)
    least: int = 0
    """The first of them that loses nothing that it must hold."""
    least_because: str = "nothing has to be there"
    acknowledged: int = 0
    unlogged: list[Content] = field(default_factory=list)
    issued: int = 0
    """The highest LSN that was issued for certain."""
    unknown: bool = False
    """A step's outcome is unknown: what is visible from then on is older than the newest state."""
    certain: int | None = None
    """The last state before such a step; nothing behind it can be promised by a later one."""

    def __post_init__(self) -> None:
        self._add("the state before")
        self.unlogged = [self.model.unlogged]
        self.issued = self.model.lsn

    def open(self, lsn: int, unlogged: Content) -> None:
        """Go on from the LSN that an opening says, and from what it found outside the log."""
        if lsn < self.issued:
            raise ViolationError(
                12, f"LSN {lsn + 1} would be issued again, up to {self.issued} were"
            )
        skipped = lsn > self.model.lsn
        self.model.lsn = self.issued = lsn
        if skipped:
            self._add("an opening that skipped LSNs")
        if unlogged not in self.unlogged:
            raise ViolationError(3, _never_so(unlogged))
        self.model.unlogged = unlogged
        self.unlogged.append(unlogged)

    def take(self, number: int, step: Step, told: Told | None, crash: Crash) -> None:
        """Apply a step; without an answer it may be there or not."""
        before = len(self.all)
        for name in step.tables:
            if name not in self.model.tables:
                self.model.ensure(name)
                self._add(f"step {number} made table {name!r}")
        made = len(self.all) - 1
        lsn = self.model.lsn
        answer = step.apply(self.model)
        if isinstance(step, PutUnlogged):
            self.unlogged.append(self.model.unlogged)
        if self.model.lsn > lsn:
            self._add(f"step {number}, {type(step).__name__}")
        if told is None:
            self.unknown = True
            self.certain = before - 1 if self.certain is None else self.certain
            return
        if told.answer != answer and not self.unknown:
            raise ViolationError(
                2, f"step {number}, {step!r:.200}: expected answer {answer!r:.80}, found "
                f"{told.answer!r:.80}",
            )  # fmt: skip
        self.issued = self.model.lsn
        wrote = self.model.lsn > lsn
        if (wrote or step.covers_all) and crash.respects(step, told):
            self._require(len(self.all) - 1, number, step)
        elif made >= before:
            # What makes a table is durable when it returns, whatever the step's level.
            self._require(made, number, step)
        self.acknowledged += 1
        if isinstance(step, Flush) or (isinstance(step, Reopen) and step.drain):
            self.unlogged = [self.model.unlogged]

    def refuse(self, number: int, step: Step, tables: list[str], lsn: int) -> None:
        """A step that is not there; of the tables that it makes, these are."""
        if self.unknown:
            return
        for name in step.tables:
            if name in tables and name not in self.model.tables:
                self.model.ensure(name)
                self._add(f"step {number} made table {name!r}")
        if lsn < self.model.lsn:
            raise ViolationError(12, f"LSN {lsn + 1} would be issued again, after step {number}")
        self.model.lsn = self.issued = lsn

    def reaches(self, index: int, lsn: int, *, refusable: bool) -> bool:
        """Tell whether a state is that of an LSN; operations without effect can lie behind it."""
        following = self.all[index + 1].model.lsn if index + 1 < len(self.all) else lsn + 1
        if refusable and self.certain is not None and index >= self.certain:
            following += 1
        return self.all[index].model.lsn <= lsn < following

    def keys(self) -> dict[str, set[Any]]:
        """Return all that was ever a key, by table."""
        ever: dict[str, set[Any]] = {}
        for prefix in self.all:
            for name, content in prefix.model.tables.items():
                ever.setdefault(name, set()).update(content)
        return ever

    def _require(self, index: int, number: int, step: Step) -> None:
        if self.certain is not None:
            index = min(index, self.certain)
        if index >= self.least:
            self.least = index
            self.least_because = f"step {number}, {step!r:.160}, was acknowledged"

    def _add(self, after: str) -> None:
        self.all.append(_Prefix(self.model.copy(), after))


@dataclass(frozen=True)
class Verdict:
    """What a store holds."""

    model: Model
    """The state that it was found in; a next round can go on from it."""
    acknowledged: int
    """How many acknowledged steps were looked for."""
    issued: int
    """No LSN up to here may be issued again."""


def judge_single(
    db: Store,
    base: Model,
    script: Script,
    account: Account,
    crash: Crash,
    *,
    refusable: bool = False,
) -> Verdict:
    """Hold a recovered store against the script of a writer that was alone.

    `base` is the store before the script began. `refusable` says that calls fail: of a step
    under way the LSNs can be taken by operations without effect, as after it was refused.

    Raises:
        ViolationError: a promise is broken.
    """
    prefixes = expect_single(base, script, account, crash)
    found = read_whole(db, prefixes.keys())
    unlogged = found.get(UNLOGGED, {})
    logged = {name: content if name != UNLOGGED else {} for name, content in found.items()}
    last_lsn = db.recovery_report.last_lsn
    equal = [n for n, prefix in enumerate(prefixes.all) if prefix.model.tables == logged]
    if not equal:
        nearest = min(
            prefixes.all[prefixes.least :], key=lambda p: _distance(p.model.tables, logged)
        )
        raise ViolationError(
            2, f"the store is no prefix of its script; nearest is it to the one that ends with "
            f"{nearest.after}: {difference(nearest.model.tables, logged)}",
        )  # fmt: skip
    # An unclean start skips LSNs; what was skipped counts as recovered by the next one.
    skipped = last_lsn > max(prefix.model.lsn for prefix in prefixes.all)
    kept = next(
        (n for n in equal if skipped or prefixes.reaches(n, last_lsn, refusable=refusable)), None
    )
    newest = max(equal) if kept is None or skipped else kept
    if newest < prefixes.least:
        raise ViolationError(
            1, f"{prefixes.least_because}, and the store ends with {prefixes.all[newest].after}: "
            f"{difference(prefixes.all[prefixes.least].model.tables, logged)}",
        )  # fmt: skip
    if kept is None:
        raise ViolationError(
            2, f"the recovery says that LSN {last_lsn} is the last one; the state is that of LSN "
            f"{[prefixes.all[n].model.lsn for n in equal]}",
        )  # fmt: skip
    if unlogged not in prefixes.unlogged:
        raise ViolationError(3, _never_so(unlogged))
    model = prefixes.all[kept].model.copy()
    model.unlogged = unlogged
    return Verdict(model, prefixes.acknowledged, prefixes.issued)


def check_living_single(db: Store, base: Model, script: Script, account: Account) -> None:
    """Hold a store that has not crashed against all that its writer was told.

    Raises:
        ViolationError: a promise is broken.
    """
    told = {message.step for message in account.messages if message.kind != OPENED}
    taken = {number: step for number, step in script.items() if number in told}
    prefixes = expect_single(base, taken, account, Crash.none())
    found = read_whole(db, prefixes.keys())
    unlogged = found.get(UNLOGGED, {})
    logged = {name: content if name != UNLOGGED else {} for name, content in found.items()}
    # What an outcome that is unknown made of the store is not seen, in whole or in part.
    possible = prefixes.all[-1 if prefixes.certain is None else prefixes.certain :]
    if not any(prefix.model.tables == logged for prefix in possible):
        raise ViolationError(
            2, f"nothing crashed, and reads differ after {possible[0].after}: "
            f"{difference(possible[0].model.tables, logged)}",
        )  # fmt: skip
    if prefixes.certain is None and unlogged != prefixes.model.unlogged:
        raise ViolationError(
            3, f"nothing crashed, and the unlogged table is {unlogged!r:.200}, not "
            f"{prefixes.model.unlogged!r:.200}",
        )  # fmt: skip


def expect_single(base: Model, script: Script, account: Account, crash: Crash) -> _Prefixes:
    """Return the states that a store can be in, given what was told."""
    prefixes = _Prefixes(base.copy())
    steps = iter(script.items())
    for told in account.messages:
        if told.kind == OPENED:
            prefixes.open(*told.answer)
            continue
        number, step = next(steps)
        if number != told.step:
            raise AssertionError(f"step {number} was to be told, {told.step} was")
        if told.kind == REFUSED:
            prefixes.refuse(number, step, *told.answer)
        else:
            certain = told.kind == DONE and not crash.is_late(told)
            prefixes.take(number, step, told if certain else None, crash)
    under_way = next(steps, None)
    if under_way is not None and account.opened:
        prefixes.take(*under_way, None, crash)
    return prefixes


def _never_so(unlogged: Content) -> str:
    return f"the unlogged table never was so since the last flush: {unlogged!r:.200}"


def _distance(expected: dict[str, Content], found: dict[str, Content]) -> int:
    names = expected.keys() | found.keys()
    return sum(
        expected.get(name, {}).get(key) != found.get(name, {}).get(key)
        for name in names
        for key in expected.get(name, {}).keys() | found.get(name, {}).keys()
    )
