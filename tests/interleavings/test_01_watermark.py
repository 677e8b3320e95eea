"""Writes that are weaker than SYNC, checkpointed before the log that holds them is on disk.

If LMDB had them and a power cut then took the log's tail, the watermark would lie beyond
the log's head: LSNs would be issued twice, and a hole could open below the watermark.
So the log is fdatasynced through a generation's last LSN before LMDB's commit begins.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import Durability, StoreFailedError, WriteOutcomeUnknownError
from strandline.engine.checkpoint_transaction import CheckpointTransaction
from strandline.engine.stats import HealthState
from strandline.tools.crash.simulation.faults import Gate, fail
from strandline.tools.crash.simulation.media import CrashPolicy
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import History

WEAKER = [Durability.BUFFERED, Durability.ASYNC]


def write(rig: Rig, history: History, first: int, last: int, level: Durability) -> None:
    """Put the keys `first` to `last`, each by itself; their LSNs are the same numbers."""
    for number in range(first, last + 1):
        key, value = b"k%03d" % (number % 50), b"%d" % number
        history.note({("", key): value})
        assert number == rig.store.put(key, value, durability=level)
    if level is Durability.SYNC:
        history.acknowledged = last


@pytest.mark.parametrize("level", WEAKER)
def test_log_is_on_disk_before_the_commit(tmp_path: Path, level: Durability) -> None:
    """SYNC 1-80, weaker 81-100, a checkpoint, a power cut: the log reaches the watermark.

    Guard: `log.sync_through(lsn)` in `Checkpointer._pass`.
    """
    history = History()
    with Rig(tmp_path) as rig:
        rig.open()
        write(rig, history, 1, 80, Durability.SYNC)
        write(rig, history, 81, 100, level)
        assert rig.checkpoint()
        image = rig.power_cut("none")
        db = image.open()
        assert 100 == db.engine.backing.watermark.lsn
        assert 100 == history.check(db, at_least=100)
        lsn = db.put(b"next", b"1")
        assert lsn is not None
        assert lsn > 100


@pytest.mark.parametrize("level", WEAKER)
def test_commit_does_not_begin_before_the_sync_is_over(tmp_path: Path, level: Durability) -> None:
    """While the log's fdatasync is on its way LMDB has nothing of the generation.

    Guard: `log.sync_through(lsn)` comes before `backing.checkpoint()` in
    `Checkpointer._pass`, and does not return early.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        write(rig, history, 1, 80, Durability.SYNC)
        write(rig, history, 81, 100, level)
        gate = rig.disk.faults = Gate("fdatasync", path=".wal")
        checkpoint = Call(rig.checkpoint)
        assert gate.reached.wait(30)
        assert 0 == db.engine.backing.watermark.lsn
        during = rig.power_cut("none")
        gate.opened.set()
        assert checkpoint.answer()
        assert 100 == db.engine.backing.watermark.lsn
        assert 80 == history.check(during.open())
        assert 100 == history.check(rig.power_cut("none").open(), at_least=100)


def test_no_commit_after_a_failed_sync(tmp_path: Path) -> None:
    """The fdatasync that a checkpoint asks for fails: it commits nothing, then or later.

    Guard: `Log._fdatasync` raises, and `Log._check` ever after.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        write(rig, history, 1, 80, Durability.SYNC)
        write(rig, history, 81, 100, Durability.BUFFERED)
        rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), path=".wal")
        for _ in range(2):
            assert not rig.checkpoint()
            assert 0 == db.engine.backing.watermark.lsn
        assert HealthState.FAILED is db.health().state
        assert 80 == history.check(rig.power_cut("none").open())


def test_no_commit_in_failed_though_all_is_on_disk(tmp_path: Path) -> None:
    """A failed log commits nothing more, not even what was synced before the failure.

    Guard: the look at `log.failure` before `txn.commit` in `Checkpointer._pass`.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        write(rig, history, 1, 80, Durability.SYNC)
        rig.disk.faults = fail("pwrite", OSError(errno.EIO, "broken"), path=".wal")
        with pytest.raises((WriteOutcomeUnknownError, StoreFailedError)):
            rig.housekeep()  # the idle log's sync mark
        assert HealthState.FAILED is db.health().state
        assert not rig.checkpoint()
        assert 0 == db.engine.backing.watermark.lsn


def test_no_commit_when_the_log_fails_meanwhile(tmp_path: Path) -> None:
    """The log fails while a generation is being written to LMDB: the commit does not come.

    Guard: the look at `log.failure` before `txn.commit` in `Checkpointer._pass`.
    """
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        write(rig, history, 1, 80, Durability.SYNC)
        written = CheckpointTransaction.put_rows

        def fail_then_write(*args: Any) -> None:
            rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), path=".wal")
            with pytest.raises(WriteOutcomeUnknownError):
                db.put(b"later", b"1")
            written(*args)

        with mock.patch.object(CheckpointTransaction, "put_rows", fail_then_write):
            assert not rig.checkpoint()
        assert 0 == db.engine.backing.watermark.lsn
        assert 80 == history.check(rig.power_cut("none").open())


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_replay_commits_only_what_is_on_disk(tmp_path: Path, seed: int | None) -> None:
    """A killed process's log is in the page cache; its replay is too large for memory.

    Recovery commits to LMDB in the middle of it. A power cut at any of its operations
    leaves a log that reaches the watermark, and a prefix with all SYNC writes in it.

    Guard: `settle`, which writes the log's end anew and syncs it, comes before the replay
    in `recovery.opening`, and `rewrite` syncs what it writes.
    """
    history = History()
    policy: CrashPolicy = "none" if seed is None else random.Random(seed)
    with Rig(tmp_path) as rig:
        rig.open()
        write(rig, history, 1, 40, Durability.SYNC)
        for number in range(41, 141):
            key = b"big%03d" % number
            history.note({("", key): b"x" * 400})
            rig.store.put(key, b"x" * 400, durability=Durability.BUFFERED)
        killed = rig.kill()
        lengths = set()

        def look(image: Rig) -> None:
            lengths.add(history.check(image.open()))

        killed.sweep(lambda: killed.open(max_dirty_bytes=64 << 10), look, policy)
        assert 0 < killed.store.engine.backing.watermark.lsn < 140
        assert 140 == history.check(killed.store)
        assert {40, 140} <= lengths
