"""The oracle for several writers: the order comes from LSNs, and nothing else is believed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import check_living_many, judge_many
from strandline.tools.crash.oracle.single import Verdict
from strandline.tools.crash.script.many import COUNTERS, OTHER
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.running import Script, tell_opened
from strandline.tools.crash.script.steps import (
    ASYNC,
    BUFFERED,
    SYNC,
    Get,
    Incr,
    Put,
    Step,
    Sync,
    WriteBatch,
)
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.rig import Rig

POWER, PROCESS = Crash(CrashKind.POWER), Crash(CrashKind.PROCESS)
BASE = Model({"": {}, OTHER: {}, COUNTERS: {}})


class Team:
    """Writers whose steps are taken in an order that the test chooses."""

    def __init__(self, rig: Rig, writers: int) -> None:
        self.rig = rig
        self.scripts: list[dict[int, Step]] = [{} for _ in range(writers)]
        self.told: list[Told] = []
        self.db = rig.open()
        self.db.table(OTHER)
        self.db.table(COUNTERS)
        tell_opened(self.db, self.told.append)

    def take(self, writer: int, step: Step, *, told: bool = True) -> Any:
        """Take a step; without `told` it is under way when the crash comes."""
        number = len(self.scripts[writer])
        self.scripts[writer][number] = step
        answer = step.do(self.db)
        if told:
            self.told.append(Told(DONE, writer, number, answer))
        return answer

    def begin(self, writer: int, step: Step) -> None:
        """A step that got nowhere before the crash."""
        self.scripts[writer][len(self.scripts[writer])] = step

    def judge(self, db: Store, crash: Crash = POWER) -> Verdict:
        """Ask the oracle."""
        scripts: list[Script] = list(self.scripts)
        return judge_many(db, BASE, scripts, Account.of(self.told), crash)

    def power_cut(self) -> Store:
        """Recover what is left when all is lost that was not synced."""
        return self.rig.power_cut("none").open()

    def killed(self) -> Store:
        """Recover what a killed process leaves."""
        return self.rig.kill().open()


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    """Three writers on one store."""
    with Rig(tmp_path) as rig:
        yield Team(rig, 3)


def refuses(invariant: int, call: Callable[[], object], *words: str) -> None:
    """Expect a violation of an invariant that says these words."""
    with pytest.raises(ViolationError) as caught:
        call()
    assert caught.value.invariant == invariant, caught.value
    for word in words:
        assert word in str(caught.value), caught.value


def value(writer: int, step: int) -> bytes:
    """Return a value that says whose it is."""
    return b"%d:%d:" % (writer, step)


def test_the_order_is_that_of_the_lsns(team: Team) -> None:
    """Whoever was told the higher LSN has the last word, whoever was told first."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.take(1, Put(SYNC, "", b"k", value(1, 0)))
    team.told[1], team.told[2] = team.told[2], team.told[1]
    db = team.power_cut()
    assert team.judge(db).acknowledged == 2
    db.put(b"k", value(0, 0))
    refuses(2, lambda: team.judge(db))


def test_what_was_acknowledged_must_be_there(team: Team) -> None:
    """A weak write may be lost by a power cut, and not by a kill."""
    team.take(0, Put(BUFFERED, "", b"k", value(0, 0)))
    db = team.power_cut()
    team.judge(db, POWER)
    refuses(1, lambda: team.judge(db, PROCESS), "step 0 is missing")
    team.judge(team.killed(), PROCESS)


def test_a_sync_covers_what_was_told_before_it_began(team: Team) -> None:
    """All that anybody was told before the last word of whoever called it."""
    team.take(1, Put(ASYNC, "", b"other", value(1, 0)))
    team.take(0, Put(ASYNC, "", b"k", value(0, 0)))
    team.begin(0, Sync(SYNC))
    team.told.append(Told(DONE, 0, 1, None))
    refuses(1, lambda: team.judge(team.power_cut()), "sync() covers it")


def test_what_was_told_while_a_sync_ran_need_not_be_covered(team: Team) -> None:
    """It may have come after the sync had begun."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.take(1, Put(ASYNC, "", b"other", value(1, 0)))
    team.begin(0, Sync(SYNC))
    team.told.append(Told(DONE, 0, 1, None))
    team.judge(team.power_cut())


@pytest.mark.parametrize("survives", [True, False])
def test_a_step_under_way_is_there_or_not(team: Team, survives: bool) -> None:
    """Whole in both tables, or in neither."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    both = WriteBatch(BUFFERED, (("", b"k", value(1, 0)), (OTHER, b"k", value(1, 0))))
    team.take(1, both, told=False)
    db = team.killed() if survives else team.power_cut()
    team.judge(db)
    if survives:
        db.table(OTHER).delete(b"k")
    else:
        db.table(OTHER).put(b"k", value(1, 0))
    refuses(2, lambda: team.judge(db))


