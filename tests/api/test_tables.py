"""Tables: defined once and for all, dropped for good, logged or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import (
    ABSENT,
    Durability,
    FlushReport,
    InvalidRequestError,
    InvalidTypeError,
    Store,
    StoreClosedError,
    Table,
)
from tests.api.stores import Always, open_small, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store"


@pytest.fixture
def db(path: Path) -> Iterator[Store]:
    """An open store."""
    with open_small(path) as store:
        yield store


def reopen(db: Store, *, drain: bool) -> Store:
    """Close the store and open it again."""
    db.close(drain=drain)
    return open_small(db.path)


# ---- definitions


def test_tables_are_apart(db: Store) -> None:
    """The same key in two tables is two keys; names come sorted, without the default table's."""
    one, two = db.table("one"), db.table("a/two")
    db[b"k"], one[b"k"], two[b"k"] = b"0", b"1", b"2"
    assert [b"0", b"1", b"2"] == [db[b"k"], one[b"k"], two[b"k"]]
    assert ["a/two", "one"] == db.tables()
    assert (one.name, db.name) == ("one", "")
    del one[b"k"]
    assert [b"0", None, b"2"] == [db[b"k"], one.get(b"k"), two[b"k"]]
    assert "'one'" in repr(one)
    assert "default table" in repr(db)


@pytest.mark.parametrize("drain", [True, False])
def test_definitions_outlive_the_process(db: Store, drain: bool) -> None:
    """Name, codec and `logged` are stored: a table opened by name alone is as it was made."""
    db.table("json", codec="json")["k"] = {"a": [1]}
    db.table("n", codec="int64/utf-8", logged=False)[-5] = "five"
    db.flush()
    db = reopen(db, drain=drain)
    assert ["json", "n"] == db.tables()
    assert {"k": {"a": [1]}} == dict(db.table("json"))
    assert {-5: "five"} == dict(db.table("n"))
    assert db.table("n").put(1, "x") is None
    db.close()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"codec": "bytes"}, InvalidRequestError, ("expected codec 'utf-8/json'", "bytes/bytes")),
        ({"codec": "msgpack"}, InvalidRequestError, ("found 'utf-8/msgpack'", "own codec")),
        ({"logged": False}, InvalidRequestError, ("expected logged=True", "found logged=False")),
        ({"codec": "nope"}, InvalidRequestError, ("there is no codec 'nope'", "msgpack")),
        ({"codec": ""}, InvalidRequestError, ("there is no codec ''",)),
        ({"codec": 5}, InvalidTypeError, ("found int",)),
        ({"logged": 1}, InvalidTypeError, ("expected bool, found int",)),
        ({"logged": "no"}, InvalidTypeError, ("expected bool, found str",)),
    ],
    ids=repr,
)
def test_a_definition_that_differs_is_refused(
    db: Store, options: dict[str, Any], error: type[Exception], said: tuple[str, ...]
) -> None:
    """An existing table keeps its definition; a bad one makes no new table either."""
    db.table("t", codec="json")["k"] = 1
    with refused(db, error, *said):
        db.table("t", **options)
    if any(word in said[0] for word in ("no codec", "found int", "bool")):
        with refused(db, error, *said):
            db.table("new", **options)
    assert {"k": 1} == dict(db.table("t", codec="utf-8/json", logged=True))
    assert ["t"] == db.tables()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (b"t", InvalidTypeError, "expected str, found bytes"),
        (None, InvalidTypeError, "found NoneType"),
        ("x" * 201, InvalidRequestError, "at most 200 bytes of UTF-8, found 201"),
        ("é" * 101, InvalidRequestError, "found 202"),
        ("\udc80", InvalidRequestError, "valid Unicode"),
    ],
    ids=repr,
)
def test_bad_names(db: Store, name: Any, error: type[Exception], said: str) -> None:
    """A name is text of up to 200 bytes."""
    for call in (db.table, db.drop_table):
        with refused(db, error, said):
            call(name)


def test_names_of_every_kind(db: Store) -> None:
    """200 bytes, spaces, slashes, zeros, emoji: names are only names."""
    names = ["x" * 200, "é" * 100, " ", "../up", "a\0b", "meta", "t1", "\U0001f30a"]
    for name in names:
        db.table(name)[b"k"] = name.encode()
    db = reopen(db, drain=False)
    assert sorted(names) == db.tables()
    assert [n.encode() for n in names] == [db.table(n)[b"k"] for n in names]
    db.close()


