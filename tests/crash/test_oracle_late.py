"""What a writer was told when its disk was gone already: it is no promise, and no lie either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.script.steps import SYNC, Flush, Get, Incr, Put, PutUnlogged, Sync
from strandline.tools.crash.script.told import DONE, Told
from strandline.tools.crash.simulation.rig import Rig
from tests.crash.test_oracle_many import Team, refuses, value
from tests.crash.test_oracle_single import Run

POWER = Crash(CrashKind.POWER)


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as made:
        yield made


def late(told: Told) -> Told:
    """Return a message as it would be, had it come after the crash."""
    return told._replace(at=1.0)


def test_what_was_told_late_may_be_missing(rig: Rig) -> None:
    """A table, a write and what a flush covers; what was told in time may not."""
    run = Run(rig, Put(SYNC, "", b"a", b"1"))
    db = rig.power_cut("none").open()
    more = (Put(SYNC, "made", b"b", b"2"), Sync(SYNC), PutUnlogged(SYNC, b"u", b"3"), Flush(SYNC))
    for number, step in enumerate(more, 1):
        run.script[number] = step
        run.told.append(Told(DONE, 0, number, step.do(rig.store)))
    told = list(run.told)
    run.told[2:] = map(late, told[2:])
    assert run.judge(db).model.tables == {"": {b"a": b"1"}}
    run.told[:] = [*told[:3], *map(late, told[3:])]
    refuses(1, lambda: run.judge(db), "step 1", "was acknowledged")


def test_what_was_told_late_may_be_there(rig: Rig) -> None:
    """As many steps as came back, and the one that did not."""
    run = Run(rig, *(Put(SYNC, "", b"%d" % number, b"%d" % number) for number in range(4)))
    run.told[2:] = map(late, run.told[2:4])
    assert len(run.judge(rig.power_cut("none").open()).model.tables[""]) == 4


def test_several_writers_are_promised_nothing_late(rig: Rig) -> None:
    """Neither a write, nor what a sync covers, nor what somebody was shown."""
    team = Team(rig, 2)
    db = team.power_cut()
    team.take(0, Put(SYNC, "", b"k", value(0, 0)))
    team.take(0, Incr(SYNC, "counters", b"c"))
    team.take(0, Sync(SYNC))
    team.take(1, Get(SYNC, b"k"))
    refuses(1, lambda: team.judge(db), "step 0 is missing")
    team.told[1:] = map(late, team.told[1:])
    team.judge(db)
    team.judge(team.power_cut())


def test_a_crash_respects_nothing_late() -> None:
    """Whatever the level; what was told at the moment of the crash was told in time."""
    step = Put(SYNC, "", b"k", b"v")
    assert POWER.respects(step, Told(DONE, 0, 0, 1))
    assert not POWER.respects(step, late(Told(DONE, 0, 0, 1)))
