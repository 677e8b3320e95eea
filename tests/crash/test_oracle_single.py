"""The oracle for a writer that is alone: it accepts every legal end, and none that is not.

Stores are real; what the oracle is told of them is what is varied.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from strandline import Durability, Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.after import check_report
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import Verdict, check_living_single, judge_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import attempt, tell_opened
from strandline.tools.crash.script.single import value_of
from strandline.tools.crash.script.steps import (
    ASYNC,
    BUFFERED,
    SYNC,
    Append,
    Flush,
    Incr,
    Put,
    PutUnlogged,
    Step,
    Sync,
    WriteBatch,
)
from strandline.tools.crash.script.told import DONE, OPENED, UNKNOWN, Account, Told
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.damage import Damage, DamageKind

POWER, PROCESS = Crash(CrashKind.POWER), Crash(CrashKind.PROCESS)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on a simulated disk."""
    with Rig(tmp_path) as made:
        yield made


class Run:
    """A script that was run on a rig, and what was told."""

    def __init__(self, rig: Rig, *steps: Step) -> None:
        self.rig = rig
        self.script = dict(enumerate(steps))
        self.told: list[Told] = []
        db = rig.open()
        tell_opened(db, self.told.append)
        for number, step in self.script.items():
            attempt(db, number, step, self.told.append)

    def judge(self, db: Store, crash: Crash = POWER) -> Verdict:
        """Ask the oracle."""
        return judge_single(db, Model(), self.script, Account.of(self.told), crash)

    def after_power_cut(self) -> Store:
        """Recover what a power cut leaves that takes all that was not synced."""
        return self.rig.power_cut("none").open()


def refuses(invariant: int, call: Callable[[], object], *words: str) -> None:
    """Expect a violation of an invariant that says these words."""
    with pytest.raises(ViolationError) as caught:
        call()
    assert caught.value.invariant == invariant, caught.value
    for word in words:
        assert word in str(caught.value)


def test_what_was_synced_must_be_there(rig: Rig) -> None:
    """A SYNC write that was acknowledged, and then is not there, is told with its step."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"), Put(BUFFERED, "", b"b", b"2"))
    db = run.after_power_cut()
    assert run.judge(db).model.tables == {"": {b"a": b"1"}}
    db.delete(b"a")
    refuses(1, lambda: run.judge(db), "step 0", "was acknowledged")


@pytest.mark.parametrize(
    ("level", "crash", "respected"),
    [
        (SYNC, POWER, True), (SYNC, PROCESS, True), (BUFFERED, POWER, False),
        (BUFFERED, PROCESS, True), (ASYNC, POWER, False), (ASYNC, PROCESS, False),
    ],
)  # fmt: skip
def test_a_crash_respects_levels(level: Durability, crash: Crash, respected: bool) -> None:
    """A power cut respects SYNC, a kill BUFFERED as well."""
    step = Put(level, "", b"k", b"v")
    assert crash.respects(step, Told(DONE, 0, 0, 1)) is respected


def test_age_makes_a_weak_write_due() -> None:
    """What is older than its window must have landed, whatever its level."""
    crash = Crash(CrashKind.POWER, at=10.0, logged_after=0.5, synced_after=2.0)
    step = Put(ASYNC, "", b"k", b"v")
    assert not crash.respects(step, Told(DONE, 0, 0, 1, at=8.5))
    assert crash.respects(step, Told(DONE, 0, 0, 1, at=7.5))
    killed = Crash(CrashKind.PROCESS, at=10.0, logged_after=0.5, synced_after=2.0)
    assert killed.respects(step, Told(DONE, 0, 0, 1, at=9.4))
    assert not killed.respects(step, Told(DONE, 0, 0, 1, at=9.6))


@pytest.mark.parametrize("covering", [Sync(SYNC), Flush(SYNC)])
def test_a_sync_or_flush_covers_what_came_before(rig: Rig, covering: Step) -> None:
    """After it an ASYNC write must survive a power cut."""
    run = Run(rig, Put(ASYNC, "", b"a", b"1"))
    run.script[1] = covering
    run.told.append(Told(DONE, 0, 1, covering.apply(Model())))
    refuses(1, lambda: run.judge(run.after_power_cut()), type(covering).__name__)


def test_a_batch_is_there_whole_or_not_at_all(rig: Rig) -> None:
    """Half of a batch is no prefix, also of one that was under way."""
    batch = WriteBatch(BUFFERED, (("", b"a", b"1"), ("", b"b", b"1")))
    run = Run(rig, batch)
    assert run.judge(run.after_power_cut()).model.tables == {"": {}}
    run.told.pop()
    assert len(run.judge(rig.kill().open(), PROCESS).model.tables[""]) == 2
    db = run.after_power_cut()
    db.put(b"a", b"1")
    refuses(2, lambda: run.judge(db, PROCESS))


def test_a_step_under_way_may_have_made_its_table_only(rig: Rig) -> None:
    """What makes a table is a commit of its own."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"), Append(BUFFERED, b"event"))
    db = run.after_power_cut()
    assert run.judge(db).model.tables == {"": {b"a": b"1"}, "events": {}}
    db.drop_table("events")
    refuses(1, lambda: run.judge(db), "step 1")


