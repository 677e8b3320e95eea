"""Counting operations, a batch of frames at a time.

What is done for each operation is done by functions in C over lists of them: `Counter`,
`map`, `set.update`. A batch ends where the time bucket ends, so that all of it belongs to
one, and where it has grown large.

The prefix of a key is all up to and including its first separator, one of `: / | . # - _`
and NUL; those that it begins with do not count. A key without one, and one of a table
whose keys are integers, has no prefix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Final

from strandline.engine.operations import (
    CLEAR,
    CREATE,
    DELETE,
    DROP,
    OPERATION_MASK,
    OPERATION_NAMES,
    PUT,
    TAG_SHIFT,
    VOID,
)
from strandline.tools.inspect.analysis.figures import OTHER, Estimate, TableFigures
from strandline.tools.inspect.analysis.rates import RateCounter
from strandline.tools.inspect.analysis.sketch import DistinctKeys, HeavyHitters, total
from strandline.tools.inspect.frames import Tables, table_of

ROWS: Final = 1024
"""How many tables have a row of their own."""

_BATCH_OPERATIONS: Final = 1 << 15
_BATCH_BYTES: Final = 4 << 20
_PART: Final = 1 << 16
"""How many of a batch are counted at once: one frame alone can hold far more."""
_ORDER: Final = (PUT, DELETE, CLEAR, CREATE, DROP, VOID)
_EMPTYING: Final = (CLEAR, DROP)

_SEPARATORS: Final = rb":/|.#\-_\0"
_prefix: Final = re.compile(rb"[%b]*[^%b]+[%b]" % ((_SEPARATORS,) * 3)).match

Column = list[bytes | None]


@dataclass(slots=True)
class _Row:
    kinds: Counter[int] = field(default_factory=Counter)
    key_bytes: int = 0
    value_bytes: int = 0
    frames: int = 0

    def figures(
        self,
        table_id: int | None,
        tables: Tables,
        distinct: Estimate,
        valid: Estimate,
    ) -> TableFigures:
        named = table_id not in (None, OTHER)
        return TableFigures(
            table_id=table_id,
            name=tables.name(table_id) if named and table_id is not None else "",
            codec=tables.codec(table_id) if named and table_id is not None else "",
            kinds={OPERATION_NAMES[op]: self.kinds[op] for op in _ORDER if self.kinds[op]},
            key_bytes=self.key_bytes,
            value_bytes=self.value_bytes,
            frames=self.frames,
            distinct=distinct,
            overwritten=_overwritten(self.kinds[PUT] + self.kinds[DELETE], valid),
        )


class OperationCounter:
    """Counts the operations of a log by table, time and key."""

    def __init__(self, tables: Tables, wanted: Callable[[int], bool] | None = None) -> None:
        """Count those of tables that are `wanted`, None for all."""
        self.rates = RateCounter()
        self.operations = 0
        self.hot_keys = HeavyHitters()
        self.hot_prefixes = HeavyHitters()
        self.distinct = DistinctKeys()
        self._tables = tables
        self._wanted = wanted
        self._rows: dict[int, _Row] = {}
        self._frames = 0
        self._tags: list[int] = []
        self._keys: Column = []
        self._values: Column = []
        self._bytes = 0
        self._window = self.rates.window(0)

    def take(self, time_ns: int, tags: list[int], keys: Column, values: Column, size: int) -> None:
        """Take in operations of a frame; `size` is about how many bytes they have."""
        self._open(time_ns)
        kinds = set(tags)
        self._define(kinds, tags, keys, values)
        count = len(tags)
        tags, keys, values = self._filter(kinds, tags, keys, values)
        for table_id in {*map(table_of, kinds)} if len(tags) == count else {*map(table_of, tags)}:
            self._row(table_id).frames += 1
        if tags:
            self._append(tags, keys, values, size, 1)

    def take_singles(
        self, times: list[int], tags: list[int], keys: Column, values: Column, size: int
    ) -> None:
        """Take in frames of one operation each, as `take` would one by one."""
        start = 0
        first, last = min(times), max(times)
        while start < len(times):
            self._open(times[start])
            same = first in self._window and last in self._window
            end = len(times) if same else self._same(times, start)
            part = slice(start, end)
            some = tags[part], keys[part], values[part]
            kinds = set(some[0])
            self._define(kinds, *some)
            some = self._filter(kinds, *some)
            for tag, frames in Counter(some[0]).items():
                self._row(tag >> TAG_SHIFT).frames += frames
            self._append(*some, size * (end - start) // len(times), len(some[0]))
            start = end

    def flush(self) -> None:
        """Count what was taken in and not counted yet."""
        tags, keys, values = self._tags, self._keys, self._values
        if not tags:
            return
        self._tags, self._keys, self._values, self._bytes = [], [], [], 0
        operations: Counter[int] = Counter()
        data_bytes: Counter[int] = Counter()
        start = 0
        if any(kind & OPERATION_MASK in _EMPTYING for kind in set(tags)):
            # What stands before a clear is void and what follows is not: they are apart.
            for at, tag in enumerate(tags):
                if tag & OPERATION_MASK in _EMPTYING:
                    part = slice(start, at)
                    self._count(tags[part], keys[part], values[part], operations, data_bytes)
                    if self._of(table_of(tag)) != OTHER:
                        self.distinct.clear(table_of(tag))
                    start = at
        if start:
            tags, keys, values = tags[start:], keys[start:], values[start:]
        self._count(tags, keys, values, operations, data_bytes)
        self.rates.add(self._window.start, operations, data_bytes)

    def result(self) -> tuple[list[TableFigures], TableFigures]:
        """Return the figures of tables, and of all together, once all is flushed."""
        found = []
        every = _Row(frames=self._frames)
        valid = []
        for table_id, row in self._rows.items():
            valid.append(self.distinct.valid(table_id))
            distinct = self.distinct.count(table_id)
            found.append(row.figures(table_id, self._tables, distinct, valid[-1]))
            every.kinds += row.kinds
            every.key_bytes += row.key_bytes
            every.value_bytes += row.value_bytes
        found.sort(key=lambda each: (-each.operations, each.table_id))
        distinct = total([each.distinct for each in found])
        return found, every.figures(None, self._tables, distinct, total(valid))

    def _open(self, time_ns: int) -> None:
        """Begin another batch where a time is not of this one's bucket, or it is large."""
        if (
            time_ns not in self._window
            or len(self._tags) >= _BATCH_OPERATIONS
            or self._bytes >= _BATCH_BYTES
        ):
            self.flush()
            self._window = self.rates.window(time_ns)

    def _same(self, times: list[int], start: int) -> int:
        """Return up to where times are of this batch's bucket; the first one is."""
        low, high = self._window.start, self._window.stop
        end = start + 1
        while end < len(times) and low <= times[end] < high:
            end += 1
        return end

    def _append(
        self, tags: list[int], keys: Column, values: Column, size: int, frames: int
    ) -> None:
        self._frames += frames
        self.operations += len(tags)
        self._tags += tags
        self._keys += keys
        self._values += values
        self._bytes += size

    def _define(self, kinds: set[int], tags: list[int], keys: Column, values: Column) -> None:
        if any(kind & OPERATION_MASK == CREATE for kind in kinds):
            for tag, key, value in zip(tags, keys, values, strict=True):
                if tag & OPERATION_MASK == CREATE:
                    self._tables.define(table_of(tag), key, value)

    def _filter(
        self, kinds: set[int], tags: list[int], keys: Column, values: Column
    ) -> tuple[list[int], Column, Column]:
        if self._wanted is None:
            return tags, keys, values
        good = {kind for kind in kinds if self._wanted(table_of(kind))}
        if good == kinds:
            return tags, keys, values
        mask = [tag in good for tag in tags]
        return (
            list(compress(tags, mask)),
            list(compress(keys, mask)),
            list(compress(values, mask)),
        )

    def _of(self, table_id: int) -> int:
        """Return under which id a table is counted."""
        return table_id if table_id in self._rows or len(self._rows) < ROWS else OTHER

    def _row(self, table_id: int) -> _Row:
        one = self._of(table_id)
        row = self._rows.get(one)
        if row is None:
            row = self._rows[one] = _Row()
        return row

    def _count(
        self,
        tags: list[int],
        keys: Column,
        values: Column,
        operations: Counter[int],
        data_bytes: Counter[int],
    ) -> None:
        """Count operations among which no clear or drop follows another operation."""
        for start in range(0, len(tags), _PART):
            part = slice(start, start + _PART)
            self._count_part(tags[part], keys[part], values[part], operations, data_bytes)

    def _count_part(
        self,
        tags: list[int],
        keys: Column,
        values: Column,
        operations: Counter[int],
        data_bytes: Counter[int],
    ) -> None:
        touched: dict[int, Column] = {}
        for tag, (some_keys, some_values) in _by_tag(tags, keys, values).items():
            table_id, op = tag >> TAG_SHIFT, tag & OPERATION_MASK
            one = self._of(table_id)
            row = self._row(table_id)
            key_bytes = sum(map(len, filter(None, some_keys)))
            value_bytes = sum(map(len, filter(None, some_values)))
            row.kinds[op] += len(some_keys)
            row.key_bytes += key_bytes
            row.value_bytes += value_bytes
            operations[one] += len(some_keys)
            data_bytes[one] += key_bytes + value_bytes
            if op in (PUT, DELETE):
                before = touched.get(table_id)
                touched[table_id] = some_keys if before is None else before + some_keys
        for table_id, some_keys in touched.items():
            self._count_keys(table_id, self._of(table_id), some_keys)

    def _count_keys(self, table_id: int, one: int, keys: Column) -> None:
        found: Counter[bytes | None] = Counter(keys)
        found.pop(None, None)  # nonsense that can be written
        counts: dict[bytes, int] = found  # type: ignore[assignment]
        # Equal keys of different tables in one row are different keys.
        self.distinct.add(one, counts.keys(), table_id if one == OTHER else 0)
        if not self._tables.codec(table_id).startswith("int64"):
            prefixes: Counter[bytes] = Counter()
            for key, times in counts.items():
                match = _prefix(key)
                if match is not None:
                    prefixes[match[0]] += times
            self.hot_prefixes.add(one, prefixes)
        self.hot_keys.add(one, counts)


def _by_tag(tags: list[int], keys: Column, values: Column) -> dict[int, tuple[Column, Column]]:
    """Return keys and values by tag, in order."""
    kinds = set(tags)
    if len(kinds) == 1:
        return {tags[0]: (keys, values)}
    found: dict[int, tuple[Column, Column]] = {kind: ([], []) for kind in kinds}
    for tag, key, value in zip(tags, keys, values, strict=True):
        of_tag = found[tag]
        of_tag[0].append(key)
        of_tag[1].append(value)
    return found


def _overwritten(keyed: int, valid: Estimate) -> Estimate:
    """Return how many of so many puts and deletes are void: all but the last of each key."""
    value = max(0, keyed - valid.value)
    error = 0.0 if valid.exact else valid.value * valid.error / max(1, value)
    return Estimate(value, valid.exact, error)
