"""The oracle for snapshots beside writers: what they showed is the writes up to their LSN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.many import check_living_many
from strandline.tools.crash.script.many import COUNTERS, OTHER
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.steps import (
    ASYNC,
    SYNC,
    Incr,
    Look,
    Put,
    WriteBatch,
    seen,
)
from strandline.tools.crash.script.told import DONE, Account, Told
from strandline.tools.crash.simulation.rig import Rig
from tests.crash.test_oracle_many import BASE, Team, refuses, value

LOOK = Look(SYNC, ("", OTHER, COUNTERS), 0.0)
POWER = Crash(CrashKind.POWER)


@pytest.fixture
def team(tmp_path: Path) -> Any:
    """Two writers, one of whom has looked at what both wrote."""
    with Rig(tmp_path) as rig:
        team = Team(rig, 2)
        team.take(0, Put(SYNC, "", b"k", value(0, 0)))
        team.take(1, WriteBatch(ASYNC, (("", b"x", value(1, 0)), (OTHER, b"x", bytes(100)))))
        team.take(0, Incr(SYNC, COUNTERS, b"c0"))
        team.take(0, LOOK)
        yield team


def _living(team: Team) -> None:
    scripts: list[Script] = list(team.scripts)
    check_living_many(team.db, BASE, scripts, Account.of(team.told))


def _tell(team: Team, lsn: int, first: Any, second: Any = None) -> None:
    team.told[-1] = team.told[-1]._replace(answer=[lsn, first, second or first])


def test_a_true_look_is_believed(team: Team) -> None:
    """Long values are told by their digests, short ones whole."""
    _, first, second = team.told[-1].answer
    assert (
        first
        == second
        == [
            ["", b"k", value(0, 0)],
            ["", b"x", value(1, 0)],
            [OTHER, b"x", seen(bytes(100))],
            [COUNTERS, b"c0", b"1"],
        ]
    )
    assert len(first[2][2]) == 8
    _living(team)
    team.judge(team.power_cut())


def test_a_snapshot_does_not_change(team: Team) -> None:
    """What the second reading shows is what the first one showed."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn, first, first[1:])
    refuses(2, lambda: _living(team), "changed while it was open")
    refuses(2, lambda: team.judge(team.power_cut()), "changed while it was open")


def test_a_snapshot_holds_what_was_acknowledged_before(team: Team) -> None:
    """One of an older LSN was not taken when it says so."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn - 4, [])
    refuses(4, lambda: _living(team), "was acknowledged before")
    _tell(team, lsn, first[:-1])
    refuses(4, lambda: _living(team), "counter b'c0' as 0")


@pytest.mark.parametrize("left", range(3))
def test_a_snapshot_lacks_nothing(team: Team, left: int) -> None:
    """A key that is missing, of a batch too, is told, whether or not anything crashes."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn, first[:left] + first[left + 1 :])
    refuses(2, lambda: _living(team), "does not hold what was written up to there")
    refuses(2, lambda: team.judge(team.power_cut()), "does not hold what was written up to there")


def test_a_snapshot_holds_nothing_above_its_lsn(team: Team) -> None:
    """A write that is newer than it says, and an incr."""
    lsn, first, _ = team.told[-1].answer
    team.take(1, Put(SYNC, "", b"later", value(1, 1)))
    look = team.told.pop(-2)
    team.told.append(look._replace(answer=[lsn, [*first, ["", b"later", value(1, 1)]], first]))
    refuses(2, lambda: _living(team), "changed")
    _tell(team, lsn, [first[0], ["", b"later", value(1, 1)], *first[1:]])
    refuses(2, lambda: _living(team), "b'later'")
    _tell(team, lsn - 1, first)
    refuses(2, lambda: _living(team), "and holds 3 operations and 1 incr")