def test_an_answer_that_is_wrong_is_told(rig: Rig) -> None:
    """An LSN or a counter that the model does not come to is a broken promise by itself."""
    run = Run(rig, Incr(SYNC, "", b"c", 3))
    run.told[-1] = run.told[-1]._replace(answer=4)
    refuses(2, lambda: run.judge(run.after_power_cut()), "expected answer 3, found 4")


def test_a_value_from_nowhere_is_told(rig: Rig) -> None:
    """A key that no step wrote, or an old value, is no prefix."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"), Put(SYNC, "", b"a", b"2"))
    db = run.after_power_cut()
    db.put(b"a", b"1")
    refuses(1, lambda: run.judge(db), "expected b'2', found b'1'")
    db.put(b"a", b"0")
    refuses(2, lambda: run.judge(db), "found b'0'")


def test_an_unknown_step_is_there_or_not_and_nothing_behind_it(rig: Rig) -> None:
    """Both states are accepted; a later flush promises nothing of it."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"), Put(BUFFERED, "", b"b", b"2"))
    run.told[-1] = Told(UNKNOWN, 0, 1, None)
    run.script[2] = Flush(SYNC)
    run.told.append(Told(DONE, 0, 2, 0))
    assert run.judge(run.after_power_cut()).model.tables == {"": {b"a": b"1"}}
    assert len(run.judge(rig.kill().open()).model.tables[""]) == 2


def test_lsns_do_not_fall(rig: Rig) -> None:
    """An opening that goes on below what was issued is told."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"))
    run.told.append(Told(OPENED, 0, 0, [0, {}]))
    refuses(12, lambda: run.judge(run.after_power_cut()), "LSN 1 would be issued again")


def test_the_unlogged_table_is_one_of_its_states_since_the_flush(rig: Rig) -> None:
    """It may be anything since the last flush, and nothing from before it."""
    run = Run(rig, *[PutUnlogged(ASYNC, b"u", b"%d" % n) for n in range(3)])
    db = run.after_power_cut()
    assert run.judge(db).model.unlogged == {}
    db.table("unlogged", logged=False).put(b"u", b"1")
    assert run.judge(db).model.unlogged == {b"u": b"1"}
    db.table("unlogged", logged=False).put(b"u", b"7")
    refuses(3, lambda: run.judge(db), "unlogged")


def test_a_store_that_is_open_holds_all_that_was_told(rig: Rig) -> None:
    """Before any crash reads are as the script left them; after an unknown outcome as before it."""
    run = Run(rig, Put(BUFFERED, "", b"a", b"1"), Put(BUFFERED, "", b"b", b"2"))
    check_living_single(rig.store, Model(), run.script, Account.of(run.told))
    rig.store.delete(b"b")
    refuses(
        2,
        lambda: check_living_single(rig.store, Model(), run.script, Account.of(run.told)),
        "b'b'",
    )
    run.told[-1] = Told(UNKNOWN, 0, 1, None)
    check_living_single(rig.store, Model(), run.script, Account.of(run.told))
    rig.store.delete(b"a")
    refuses(2, lambda: check_living_single(rig.store, Model(), run.script, Account.of(run.told)))


def test_no_sector_of_a_value_is_zeros() -> None:
    """Lost sectors of a preallocated file read as zeros: of those no torn value could be told."""
    values = [value_of(random.Random(number), number) for number in range(200)]
    assert max(map(len, values)) > 1024
    for value in values:
        sectors = [value[at : at + 512] for at in range(0, len(value), 512)]
        assert all(any(sector) for sector in sectors)
        assert len(set(sectors)) == len(sectors)


def test_a_power_cut_may_leave_gaps_that_lose_nothing_and_a_kill_none(rig: Rig) -> None:
    """Of segments that were given back a newer one can be gone, and an older one still there."""
    gap = Damage(DamageKind.MISSING, "2.wal", 2, 0, 9, "a segment file", "nothing")
    report = replace(rig.open().recovery_report, gaps=(gap,))
    check_report(report, POWER)
    refuses(7, lambda: check_report(report, PROCESS))
    refuses(7, lambda: check_report(replace(report, gaps=(), given_up=((1, 2),)), POWER))


def test_a_refused_step_that_was_not_told_leaves_its_lsn(rig: Rig) -> None:
    """Where calls fail, a step under way can have been refused, its LSNs filled on disk.

    A store that met a full disk once was told as one whose state is an LSN behind.
    """
    run = Run(rig, Put(SYNC, "", b"k", b"0:0:"), Put(SYNC, "", b"k", None), Incr(SYNC, "", b"c", 1))
    db = rig.power_cut("none").open()
    db.put(b"c", b"1")
    lsn = db.recovery_report.last_lsn
    run.told.pop()
    account = Account.of(run.told)

    def judge(*, refusable: bool) -> Verdict:
        return judge_single(db, Model(), run.script, account, POWER, refusable=refusable)

    assert judge(refusable=False).model.lsn == lsn
    db.delete(b"c")
    refuses(2, lambda: judge(refusable=False), f"the recovery says that LSN {lsn} is the last one")
    assert judge(refusable=True).model.lsn == lsn - 1
