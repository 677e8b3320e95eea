"""A KeyboardInterrupt at every step of definitions, reads and writes to unlogged tables.

What must hold after each strike is said in `tests.support.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability, InvalidRequestError
from strandline.engine.store import Store
from strandline.tools.crash.simulation.rig import Rig
from tests.support.sweep import ASYNC, LEVELS, NEVER, SYNC, Attempt, Values, sweep


@pytest.mark.parametrize("verb", ["put", "put_many", "incr", "append", "clear"])
def test_unlogged(tmp_path: Path, verb: str) -> None:
    """Writes to an unlogged table are whole in memory; what follows them is seen."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        views = db.table("views", logged=False)

        def others(n: int) -> Values:
            views.put(b"other", b"%d" % n)
            assert b"%d" % n == views.get(b"other")
            assert b"%d" % n == dict(views.scan())[b"other"]
            return {("views", b"other"): b"%d" % n}

        def attempt(n: int) -> Attempt:
            key, value = b"u%d" % (n % 3), b"%d" % n
            wanted: Values = {("views", key): value}
            match verb:
                case "put":
                    return Attempt(lambda: views.put(key, value), wanted)
                case "put_many":
                    return Attempt(lambda: views.put_many({key: value}), wanted)
                case "incr":
                    before = int(views.get(key, b"0"))
                    wanted = {("views", key): b"%d" % (before + 1)}
                    return Attempt(lambda: views.incr(key), wanted)
                case "append":
                    return Attempt(lambda: views.append(value))
            views.put_many({b"x": value, b"y": value})
            wanted = {("views", b"x"): None, ("views", b"y"): None}
            return Attempt(views.clear, wanted)

        assert sweep(rig, attempt, others, reopen_every=NEVER) > 5
        assert rig.checkpoint()
        assert dict(views.scan()) == dict(rig.power_cut().open().table("views").scan())


# Definitions ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", [ASYNC, SYNC])
@pytest.mark.parametrize("flushed", [False, True])
def test_clear(tmp_path: Path, level: Durability, flushed: bool) -> None:
    """A clear is struck; another thread's write to the table comes next and stays.

    With a checkpoint in between at every second step. Guard: clearing leaves what has a
    higher LSN, and no cut is made above a definition that was not applied.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t")

        def attempt(n: int) -> Attempt:
            table.put_many({b"x": b"%d" % n, b"y": b"%d" % n})
            if flushed:
                assert rig.checkpoint()
            return Attempt(table.clear, {("t", b"x"): None, ("t", b"y"): None})

        def others(n: int) -> Values:
            table.put(b"late", b"%d" % n, durability=level)
            assert b"%d" % n == table.get(b"late")
            if n % 2:
                assert rig.checkpoint()
            return {("t", b"late"): b"%d" % n}

        assert sweep(rig, attempt, others) > 10


def test_create(tmp_path: Path) -> None:
    """The creation of a table is struck; whoever asks for it next gets it, once."""
    with Rig(tmp_path) as rig:
        db = rig.open()

        def attempt(n: int) -> Attempt:
            if n:
                db.drop_table(f"t{n - 1}")
            return Attempt(lambda: db.table(f"t{n}"))

        def others(n: int) -> Values:
            if n % 3 == 1:
                assert rig.checkpoint()
            table = db.table(f"t{n}")
            table.put(b"k", b"%d" % n, durability=LEVELS[n % 3])
            assert 1 == db.tables().count(table.name)
            return {(table.name, b"k"): b"%d" % n}

        assert sweep(rig, attempt, others) > 10


@pytest.mark.parametrize("flushed", [False, True])
def test_drop(tmp_path: Path, flushed: bool) -> None:
    """A drop is struck while others write to the table; it is gone, or there with all.

    Guards: an interrupted drop is finished before anything else joins, or replay knows
    that writes can lie behind it.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        kept: Values = {}

        def attempt(n: int) -> Attempt:
            if n:
                db.drop_table(f"t{n - 1}")
            table = db.table(f"t{n}")
            table.put_many({b"x": b"%d" % n, b"y": b"%d" % n})
            if flushed:
                assert rig.checkpoint()
            return Attempt(lambda: db.drop_table(f"t{n}"))

        def others(n: int) -> Values:
            name = f"t{n}"
            late = False
            if name in db.tables():
                with suppress(InvalidRequestError):
                    db.table(name).put(b"late", b"1", durability=ASYNC)
                    late = True
            if n % 3 == 1:
                assert rig.checkpoint()
            db.sync()
            if name not in db.tables():
                table = db.table(name)
                assert {} == dict(table.scan()), "a dropped table came back with its keys"
            else:
                there = dict(db.table(name).scan())
                assert {b"x", b"y"} <= there.keys()
                assert not late or b"late" in there
            return kept

        assert sweep(rig, attempt, others) > 10


# Reads ----------------------------------------------------------------------------------


def _look(db: Store) -> Any:
    with db.snapshot() as snapshot:
        return snapshot.get(b"k001"), snapshot.get(b"new"), list(snapshot.scan(limit=3))


READS: dict[str, Callable[[Store], Any]] = {
    "get": lambda db: (db.get(b"k001"), db.get(b"none"), db.get(b"new")),
    "get_many": lambda db: db.get_many([b"k001", b"k010", b"new", b"none"]),
    "scan": lambda db: list(db.scan()),
    "reverse": lambda db: list(db.scan(prefix=b"k0", reverse=True, limit=10)),
    "len": len,
    "snapshot": _look,
    "sync": lambda db: db.sync(),
    "stats": lambda db: (db.stats(), db.health()),
}


@pytest.mark.parametrize("read", READS)
def test_read(tmp_path: Path, read: str) -> None:
    """A struck read leaves no lock, no open snapshot and no reader slot of LMDB behind.

    Guard: what a snapshot registers it takes back, however its making ends.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.put_many({b"k%03d" % n: b"v" for n in range(30)})
        assert rig.checkpoint()

        def attempt(n: int) -> Attempt:
            db.put(b"new", b"%d" % n)
            db.put(b"k%03d" % (n % 3), b"%d" % n, durability=ASYNC)
            return Attempt(lambda: READS[read](db))

        assert sweep(rig, attempt, reopen_every=NEVER) > 3
        slots = db.engine.backing._env.readers().count("\n")  # type: ignore[union-attr]
        assert slots < 8, f"{slots} reader slots of LMDB are taken"
