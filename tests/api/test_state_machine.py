"""The whole interface against a dict, with reopening and crashes between any two calls.

One thread writes, so every answer is known in advance: values, LSNs, which keys a scan
gives and in which order, what a snapshot that was taken long ago still shows. Budgets and
segments are as small as they can be and flushes come often, so that the calls meet turned
segments, frozen generations, tombstones over stored keys and writers that have to wait.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import strandline
from strandline import (
    ABSENT,
    BackpressureError,
    Durability,
    FlushStats,
    HealthState,
    HybridFlush,
    Snapshot,
    Store,
    Table,
)
from strandline.errors import InvalidRequestError
from tests.api.model import Model, ModelTable
from tests.api.stores import TINY, Always, Never

T = TypeVar("T")

LEVELS = st.sampled_from([None, *Durability])
TABLE = st.integers(0, 5)
KEY = st.integers(0, 11)
VALUE = st.integers(0, 8)


class Whim:
    """Flush at random moments."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def should_flush(self, stats: FlushStats) -> bool:
        return self._random.random() < 0.3

    def on_flush_complete(self, stats: FlushStats) -> None:
        pass


STRATEGIES: list[Callable[[], Any]] = [
    Always,
    Never,
    Whim,
    lambda: HybridFlush(max_count=3, min_interval=0.0),
    lambda: HybridFlush(max_age=0.001, min_interval=0.0),
]


