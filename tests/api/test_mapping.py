"""Tables and the store are mutable mappings in every respect, also under concurrent writes."""

from __future__ import annotations

import collections.abc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import ABSENT, Durability, Store, Table
from tests.api.stores import TINY, Always, open_small

KINDS = ["default", "logged", "unlogged", "json", "int64"]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with open_small(tmp_path / "store", durability=Durability.ASYNC) as store:
        yield store


@pytest.fixture(params=KINDS)
def table(db: Store, request: pytest.FixtureRequest) -> Table[Any, Any]:
    """A table of every kind; the keys and values that fit it come from `items`."""
    made: dict[str, Table[Any, Any]] = {
        "default": db,
        "logged": db.table("logged"),
        "unlogged": db.table("unlogged", logged=False),
        "json": db.table("json", codec="json"),
        "int64": db.table("int64", codec="int64/msgpack"),
    }
    return made[request.param]


def items(table: Table[Any, Any], count: int) -> dict[Any, Any]:
    """Return `count` items for a table, in key order."""
    if table.name == "json":
        return {f"k{n:03}": {"n": n} for n in range(count)}
    if table.name == "int64":
        return {n - count // 2: [n, None] for n in range(count)}
    return {b"k%03d" % n: b"%d" % n for n in range(count)}


def half_stored(table: Table[Any, Any], count: int) -> dict[Any, Any]:
    """Fill a table so that LMDB, the index and tombstones all have a part in what is there."""
    content = items(table, count)
    table.update(content)
    table._store.flush()
    keys = list(content)
    for key in keys[::3]:
        del table[key], content[key]
    for key in keys[1::3]:
        table[key] = content[key] = content[keys[-1]]
    return content


def test_is_a_mutable_mapping(table: Table[Any, Any]) -> None:
    """isinstance tells so, and nothing of the interface is missing."""
    assert isinstance(table, collections.abc.MutableMapping)
    for name in set(dir(dict)) - {"fromkeys", "copy", "__class_getitem__", "__or__", "__ror__",
                                  "__ior__"}:  # fmt: skip
        assert hasattr(table, name), name


def test_set_get_delete(table: Table[Any, Any]) -> None:
    """What is stored comes back; what was deleted raises KeyError with its key."""
    content = items(table, 3)
    for key, value in content.items():
        table[key] = value
    assert content == dict(table)
    first = next(iter(content))
    del table[first]
    assert first not in table
    assert table.get(first) is None
    assert table.get(first, "default") == "default"
    for missing in (lambda: table[first], lambda: table.pop(first)):
        with pytest.raises(KeyError) as caught:
            missing()  # type: ignore[no-untyped-call]
        assert caught.value.args == (first,)
    with pytest.raises(KeyError):
        del table[first]


def test_iterates_in_key_order_both_ways(table: Table[Any, Any]) -> None:
    """Keys come in order from the index and LMDB together, reversed the other way."""
    content = half_stored(table, 30)
    assert sorted(content) == list(table)
    assert sorted(content, reverse=True) == list(reversed(table))
    assert len(content) == len(table)


def test_views_behave_as_those_of_a_dict(table: Table[Any, Any]) -> None:
    """keys(), values() and items() have length, membership, order and set operations."""
    content = half_stored(table, 12)
    keys, values, pairs = table.keys(), table.values(), table.items()
    assert sorted(content) == list(keys)
    assert [content[key] for key in sorted(content)] == list(values)
    assert [(key, content[key]) for key in sorted(content)] == list(pairs)
    assert len(content) == len(keys) == len(values) == len(pairs)
    first = min(content)
    gone = next(key for key in items(table, 12) if key not in content)
    assert first in keys
    assert gone not in keys
    assert content[first] in values
    assert "never stored" not in values
    assert (first, content[first]) in pairs
    assert (first, "another") not in pairs
    assert {first} == keys & {first, gone}
    assert content.keys() == set(keys)
    assert content.keys() | {gone} == keys | {gone}
    assert set(content) - {first} == keys - {first}
    assert keys.isdisjoint({gone})


def test_views_are_live(table: Table[Any, Any]) -> None:
    """A view that was made before a write shows it."""
    keys, values = table.keys(), table.values()
    assert not keys
    assert list(values) == []
    content = items(table, 2)
    table.update(content)
    assert list(content) == list(keys)
    assert list(content.values()) == list(values)


def test_equality_with_any_mapping(table: Table[Any, Any], db: Store) -> None:
    """Equal to a dict or another table of the same items, either way round; never hashable."""
    content = half_stored(table, 9)
    assert table == content
    assert content == table
    other = dict(content)
    other.popitem()
    assert table != other
    assert table != {**content, max(content): "another"}
    assert table != "not a mapping"
    assert (table == db) is (table is db)
    with pytest.raises(TypeError, match="unhashable"):
        hash(table)


def test_update_takes_what_a_dict_takes(db: Store) -> None:
    """A mapping, pairs, anything with keys(), keywords, and nothing."""

    class HasKeys:
        def keys(self) -> list[str]:
            return ["c"]

        def __getitem__(self, key: str) -> int:
            return 3

    table = db.table("json", codec="json")
    table.update({"a": 1})
    table.update([("b", 2)])
    table.update(HasKeys())
    table.update(d=4)
    table.update([("e", 5)], f=6)
    table.update()
    assert {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6} == dict(table)


def test_update_stays_within_small_budgets(tmp_path: Path) -> None:
    """Its chunks fit the budgets, whatever the sizes: many small items, long keys, long values."""
    with strandline.open(tmp_path / "store", **TINY) as db:
        content = {b"%0400d" % n: b"v" for n in range(300)}
        content |= {b"s%d" % n: b"" for n in range(300)}
        content |= {b"l%d" % n: bytes(20_000) for n in range(8)}
        db.update(content)
        assert content == db
        table = db.table("nested", codec="json")
        nested: dict[str, Any] = {f"{n}": {"a": ["x" * 9000]} for n in range(20)}
        table.update(nested)
        assert nested == table


def test_update_stores_one_item_as_large_as_put_takes(tmp_path: Path) -> None:
    """An item that is no batch by itself is not held to a batch's limit."""
    with strandline.open(tmp_path / "store", **TINY) as db:
        db.update({b"a": b"1", b"large": bytes(50_000), b"z": b"2"})
        assert len(db[b"large"]) == 50_000
        assert len(db) == 3


def test_pop_setdefault_popitem(table: Table[Any, Any]) -> None:
    """As a dict has them, but popitem takes the first key."""
    content = items(table, 4)
    table.update(content)
    first, second, third, _ = content
    assert content[first] == table.pop(first)
    assert table.pop(first, "gone") == "gone"
    assert table.pop(first, None) is None
    assert content[second] == table.setdefault(second, content[third])
    assert content[third] == table.setdefault(first, content[third])
    assert (first, content[third]) == table.popitem()
    assert (second, content[second]) == table.popitem()
    table.popitem(), table.popitem()
    with pytest.raises(KeyError, match="empty"):
        table.popitem()


def test_clear_and_truth(table: Table[Any, Any]) -> None:
    """clear() empties, stored keys included, and truth is whether there is any key."""
    half_stored(table, 9)
    assert table
    table.clear()
    assert not table
    assert len(table) == 0
    assert list(table) == []
    table.update(items(table, 1))
    assert len(table) == 1


@pytest.mark.parametrize("verb", ["pop", "popitem", "setdefault", "incr", "compare_and_set"])
@pytest.mark.parametrize("kind", ["logged", "unlogged"])
@pytest.mark.parametrize("level", Durability)
def test_atomic_among_threads(tmp_path: Path, verb: str, kind: str, level: Durability) -> None:
    """Eight threads that race for the same keys: each item goes to one of them exactly."""
    threads, rounds = 8, 40
    start = threading.Barrier(threads)
    with open_small(tmp_path / "store", durability=level, flush_strategy=Always()) as db:
        table = db.table("t", logged=kind == "logged")
        if verb in ("pop", "popitem"):
            table.put_many({b"%03d" % n: b"%d" % n for n in range(rounds)})

        def work(me: int) -> list[Any]:
            start.wait()
            mine: list[Any] = []
            for n in range(rounds):
                if verb == "pop":
                    mine += [v] if (v := table.pop(b"%03d" % n, ABSENT)) is not ABSENT else []
                elif verb == "popitem":
                    try:
                        mine.append(table.popitem()[1])
                    except KeyError:
                        break
                elif verb == "setdefault":
                    mine.append(table.setdefault(b"%03d" % n, b"%d" % me))
                elif verb == "incr":
                    mine.append(table.incr(b"counter"))
                elif table.compare_and_set(b"%03d" % n, None, b"%d" % me):
                    mine.append(n)
            return mine

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(work, range(threads)))
        everything = [each for mine in results for each in mine]
        if verb in ("pop", "popitem"):
            assert sorted(b"%d" % n for n in range(rounds)) == sorted(everything)
            assert not table
        elif verb == "setdefault":
            assert all(list(found) == results[0] for found in results)
            assert results[0] == list(table.values())
        elif verb == "incr":
            assert list(range(1, threads * rounds + 1)) == sorted(everything)
            assert table[b"counter"] == b"%d" % (threads * rounds)
        else:
            assert list(range(rounds)) == sorted(everything)


