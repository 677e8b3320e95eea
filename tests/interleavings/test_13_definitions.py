"""Tables that are created, dropped and cleared beside other threads, and beside failures.

A definition is on disk before anybody sees it, and nothing comes between it and that: no
write, no leader, no second definition of the same name. What a checkpoint had not come to
goes with the table that it belonged to.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from strandline import Durability
from strandline.engine.operations import CREATE, PUT, encode_table_options, tag_of
from strandline.engine.store import Store
from strandline.errors import (
    DiskFullError,
    InvalidRequestError,
    LogCorruptionError,
    WriteOutcomeUnknownError,
)
from strandline.tools.crash.simulation.faults import Gate, fail
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import contents

ASYNC = Durability.ASYNC
KEYS = [b"k%d" % number for number in range(3)]


@pytest.mark.parametrize("what", ["create", "drop", "clear"])
def test_definition_whose_sync_fails(tmp_path: Path, what: str) -> None:
    """Nobody sees it before it is on disk: reads go on with the tables as they were.

    Guard: `_define` leaves applying it to whoever gets the group published.
    """
    calls: dict[str, Callable[[Store], object]] = {
        "create": lambda db: db.table("new"),
        "drop": lambda db: db.drop_table("t"),
        "clear": lambda db: db.table("t").clear(),
    }
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t").put(b"k", b"old")
        rig.disk.faults = fail("fdatasync", OSError(errno.EIO, "I/O error"))
        with pytest.raises(WriteOutcomeUnknownError):
            calls[what](db)
        assert (["t"], {("t", b"k"): b"old"}) == (db.tables(), contents(db))
        assert not rig.checkpoint()
        lost = rig.power_cut("none").open()
        assert (["t"], {("t", b"k"): b"old"}) == (lost.tables(), contents(lost))
        there = rig.kill().open()
        expected = {"create": ["new", "t"], "drop": [], "clear": ["t"]}[what]
        assert expected == there.tables()
        assert (what == "create") == bool(contents(there))


@pytest.mark.parametrize("what", ["create", "drop", "clear"])
def test_definition_while_the_store_fails_elsewhere(tmp_path: Path, what: str) -> None:
    """Another thread meets a failure between a definition's write and its sync.

    It raised StoreFailedError, which says that nothing was logged; it was, and was there after
    a reopen. Found by the harness, where the sync of the log's directory failed in the thread
    that prepares segments.
    Guard: `_define` takes what stops its last sync for an unknown outcome.
    """
    calls: dict[str, Callable[[Store], object]] = {
        "create": lambda db: db.table("new"),
        "drop": lambda db: db.drop_table("old"),
        "clear": lambda db: db.table("old").clear(),
    }
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("old").put(b"k", b"v")

        def hook(op: str, path: str) -> None:
            if op == "pwrite":
                db.engine.log.failure = OSError(errno.EIO, "elsewhere")

        rig.disk.faults = hook
        with pytest.raises(WriteOutcomeUnknownError, match="elsewhere"):
            calls[what](db)
        assert db.tables() == ["old"]
        assert dict(db.table("old").scan()) == {b"k": b"v"}
        after = rig.kill().open()
        assert (what == "create") == ("new" in after.tables())
        assert (what == "drop") != ("old" in after.tables())


def test_writes_beside_a_drop(tmp_path: Path) -> None:
    """A write that comes while the drop is being synced waits, and is refused.

    Acknowledged behind the drop in the log, it would be gone. Guard: `_define` holds the mutex
    from before the drop is logged until it is applied.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t")
        gate = rig.disk.faults = Gate("fdatasync")
        dropping = Call(db.drop_table, "t")
        assert gate.reached.wait(30)
        writing = Call(table.put, b"k", b"v", durability=ASYNC)
        writing.wait(0.3)
        assert not writing.done
        gate.opened.set()
        dropping.answer()
        with pytest.raises(InvalidRequestError, match="was dropped"):
            writing.answer()
        assert [] == rig.power_cut("none").open().tables()


