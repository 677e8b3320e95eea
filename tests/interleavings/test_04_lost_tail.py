"""LSNs 81 to 100 were handed out, the tail that held them was lost, the store opens anew.

Somebody may have seen those numbers: a reader, an upstream, a backup. So 81 is never
issued again. The log cannot tell, for it has lost them; a ceiling in IDENTITY does, which
is made durable in blocks, before any LSN of the block is issued.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import Durability
from strandline.options import Options, make_options
from strandline.recovery import opening
from strandline.tools.crash.simulation.faults import Gate
from strandline.tools.crash.simulation.media import CrashPolicy
from strandline.tools.crash.simulation.rig import Rig
from strandline.wal.identity import read_identity
from tests.support.calls import Call
from tests.support.history import History

BLOCK = 2048
"""LSNs that one raising of the ceiling covers here, so that a test gets to the next one."""


def tiny_blocks(settings: dict[str, Any]) -> Options:
    """Make options with a block of LSNs that is smaller than what is allowed."""
    options = make_options(settings)
    object.__setattr__(options, "lsn_block", BLOCK)
    return options


@pytest.fixture
def _tiny_blocks() -> Any:
    with mock.patch.object(opening, "make_options", tiny_blocks):
        yield


def put(rig: Rig, key: bytes, level: Durability = Durability.SYNC) -> int:
    """Put a key and return the LSN."""
    lsn = rig.store.put(key, b"v", durability=level)
    assert lsn is not None
    return lsn


@pytest.mark.parametrize("level", [Durability.BUFFERED, Durability.ASYNC])
@pytest.mark.parametrize("policy", ["none", "all"])
def test_lost_lsns_are_not_issued_again(
    tmp_path: Path, level: Durability, policy: CrashPolicy
) -> None:
    """After a power cut the next LSN is above all that were handed out before it.

    Guard: `lsn_ceiling` in `_next_lsn` of `recovery.opening`.
    """
    with Rig(tmp_path) as rig:
        rig.open()
        assert list(range(1, 81)) == [put(rig, b"%d" % n) for n in range(1, 81)]
        assert list(range(81, 101)) == [put(rig, b"%d" % n, level) for n in range(81, 101)]
        image = rig.power_cut(policy)
        db = image.open()
        assert all(b"%d" % n in db for n in range(1, 81))
        fresh = put(image, b"fresh")
        assert 100 < fresh
        assert fresh < read_identity(image.disk, image.directory).lsn_ceiling


def test_openings_without_a_write_go_on_too(tmp_path: Path) -> None:
    """Each of several openings hands out LSNs that are lost; no number comes twice.

    Guard: `lsn_ceiling` in `_next_lsn`, which each opening raises above what it may issue.
    """
    seen: set[int] = set()
    with Rig(tmp_path) as rig:
        image = rig
        for _ in range(4):
            image.open()
            issued = [put(image, b"k%d" % n, Durability.ASYNC) for n in range(5)]
            assert seen.isdisjoint(issued)
            seen.update(issued)
            image = image.power_cut("none")
        image.open()
        assert max(seen) < put(image, b"kept")


def test_clean_close_then_lost_opening(tmp_path: Path) -> None:
    """The seal of a clean close says that nothing above it was issued; not so of the next opening.

    Guards, of which one is enough: the header of an opening's first segment is on disk
    before a write is taken (`Log._activate`), and a clean seal counts only if no opening
    came after it (`found.epoch == before.epoch` in `_next_lsn`).
    """
    with Rig(tmp_path) as rig:
        rig.open()
        assert 1 == put(rig, b"a")
        rig.close()
        rig.open()
        assert 2 == put(rig, b"b")
        assert 3 == put(rig, b"c", Durability.ASYNC)
        rig.close()
        rig.open()
        assert 4 == put(rig, b"d", Durability.ASYNC)
        image = rig.power_cut("none")
        assert {b"a", b"b", b"c"} == set(image.open())
        assert 4 < put(image, b"e")


def test_crash_in_every_opening_operation(tmp_path: Path) -> None:
    """A crash at any step of an opening, and of the one after it, leads to no number twice.

    Guard: the ceiling is made durable with the epoch, before the opening's first segment.
    """
    with Rig(tmp_path) as rig:
        rig.open()
        issued = {put(rig, b"a"), put(rig, b"b", Durability.ASYNC)}
        crashed = rig.power_cut("none")

        def look(image: Rig) -> None:
            image.open()
            lsn = put(image, b"lost", Durability.ASYNC)
            assert lsn > max(issued)
            again = image.power_cut("none")
            again.open()
            assert put(again, b"found") > lsn
            assert b"a" in again.store
            again.release()

        assert 20 < crashed.sweep(crashed.open, look, "none", random.Random(4), "kill")


@pytest.mark.usefixtures("_tiny_blocks")
@pytest.mark.parametrize("policy", ["none", "all", "random"])
@pytest.mark.parametrize("full_groups", [True, False])
def test_crash_while_the_ceiling_is_raised(tmp_path: Path, policy: str, full_groups: bool) -> None:
    """No LSN is issued above a ceiling that a power cut could take back.

    Guard: `raise_ceiling` is durable before `Log._ceiling` moves, and `Log._new_group`
    opens no group without room below the ceiling.
    """
    history = History()
    rng = random.Random(7)
    with Rig(tmp_path) as rig:
        db = rig.open()
        images: list[tuple[int, Rig]] = []
        before = read_identity(rig.disk, rig.directory).lsn_ceiling
        armed = False

        def cut(op: str, path: str) -> None:
            if armed and "IDENTITY" in path + "IDENTITY" * (op == "sync_directory"):
                chosen: Any = rng if policy == "random" else policy
                images.append((db.stats().last_lsn, rig.power_cut(chosen)))

        rig.disk.faults = cut
        for number in range(2 * before // 100):
            armed = number % 3 == 0
            items = {b"%d" % n: b"%d" % number for n in range(100)}
            history.note({("", key): value for key, value in items.items()})
            last = db.put_many(items, durability=Durability.ASYNC)
            if not full_groups:
                rig.drain()  # no writer ever has to make room
            assert last is not None
            assert last < read_identity(rig.disk, rig.directory).lsn_ceiling
        rig.disk.faults = None
        assert 2 * before <= db.stats().last_lsn + 100
        assert images
        images.append((db.stats().last_lsn, rig.power_cut("none")))
        for last, image in images:
            history.check(image.open())
            assert last < put(image, b"fresh")
            image.release()


@pytest.mark.usefixtures("_tiny_blocks")
def test_ceiling_is_raised_by_two_at_once(tmp_path: Path) -> None:
    """A writer and the housekeeping both find the ceiling near: IDENTITY is whole throughout.

    Both write IDENTITY.new; side by side one would rename what the other has just begun.

    Guard: `_one_raising` in `Log.raise_ceiling`.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        before = read_identity(rig.disk, rig.directory).lsn_ceiling
        while db.stats().last_lsn < before - BLOCK // 2 + 1:
            db.put_many({b"%d" % n: b"" for n in range(100)}, durability=Durability.ASYNC)
            rig.drain()
        gate = rig.disk.faults = Gate("fdatasync", path="IDENTITY.new")
        keeping = Call(rig.housekeep)
        assert gate.reached.wait(30)
        writing = Call(db.put, b"large", bytes(10_000))
        writing.wait(0.1)
        gate.opened.set()
        keeping.answer()
        writing.answer()
        assert before < read_identity(rig.disk, rig.directory).lsn_ceiling
        assert bytes(10_000) == rig.power_cut("none").open().get(b"large")


@pytest.mark.usefixtures("_tiny_blocks")
def test_definitions_alone_do_not_pass_the_ceiling(tmp_path: Path) -> None:
    """They take LSNs as writes do, and the ceiling on disk is above them at every moment.

    Guard: `_define` makes room first, which raises the ceiling.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        first = read_identity(rig.disk, rig.directory).lsn_ceiling
        while db.stats().last_lsn < first - BLOCK // 2 - 300:
            db.put_many({b"%d" % number: b"v" for number in range(200)})
        assert first == read_identity(rig.disk, rig.directory).lsn_ceiling, "raised before"
        while (last := db.stats().last_lsn) < first + 10:
            if last > first - 10:
                ceiling = read_identity(rig.disk.crash("none"), rig.directory).lsn_ceiling
                assert last < ceiling
            db.clear()