def test_a_step_under_way_lies_only_where_lsns_leave_room(team: Team) -> None:
    """Between two known writes that follow each other there is none."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.take(0, Put(SYNC, "", b"x", value(0, 1)))
    team.begin(1, Put(SYNC, "", b"k", value(1, 0)))
    db = team.power_cut()
    team.judge(db)
    db.put(b"k", value(1, 0))
    refuses(2, lambda: team.judge(db))


def test_counters_agree_with_their_answers(team: Team) -> None:
    """An answer twice, a counter that is behind, and one that nobody counted are told."""
    for writer in (0, 1, 0):
        team.take(writer, Incr(SYNC, COUNTERS, b"c"))
    team.take(2, Incr(BUFFERED, COUNTERS, b"c"), told=False)
    team.judge(team.power_cut())
    db = team.killed()
    team.judge(db)
    db.table(COUNTERS).incr(b"c")
    refuses(2, lambda: team.judge(db), "more were under way")
    db.table(COUNTERS).put(b"c", b"2")
    refuses(2, lambda: team.judge(db), "how many LSNs were taken")
    team.told[2] = team.told[2]._replace(answer=1)
    refuses(2, lambda: team.judge(db), "an incr was lost")


def test_what_a_reader_was_shown_must_be_there(team: Team) -> None:
    """A SYNC write that somebody saw is on disk, whether or not it was acknowledged."""
    team.begin(0, Put(SYNC, "", b"k", value(0, 0)))
    team.begin(1, Get(SYNC, b"k"))
    db = team.power_cut()
    team.judge(db)
    team.told.append(Told(DONE, 1, 0, value(0, 0)))
    refuses(1, lambda: team.judge(db), "was shown it")


def test_a_reader_is_shown_only_what_was_written_there(team: Team) -> None:
    """A value of another key is told as never written."""
    team.begin(0, Put(ASYNC, "", b"k", value(0, 0)))
    team.begin(1, Get(SYNC, b"x"))
    team.told.append(Told(DONE, 1, 0, value(0, 0)))
    refuses(3, lambda: team.judge(team.power_cut()), "never written for it")


def test_an_lsn_is_issued_once(team: Team) -> None:
    """Two writers with one LSN, and a writer whose LSNs fall, are told."""
    lsn = team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.begin(1, Put(SYNC, "", b"x", value(1, 0)))
    team.told.append(Told(DONE, 1, 0, lsn))
    refuses(12, lambda: team.judge(team.power_cut()), "issued twice")


def test_of_each_writer_a_prefix_is_there(team: Team) -> None:
    """A later write that is there without an earlier one is a hole."""
    team.take(0, Incr(BUFFERED, COUNTERS, b"c"))
    team.take(0, Put(BUFFERED, "", b"k", value(0, 1)))
    db = team.killed()
    team.judge(db)
    db.table(COUNTERS).delete(b"c")
    refuses(2, lambda: team.judge(db))


def test_before_the_store_was_open_nothing_changes(team: Team) -> None:
    """Only tables may be there already."""
    team.told.clear()
    db = team.killed()
    team.judge(db)
    db.put(b"k", b"v")
    refuses(2, lambda: team.judge(db), "nobody wrote")


def test_nothing_older_is_read_than_what_was_acknowledged_before(team: Team) -> None:
    """Whoever asks after an acknowledgement is shown that write, or a newer one."""
    team.take(1, Put(BUFFERED, "", b"k", value(1, 0)))
    team.take(0, Put(ASYNC, "", b"k", value(0, 0)))
    team.take(0, Get(SYNC, b"k"))
    team.judge(team.power_cut())
    for answer in (value(1, 0), None):
        team.told[-1] = team.told[-1]._replace(answer=answer)
        refuses(4, lambda: team.judge(team.power_cut()), "writer 0, step 0 was acknowledged before")


def test_a_read_under_way_with_a_write_may_miss_it(team: Team) -> None:
    """What was acknowledged after the reader's last word may have come after its question."""
    team.take(1, Put(SYNC, "", b"k", value(1, 0)))
    team.take(0, Put(ASYNC, "", b"k", value(0, 0)))
    team.take(1, Get(SYNC, b"k"))
    team.told[-1] = team.told[-1]._replace(answer=value(1, 0))
    team.judge(team.power_cut())


def test_a_delete_that_was_shown_must_be_there(team: Team) -> None:
    """Before it was acknowledged too: a key that was seen to be gone does not come back."""
    team.take(1, Put(SYNC, "", b"k", value(1, 0)))
    team.take(0, Put(SYNC, "", b"other", value(0, 0)))
    team.begin(2, Put(SYNC, "", b"k", None))
    team.told.append(Told(DONE, 0, 1, None))
    team.scripts[0][1] = Get(SYNC, b"k")
    refuses(4, lambda: Team.judge(_without(team, 2), team.power_cut()), "is absent")
    refuses(1, lambda: team.judge(team.power_cut()), "was shown it")


def _without(team: Team, writer: int) -> Team:
    """Return a team of which one writer had nothing to do."""
    other = copy.copy(team)
    other.scripts = [{} if number == writer else s for number, s in enumerate(team.scripts)]
    return other


def test_of_two_ways_to_a_state_one_that_is_lawful_is_enough(team: Team) -> None:
    """A write that was shown and overwritten is there, although the state is the same without."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)), told=False)
    team.take(1, Get(SYNC, b"k"))
    team.take(1, Put(SYNC, "", b"k", value(1, 1)))
    # A second recovery: what it calls the last LSN says nothing of what is there.
    db = team.rig.power_cut("none")
    db.open()
    team.judge(db.power_cut("none").open())


def test_a_store_that_is_open_holds_all_that_was_told(team: Team) -> None:
    """Before any crash: a key that went out of memory by mistake is seen."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.take(1, Incr(SYNC, COUNTERS, b"c0"))
    scripts: list[Script] = list(team.scripts)
    check_living_many(team.db, BASE, scripts, Account.of(team.told))
    team.db.delete(b"k")
    refuses(2, lambda: check_living_many(team.db, BASE, scripts, Account.of(team.told)), "b'k'")


def test_an_incr_takes_an_lsn_that_is_not_issued_again(team: Team) -> None:
    """Nobody is told it, and LSNs are dense."""
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    before = team.db.engine.log.next_lsn() - 1
    team.take(1, Incr(ASYNC, COUNTERS, b"c0"))
    assert team.judge(team.power_cut()).issued == before + 1
