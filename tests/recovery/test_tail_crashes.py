"""Crashes anywhere in the ending of a log, and what comes behind it: a writer, a quick look."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from strandline.options import RecoveryMode
from strandline.recovery.tail import Settlement, ended_cleanly
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.faults import fail
from strandline.wal.format import SEGMENT_HEADER_BYTES
from strandline.wal.log import Log, LogSettings
from strandline.wal.runtime import SystemRuntime
from strandline.wal.segments import Segments
from tests.support.logs import (
    DATA,
    LOG,
    UUID,
    LogBuilder,
    LogDisk,
    look,
    lsns,
    mend,
    quarantined,
    replay,
    sample,
    torn,
)


class Cut(BaseException):
    """The power goes."""


def default_torn() -> tuple[LogDisk, RecoveryMode, int]:
    """A torn tail, the default mode."""
    return torn()[0].on_disk(), "tolerate-torn-tail", 0


def default_without_successor() -> tuple[LogDisk, RecoveryMode, int]:
    """No tail, and no name for the next segment yet."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(4))
    disk.sync_directory(LOG)
    return disk, "tolerate-torn-tail", 0


def default_lost_header() -> tuple[LogDisk, RecoveryMode, int]:
    """A successor whose header did not reach the disk, though its frames did."""
    log = sample()
    log.seal(clean=True)
    log.spares.clear()
    log.epoch = 2
    log.open()
    log.data(3)
    disk = log.on_disk()
    disk.poke(log.path(4), 0, bytes(SEGMENT_HEADER_BYTES))
    disk.open(log.path(4), "rw").fdatasync()
    return disk, "tolerate-torn-tail", 0


def default_anchor() -> tuple[LogDisk, RecoveryMode, int]:
    """An unreadable last segment that LMDB has in full."""
    log = sample()
    log.mark()
    disk = log.on_disk()
    disk.flip(log.path(3), 50)
    disk.open(log.path(3), "rw").fdatasync()
    return disk, "tolerate-torn-tail", 13


def stopped() -> tuple[LogDisk, RecoveryMode, int]:
    """Damage in the middle, point-in-time."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(1), log.data_frames[2].offset)
    disk.open(log.path(1), "rw").fdatasync()
    return disk, "point-in-time", 0


def stopped_at_once() -> tuple[LogDisk, RecoveryMode, int]:
    """The first segment is missing, point-in-time."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(1))
    disk.sync_directory(LOG)
    return disk, "point-in-time", 3


def salvaged() -> tuple[LogDisk, RecoveryMode, int]:
    """Damage in the middle and in the last segment, salvage."""
    log = sample()
    disk = log.on_disk()
    for segment_id, index in ((1, 1), (3, 6)):
        disk.flip(log.path(segment_id), log.data_frames[index].offset)
        disk.open(log.path(segment_id), "rw").fdatasync()
    return disk, "salvage", 0


SCENES = [
    default_torn,
    default_without_successor,
    default_lost_header,
    default_anchor,
    stopped,
    stopped_at_once,
    salvaged,
]


def crash_at(disk: SimulatedDisk, operation: int) -> None:
    """Let the power go before the n-th operation from now on."""
    left = operation

    def hook(op: str, path: str) -> BaseException | None:
        nonlocal left
        left -= 1
        return Cut() if left < 0 else None

    disk.faults = hook


@pytest.mark.parametrize("scene", SCENES)
def test_a_crash_anywhere_in_settling_changes_no_outcome(
    scene: Callable[[], tuple[LogDisk, RecoveryMode, int]],
) -> None:
    """Before every operation, with nothing, everything or some of the unsynced: same end.

    The second recovery, in the same mode, is cut short too; the third is let through. What
    is replayed is the same each time, and what was dropped is in quarantine once.
    """
    disk, mode, watermark = scene()
    expected = replay(look(disk, mode=mode, watermark=watermark))
    reference = disk.crash("all")
    mend(look(reference, mode=mode, watermark=watermark))
    kept = sorted(quarantined(reference))
    rng = random.Random(20240229)
    for operation in range(10_000):
        disk, mode, watermark = scene()
        found = look(disk, mode=mode, watermark=watermark)
        crash_at(disk, operation)
        try:
            mend(found)
        except Cut:
            pass
        else:
            assert operation > 10
            break
        for policy in ("none", "all", rng, rng):
            after = disk.crash(policy)
            again = look(after, mode=mode, watermark=watermark)
            assert expected == replay(again), (operation, policy)
            crash_at(after, rng.randrange(60))
            try:
                mend(again)
            except Cut:
                after = after.crash(rng)
                mend(look(after, mode=mode, watermark=watermark))
            after.faults = None
            last = look(after, mode=mode, watermark=watermark)
            assert expected == replay(last), (operation, policy)
            assert set(kept) <= set(quarantined(after)), (operation, policy)
            assert not [name for name in after.listdir(LOG) if name.endswith(".recovered")]


