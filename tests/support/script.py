"""The steps that a child takes until it is killed, and their effect on a model of the store.

Everything follows from the seed: `do` makes a step on the store, `apply` on the model. What
a step does can depend on what is there, as a `pop` does, so both must agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from strandline import ABSENT, Durability, Store

Content = dict[Any, Any]

KEYS = [b"%02d" % n for n in range(30)]
LOGGED = {"": "bytes", "json": "json", "events": "bytes", "passing": "bytes"}
THREADED_TABLES = ("one", "two", "counters")
SURVIVE = (Durability.SYNC, Durability.BUFFERED)


@dataclass
class Model:
    """The logged tables at one LSN, and the states that the unlogged one went through."""

    tables: dict[str, Content] = field(default_factory=lambda: {"": {}})
    unlogged: Content = field(default_factory=dict)
    unlogged_since: list[Content] = field(default_factory=list)
    lsn: int = 0

    def copy(self) -> Model:
        tables = {name: dict(content) for name, content in self.tables.items()}
        return Model(tables, dict(self.unlogged), [], self.lsn)

    def begin_unlogged(self) -> None:
        self.unlogged_since = [dict(self.unlogged)]

    def take_unlogged(self, db: Store) -> None:
        found = dict(db.table("unlogged")) if "unlogged" in db.tables() else {}
        assert found in self.unlogged_since, "the unlogged table never was so since the last flush"
        self.unlogged = found

    def compare(self, db: Store) -> None:
        assert sorted(name for name in self.tables if name) == db.tables()
        for name, content in self.tables.items():
            if name == "unlogged":
                continue
            table = db.table(name)
            assert content == dict(table.scan()), f"table {name!r} is not as its script left it"
            assert len(content) == len(table)


@dataclass(frozen=True)
class Step:
    """One call."""

    name: str
    level: Durability
    do: Callable[[Store], Any]
    apply: Callable[[Model], None]
    counter: bytes | None = None
    covers_all: bool = False
    """Whether it promises all that was acknowledged before it, though it writes nothing."""

    @property
    def survives(self) -> bool:
        """Whether it must be there after SIGKILL, once acknowledged."""
        return self.level in SURVIVE


_Maker = Callable[[random.Random, int], Step | list[Step]]


def steps(seed: int) -> Iterator[Step]:
    """Yield the steps of one child, without end."""
    choose = random.Random(seed)
    yield from _definitions()
    makers: list[_Maker] = [
        *[_put] * 8, _delete, _delete, _put_many, _put_many, _batch, _batch, _batch, _incr,
        _incr, _compare_and_set, _setdefault, _pop, _append, _append, _unlogged, _unlogged,
    ]  # fmt: skip
    rare: list[_Maker] = [_clear, _drop, _flush, _sync]
    number = 0
    while True:
        number += 1
        maker = choose.choice(rare if choose.random() < 0.02 else makers)
        made = maker(choose, number)
        yield from made if isinstance(made, list) else [made]


def _definitions() -> Iterator[Step]:
    for name, codec in LOGGED.items():
        if name:
            yield _create(name, codec)

    def apply(model: Model) -> None:
        if "unlogged" not in model.tables:
            model.tables["unlogged"] = {}
            model.lsn += 1

    yield Step(
        "create unlogged", Durability.SYNC, lambda db: db.table("unlogged", logged=False), apply
    )


def _create(name: str, codec: str) -> Step:
    def apply(model: Model) -> None:
        if name not in model.tables:
            model.tables[name] = {}
            model.lsn += 1

    return Step(f"create {name}", Durability.SYNC, lambda db: db.table(name, codec=codec), apply)


def _level(choose: random.Random) -> Durability:
    return choose.choice(list(Durability))


def _value(choose: random.Random, number: int) -> bytes:
    length = choose.choice([0, 10, 10, 100, 100, 1000, 1000, 6000])
    return b"%d" % number + bytes(length)


def _place(choose: random.Random, number: int) -> tuple[str, Any, Any]:
    """Return a table, a key and a value."""
    name = choose.choice(["", "", "json", "passing"])
    key, value = choose.choice(KEYS), _value(choose, number)
    if name == "json":
        return name, key.decode(), [number, None, len(value) * "x"]
    return name, key, value


def _set(model: Model, name: str, key: Any, value: Any) -> None:
    model.lsn += 1
    if value is ABSENT:
        model.tables[name].pop(key, None)
    else:
        model.tables[name][key] = value


def _put(choose: random.Random, number: int) -> Step:
    (name, key, value), level = _place(choose, number), _level(choose)
    return Step(
        f"put {name}/{key!r}",
        level,
        lambda db: db.table(name).put(key, value, durability=level),
        lambda model: _set(model, name, key, value),
    )


def _delete(choose: random.Random, number: int) -> Step:
    (name, key, _), level = _place(choose, number), _level(choose)
    return Step(
        f"delete {name}/{key!r}",
        level,
        lambda db: db.table(name).delete(key, durability=level),
        lambda model: _set(model, name, key, ABSENT),
    )


def _put_many(choose: random.Random, number: int) -> Step:
    level, count = _level(choose), choose.randrange(1, 12)
    items = [(choose.choice(KEYS), _value(choose, number)[:500]) for _ in range(count)]

    def apply(model: Model) -> None:
        for key, value in items:
            _set(model, "", key, value)

    return Step("put_many", level, lambda db: db.put_many(items, durability=level), apply)


def _batch(choose: random.Random, number: int) -> Step:
    level = _level(choose)
    parts = [_place(choose, number) for _ in range(choose.randrange(1, 8))]
    parts = [(n, k, ABSENT if choose.random() < 0.2 else v) for n, k, v in parts]

    def do(db: Store) -> None:
        with db.batch(durability=level) as batch:
            for name, key, value in parts:
                table = batch.table(db.table(name))
                table.delete(key) if value is ABSENT else table.put(key, value)

    def apply(model: Model) -> None:
        for name, key, value in parts:
            _set(model, name, key, value)

    return Step("batch", level, do, apply)


def _incr(choose: random.Random, number: int) -> Step:
    key, delta, level = b"counter%d" % choose.randrange(3), choose.randrange(-3, 9), _level(choose)

    def apply(model: Model) -> None:
        _set(model, "", key, b"%d" % (int(model.tables[""].get(key, b"0")) + delta))

    return Step("incr", level, lambda db: db.incr(key, delta, durability=level), apply)


def _compare_and_set(choose: random.Random, number: int) -> Step:
    key, value, level = choose.choice(KEYS), _value(choose, number), _level(choose)

    def do(db: Store) -> None:
        assert db.compare_and_set(key, db.get(key), value, durability=level)
        assert not db.compare_and_set(key, b"never", value, durability=level)

    return Step("compare_and_set", level, do, lambda model: _set(model, "", key, value))


def _setdefault(choose: random.Random, number: int) -> Step:
    (name, key, value), level = _place(choose, number), _level(choose)

    def apply(model: Model) -> None:
        if key not in model.tables[name]:
            _set(model, name, key, value)

    return Step(
        "setdefault",
        level,
        lambda db: db.table(name).setdefault(key, value, durability=level),
        apply,
    )


def _pop(choose: random.Random, number: int) -> Step:
    (name, key, _), level = _place(choose, number), _level(choose)

    def apply(model: Model) -> None:
        if key in model.tables[name]:
            _set(model, name, key, ABSENT)

    return Step("pop", level, lambda db: db.table(name).pop(key, None, durability=level), apply)


def _append(choose: random.Random, number: int) -> Step:
    value, level = _value(choose, number)[:50], _level(choose)

    def apply(model: Model) -> None:
        _set(model, "events", (model.lsn + 1).to_bytes(8, "big"), value)

    return Step(
        "append", level, lambda db: db.table("events").append(value, durability=level), apply
    )


def _unlogged(choose: random.Random, number: int) -> Step:
    key, value = choose.choice(KEYS[:5]), _value(choose, number)[:50]

    def apply(model: Model) -> None:
        model.unlogged = {**model.unlogged, key: value}
        model.unlogged_since.append(model.unlogged)

    return Step(
        "unlogged put", Durability.ASYNC, lambda db: db.table("unlogged").put(key, value), apply
    )


def _clear(choose: random.Random, _number: int) -> Step:
    name = choose.choice(["", "json", "events"])

    def apply(model: Model) -> None:
        model.tables[name] = {}
        model.lsn += 1

    return Step(f"clear {name}", Durability.SYNC, lambda db: db.table(name).clear(), apply)


def _drop(_choose: random.Random, _number: int) -> list[Step]:
    """Drop a table and make it anew: its keys must not come back."""

    def apply(model: Model) -> None:
        del model.tables["passing"]
        model.lsn += 1

    drop = Step("drop", Durability.SYNC, lambda db: db.drop_table("passing"), apply)
    return [drop, _create("passing", LOGGED["passing"])]


def _flush(_choose: random.Random, _number: int) -> Step:
    def do(db: Store) -> None:
        assert db.flush().remaining == 0

    def apply(model: Model) -> None:
        model.begin_unlogged()

    return Step("flush", Durability.SYNC, do, apply, covers_all=True)


def _sync(_choose: random.Random, _number: int) -> Step:
    return Step("sync", Durability.SYNC, lambda db: db.sync(), lambda _: None, covers_all=True)


class StepsOfOneThread:
    """The steps of one of several threads: keys of its own, and counters that all share."""

    def __init__(self, seed: int, thread: int, state: Content) -> None:
        self.state = state
        """(table, key) to value, for the thread's own keys, after the steps taken so far."""
        self._choose = random.Random(f"{seed}/{thread}")
        self._keys = [b"%d:%d" % (thread, n) for n in range(8)]
        self._number = 0

    def take(self) -> Step:
        """Return the next step and apply it to `state`."""
        choose = self._choose
        self._number += 1
        level, key = _level(choose), choose.choice(self._keys)
        value = _value(choose, self._number)[:2000]
        match choose.randrange(6):
            case 0:
                counter = b"%d" % choose.randrange(3)
                return Step(
                    "incr",
                    level,
                    lambda db: db.table("counters").incr(counter, durability=level),
                    lambda _: None,
                    counter,
                )
            case 1:
                self.state.pop(("", key), None)
                return self._step("delete", level, lambda db: db.delete(key, durability=level))
            case 2 | 3:
                self.state["one", key] = self.state["two", key] = value
                return self._step("batch", level, lambda db: _twice(db, key, value, level))
            case _:
                self.state["", key] = value
                return self._step("put", level, lambda db: db.put(key, value, durability=level))

    @staticmethod
    def _step(name: str, level: Durability, do: Callable[[Store], Any]) -> Step:
        return Step(name, level, do, lambda _: None)


def _twice(db: Store, key: bytes, value: bytes, level: Durability) -> int | None:
    with db.batch(durability=level) as batch:
        batch.table(db.table("one")).put(key, value)
        batch.table(db.table("two")).put(key, value)
    return batch.lsn


def content_by_thread(db: Store) -> dict[int, Content]:
    """Return what the threads' keys hold: by thread, (table, key) to value."""
    found: dict[int, Content] = {}
    for name in ("", "one", "two"):
        if not name or name in db.tables():
            for key, value in db.table(name).items():
                found.setdefault(int(key.split(b":")[0]), {})[name, key] = value
    return found