@pytest.mark.parametrize("kind", ["logged", "unlogged"])
def test_iteration_is_one_consistent_view(tmp_path: Path, kind: str) -> None:
    """A writer moves one unit at a time between keys in batches: no iteration sees it gone.

    Items, scans, values and an iteration that pauses half-way all show some moment at
    which no batch was half applied, while flushes come as often as they can.
    """
    keys = [b"%02d" % n for n in range(40)]
    stop = threading.Event()
    with open_small(tmp_path / "store", durability=Durability.ASYNC, flush_strategy=Always()) as db:
        table = db.table("t", logged=kind == "logged")
        table.put_many((key, b"10") for key in keys)

        def move() -> None:
            balance = dict.fromkeys(keys, 10)
            step = 0
            while not stop.is_set():
                step += 1
                one, other = keys[step * 7 % 40], keys[step * 11 % 40 - 1]
                if one == other or not balance[one]:
                    continue
                balance[one] -= 1
                balance[other] += 1
                with db.batch() as batch:
                    batch.table(table).put(one, b"%d" % balance[one])
                    batch.table(table).put(other, b"%d" % balance[other])

        writer = threading.Thread(target=move)
        writer.start()
        try:
            for n in range(60):
                assert sum(map(int, table.values())) == 400
                assert sum(int(value) for _, value in table.scan(reverse=True)) == 400
                slow = table.items().__iter__()
                seen = [next(slow) for _ in range(1 + n % 30)]
                assert len(table) == 40
                assert sum(map(int, table.get_many(keys).values())) == 400
                assert sum(int(value) for _, value in [*seen, *slow]) == 400
        finally:
            stop.set()
            writer.join()
