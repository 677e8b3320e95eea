"""What a program may hand over by mistake: refused, explained, and nothing is logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import (
    BatchTooLargeError,
    Durability,
    InvalidRequestError,
    InvalidTypeError,
    KeyTooLargeError,
    Snapshot,
    Store,
    ValueTooLargeError,
)
from tests.api.stores import open_small, refused


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all of these: it must come through every one of them unharmed."""
    path = tmp_path_factory.mktemp("bad-input") / "store"
    with open_small(path, max_value_bytes=1000) as store:
        store.table("u", logged=False)
        store.table("n", codec="int64/bytes")
        yield store


@pytest.fixture
def db(shared: Store) -> Iterator[Store]:
    """The shared store, emptied."""
    shared[b"k"] = b"v"
    yield shared
    shared.clear()


def in_snapshot(read: Callable[[Snapshot, Any], Any]) -> Callable[[Store, Any], Any]:
    """Read from a snapshot that is closed again, and not when its error is collected."""

    def call(db: Store, key: Any) -> Any:
        with db.snapshot() as snapshot:
            return read(snapshot, key)

    return call


def batched(db: Store, key: Any, value: Any) -> None:
    """Put in a batch."""
    with db.batch() as batch:
        batch.put(b"good", b"value")
        batch.put(key, value)


def unbatched(db: Store, key: Any) -> None:
    """Delete in a batch."""
    with db.batch() as batch:
        batch.put(b"good", b"value")
        batch.delete(key)


READS: dict[str, Callable[[Store, Any], Any]] = {
    "get": lambda db, key: db.get(key),
    "getitem": lambda db, key: db[key],
    "contains": lambda db, key: key in db,
    "get_many": lambda db, key: db.get_many([b"k", key]),
    "keys": lambda db, key: key in db.keys(),  # noqa: SIM118
    "snapshot.get": in_snapshot(lambda snapshot, key: snapshot.get(key)),
    "snapshot.contains": in_snapshot(lambda snapshot, key: key in snapshot),
    "snapshot.get_many": in_snapshot(lambda snapshot, key: snapshot.get_many([b"k", key])),
}
WRITES: dict[str, Callable[[Store, Any, Any], Any]] = {
    "put": lambda db, key, value: db.put(key, value),
    "setitem": lambda db, key, value: db.__setitem__(key, value),
    "put async": lambda db, key, value: db.put(key, value, durability=Durability.ASYNC),
    "put_many": lambda db, key, value: db.put_many([(b"good", b"value"), (key, value)]),
    "put_many of a mapping": lambda db, key, value: db.put_many({b"good": b"value", key: value}),
    "update": lambda db, key, value: db.update([(key, value)]),
    "setdefault": lambda db, key, value: db.setdefault(key, value),
    "compare_and_set new": lambda db, key, value: db.compare_and_set(key, b"old", value),
    "batch": batched,
    "unlogged put": lambda db, key, value: db.table("u").put(key, value),
}
KEYED: dict[str, Callable[[Store, Any], Any]] = {
    **READS,
    **{name: lambda db, key, call=call: call(db, key, b"v") for name, call in WRITES.items()},  # type: ignore[misc]
    "delete": lambda db, key: db.delete(key),
    "delitem": lambda db, key: db.__delitem__(key),
    "pop": lambda db, key: db.pop(key, None),
    "incr": lambda db, key: db.incr(key),
    "batch.delete": unbatched,
}
BAD_KEYS: list[tuple[Any, type[Exception], tuple[str, ...]]] = [
    (b"", InvalidRequestError, ("1 to 511 bytes", "empty")),
    (b"x" * 512, KeyTooLargeError, ("1 to 511 bytes", "found 512", "Hash")),
    (b"x" * 100_000, KeyTooLargeError, ("found 100,000",)),
    ("text", InvalidTypeError, ("found str", "option codec", 'codec="utf-8"')),
    (None, InvalidTypeError, ("found NoneType", "option codec")),
    (1.5, InvalidTypeError, ("found float", "option codec")),
    (7, InvalidTypeError, ("found int", "option codec")),
    ((b"a",), InvalidTypeError, ("found tuple",)),
]
BAD_VALUES: list[tuple[Any, type[Exception], tuple[str, ...]]] = [
    (b"x" * 1001, ValueTooLargeError, ("max_value_bytes", "at most 1,000", "found 1,001")),
    ("text", InvalidTypeError, ("found str", "option codec")),
    (1, InvalidTypeError, ("found int", "option codec")),
    (0.5, InvalidTypeError, ("found float", "option codec")),
    ([b"a"], InvalidTypeError, ("found list",)),
]