def test_a_snapshot_lies_between_writes(team: Team) -> None:
    """An LSN within a batch is no state that ever was."""
    lsn, first, _ = team.told[-1].answer
    team.told.insert(1, team.told.pop())  # it began before anything was told
    team.told[1] = team.told[1]._replace(answer=[lsn - 2, first[:2], first[:2]])
    refuses(2, lambda: _living(team), "within a batch")


def test_what_was_under_way_may_be_there_and_then_stays(team: Team) -> None:
    """A SYNC write that a snapshot showed was on disk by then; of two values either is lawful."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn + 1, [["", b"k", value(1, 1)], *first[1:]])
    refuses(2, lambda: team.judge(team.power_cut()), "b'k'")
    team.begin(1, Put(SYNC, "", b"k", value(1, 1)))
    refuses(1, lambda: team.judge(team.power_cut()), "showed it")
    team.scripts[1][1] = Put(ASYNC, "", b"k", value(1, 1))
    team.judge(team.power_cut())


def test_what_is_told_after_the_cut_is_no_promise(team: Team) -> None:
    """A kernel that has lost its disk may still let a snapshot be read."""
    team.told[-1] = Told(DONE, 0, team.told[-1].step, [0, [["", b"?", b"?"]], []], at=1.0)
    team.judge(team.power_cut(), POWER)


def test_a_key_comes_once_and_in_its_place(team: Team) -> None:
    """A scan out of order, and one with a key twice, are told."""
    lsn, first, _ = team.told[-1].answer
    for wrong in ([first[1], first[0], *first[2:]], [first[0], *first]):
        _tell(team, lsn, wrong)
        refuses(2, lambda: _living(team), "out of order")


def test_of_a_write_under_way_all_is_shown_or_nothing(team: Team) -> None:
    """A batch whose other half is missing, unless somebody wrote over it."""
    lsn, first, _ = team.told[-1].answer
    batch = WriteBatch(ASYNC, (("", b"k", value(1, 1)), (OTHER, b"x", value(1, 1))))
    team.begin(1, batch)
    half = [["", b"k", value(1, 1)], *first[1:]]
    _tell(team, lsn + 2, half)
    refuses(2, lambda: team.judge(team.power_cut()), "shows a part of writer 1, step 1")
    _tell(team, lsn + 2, [*half[:2], [OTHER, b"x", value(1, 1)], first[3]])
    team.judge(team.power_cut())


def test_a_count_that_was_shown_stays(team: Team) -> None:
    """Of a SYNC incr that was under way; a weaker one may be lost."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn + 1, [*first[:3], [COUNTERS, b"c0", b"2"]])
    for level in (SYNC, ASYNC):
        team.scripts[1][1] = Incr(level, COUNTERS, b"c0")
        if level is SYNC:
            refuses(1, lambda: team.judge(team.power_cut()), "below 2, which the snapshot")
        else:
            team.judge(team.power_cut())


def test_a_write_that_was_told_late_was_shown_in_time(team: Team) -> None:
    """It was acknowledged after the cut, and a snapshot before the cut held it."""
    lsn, first, _ = team.told[-1].answer
    look = team.told.pop()._replace(at=1.0)
    team.begin(1, Put(SYNC, "", b"late", value(1, 1)))
    team.told.append(Told(DONE, 1, 1, lsn + 1, at=3.0))
    shown = [first[0], ["", b"late", value(1, 1)], *first[1:]]
    team.told.append(look._replace(answer=[lsn + 1, shown, shown]))
    refuses(1, lambda: team.judge(team.power_cut(), Crash(CrashKind.POWER, at=2.0)), "showed it")


def test_without_a_crash_everything_is_looked_at(team: Team) -> None:
    """Whatever the clock says: a look that was told at any time is held against the writes."""
    lsn, first, _ = team.told[-1].answer
    _tell(team, lsn, first[1:])
    team.told[-1] = team.told[-1]._replace(at=1000.0)
    refuses(2, lambda: _living(team), "does not hold")
