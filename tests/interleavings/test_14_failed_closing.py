"""A close on a store that has failed, or that fails in it: whoever lost something is told.

`close` let every failure of the log pass, its own too: an ASYNC or BUFFERED write that had been
acknowledged was gone after a power cut, and the `with` block had ended without a word.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from unittest import mock

import pytest

from strandline import Durability, HealthState
from strandline.errors import StoreFailedError, StrandlineError, WriteOutcomeUnknownError
from strandline.tools.crash.simulation.faults import Fault, fail
from strandline.tools.crash.simulation.rig import Rig
from tests.support.history import contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LOST = OSError(errno.EIO, "lost")


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_a_sync_that_fails_in_close_is_told(tmp_path: Path, level: Durability) -> None:
    """Of two weak writes one is counted for each; the store is closed all the same.

    Guard: `closing.close` raises where the log says that something is in doubt.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"synced", b"1", durability=SYNC)
        db.put(b"weak", b"1", durability=level)
        db.put(b"weak", b"2", durability=level)
        rig.disk.faults = fail("fdatasync", LOST, path=".wal")
        with pytest.raises(WriteOutcomeUnknownError, match="the last 2 operations"):
            db.close(drain=False)
        rig.disk.faults = None
        assert contents(rig.power_cut("none").open()) == {("", b"synced"): b"1"}
        assert rig.open()[b"synced"] == b"1"


@pytest.mark.parametrize("level", [ASYNC, BUFFERED])
def test_what_was_in_doubt_before_is_told_at_the_close(tmp_path: Path, level: Durability) -> None:
    """The thread that syncs met the failure, and nobody has written since."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"weak", b"1", durability=level)
        rig.disk.faults = fail("fdatasync", LOST, path=".wal")
        with contextlib.suppress(StrandlineError):
            db.engine.log.sync()
        rig.disk.faults = None
        assert db.health().state is HealthState.FAILED
        with pytest.raises(WriteOutcomeUnknownError, match="the last 1 operations"):
            db.close()
        db.close()


def test_a_writer_that_was_told_is_not_told_again(tmp_path: Path) -> None:
    """A SYNC write raised, and nothing else is in doubt: the close is quiet."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"synced", b"1", durability=SYNC)
        rig.disk.faults = fail("fdatasync", LOST, path=".wal")
        with pytest.raises(WriteOutcomeUnknownError):
            db.put(b"maybe", b"1", durability=SYNC)
        rig.disk.faults = None
        db.close()


def test_what_was_synced_when_another_thread_failed_is_in_no_doubt(tmp_path: Path) -> None:
    """LMDB fails between a group's sync and its publishing: its writer is told, all is on disk.

    Those who were told were taken off what is in doubt though they were not part of it, so
    that a close spoke of -1 operations, or was quiet about others.
    Guard: `LogQueues._tell_all` counts of those whom it tells only what was not synced.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        log = db.engine.log
        failing = mock.patch.object(type(log), "settle", lambda log: log.fail(LOST, "LMDB failed"))
        with failing, pytest.raises(WriteOutcomeUnknownError, match="LMDB failed"):
            db.put(b"k", b"1", durability=SYNC)
        assert log.in_doubt == 0
        db.close()


def test_a_with_block_tells_what_was_raised_in_it(tmp_path: Path) -> None:
    """Whoever leaves it by the failure hears of that; whoever leaves it otherwise, of the close."""
    for told in (True, False):
        with Rig(tmp_path / str(told)) as rig:
            db = rig.open()
            db.put(b"weak", b"1", durability=BUFFERED)
            rig.disk.faults = fail("fdatasync", LOST, path=".wal")
            with pytest.raises(StrandlineError) as caught, db:
                with pytest.raises(WriteOutcomeUnknownError):
                    db.put(b"maybe", b"1", durability=SYNC)
                if told:
                    db.put(b"more", b"1", durability=SYNC)
            rig.disk.faults = None
            assert type(caught.value) is (StoreFailedError if told else WriteOutcomeUnknownError)


def test_a_close_whose_names_fail_to_sync_has_lost_nothing(tmp_path: Path) -> None:
    """Everything was synced before the successor got its name: the end is not orderly, no more."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"1", durability=ASYNC)
        rig.disk.faults = fail("sync_directory", LOST, path="log")
        with contextlib.suppress(OSError):
            db.close(drain=False)
        rig.disk.faults = None
        assert contents(rig.power_cut("none").open()) == {("", b"k"): b"1"}