def test_the_default_table_by_name(db: Store) -> None:
    """The empty name is the default table, which is bytes, logged, and cannot be dropped."""
    db[b"k"] = b"v"
    assert db.table("")[b"k"] == b"v"
    assert db.table("", codec="bytes", logged=True)[b"k"] == b"v"
    with refused(db, InvalidRequestError, "expected codec 'bytes/bytes'"):
        db.table("", codec="json")
    with refused(db, InvalidRequestError, "cannot be dropped", "clear()"):
        db.drop_table("")


def test_max_tables(path: Path) -> None:
    """One table more than allowed is refused; dropping one makes room; more need the option."""
    with open_small(path, max_tables=3) as db:
        for n in range(3):
            db.table(f"t{n}")
        with refused(db, InvalidRequestError, "3 tables", "max_tables", "drop"):
            db.table("t3")
        db.drop_table("t0")
        db.table("t3")[b"k"] = b"v"
    with pytest.raises(InvalidRequestError, match="larger max_tables"):
        open_small(path, max_tables=2)
    with open_small(path, max_tables=3) as db:
        assert db.table("t3")[b"k"] == b"v"


def test_a_handle_has_its_own_level(db: Store) -> None:
    """`durability` belongs to the handle and not to the table."""
    weak = db.table("t", durability=Durability.ASYNC)
    syncs = db.stats().fsyncs
    for n in range(5):
        weak[b"%d" % n] = b"v"
    assert db.stats().fsyncs <= syncs + 1
    syncs = db.stats().fsyncs
    strong = db.table("t")
    for n in range(5):
        strong[b"%d" % n] = b"w"
    assert db.stats().fsyncs >= syncs + 5


# ---- dropping


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("drain", [True, False])
def test_what_was_dropped_never_comes_back(
    db: Store, logged: bool, flush: bool, drain: bool
) -> None:
    """A table made anew under an old name starts empty, with another definition if need be."""
    db.table("t", logged=logged)[b"k"] = b"old"
    if flush:
        db.flush()
    db.drop_table("t")
    assert [] == db.tables()
    with refused(db, InvalidRequestError, "there is no table 't'", "none"):
        db.drop_table("t")
    if drain:
        db = reopen(db, drain=False)
        assert [] == db.tables()
    again = db.table("t", codec="utf-8")
    assert not again
    again["k"] = "new"
    db = reopen(db, drain=drain)
    assert {"k": "new"} == dict(db.table("t"))
    db.close()


