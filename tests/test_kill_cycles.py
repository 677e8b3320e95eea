"""The short form of the soak: a store goes through SIGKILL after SIGKILL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.killed import OPTIONS, run_cycles


def test_a_killed_store_holds_a_prefix_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    """After each kill: no acknowledged SYNC or BUFFERED write lost, nothing in half."""
    run = run_cycles(tmp_path, 30, seed=20)
    assert 30 == run.cycles
    assert run.acknowledged > 1000


def test_the_check_sees_a_write_that_went_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that acknowledges BUFFERED writes before they are in the log does not pass."""
    from strandline.wal.log import Log

    monkeypatch.setattr(Log, "wait_written", lambda *_: None)
    monkeypatch.setitem(OPTIONS, "log_interval", 0.05)
    with pytest.raises(AssertionError, match=r"must be there|and lost"):
        run_cycles(tmp_path, 30, seed=20)
    assert os.listdir(tmp_path)