class Machine(RuleBasedStateMachine):
    """A store, its model, and the snapshots that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="strandline-")
        self.model = Model()
        self.lsn = 0
        self.snapshots: list[tuple[Snapshot, dict[str, ModelTable], int]] = []
        self.appended: dict[int, Any] = {}
        self.number = itertools.count()
        self.db: Store

    @initialize(
        level=st.sampled_from(Durability),
        strategy=st.sampled_from(STRATEGIES),
        log_interval=st.sampled_from([0.0005, 0.01, 60.0]),
        roomy=st.booleans(),
    )
    def begin(self, level: Durability, strategy: Any, log_interval: float, roomy: bool) -> None:
        self.strategy = strategy
        self.options: dict[str, Any] = {
            **TINY,
            "max_dirty_bytes": 1 << (20 if roomy else 16),
            "durability": level,
            "log_interval": log_interval,
            "stall_timeout": 0.5,
        }
        self.open()
        self.make("json", "json", True)
        self.make("unlogged", "bytes", False)

    # ---- helpers

    def open(self) -> None:
        self.db = strandline.open(
            self.path + "/store", flush_strategy=self.strategy(), **self.options
        )
        report = self.db.recovery_report
        assert report.torn_tail is None
        assert not report.damages
        assert not report.gaps
        assert self.lsn == report.last_lsn

    def make(self, name: str, codec: str, logged: bool) -> None:
        self.retry(lambda: self.db.table(name, codec=codec, logged=logged))
        self.lsn += 1
        full = strandline.codecs.get_codec(codec).name
        self.model.tables[name] = table = ModelTable(name, full, logged)
        self.model.touched(table)

    def pick(self, index: int) -> tuple[ModelTable, Table[Any, Any]]:
        names = sorted(self.model.tables)
        name = names[index % len(names)]
        return self.model.tables[name], self.db.table(name)

    def retry(self, call: Callable[[], T]) -> T:
        """Make a call; where snapshots fill the budget it is refused, and then they go."""
        before = self.db.stats().last_lsn
        try:
            return call()
        except BackpressureError:
            assert before == self.db.stats().last_lsn
            self.close_snapshots()
            self.db.flush()
            return call()

    def logged(self, table: ModelTable, operations: int, lsn: int | None) -> None:
        """Count the LSNs of a write and hold its answer against them."""
        if table.logged:
            self.lsn += operations
            assert (self.lsn if operations else None) == lsn
        else:
            assert lsn is None
            self.model.touched(table)

    def counted(self, table: ModelTable, operations: int) -> None:
        told = table.logged and operations
        self.logged(table, operations, self.lsn + operations if told else None)

    def close_snapshots(self) -> None:
        while self.snapshots:
            self.snapshots.pop()[0].close()

    # ---- writes

    @rule(t=TABLE, k=KEY, v=VALUE, level=LEVELS)
    def put(self, t: int, k: int, v: int, level: Durability | None) -> None:
        model, table = self.pick(t)
        key, value = model.key(k), model.value(v)
        lsn = self.retry(lambda: table.put(key, value, durability=level))
        model.data[key] = value
        self.counted(model, 1)
        assert lsn == (self.lsn if model.logged else None)

    @rule(t=TABLE, k=KEY, v=VALUE)
    def set_item(self, t: int, k: int, v: int) -> None:
        model, table = self.pick(t)
        self.retry(lambda: table.__setitem__(model.key(k), model.value(v)))
        model.data[model.key(k)] = model.value(v)
        self.counted(model, 1)

    @rule(t=TABLE, k=KEY, level=LEVELS)
    def delete(self, t: int, k: int, level: Durability | None) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        lsn = self.retry(lambda: table.delete(key, durability=level))
        model.data.pop(key, None)
        self.counted(model, 1)
        assert lsn == (self.lsn if model.logged else None)

    @rule(t=TABLE, k=KEY)
    def delete_item(self, t: int, k: int) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        try:
            self.retry(lambda: table.__delitem__(key))
            found = True
        except KeyError:
            found = False
        assert (key in model.data) == found
        if found:
            del model.data[key]
            self.counted(model, 1)

    @rule(t=TABLE, pairs=st.lists(st.tuples(KEY, VALUE), max_size=8), level=LEVELS)
    def put_many(self, t: int, pairs: list[tuple[int, int]], level: Durability | None) -> None:
        model, table = self.pick(t)
        items = [(model.key(k), model.value(v)) for k, v in pairs]
        try:
            lsn = self.retry(lambda: table.put_many(items, durability=level))
        except strandline.BatchTooLargeError:
            assert len(repr(items)) > 12000
            return
        model.data.update(items)
        self.logged(model, len(items), lsn)

    @rule(t=TABLE, pairs=st.dictionaries(KEY, VALUE, max_size=12))
    def update(self, t: int, pairs: dict[int, int]) -> None:
        model, table = self.pick(t)
        items = {model.key(k): model.value(v) for k, v in pairs.items()}
        for key, value in items.items():  # a refusal in the middle leaves a part: have none
            self.retry(partial(table.put, key, value))
            self.counted(model, 1)
        self.db.flush()
        self.close_snapshots()
        table.update(items)
        model.data.update(items)
        self.counted(model, len(items))
        if not model.logged:
            self.model.history.append(self.model.unlogged())

    @rule(
        parts=st.lists(st.tuples(TABLE, KEY, st.one_of(st.none(), VALUE)), max_size=8),
        unlogged=st.booleans(),
        level=LEVELS,
        fail=st.booleans(),
    )
    def batch(
        self,
        parts: list[tuple[int, int, int | None]],
        unlogged: bool,
        level: Durability | None,
        fail: bool,
    ) -> None:
        chosen = [
            (self.pick(t), k, v) for t, k, v in parts if self.pick(t)[0].logged is not unlogged
        ]

        def write() -> int | None:
            with self.db.batch(durability=level) as batch:
                for (model, table), k, v in chosen:
                    if v is None:
                        batch.table(table).delete(model.key(k))
                    else:
                        batch.table(table).put(model.key(k), model.value(v))
                assert len(chosen) == len(batch)
                if fail:
                    raise ZeroDivisionError
            return batch.lsn

        try:
            lsn = self.retry(write)
        except ZeroDivisionError:
            return
        except strandline.BatchTooLargeError:
            assert sum(v is not None and v >= 7 for _, _, v in chosen) > 1
            return
        for (model, _), k, v in chosen:
            if v is None:
                model.data.pop(model.key(k), None)
            else:
                model.data[model.key(k)] = model.value(v)
        if chosen:
            self.logged(chosen[0][0][0], len(chosen), lsn)

    @rule(t=TABLE, k=KEY, delta=st.sampled_from([1, -1, 0, 10**9, 1 << 62, -(1 << 63)]))
    def incr(self, t: int, k: int, delta: int) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        old = model.data.get(key, b"0")
        numeric = isinstance(old, bytes) and old.lstrip(b"-").isdigit()
        result = int(old) + delta if numeric else 0
        if model.value_codec != "bytes" or not numeric or not -(2**63) <= result < 2**63:
            try:
                self.retry(lambda: table.incr(key, delta))
            except InvalidRequestError:
                return
            raise AssertionError("a counter that cannot be was accepted")
        assert result == self.retry(lambda: table.incr(key, delta))
        model.data[key] = b"%d" % result
        self.counted(model, 1)

    @rule(t=TABLE, k=KEY, old=st.one_of(st.none(), VALUE), new=st.one_of(st.none(), VALUE))
    def compare_and_set(self, t: int, k: int, old: int | None, new: int | None) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        current = model.data.get(key, ABSENT)
        expected = current if old is None else model.value(old)
        wanted = ABSENT if new is None else model.value(new)
        same = current is expected or (current is not ABSENT and current == expected)
        # 0 == False and 1 == True in Python, and not in JSON.
        same = same and type(current) is type(expected)
        assert same == self.retry(lambda: table.compare_and_set(key, expected, wanted))
        if same:
            if new is None:
                model.data.pop(key, None)
            else:
                model.data[key] = wanted
            self.counted(model, 1)

    @rule(t=TABLE, k=KEY, v=VALUE, level=LEVELS)
    def setdefault(self, t: int, k: int, v: int, level: Durability | None) -> None:
        model, table = self.pick(t)
        key, value = model.key(k), model.value(v)
        found = self.retry(lambda: table.setdefault(key, value, durability=level))
        if key not in model.data:
            model.data[key] = value
            self.counted(model, 1)
        assert model.data[key] == found

    @rule(t=TABLE, k=KEY, level=LEVELS)
    def pop(self, t: int, k: int, level: Durability | None) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        there = key in model.data
        expected = model.data.pop(key, ABSENT)
        assert expected == self.retry(lambda: table.pop(key, ABSENT, durability=level))
        if there:
            self.counted(model, 1)

    @rule(t=TABLE)
    def popitem(self, t: int) -> None:
        model, table = self.pick(t)
        if not model.data:
            try:
                table.popitem()
            except KeyError:
                return
            raise AssertionError("popitem() of an empty table gave something")
        key = model.first_key()
        assert (key, model.data.pop(key)) == self.retry(table.popitem)
        self.counted(model, 1)

    @rule(t=TABLE, v=VALUE, level=LEVELS)
    def append(self, t: int, v: int, level: Durability | None) -> None:
        model, table = self.pick(t)
        if model.key_codec == "utf-8":
            return
        key = self.retry(lambda: table.append(model.value(v), durability=level))
        number = int.from_bytes(key, "big") if isinstance(key, bytes) else key
        assert model.birth not in self.appended or number > self.appended[model.birth]
        self.appended[model.birth] = number
        assert key not in model.data
        model.data[key] = model.value(v)
        self.counted(model, 1)
        assert not model.logged or number == self.lsn

    @rule(t=TABLE)
    def clear(self, t: int) -> None:
        model, table = self.pick(t)
        self.retry(table.clear)
        model.data.clear()
        self.counted(model, 1)

    # ---- reads

    @rule(t=TABLE, k=KEY)
    def get(self, t: int, k: int) -> None:
        model, table = self.pick(t)
        key = model.key(k)
        assert model.data.get(key, ABSENT) == table.get(key, ABSENT)
        assert (key in model.data) == (key in table)

    @rule(t=TABLE, ks=st.lists(KEY, max_size=6))
    def get_many(self, t: int, ks: list[int]) -> None:
        model, table = self.pick(t)
        keys = [model.key(k) for k in ks]
        assert {k: model.data[k] for k in keys if k in model.data} == table.get_many(keys)

    @rule(
        t=TABLE,
        start=st.one_of(st.none(), KEY),
        stop=st.one_of(st.none(), KEY),
        reverse=st.booleans(),
        limit=st.sampled_from([None, None, 0, 1, 2, 5, 1000]),
    )
    def scan(
        self, t: int, start: int | None, stop: int | None, reverse: bool, limit: int | None
    ) -> None:
        model, table = self.pick(t)
        low = None if start is None else model.key(start)
        high = None if stop is None else model.key(stop)
        found = list(table.scan(low, high, reverse=reverse, limit=limit))
        assert (
            model.scan(lambda k: (low is None or low <= k) and (high is None or k < high),
                       reverse, limit)
            == found
        )  # fmt: skip

    @rule(t=TABLE, length=st.integers(0, 3), k=KEY, reverse=st.booleans())
    def scan_prefix(self, t: int, length: int, k: int, reverse: bool) -> None:
        model, table = self.pick(t)
        if model.key_codec == "int64":
            return
        prefix = model.key(k)[:length]
        found = list(table.scan(prefix=prefix, reverse=reverse))
        assert model.scan(lambda key: key.startswith(prefix), reverse) == found

    @rule(t=TABLE)
    def whole(self, t: int) -> None:
        model, table = self.pick(t)
        self.compare(model, table)

    def compare(self, model: ModelTable, table: Table[Any, Any]) -> None:
        ordered = model.scan()
        assert ordered == list(table.items())
        assert [key for key, _ in ordered] == list(table)
        assert [value for _, value in ordered] == list(table.values())
        assert len(ordered) == len(table)
        assert bool(ordered) == bool(table)
        assert table == model.data

    # ---- snapshots

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule()
    def snapshot(self) -> None:
        taken = self.db.snapshot()
        assert self.lsn == taken.lsn
        self.snapshots.append((taken, self.model.copy(), self.lsn))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 2), close=st.booleans())
    def look_back(self, which: int, close: bool) -> None:
        at = which % len(self.snapshots)
        self.check_snapshot(*self.snapshots[at])
        if close:
            self.snapshots.pop(at)[0].close()

    def check_snapshot(self, taken: Snapshot, models: dict[str, ModelTable], lsn: int) -> None:
        assert lsn == taken.lsn
        for name, model in models.items():
            now = self.model.tables.get(name)
            if now is None or now.birth != model.birth:
                continue  # without a handle from before, a dropped table has no name
            view = taken.table(name) if name else taken
            ordered = model.scan()
            assert ordered == list(view.scan())
            assert ordered[::-1] == list(view.scan(reverse=True))
            assert dict(ordered[:3]) == view.get_many([key for key, _ in ordered[:3]])
            for index in range(12):
                key = model.key(index)
                assert model.data.get(key, ABSENT) == view.get(key, ABSENT)

    # ---- the store as a whole

    @rule()
    def sync(self) -> None:
        self.db.sync()
        assert self.lsn == self.db.stats().synced_lsn

    @rule()
    def flush(self) -> None:
        report = self.db.flush()
        assert (0, 0) == (report.parked, report.remaining)
        assert self.lsn == self.db.stats().stored_lsn
        assert self.db.wait_stored(self.lsn, timeout=0)
        self.model.stored()

    @precondition(lambda self: len(self.model.tables) < 6)
    @rule(
        codec=st.sampled_from(["bytes", "json", "int64/msgpack", "utf-8", "int64/bytes"]),
        logged=st.booleans(),
        again=st.integers(0, 2),
    )
    def create(self, codec: str, logged: bool, again: int) -> None:
        if f"made{again}" not in self.model.tables:
            self.make(f"made{again}", codec, logged)
        assert sorted(n for n in self.model.tables if n) == self.db.tables()

    @precondition(lambda self: len(self.model.tables) > 3)
    @rule(t=st.integers(0, 2))
    def drop(self, t: int) -> None:
        names = [name for name in sorted(self.model.tables) if name.startswith("made")]
        name = names[t % len(names)]
        handle = self.db.table(name)
        self.retry(lambda: self.db.drop_table(name))
        self.lsn += 1
        model = self.model.tables.pop(name)
        for refuse in (handle.clear, lambda: handle.delete(model.key(0))):
            try:
                refuse()  # type: ignore[no-untyped-call]
            except InvalidRequestError:
                continue
            raise AssertionError("a table that was dropped took a write")
        assert 0 == len(handle)

    @rule()
    def reopen(self) -> None:
        self.end(drain=True)
        self.open()
        assert self.db.recovery_report.clean
        assert 0 == self.db.recovery_report.operations_replayed
        self.model.stored()

    @rule()
    def crash(self) -> None:
        self.end(drain=False)
        self.open()
        self.model.after_crash(
            {n: dict(self.db.table(n)) for n, t in self.model.tables.items() if not t.logged}
        )

    def end(self, drain: bool) -> None:
        self.close_snapshots()
        report = self.db.close(drain=drain)
        assert not drain or report.remaining == 0
        self.appended.clear()

    @invariant()
    def is_well(self) -> None:
        if hasattr(self, "db"):
            health = self.db.health()
            assert health.state in (HealthState.OK, HealthState.THROTTLED), health.reason
            stats = self.db.stats()
            assert self.lsn == stats.last_lsn
            assert stats.stored_lsn <= stats.synced_lsn <= self.lsn
            assert stats.checkpoint_failures == 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "db"):
                for each in self.snapshots:
                    self.check_snapshot(*each)
                for name, model in self.model.tables.items():
                    self.compare(model, self.db.table(name))
                self.crash()
                for name, model in self.model.tables.items():
                    self.compare(model, self.db.table(name))
                self.db.close()
        finally:
            shutil.rmtree(self.path)


TestStateMachine = Machine.TestCase
TestStateMachine.settings = settings(
    max_examples=max(10, settings.default.max_examples * 3 // 4),  # type: ignore[union-attr]
    stateful_step_count=40,
    print_blob=True,
)