USES: dict[str, Callable[[Table[Any, Any]], Any]] = {
    "put": lambda t: t.put(b"k", b"v"),
    "put async": lambda t: t.put(b"k", b"v", durability=Durability.ASYNC),
    "delete": lambda t: t.delete(b"k"),
    "put_many": lambda t: t.put_many({b"k": b"v", b"l": b"w"}),
    "update": lambda t: t.update({b"k": b"v"}),
    "clear": lambda t: t.clear(),
    "incr": lambda t: t.incr(b"n"),
    "compare_and_set": lambda t: t.compare_and_set(b"k", None, b"v"),
    "setdefault": lambda t: t.setdefault(b"k", b"v"),
    "pop": lambda t: t.pop(b"k", None),
    "append": lambda t: t.append(b"v"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("again", [True, False], ids=["made anew", "gone"])
def test_a_dropped_table_takes_no_write(db: Store, use: str, logged: bool, again: bool) -> None:
    """A handle from before the drop writes nowhere; a log with no such write replays.

    `clear` once logged an operation on the dropped table, which no start could replay.
    """
    old = db.table("t", logged=logged)
    old[b"k"] = b"v"
    db.drop_table("t")
    if again:
        db.table("t", logged=logged)[b"k"] = b"new"
    with refused(db, InvalidRequestError, "'t' was dropped", "db.table()"):
        USES[use](old)
    assert (old.get(b"k", ABSENT), list(old), len(old)) == (ABSENT, [], 0)
    db = reopen(db, drain=False)
    found, left = dict(db.table("t", logged=logged)), {b"k": b"new"} if again else {}
    assert left == found or (not logged and found == {})  # unless a checkpoint came along
    db.close()


def test_a_batch_on_a_dropped_table_is_refused_whole(db: Store) -> None:
    """What a batch holds for other tables is not written either."""
    other, doomed = db.table("other"), db.table("doomed")
    batch = db.batch()
    batch.table(other).put(b"k", b"v")
    batch.table(doomed).put(b"k", b"v")
    db.drop_table("doomed")
    with refused(db, InvalidRequestError, "'doomed' was dropped"), batch:
        pass
    assert not other


def test_more_tables_come_and_go_than_lmdb_has_handles(path: Path) -> None:
    """Between two checkpoints any number of tables may be made and dropped.

    Each once took a database handle in the checkpoint, which then failed for ever.
    """
    with open_small(path, max_tables=1) as db:
        for n in range(320):
            db.table(f"t{n}")[b"k"] = b"v"
            db.drop_table(f"t{n}")
        assert db.flush().remaining == 0
        assert db.health().state is strandline.HealthState.OK
        highest = db.engine.highest_table_id
    with open_small(path, max_tables=1) as db:
        assert highest == db.engine.highest_table_id
        assert [] == db.tables()


def test_tables_come_and_go_over_checkpoints(path: Path) -> None:
    """Handles of dropped tables are given back, in this opening and in the next."""
    for _ in range(3):
        with open_small(path, max_tables=2) as db:
            for n in range(40):
                db.table(f"t{n}")[b"k"] = b"v"
                db.flush()
                db.drop_table(f"t{n}")
                db.flush()
            assert db.stats().checkpoint_failures == 0


# ---- unlogged


def test_unlogged_tables_survive_a_clean_close(db: Store) -> None:
    """Their writes have no LSN and are in LMDB after a close."""
    table = db.table("u", logged=False)
    before = db.stats().last_lsn
    assert table.put(b"k", b"v") is None
    assert table.put_many({b"a": b"1", b"b": b"2"}) is None
    assert table.delete(b"a") is None
    assert table.incr(b"n", 5) == 5
    assert before == db.stats().last_lsn
    db = reopen(db, drain=True)
    assert {b"b": b"2", b"k": b"v", b"n": b"5"} == dict(db.table("u"))
    db.close()


def test_unlogged_tables_go_back_to_the_last_checkpoint(db: Store) -> None:
    """After a crash they hold what the last flush stored, as a whole."""
    table = db.table("u", logged=False)
    table.put_many({b"a": b"1", b"b": b"2"})
    db.flush()
    table[b"a"] = b"changed"
    del table[b"b"]
    table[b"c"] = b"3"
    db[b"logged"] = b"kept"
    db = reopen(db, drain=False)
    assert {b"a": b"1", b"b": b"2"} == dict(db.table("u"))
    assert db[b"logged"] == b"kept"
    db.close()


def test_unlogged_writes_during_checkpoints(path: Path) -> None:
    """None is lost to a generation that is just being written, however far the LSNs are ahead.

    Unlogged tables count versions of their own, which say nothing of the LSN of a cut.
    """
    with open_small(path, flush_strategy=Always(), durability=Durability.ASYNC) as db:
        for n in range(2000):
            db[b"%d" % n] = b"v"
        table = db.table("u", logged=False)
        count, before = 0, db.stats().checkpoints
        while db.stats().checkpoints < before + 8:
            for n in range(count, count + 20):
                table[b"%d" % n] = b"%d" % n
                db[b"%d" % (n % 7)] = b"w"
                assert table[b"%d" % (n // 2)] == b"%d" % (n // 2)
            count += 20
        expected = {b"%d" % n: b"%d" % n for n in range(count)}
        assert expected == dict(table)
        db.flush()
        assert expected == dict(table)


# ---- append


def test_append_gives_keys_in_order(db: Store) -> None:
    """Keys are the LSN, as 8 bytes or as an integer; those of an unlogged table go on counting."""
    logged, numbers = db.table("e"), db.table("n", codec="int64/json")
    unlogged = db.table("u", logged=False)
    for _ in range(3):
        assert int.from_bytes(logged.append(b"x"), "big") == db.stats().last_lsn
        assert numbers.append([1]) == db.stats().last_lsn
        unlogged.append(b"x")
    assert [1, 2, 3] == [int.from_bytes(key, "big") for key in unlogged]
    last = max(logged)
    db = reopen(db, drain=True)
    assert db.table("e").append(b"y") > last
    assert db.table("u").append(b"y") == (4).to_bytes(8, "big")
    db.close()


def test_append_goes_on_above_any_key(db: Store) -> None:
    """In an unlogged table it begins above the greatest key, whatever its length, or refuses."""
    table = db.table("u", logged=False)
    table[b"zz"] = b"mine"
    assert table.append(b"x") > b"zz"
    full = db.table("full", logged=False)
    full[b"\xff" * 9] = b"mine"
    with refused(db, InvalidRequestError, "no room above it", "another table"):
        full.append(b"x")
    numbers = db.table("n", codec="int64/bytes", logged=False)
    numbers[(1 << 63) - 1] = b"mine"
    with refused(db, InvalidRequestError, "int64"):
        numbers.append(b"x")


def test_append_needs_keys_that_count(db: Store) -> None:
    """Text keys are refused."""
    table = db.table("t", codec="json")
    with refused(db, InvalidRequestError, "'utf-8'", "bytes or int64"):
        table.append(1)


# ---- codecs


def test_absent_is_told_from_a_stored_null(db: Store) -> None:
    """None is a value of a JSON or msgpack table; ABSENT stands for no value."""
    for codec in ("json", "msgpack"):
        table = db.table(codec, codec=codec)
        table["null"] = None
        assert table["null"] is None
        assert table.get("null", ABSENT) is None
        assert table.get("gone", ABSENT) is ABSENT
        assert table.pop("gone", ABSENT) is ABSENT
        assert not table.compare_and_set("null", ABSENT, 1)
        assert table.compare_and_set("null", None, 1)
        assert table.compare_and_set("new", ABSENT, None)
        assert table.compare_and_set("null", 1, ABSENT)
        assert {"new": None} == dict(table)
        assert table.setdefault("new", 5) is None
        assert table.pop("new") is None


def test_counters_need_bytes(db: Store) -> None:
    """incr works where values are bytes, whatever the keys."""
    assert db.table("n", codec="int64/bytes").incr(-3, 2) == 2
    assert db.table("s", codec="utf-8/bytes").incr("k") == 1
    table = db.table("j", codec="json")
    with refused(db, InvalidRequestError, "counters need", "'utf-8/json'"):
        table.incr("k")


# ---- after the end


def test_a_closed_store(path: Path) -> None:
    """Every use says that the store is closed; closing again does nothing."""
    db = open_small(path)
    table = db.table("t")
    db[b"k"] = table[b"k"] = b"v"
    views = (db.keys(), db.items(), db.values())
    db.close()
    calls: list[Callable[[], Any]] = [
        lambda: db[b"k"], lambda: db.get(b"k"), lambda: b"k" in db, lambda: len(db),
        lambda: bool(db), lambda: list(db), lambda: list(views[0]), lambda: list(views[1]),
        lambda: list(views[2]), lambda: db.get_many([b"k"]), lambda: db.scan(),
        lambda: db == {}, lambda: db.put(b"k", b"v"), lambda: db.delete(b"k"),
        lambda: db.put(b"k", b"v", durability=Durability.ASYNC), db.clear, db.popitem,
        lambda: db.put_many({b"k": b"v"}), lambda: db.incr(b"n"), lambda: db.pop(b"k"),
        lambda: db.setdefault(b"k", b"v"), lambda: db.append(b"v"), db.snapshot, db.sync,
        lambda: db.compare_and_set(b"k", None, b"v"), db.flush, db.stats, db.health, db.tables,
        lambda: db.wait_stored(1), lambda: db.table("t"), lambda: db.table("new"),
        lambda: db.drop_table("t"), lambda: table[b"k"], lambda: table.put(b"k", b"v"),
        lambda: list(table), table.clear, lambda: db.table(""),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreClosedError, match=str(path)):
            call()
    assert FlushReport(0, 0, 0) == db.close()
    assert str(path) in repr(db)
    with open_small(path) as again:
        assert again[b"k"] == b"v"
