"""A failed fdatasync takes the dirty pages for clean: they read well and are on no disk.

The process exits; the next one opens the log and finds every frame valid, from the page
cache. An fdatasync of its own returns at once, for there is nothing dirty. Whatever it
acknowledges behind those frames would follow a hole once the power fails. So recovery
writes the last segment's frames to a new file, syncs that, and renames it over the old.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from strandline import Durability, StrandlineError, WriteOutcomeUnknownError
from strandline.tools.crash.simulation.faults import Fault, fail
from strandline.tools.crash.simulation.media import CrashPolicy
from strandline.tools.crash.simulation.rig import Rig
from tests.support.history import History

POLICIES: list[CrashPolicy] = ["none", "all", random.Random(1), random.Random(2)]


def put(
    rig: Rig,
    history: History,
    number: int,
    level: Durability = Durability.SYNC,
    value: bytes | None = None,
) -> None:
    """Put a value of its own, and count it as acknowledged where it is SYNC."""
    key = b"k%d" % (number % 7)
    value = value or b"%d" % number * 40
    length = history.note({("", key): value})
    rig.store.put(key, value, durability=level)
    if level is Durability.SYNC:
        history.acknowledged = length


def lose_pages(rig: Rig, history: History) -> None:
    """Let a store lose the pages of SYNC write 11, BUFFERED 12 and all that is with them."""
    rig.open()
    for number in range(1, 11):
        put(rig, history, number)
    rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), path=".wal")
    put(rig, history, 12, Durability.BUFFERED)
    with pytest.raises(WriteOutcomeUnknownError):
        put(rig, history, 11)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_reads_well_is_made_durable_before_it_is_built_upon(
    tmp_path: Path, policy: CrashPolicy
) -> None:
    """EIO, exit, reopen from the cache, acknowledged writes, power cut: no hole, none lost.

    Guard: `_write_last` in `recovery.tail` writes the last segment anew.
    """
    history = History()
    with Rig(tmp_path) as rig:
        lose_pages(rig, history)
        killed = rig.kill()
        db = killed.open()
        assert 12 == history.check(db), "the cache has all of it"
        for number in range(13, 20):
            put(killed, history, number)
        image = killed.power_cut(policy)
        history.resume(image.open())
        put(image, history, 20)
        assert history.acknowledged == history.check(image.power_cut("none").open())


def test_acknowledged_reads_are_durable_once_the_store_is_open(tmp_path: Path) -> None:
    """What an opening shows to readers is on disk: a power cut right after it loses none.

    Guard: as above; it comes before `open` returns.
    """
    history = History()
    with Rig(tmp_path) as rig:
        lose_pages(rig, history)
        killed = rig.kill()
        killed.open()
        assert 12 == history.check(killed.power_cut("none").open())


def test_crash_at_every_step_of_that_recovery(tmp_path: Path) -> None:
    """Cut short anywhere, and again in the recovery after it, it never leaves a hole.

    Guard: the old segment stands until the new one is synced and renamed over it.
    """
    history = History()
    rng = random.Random(5)
    with Rig(tmp_path) as rig:
        lose_pages(rig, history)
        killed = rig.kill()

        def look(image: Rig) -> None:
            length = history.check(image.open())
            again = image.power_cut("none")
            assert length == history.check(again.open()), "what was shown is gone"
            again.release()

        assert 20 < killed.sweep(killed.open, look, "none", rng, "kill")


@pytest.mark.parametrize("failing", ["seal", "last group"])
@pytest.mark.parametrize("policy", POLICIES)
def test_close_whose_sync_fails(tmp_path: Path, failing: str, policy: CrashPolicy) -> None:
    """The close's own fdatasync fails. The seal reads well later, and is on no disk.

    Guard: `Log.close` takes the seal back if it could not be synced; without one the
    recovery writes the segment anew.
    """
    history = History()
    with Rig(tmp_path) as rig:
        rig.open()
        for number in range(1, 11):
            put(rig, history, number)
        if failing == "last group":
            put(rig, history, 11, Durability.ASYNC)
        rig.housekeep()
        rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), path=".wal")
        closing = rig.store
        try:
            closing.close(drain=False)
        except StrandlineError:
            pass
        killed = rig.kill()
        history.resume(killed.open())
        for number in range(12, 15):
            put(killed, history, number)
        image = killed.power_cut(policy)
        history.resume(image.open())
        put(image, history, 20)
        assert history.acknowledged == history.check(image.power_cut("none").open())


def test_seal_of_a_full_segment_is_not_synced(tmp_path: Path) -> None:
    """The fdatasync that fails is the seal's, in the turn to the next segment.

    Guard: the successor's header is written only when the predecessor is synced.
    """
    history = History()
    with Rig(tmp_path) as rig:
        rig.open()
        armed = False

        def hook(op: str, path: str) -> Fault:
            sealing = rig.store.engine.log.append_lock._is_owned()
            if armed and op == "fdatasync" and path.endswith("1.wal") and sealing:
                return OSError(errno.EIO, "lost")
            return None

        rig.disk.faults = hook
        armed = True
        for number in range(1, 15):
            put(rig, history, number, value=b"%04d" % number * 1000)
        with pytest.raises(WriteOutcomeUnknownError):
            put(rig, history, 15, value=b"last" * 1000)
        killed = rig.kill()
        history.resume(killed.open())
        put(killed, history, 3000)
        assert history.acknowledged == history.check(killed.power_cut("none").open())


def test_lost_pages_of_an_opening_that_failed(tmp_path: Path) -> None:
    """The recovery's own fdatasync fails: it raises, and the next one starts from the old file.

    Guard: `rewrite` renames only what it has synced.
    """
    history = History()
    with Rig(tmp_path) as rig:
        lose_pages(rig, history)
        killed = rig.kill()
        for skip in range(20):
            killed.disk.faults = fail("fdatasync", OSError(errno.EIO, "lost"), skip=skip)
            try:
                killed.open()
            except (StrandlineError, OSError):
                assert 10 <= history.check(killed.power_cut("none").open())
                killed = killed.kill()
                continue
            break
        assert 2 < skip < 20
        assert 12 == history.check(killed.store)
        assert 12 == history.check(killed.power_cut("none").open())