@pytest.mark.parametrize("verb", KEYED)
@pytest.mark.parametrize(("key", "error", "said"), BAD_KEYS, ids=lambda bad: repr(bad)[:12])
def test_bad_keys(
    db: Store, verb: str, key: Any, error: type[Exception], said: tuple[str, ...]
) -> None:
    """No verb takes a key that is none, whatever stands beside it in the same request."""
    with refused(db, error, *said):
        KEYED[verb](db, key)


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize(("value", "error", "said"), BAD_VALUES, ids=lambda bad: repr(bad)[:12])
def test_bad_values(
    db: Store, verb: str, value: Any, error: type[Exception], said: tuple[str, ...]
) -> None:
    """No verb takes a value that is none."""
    with refused(db, error, *said):
        WRITES[verb](db, b"key", value)


@pytest.mark.parametrize("verb", ["put", "put_many", "setdefault", "batch"])
def test_none_is_no_value(db: Store, verb: str) -> None:
    """None is refused as a value of a bytes table: it would read back as absent."""
    with refused(db, InvalidTypeError, "found NoneType"):
        WRITES[verb](db, b"key", None)


def test_the_longest_key_and_value(db: Store) -> None:
    """511 bytes of key and max_value_bytes of value are taken, through LMDB and back."""
    key, value = b"\xff" * 511, bytes(1000)
    db[key] = value
    assert value == db[key]
    db.flush()
    assert value == db[key]
    assert [(key, value)] == list(db.scan(start=b"\xff"))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_like_input_is_copied(db: Store, kind: Callable[[bytearray], Any]) -> None:
    """Keys and values come from any bytes-like object and do not change with it."""
    key, value = bytearray(b"key"), bytearray(b"value")
    db[kind(key)] = kind(value)
    db.put_many([(kind(bytearray(b"two")), kind(value))])
    value[:] = b"VALUE"
    assert db[b"key"] == b"value"
    assert db[kind(key)] == b"value"
    assert kind(key) in db
    assert [b"k", b"key", b"two"] == list(db)
    assert type(db[b"key"]) is bytes
    wanted = [kind(bytearray(b"key")), kind(bytearray(b"no"))]
    assert {b"key": b"value"} == db.get_many(wanted)
    with db.snapshot() as snapshot:
        assert {b"key": b"value"} == snapshot.get_many(wanted)
    assert db.pop(kind(bytearray(b"two"))) == b"value"


def test_subclasses_of_bytes_become_bytes(db: Store) -> None:
    """What a subclass says of itself through __bytes__ is not believed."""

    class Liar(bytes):
        def __bytes__(self) -> bytes:
            return b"lie"

    db[Liar(b"key")] = Liar(b"value")
    assert [(b"key", b"value")] == [item for item in db.items() if item[0] != b"k"]
    assert {bytes} == {type(part) for item in db.items() for part in item}


@pytest.mark.parametrize("bad", ["sync", 1, None, "SYNC", True], ids=repr)
def test_bad_levels(db: Store, bad: Any) -> None:
    """A durability level is a strandline.Durability and nothing that looks like one."""
    calls: list[Callable[[], Any]] = [
        lambda: db.put(b"a", b"b", durability=bad),
        lambda: db.delete(b"a", durability=bad),
        lambda: db.put_many({b"a": b"b"}, durability=bad),
        lambda: db.incr(b"n", durability=bad),
        lambda: db.pop(b"a", None, durability=bad),
        lambda: db.setdefault(b"a", b"b", durability=bad),
        lambda: db.compare_and_set(b"a", None, b"b", durability=bad),
        lambda: db.append(b"a", durability=bad),
        lambda: db.batch(durability=bad),
        lambda: db.table("new", durability=bad),
    ]
    for call in calls if bad is not None else []:
        with refused(db, InvalidTypeError, "Durability.SYNC", repr(bad)):
            call()


