"""The short way of a SYNC write: an interrupt at each place where one can strike, and handlers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import Durability, InvalidRequestError
from strandline.native import native
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.group import Group
from tests.native.short_way import (
    ASYNC,
    BUFFERED,
    LOCKS,
    SYNC,
    WatchedLock,
    answering,
    assert_free,
    calmed,
    kind_of,
    locks_of,
    picture,
    short,
)
from tests.support.calls import Call
from tests.support.history import contents

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")

THERE = {("", b"first"): b"1", ("", b"second"): b"2"}
NEXT = {**THERE, ("", b"next"): b"n"}


class InterruptedLock(WatchedLock):
    """A lock whose n-th call is struck by an interrupt."""

    at = 0

    def acquire(self, *args: Any) -> bool:
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return super().acquire(*args)


def interrupt(*_: Any) -> Any:
    """Strike."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize(
    ("owner", "name", "leading"),
    [
        (HandRuntime, "monotonic", False),
        (HandRuntime, "time_ns", False),
        (HandRuntime, "lock", True),
        (WatchedLock, "acquire", True),
        (Group, "__init__", False),
    ],
    ids=str,
)
def test_an_interrupt_before_anything_is_done(
    tmp_path: Path, kind: str, owner: Any, name: str, leading: bool
) -> None:
    """Whatever Python is run before the locks are taken, an interrupt there changes nothing."""
    strikes, real = False, getattr(owner, name)

    def struck(*args: Any) -> Any:
        return interrupt() if strikes else real(*args)

    with (
        mock.patch.object(owner, name, struck),
        mock.patch.object(HandRuntime, "lock", side_effect=WatchedLock)
        if owner is WatchedLock
        else contextlib.nullcontext(),
        locks_of(kind),
        Rig(tmp_path) as rig,
    ):
        db = rig.open()
        db.put(b"first", b"1", durability=SYNC)
        db.engine.log.leading = leading
        before, strikes = picture(rig), True
        with pytest.raises(KeyboardInterrupt):
            short(db, b"k", b"v", SYNC)
        after, strikes = picture(rig), False
        assert before == after
        assert_free(db)
        db.engine.log.leading = False
        assert 2 == db.put(b"k", b"v", durability=SYNC)


def test_an_interrupt_before_the_frame_is_written(tmp_path: Path) -> None:
    """Nothing has changed then, and the next write has the LSN and the place of this one."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        before = picture(rig)
        rig.disk.faults = answering(("pwrite", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            db.put(b"k", b"v", durability=SYNC)
        after = picture(rig)
        assert before.pop("disk") != after.pop("disk")
        assert before == after
        assert_free(db)
        assert 3 == db.put(b"next", b"n", durability=SYNC)
        assert NEXT == contents(db) == contents(rig.power_cut("none").open())


def test_an_interrupt_when_the_frame_is_written(tmp_path: Path) -> None:
    """The frame is in the page cache, but the tail has not moved: the next one overwrites it."""
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        file: Any = db.engine.log.tail[0].file
        real, before = type(file).pwrite, picture(rig)

        def write(self: Any, data: bytes, offset: int) -> int:
            real(self, data, offset)
            raise KeyboardInterrupt

        with mock.patch.object(type(file), "pwrite", write), pytest.raises(KeyboardInterrupt):
            db.put(b"k", b"v", durability=SYNC)
        assert before.pop("disk") != picture(rig)["disk"]
        assert before.items() <= picture(rig).items()
        assert_free(db)
        assert db.get(b"k") is None
        assert {**THERE, ("", b"k"): b"v"} == contents(rig.kill().open())
        assert 3 == db.put(b"next", b"n", durability=SYNC)
        assert NEXT == contents(db) == contents(rig.kill().open())


@pytest.mark.parametrize("where", ["before it leads", "in its fdatasync", "after its fdatasync"])
def test_an_interrupted_leader(tmp_path: Path, where: str) -> None:
    """The next writer finds somebody said to lead, loses patience, leads, and finishes both."""
    with (
        mock.patch("strandline.wal.log.GATE_TIMEOUT", 0.001),
        mock.patch("strandline.engine.short_way.GATE_TIMEOUT", 0.001),
        Rig(tmp_path) as rig,
    ):
        db = calmed(rig, SYNC)
        log = db.engine.log
        if where == "before it leads":
            assert (3, None) == short(db, b"k", b"v", SYNC)[::2]
        else:
            owner: Any = log.tail[0].file if where == "in its fdatasync" else log.stats
            name = "fdatasync" if where == "in its fdatasync" else "synced"
            with (
                mock.patch.object(type(owner), name, interrupt),
                pytest.raises(KeyboardInterrupt),
            ):
                db.put(b"k", b"v", durability=SYNC)
        assert (True, 2, 3) == (log.leading, log.synced_lsn, log.tail[3])
        assert (None, [b"k"]) == (db.get(b"k"), list(db._state.queued))
        assert_free(db)
        assert 4 == Call(db.put, b"next", b"n", durability=SYNC).answer()
        assert (b"v", b"n", {}) == (db.get(b"k"), db.get(b"next"), db._state.queued)
        assert {**NEXT, ("", b"k"): b"v"} == contents(rig.power_cut("none").open())
        assert 5 == db.put(b"k", b"w", durability=SYNC)
        assert not log.leading


def test_an_interrupted_waiter(tmp_path: Path) -> None:
    """One who is struck while he waits is not answered; his write lands with its group."""
    with mock.patch("strandline.wal.log.GATE_TIMEOUT", 0.001), Rig(tmp_path) as rig:
        with (
            mock.patch.object(InterruptedLock, "at", 1),
            mock.patch.object(HandRuntime, "lock", side_effect=InterruptedLock),
        ):
            db = calmed(rig, SYNC)
            log = db.engine.log
            log.leading = True
            with pytest.raises(KeyboardInterrupt):
                db.put(b"k", b"v", durability=SYNC)
        assert (1, 4, None) == (len(log.group.waiters), log.next_lsn(), db.get(b"k"))
        assert_free(db)
        log.leading = False
        assert 4 == db.put(b"next", b"n", durability=SYNC)
        assert {**NEXT, ("", b"k"): b"v"} == contents(db) == contents(rig.power_cut("none").open())


@pytest.mark.parametrize("level", [ASYNC, BUFFERED, SYNC])
@pytest.mark.parametrize("at", ["pwrite", "fdatasync"])
def test_a_write_from_a_handler(tmp_path: Path, at: str, level: Durability) -> None:
    """A signal handler inside the frame's write is refused any write, inside the sync strong ones.

    It can read; what it interrupted goes on as if it had not come.
    """
    with Rig(tmp_path) as rig:
        db = calmed(rig, SYNC)
        answers: list[object] = []

        def handle(op: str, _path: str) -> None:
            if op == at and not answers:
                answers.append(db.get(b"k"))
                answers.append(kind_of(lambda: db.put(b"h", b"v", durability=level)))

        rig.disk.faults = handle
        assert 3 == db.put(b"k", b"v", durability=SYNC)
        allowed = at == "fdatasync" and level is ASYNC
        assert [None, True if allowed else InvalidRequestError] == answers
        assert (b"v", b"v" if allowed else None) == (db.get(b"k"), db.get(b"h"))
        assert_free(db)
