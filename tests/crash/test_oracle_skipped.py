"""LSNs that an opening skips, as the oracle counts them."""

from __future__ import annotations

from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.single import expect_single
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.told import OPENED, Account, Told


def test_a_store_killed_right_after_an_opening_that_skipped() -> None:
    """What was skipped counts as recovered, though nothing was written above it.

    A recovery said that LSN 100 is the last one; the states that were allowed were those of
    LSN 5 and 101, and a store that had lost nothing was called a violation.
    """
    account = Account.of([Told(OPENED, 0, 0, [100, {}])])
    states = expect_single(Model(lsn=5), {}, account, Crash(CrashKind.PROCESS)).all
    assert [5, 100] == [state.model.lsn for state in states]


def test_an_opening_that_skips_nothing_is_no_state_of_its_own() -> None:
    """After a close in order LSNs go on from where they were."""
    account = Account.of([Told(OPENED, 0, 0, [5, {}])])
    states = expect_single(Model(lsn=5), {}, account, Crash(CrashKind.PROCESS)).all
    assert [5] == [state.model.lsn for state in states]