def test_two_who_create_one_table(tmp_path: Path) -> None:
    """They get the same table, and so does everybody after a crash.

    Guard: `_create` looks for the name again when it holds the locks.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        gate = rig.disk.faults = Gate("fdatasync")
        creating = [Call(db.table, "t") for _ in range(3)]
        assert gate.reached.wait(30)
        creating[0].wait(0.3)
        gate.opened.set()
        tables = [each.answer() for each in creating]
        assert 1 == len({table._state.id for table in [db.table("t"), *tables]})
        for number, table in enumerate(tables):
            table.put(b"%d" % number, b"v")
        for again in (db, rig.power_cut("none").open()):
            assert ["t"] == again.tables()
            assert [b"0", b"1", b"2"] == list(again.table("t"))


def test_two_who_drop_one_table(tmp_path: Path) -> None:
    """The second finds it gone when its turn comes, and leaves the one made anew alone.

    Guard: `drop` looks again, for the very table and not for its name.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t").put(b"k", b"old")
        turn = threading.Event()
        real = db.engine.log.make_room

        def make_room(need: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                assert turn.wait(30)
            real(need)

        with mock.patch.object(db.engine.log, "make_room", make_room):
            late = Call(db.drop_table, "t")
            late.wait(0.1)
            db.drop_table("t")
            db.table("t").put(b"k", b"new")
            turn.set()
            late.answer()
        for again in (db, rig.power_cut("none").open()):
            assert {("t", b"k"): b"new"} == contents(again)


def test_definition_beside_a_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to lead while a table is defined waits, and neither waits for ever.

    Guard: `_define` takes the sync lock before the mutex, as leaders do.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        log = db.engine.log
        leading = threading.Event()
        leaders: list[Call] = []

        def lead() -> None:
            with log.sync_lock:
                leading.set()
                log.sync()

        def start_leading() -> None:
            if not leaders:
                leaders.append(Call(lead))
                leading.wait(0.3)

        monkeypatch.setattr(db.engine, "check_open", start_leading)
        Call(db.table, "t").answer()
        leaders[0].answer()
        assert ["t"] == db.tables()


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("generation", ["stored", "frozen", "active"])
def test_kept_handle_of_a_dropped_table(tmp_path: Path, generation: str, logged: bool) -> None:
    """It shows nothing, wherever the values are: they are gone for everybody at once.

    Guard: `Index.drop` gives the table a view that LMDB and the frozen layers do not show in.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t", logged=logged)
        table.update(dict.fromkeys(KEYS, b"old"))
        if generation == "stored":
            assert rig.checkpoint()
        elif generation == "frozen":
            with no_checkpoints(db):
                assert not rig.checkpoint()
        db.drop_table("t")
        for made in (None, "t"):
            if made:
                db.table(made).put(KEYS[0], b"new")
            assert [None] * 3 == [table.get(key) for key in KEYS]
            assert (0, []) == (len(table), list(table))


@pytest.mark.parametrize("what", ["create", "drop", "clear"])
def test_definition_that_is_applied_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whoever goes on for one that was interrupted may come late: what was written since stays.

    Not as late as a checkpoint, which first sees to it that all was applied. Guards: what
    `_create`, `clear` and `drop` apply looks whether it was applied before.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        if what != "create":
            db.table("t").put(b"old", b"v")
        real, published = db.engine.publish, list[list[Any]]()

        def publish(queued: list[Any]) -> None:
            published.append(list(queued))
            real(queued)

        with monkeypatch.context() as patched:
            patched.setattr(db.engine, "publish", publish)
            match what:
                case "create":
                    db.table("t")
                case "drop":
                    db.drop_table("t")
                case _:
                    db.table("t").clear()
        db.table("t").put(b"new", b"v", durability=ASYNC)
        with db.engine.log.mutex:
            real(published[0])
        expected = {("t", b"new"): b"v"}
        assert expected == contents(db)
        assert rig.checkpoint()
        for again in (db, rig.power_cut("none").open()):
            assert (["t"], expected) == (again.tables(), contents(again))


def test_batch_on_both_tables_of_one_name(tmp_path: Path) -> None:
    """What is meant for the dropped one does not end up in its successor: all is refused.

    Guard: a batch gathers its operations by table id.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        old = db.table("t")
        db.drop_table("t")
        new = db.table("t")
        with pytest.raises(InvalidRequestError, match="was dropped"), db.batch() as batch:
            batch.table(new).put(b"new", b"v")
            batch.table(old).put(b"old", b"v")
        assert {} == contents(db) == contents(rig.kill().open())


@contextlib.contextmanager
def no_checkpoints(db: Store, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let LMDB find no room, and something happen while a checkpoint looks for it."""

    def refuse() -> None:
        meanwhile()
        raise DiskFullError("no room", errno.ENOSPC)

    with mock.patch.object(db.engine.backing, "checkpoint", refuse):
        yield


@pytest.mark.parametrize("end", ["drop", "clear"])
def test_checkpoint_that_failed_before_the_end_of_a_table(tmp_path: Path, end: str) -> None:
    """What it had frozen goes with the table, and is not merged under what came after.

    Neither are the tables forgotten that it was to create and to drop. Guards: `_merge`
    begins anew where a layer was cleared; `return_definitions`, in their order.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        gone = db.table("gone")
        gone.put(b"k", b"old")
        db.table("t").put(b"stored", b"old")
        assert rig.checkpoint()
        db.drop_table("gone")
        db.table("first").put(b"k", b"1")
        db.table("t").put(b"frozen", b"old")
        with no_checkpoints(db, lambda: db.table("second")):
            assert not rig.checkpoint()
        if end == "drop":
            db.drop_table("t")
        else:
            db.table("t").clear()
        db.table("second").put(b"k", b"2")
        db.table("t").put(b"k", b"new")
        expected = {("first", b"k"): b"1", ("second", b"k"): b"2", ("t", b"k"): b"new"}
        assert expected == contents(rig.power_cut("none").open())
        assert rig.checkpoint()
        for again in (db, rig.power_cut("none").open()):
            assert expected == contents(again)
            assert ["first", "second", "t"] == again.tables()
            assert 0 == again.recovery_report.operations_replayed


@pytest.mark.parametrize("written", [False, True])
def test_salvage_of_a_table_whose_creation_is_lost(tmp_path: Path, written: bool) -> None:
    """Its values get a table of their own, and those of the next table stay where they were.

    Guard: replay creates a table under the id that was logged, and makes up one for an id
    that nothing created only where salvage is asked for.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        segment, offset, _, _ = db.engine.log.tail
        lost = db.table("a")
        if written:
            lost.put(b"k", b"of a")
        db.table("b").put(b"k", b"of b")
        db.put(b"k", b"v")
        segment.file.pwrite(bytes(8), offset)
        image = rig.kill()
        with pytest.raises(LogCorruptionError, match=f"offset {offset}, LSN 1:"):
            image.open()
        expected = {("", b"k"): b"v", ("b", b"k"): b"of b"}
        if written:
            expected["salvaged-2", b"k"] = b"of a"
        assert expected == contents(image.open(recovery="salvage"))
        assert expected == contents(image.power_cut("none").open())


def test_write_to_a_table_that_was_never_created(tmp_path: Path) -> None:
    """No guess is made what it was: the log is refused, and salvage keeps the value.

    Guard: replay leaves out writes to tables that were dropped, whose ids it knows, and no
    others.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t")
        db._state.put_tag = tag_of(99, PUT)
        db.put(b"k", b"v")
        image = rig.power_cut("none")
        with pytest.raises(LogCorruptionError, match="table 99, which is unknown"):
            image.open()
        assert {("salvaged-99", b"k"): b"v"} == contents(image.open(recovery="salvage"))


def test_salvage_of_a_table_that_is_written_to_after_a_later_one(tmp_path: Path) -> None:
    """What is made up for a lost creation can have a lower id than a table that is there.

    The checkpoint took that for an id that is used twice, and no salvage opened the store.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        segment, offset, _, _ = db.engine.log.tail
        for name in ("a", "b"):
            db.table(name)
        for name in ("b", "a", ""):
            db.table(name).put(b"k", b"of " + name.encode())
        segment.file.pwrite(bytes(8), offset)
        image = rig.kill()
        expected = {("b", b"k"): b"of b", ("salvaged-2", b"k"): b"of a", ("", b"k"): b"of "}
        assert expected == contents(image.open(recovery="salvage"))
        assert expected == contents(image.power_cut("none").open())


def test_salvage_where_the_end_of_a_table_is_lost(tmp_path: Path) -> None:
    """A name that is given away anew shows that the older table was dropped: it stays away.

    There were two tables of the name then, and only the dropped one could be reached.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        db.table("t").put(b"k", b"old")
        segment, offset, _, _ = db.engine.log.tail
        db.drop_table("t")
        db.table("t").put(b"k", b"new")
        db.put(b"k", b"v")
        segment.file.pwrite(bytes(8), offset)
        image = rig.kill()
        again = image.open(recovery="salvage")
        assert ["t"] == again.tables()
        expected = {("", b"k"): b"v", ("t", b"k"): b"new"}
        assert expected == contents(again)
        assert expected == contents(image.power_cut("none").open())


def test_salvage_does_not_bring_back_what_was_dropped(tmp_path: Path) -> None:
    """Writes to a table can lie behind its interrupted drop: no table is made up for them."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t")
        table.put(b"k", b"old")
        tag = table._state.put_tag
        db.drop_table("t")
        kept, db._state.put_tag = db._state.put_tag, tag
        db.put(b"late", b"of a dropped table")
        db._state.put_tag = kept
        db.put(b"k", b"v")
        image = rig.kill()
        assert {("", b"k"): b"v"} == contents(image.open(recovery="salvage"))


@pytest.mark.parametrize(
    ("tag", "key", "value", "said"),
    [
        (tag_of(0, PUT), b"k", b"v", "table 0, which never is"),
        (tag_of(7, CREATE), b"\xff\xfe", encode_table_options("bytes", logged=True), "no sense"),
        (tag_of(7, CREATE), b"t", encode_table_options("x/y", logged=True), "no sense"),
    ],
    ids=["table 0", "a name that is no text", "a codec that is none"],
)
def test_operations_that_no_writer_logs(
    tmp_path: Path, tag: int, key: bytes, value: bytes, said: str
) -> None:
    """Opening says which frame it is, and neither crashes nor passes over it."""
    with Rig(tmp_path) as rig:
        db = rig.open()
        db._state.put_tag = tag
        db.put(key, value)
        image = rig.power_cut("none")
        with pytest.raises(LogCorruptionError, match=said):
            image.open()


@pytest.mark.parametrize("where", ["_merge", "reserve"])
@pytest.mark.parametrize("failed_before", [False, True])
def test_drop_beside_a_checkpoint(tmp_path: Path, where: str, failed_before: bool) -> None:
    """What was cut before the drop is in LMDB below the watermark, rows of the table included.

    The drop took the table's frozen layers with it while the checkpoint of that generation was
    still to write them: a watermark was committed without rows that lie below it, a state that
    never was. A crash lost nothing by it, since the drop is in the log; an opening that stops
    short of the drop (point-in-time, behind damage) found the table without them. Found by the
    damage layer of the crash harness.
    """
    with Rig(tmp_path) as rig:
        db = rig.open()
        table = db.table("t")
        table.put(b"k", b"v")
        engine = db.engine
        if failed_before:
            with mock.patch.object(engine.backing, "reserve", side_effect=DiskFullError("full")):
                assert not rig.checkpoint()
            table.put(b"l", b"w")
        table_id = table._state.id
        owner: Any = engine.checkpointer if where == "_merge" else engine.backing
        real = getattr(owner, where)

        def drop_first(*arguments: Any) -> Any:
            db.drop_table("t")
            return real(*arguments)

        with mock.patch.object(owner, where, drop_first):
            assert rig.checkpoint()
        assert engine.backing.watermark.lsn < engine.log.next_lsn() - 1
        assert engine.backing.entries(table_id) == 1 + failed_before
        assert rig.checkpoint()
        assert table_id not in engine.backing.tables
        assert not engine.index.dropped_frozen
        assert db.tables() == rig.power_cut("none").open().tables() == []