@pytest.mark.parametrize("marked", [True, False])
def test_a_seal_that_a_failed_sync_lost_is_written_once_more(tmp_path: Path, marked: bool) -> None:
    """The next opening reads the seal, whose pages the kernel took for clean.

    It was synced again, which wrote nothing, and followed; a power cut took the seal then, and
    every recovery told the hole as damage.
    Guard: `tail._sync_last` writes the seal, and a mark that stands before it, once more.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put(b"k", b"1", durability=SYNC)
        if marked:
            rig.housekeep()
        sealed = False

        def hook(op: str, path: str) -> Fault:
            nonlocal sealed
            sealed = sealed or op == "sync_directory"  # the successor's name, before the seal
            return LOST if sealed and op == "fdatasync" and path.endswith(".wal") else None

        rig.disk.faults = hook
        with contextlib.suppress(StrandlineError):
            db.close(drain=False)
        rig.disk.faults = None
        rig.open().put(b"more", b"2", durability=SYNC)
        with rig.power_cut("none").open(recovery="strict") as last:
            assert not last.recovery_report.damages
            assert contents(last) == {("", b"k"): b"1", ("", b"more"): b"2"}


def test_what_fails_before_a_directory_is_open_ends_nothing(tmp_path: Path) -> None:
    """No descriptor is left, or a signal handler raises: no sync has failed.

    Guard: `Segments._sync_names` looks at the number of the error.
    """
    for error in (OSError(errno.EMFILE, "too many"), TimeoutError("too slow")):
        with Rig(tmp_path / type(error).__name__) as rig:
            db = rig.open()
            db.put(b"k", b"1")
            rig.disk.faults = fail("sync_directory", error, path="log")
            with pytest.raises(OSError, match="too"):
                db.put(b"large", bytes(100_000))
            rig.disk.faults = None
            db.put(b"large", bytes(100_000))
            assert db.health().state is HealthState.OK
            assert len(rig.power_cut("none").open()) == 2


def test_the_failure_is_known_before_anything_else_is_done(tmp_path: Path) -> None:
    """The spare whose name was not synced is closed and removed; nothing is acknowledged meanwhile.

    Guard: `Segments.on_failure`, which is called where the sync fails.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(8):
            db.put(b"k%d" % number, bytes(5000))
        failed = False
        seen: list[bool] = []

        def hook(op: str, path: str) -> Fault:
            nonlocal failed
            if failed:
                seen.append(db.engine.log.failure is not None)
            if op == "sync_directory":
                failed = True
                return LOST
            return None

        rig.disk.faults = hook
        with pytest.raises(OSError, match="lost"):
            rig.housekeep()
        rig.disk.faults = None
        assert seen
        assert all(seen)


def test_a_segment_that_cannot_be_looked_at_is_let_go(tmp_path: Path) -> None:
    """fstat fails when a segment is recycled: its descriptor is closed, each time."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(40):
            db.put(b"k%d" % number, bytes(5000))
        assert rig.checkpoint()
        rig.disk.faults = fail("size", LOST, path=".wal", times=9)
        held = len(rig.disk._handles)
        for _ in range(3):
            with pytest.raises(OSError, match="lost"):
                rig.housekeep()
        assert len(rig.disk._handles) <= held


def test_an_opening_that_fails_lets_go_of_its_lock(tmp_path: Path) -> None:
    """Also where the close of a file fails on the way out; the first error is the one told.

    It kept the lock, so that this process could not open the store again.
    """

    def hook(op: str, path: str) -> Fault:
        if op == "pwrite" and path.endswith("1.wal"):
            return OSError(errno.EIO, "no header")
        return OSError(errno.EIO, "no close") if op == "close" else None

    with Rig(tmp_path) as rig:
        rig.disk.faults = hook
        with pytest.raises(StrandlineError, match="no header"):
            rig.open()
        rig.disk.faults = None
        assert rig.open().setdefault(b"k", b"v") == b"v"
