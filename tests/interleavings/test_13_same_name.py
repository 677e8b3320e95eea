"""A table is dropped and made again under the same name, or cleared, and then a crash.

The log still holds the old table's writes, and LMDB maybe too. A replay that went by the
name would give them to the new table.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strandline import Durability
from strandline.engine.store import Store
from strandline.tools.crash.simulation.rig import Rig
from tests.support.history import History, contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
KEYS = [b"k%d" % number for number in range(3)]

CHECKPOINTS = [(), (0,), (1,), (2,), (0, 1, 2), (0, 2)]
"""After which of the stages (old writes, drop or clear, new writes) a checkpoint runs."""


def table_id(db: Store, name: str) -> int:
    """Return the id under which a table's operations are logged."""
    return next(s.id for s in db.engine.index.states.values() if s.name == name)


class Script:
    """Commits on one rig, every one noted before it is made."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.history = History()
        self.ids: list[int] = []
        """Ids of all tables whose creation was acknowledged."""

    def create(self, name: str, **definition: Any) -> None:
        """Create a table durably."""
        db = self.rig.store
        db.table(name, **definition)
        self.ids.append(table_id(db, name))

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Put a key, on disk when it returns."""
        number = self.history.note({(name, key): value})
        self.rig.store.table(name).put(key, value, durability=SYNC)
        self.history.acknowledged = number

    def empty(self, name: str, how: Callable[[], object]) -> None:
        """Drop or clear a table, as one commit."""
        where = [w for w in self.history.states[-1] if w[0] == name]
        number = self.history.note(dict.fromkeys(where))
        how()
        self.history.acknowledged = number

    def look(self, image: Rig) -> None:
        """Check an image, and what a checkpoint and another crash make of it."""
        db = image.open()
        length = self.history.check(db)
        db.table("fresh")
        assert table_id(db, "fresh") > max(self.ids, default=1)
        assert image.checkpoint()
        again = image.power_cut("none")
        assert length == self.history.check(again.open())
        again.release()


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@pytest.mark.parametrize("what", ["drop", "clear", "clear default"])
def test_old_writes_stay_away(tmp_path: Path, what: str, checkpoints: tuple[int, ...]) -> None:
    """At whatever operation the crash comes, each key is as a prefix of the commits left it.

    Guard: the log knows tables by ids that are never given twice; replay meets DROP,
    CREATE and CLEAR in their order, and skips by LSN what a checkpoint covers.
    """
    name = "" if what == "clear default" else "t"
    with Rig(tmp_path) as rig:
        db = rig.open()
        script = Script(rig)

        def stage(number: int) -> None:
            if number in checkpoints:
                assert rig.checkpoint()

        def run() -> None:
            if name:
                script.create(name)
            for key in KEYS:
                script.put(name, key, b"old " + key)
            stage(0)
            script.put(name, KEYS[0], b"older than the end")
            if what == "drop":
                script.empty(name, lambda: db.drop_table(name))
                stage(1)
                script.create(name)
            else:
                script.empty(name, db.table(name).clear)
                stage(1)
            script.put(name, KEYS[1], b"new")
            stage(2)
            script.put(name, KEYS[1], b"newer")

        count = rig.sweep(run, script.look, "none", "all", random.Random(13))
        assert 10 < count
        script.look(rig.power_cut("none"))
        script.look(rig.kill())
        assert sorted(set(script.ids)) == script.ids


def test_queued_writes_of_a_dropped_table(tmp_path: Path) -> None:
    """Unsynced writes to a table before it was dropped do not turn up in its successor.

    Guard: a definition drains the log before it is logged, and holds what would join.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        for generation in range(4):
            table = db.table("t")
            for level in (ASYNC, BUFFERED):
                table.put(level.value.encode(), b"%d" % generation, durability=level)
            db.drop_table("t")
        db.table("t").put(b"only", b"new")
        for policy in ("none", "all"):
            image = rig.power_cut(policy)
            assert {("t", b"only"): b"new"} == contents(image.open())
        assert {("t", b"only"): b"new"} == contents(rig.kill().open())


@pytest.mark.parametrize("logged_before", [False, True])
@pytest.mark.parametrize("logged_after", [False, True])
def test_unlogged_table_made_anew(tmp_path: Path, logged_before: bool, logged_after: bool) -> None:
    """Once the drop is acknowledged no crash shows a value of the old table again.

    Whichever of the two is unlogged: its values are in LMDB alone, the old one's from a
    checkpoint before the drop. Guard: LMDB's databases go by id as well.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        dropped = False
        db.table("t", logged=logged_before).update(dict.fromkeys(KEYS, b"old"))
        first = table_id(db, "t")
        assert rig.checkpoint()
        db.table("t").put(b"late", b"old")

        def run() -> None:
            nonlocal dropped
            db.drop_table("t")
            dropped = True
            db.table("t", logged=logged_after).put(KEYS[0], b"new")
            assert rig.checkpoint()
            db.table("t").put(KEYS[1], b"new")
            assert rig.checkpoint()

        def look(image: Rig) -> None:
            found = contents(image.open())
            if dropped:
                assert {b"new"} >= set(found.values())
            if "t" in image.store.tables() and table_id(image.store, "t") == first:
                assert not dropped
                assert {b"old"} == set(found.values())
            else:
                table = image.store.table("t")
                assert table_id(image.store, "t") > first
                assert b"late" not in table
                assert b"old" not in table.values()

        assert 5 < rig.sweep(run, look, "none", "all", "kill")
        found = contents(rig.power_cut("none").open())
        assert {("t", key): b"new" for key in KEYS[:2]} == found


def test_ids_are_not_reused(tmp_path: Path) -> None:
    """No id comes twice: not after a drop, a checkpoint, a clean end or a crash.

    The newest table is the one dropped each time, so that the highest id among the tables
    there says nothing. Guard: `Engine.highest_table_id`, kept in LMDB and in the log.
    """
    seen: list[int] = []
    with Rig(tmp_path) as base:
        rig = base
        rig.open()
        for number in range(12):
            rig.store.table("t")
            seen.append(table_id(rig.store, "t"))
            rig.store.drop_table("t")
            match number % 6:
                case 1:
                    assert rig.checkpoint()
                case 2:
                    rig = rig.power_cut("none")
                    rig.open()
                case 3:
                    assert rig.checkpoint()
                    rig = rig.power_cut("none")
                    rig.open()
                case 4:
                    rig.store.close()
                    rig.open()
                case 5:
                    rig = rig.kill()
                    rig.open()
    assert sorted(set(seen)) == seen