@pytest.mark.parametrize(
    ("stored", "delta", "error", "said"),
    [
        (b"", 1, InvalidRequestError, "ASCII decimal"),
        (b"-", 1, InvalidRequestError, "ASCII decimal"),
        (b"+1", 1, InvalidRequestError, "ASCII decimal"),
        (b" 1", 1, InvalidRequestError, "ASCII decimal"),
        (b"1_000", 1, InvalidRequestError, "ASCII decimal"),
        (b"1.5", 1, InvalidRequestError, "ASCII decimal"),
        ("\u0663".encode(), 1, InvalidRequestError, "ASCII decimal"),
        (b"9" * 30, 1, InvalidRequestError, "ASCII decimal"),
        (b"9223372036854775807", 1, InvalidRequestError, "64-bit"),
        (b"-9223372036854775808", -1, InvalidRequestError, "64-bit"),
        (b"0", 1 << 63, InvalidRequestError, "64-bit"),
        (b"0", 1.0, InvalidTypeError, "found float"),
        (b"0", True, InvalidTypeError, "found bool"),
        (b"0", "1", InvalidTypeError, "found str"),
        (b"0", None, InvalidTypeError, "found NoneType"),
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_bad_counters(
    db: Store, stored: bytes, delta: Any, error: type[Exception], said: str, flush: bool
) -> None:
    """A value that is no counter, a sum that does not fit, a delta that is no integer."""
    db[b"n"] = stored
    if flush:
        db.flush()
    with refused(db, error, said):
        db.incr(b"n", delta)
    assert stored == db[b"n"]


def test_counters_reach_their_bounds(db: Store) -> None:
    """The extremes of 64 bits are counted to exactly, and back."""
    assert db.incr(b"n", (1 << 63) - 1) == (1 << 63) - 1
    assert db.incr(b"n", -(1 << 63)) == -1
    assert db.incr(b"n", -(1 << 63) + 1) == -(1 << 63)
    assert db[b"n"] == b"-9223372036854775808"


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"prefix": b"a", "start": b"a"}, InvalidRequestError, "either prefix or start"),
        ({"prefix": b"a", "stop": b"b"}, InvalidRequestError, "not both"),
        ({"limit": -1}, InvalidRequestError, "0 or more, found -1"),
        ({"limit": 1.0}, InvalidTypeError, "found float"),
        ({"limit": True}, InvalidTypeError, "found bool"),
        ({"start": "a"}, InvalidTypeError, "found str"),
        ({"stop": 1}, InvalidTypeError, "found int"),
        ({"prefix": "a"}, InvalidTypeError, "found str"),
    ],
)
def test_bad_scans(db: Store, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    """A scan is refused at the call and not at its first item; no snapshot stays open."""
    with refused(db, error, said):
        db.scan(**arguments)
    with db.snapshot() as snapshot, refused(db, error, said):
        snapshot.scan(**arguments)
    db.put(b"a", b"b")
    assert db.stats().open_snapshots == 0


def test_a_scan_of_integers_has_no_prefix(db: Store) -> None:
    """Prefixes are of bytes and text."""
    table = db.table("n")
    with refused(db, InvalidRequestError, "integers have no prefix"):
        table.scan(prefix=1)


def test_what_is_no_pair_at_all(db: Store) -> None:
    """put_many, update and get_many fail as Python's containers do; nothing is logged."""
    for bad in (5, None, [1], [(b"a",)], [(b"a", b"b", b"c")]):
        for call in (db.put_many, db.update):
            before = db.stats().last_lsn
            with pytest.raises((TypeError, ValueError)):
                call(bad)  # type: ignore[arg-type]
            assert before == db.stats().last_lsn
    with pytest.raises(TypeError):
        db.get_many(5)  # type: ignore[arg-type]
    with refused(db, InvalidTypeError, "found int"):
        db.get_many(b"abc")  # type: ignore[arg-type]


def test_an_exception_of_the_iterable_logs_nothing(db: Store) -> None:
    """What put_many is handed may fail half-way; nothing of it is there then."""

    def pairs() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"1"
        raise ZeroDivisionError

    with refused(db, ZeroDivisionError):
        db.put_many(pairs())


def test_batches_too_large(tmp_path: Path) -> None:
    """A batch of more than half of a budget is refused, with the name of the budget."""
    sizes = {"segment_bytes": 1 << 16, "max_log_bytes": 1 << 18, "max_dirty_bytes": 1 << 20}
    with open_small(tmp_path / "store", **sizes) as db:
        for verb in (WRITES["put_many"], batched):
            with refused(db, BatchTooLargeError, "half of max_log_bytes (262,144)", "Split it"):
                verb(db, b"key", bytes(1 << 17))
        many = {b"%d" % n: b"" for n in range(2000)}
        with refused(db, BatchTooLargeError, "2,000 operations", "max_dirty_bytes (1,048,576)"):
            db.put_many(many)
        unlogged = db.table("u", logged=False)
        with refused(db, BatchTooLargeError, "max_dirty_bytes (1,048,576)"):
            unlogged.put_many(many)
        db.put_many(list(many.items())[:1000])
        assert len(db) == 1000


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"durabilty": 1}, InvalidRequestError, "did you mean 'durability'?"),
        ({"segment_byte": 1 << 20}, InvalidRequestError, "did you mean 'segment_bytes'?"),
        ({"zzz": 1}, InvalidRequestError, "the options are"),
        ({"segment_bytes": -1}, InvalidRequestError, "65536"),
        ({"segment_bytes": (1 << 16) - 1}, InvalidRequestError, "65536"),
        ({"group_bytes": -5}, InvalidRequestError, "found -5"),
        ({"max_dirty_bytes": 0}, InvalidRequestError, "found 0"),
        ({"max_log_bytes": 1 << 27}, InvalidRequestError, "max_log_bytes"),
        ({"max_value_bytes": 0}, InvalidRequestError, "max_value_bytes"),
        ({"max_value_bytes": 1e6}, InvalidTypeError, "expected int, found float"),
        ({"max_tables": True}, InvalidTypeError, "found bool"),
        ({"stall_timeout": -0.1}, InvalidRequestError, "found -0.1"),
        ({"stall_timeout": "1"}, InvalidTypeError, "found str"),
        ({"sync_interval": math.nan}, InvalidRequestError, "found nan"),
        ({"sync_interval": math.inf}, InvalidRequestError, "found inf"),
        ({"log_interval": 0}, InvalidRequestError, "log_interval"),
        ({"durability": "sync"}, InvalidTypeError, "'sync'"),
        ({"overload": "wait"}, InvalidRequestError, "'block', 'reject'"),
        ({"recovery": "repair"}, InvalidRequestError, "'salvage'"),
        ({"check": None}, InvalidRequestError, "'auto', 'always'"),
        ({"progress": 5}, InvalidTypeError, "progress"),
        ({"flush_strategy": 5}, InvalidTypeError, "should_flush"),
        ({"flush_strategy": strandline.HybridFlush}, InvalidTypeError, "an instance"),
    ],
    ids=repr,
)
def test_bad_options(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Options are checked before anything is made on disk."""
    with pytest.raises(error) as caught:
        strandline.open(tmp_path / "store", **settings)
    assert type(caught.value) is error
    assert said in str(caught.value)
    assert next(iter(settings)) in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        (5, InvalidTypeError, "found int"),
        (None, InvalidTypeError, "found NoneType"),
        (b"store", InvalidTypeError, "os.fsdecode"),
        ("", InvalidRequestError, "found ''"),
        ("a\0b", InvalidRequestError, "'a\\x00b'"),
    ],
)
def test_bad_paths(path: Any, error: type[Exception], said: str) -> None:
    """A path is a str or a path object, and names something."""
    with pytest.raises(error, match="path: expected") as caught:
        strandline.open(path)
    assert type(caught.value) is error
    assert said in str(caught.value)