@pytest.mark.parametrize(("op", "path"), [("rename", ".wal"), ("fdatasync", ".partial")])
def test_recovering_again_and_again_does_not_fill_the_quarantine(op: str, path: str) -> None:
    """A recovery that never gets further keeps one copy of the same bytes, whole or half."""
    log, _ = torn()
    disk: SimulatedDisk = log.on_disk()
    for _ in range(5):
        found = look(disk)
        disk.faults = fail(op, Cut(), path=path)
        with pytest.raises(Cut):
            mend(found)
        disk = disk.crash("all")
    assert 1 == len(quarantined(disk))


# ---- with the writer


class Silent:
    """A sink that has nothing to publish."""

    def publish(self, queued: list[object]) -> None:
        """Take what is published."""

    def withdraw(self, queued: list[object]) -> list[int]:
        """Refuse nothing."""
        return []

    def log_changed(self) -> None:
        """Take notice of nothing."""


def write_on(disk: SimulatedDisk, settlement: Settlement, next_lsn: int, epoch: int) -> Log:
    """Begin to write behind a settled log, as opening does."""
    runtime = SystemRuntime()
    segments = Segments(disk, runtime, LOG, 65536, settlement.sealed, settlement.last_id)
    settings = LogSettings(
        uuid=UUID,
        epoch=epoch,
        next_lsn=next_lsn,
        lsn_ceiling=1 << 40,
        lsn_block=1 << 20,
        raise_ceiling=lambda lsn: None,
        previous=settlement.sealed[-1] if settlement.sealed else None,
        stored_lsn=0,
        group_bytes=4096,
        log_interval=0.01,
        sync_interval=1.0,
        max_log_bytes=1 << 30,
    )
    log = Log(runtime, segments, settings)
    log.start(Silent())
    return log


@pytest.mark.parametrize("scene", SCENES[:5])
def test_the_writer_goes_on_behind_a_settled_log(
    scene: Callable[[], tuple[LogDisk, RecoveryMode, int]],
) -> None:
    """The next segment links to the last one; a crash or a close later all is still there."""
    disk, mode, watermark = scene()
    found = look(disk, mode=mode, watermark=watermark)
    expected = lsns(replay(found))
    settlement = mend(found)
    log = write_on(disk, settlement, found.last_lsn + 1001, found.max_epoch + 1)
    killed = look(disk.kill(), watermark=watermark)
    assert expected == lsns(replay(killed))
    assert found.last_lsn + 1000 == killed.last_lsn
    log.close(clean=True)
    closed = look(disk.crash("none"), watermark=watermark)
    assert expected == lsns(replay(closed))
    assert closed.clean
    assert found.max_epoch + 1 == closed.epoch
    assert (closed.gaps, closed.torn) == (killed.gaps, None)


# ---- a quick look


def test_an_orderly_close_is_seen_from_the_end() -> None:
    """Also behind prepared successors, and only with this store's uuid."""
    log = sample()
    log.seal(clean=True)
    log.spare()
    disk = log.on_disk()
    assert ended_cleanly(disk, LOG, UUID)
    assert not ended_cleanly(disk, LOG, bytes(16))
    assert not ended_cleanly(disk, f"{DATA}/elsewhere", UUID)


def test_anything_but_an_orderly_close_is_not_taken_for_one() -> None:
    """No seal, a seal without the flag, frames behind it, a damaged seal, no log."""
    assert not ended_cleanly(sample().on_disk(), LOG, UUID)
    assert not ended_cleanly(LogBuilder().on_disk(), LOG, UUID)
    log = sample()
    seal = log.seal()
    assert not ended_cleanly(log.on_disk(), LOG, UUID)
    log = sample()
    log.seal(clean=True)
    log.data()
    assert not ended_cleanly(log.on_disk(), LOG, UUID)
    log = sample()
    seal = log.seal(clean=True)
    disk = log.on_disk()
    disk.flip(log.path(3), seal.offset + 70)
    assert not ended_cleanly(disk, LOG, UUID)
