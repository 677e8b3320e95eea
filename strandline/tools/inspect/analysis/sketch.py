"""Counting in bounded memory what could fill any: different keys, and the hottest ones.

`DistinctKeys` keeps hashes (xxh3-64) of keys: all of them at first, so that it is exact;
where they become too many, of the table that has the most only those below half of the
limit so far (adaptive sampling, Wegman). What is left is a fair sample of that table's
keys, however often each occurred. With n hashes left the standard error is 1 / sqrt(n):
0.4 % with half of the budget.

`HeavyHitters` keeps counters of keys (Misra-Gries, merged a batch at a time, with the
counts of Space-Saving). Where they become more than twice `capacity`, those that are not above
the one behind the `capacity` highest go; `missed` is the highest that went. It holds that

    a key without a counter was counted `missed` times at the most,
    one with a counter never more often than that says, and at most `too_many` less,
    `too_many` <= `missed` <= additions / (capacity + 1).

The memory of both is bounded by how many entries they keep, never by the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from heapq import nlargest
from itertools import chain, repeat
from typing import Final

import xxhash

from strandline.tools.inspect.analysis.figures import Estimate, Hot, HotList

HASHES: Final = 1 << 17
"""How many hashes are kept, of all tables together."""
COUNTERS: Final = 1 << 12
"""How many keys have a counter for certain, of all tables together."""

_BITS: Final = 64
_hash: Callable[[bytes, int], int] = xxhash.xxh3_64_intdigest


class _Sample:
    """Hashes of a table's keys below a limit."""

    def __init__(self) -> None:
        self.halvings = 0
        self.voided: set[int] = set()
        """Of keys that were there before the table was cleared; can be in `valid`, too."""
        self.valid: set[int] = set()

    @property
    def size(self) -> int:
        return len(self.voided) + len(self.valid)

    @property
    def limit(self) -> int:
        return 1 << (_BITS - self.halvings)

    def halve(self) -> None:
        self.halvings += 1
        limit = self.limit
        self.voided = {each for each in self.voided if each < limit}
        self.valid = {each for each in self.valid if each < limit}

    def estimate(self, found: int) -> Estimate:
        if not self.halvings:
            return Estimate(found, True)
        return Estimate(found << self.halvings, False, 1 / math.sqrt(max(1, found)))


class DistinctKeys:
    """How many different keys each table has."""

    def __init__(self, budget: int = HASHES) -> None:
        self._budget = budget
        self._samples: dict[int, _Sample] = {}
        self._entries = 0

    @property
    def entries(self) -> int:
        """How many hashes are kept: never more than the budget once an `add` is done."""
        return self._entries

    def add(self, table_id: int, keys: Collection[bytes], seed: int = 0) -> None:
        """Take in keys; the same key with another seed is another key."""
        sample = self._sample(table_id)
        before = len(sample.valid)
        hashes = map(_hash, keys, repeat(seed))
        if sample.halvings:
            limit = sample.limit
            sample.valid.update([each for each in hashes if each < limit])
        else:
            sample.valid.update(hashes)
        self._entries += len(sample.valid) - before
        while self._entries > self._budget:
            self._thin()

    def clear(self, table_id: int) -> None:
        """Note that all keys of a table so far are void."""
        sample = self._sample(table_id)
        before = sample.size
        sample.voided |= sample.valid
        sample.valid = set()
        self._entries += sample.size - before

    def count(self, table_id: int) -> Estimate:
        """Return how many keys a table has had."""
        sample = self._sample(table_id)
        voided = sample.voided
        return sample.estimate(len(voided | sample.valid) if voided else len(sample.valid))

    def valid(self, table_id: int) -> Estimate:
        """Return how many keys a table has had since it was last cleared."""
        sample = self._sample(table_id)
        return sample.estimate(len(sample.valid))

    def _sample(self, table_id: int) -> _Sample:
        return self._samples.setdefault(table_id, _Sample())

    def _thin(self) -> None:
        """Halve the largest sample, so that small tables stay exact."""
        largest = max(self._samples.values(), key=lambda each: each.size)
        before = largest.size
        largest.halve()
        self._entries += largest.size - before


def total(estimates: Collection[Estimate]) -> Estimate:
    """Return the sum of estimates that are independent of each other."""
    value = sum(each.value for each in estimates)
    if all(each.exact for each in estimates):
        return Estimate(value, True)
    spread = math.sqrt(sum((each.value * each.error) ** 2 for each in estimates))
    return Estimate(value, False, spread / max(1, value))


class HeavyHitters:
    """The keys that occur most often, of all tables."""

    def __init__(self, capacity: int = COUNTERS) -> None:
        self._capacity = capacity
        self._counts: dict[int, dict[bytes, int]] = {}
        self._too_many: dict[int, dict[bytes, int]] = {}
        """Only what is not 0."""
        self.missed = 0
        self._entries = 0

    @property
    def entries(self) -> int:
        """How many counters are kept: never more than twice the capacity once `add` is done."""
        return self._entries

    def add(self, table_id: int, fresh: dict[bytes, int]) -> None:
        """Take in how often keys of a table occurred. What `fresh` holds afterwards is not said."""
        counts = self._counts.setdefault(table_id, {})
        for key in fresh.keys() & counts.keys():
            counts[key] += fresh.pop(key)
        missed = self.missed
        # Twice, so that there is something to do only after many have come.
        if self._entries + len(fresh) > 2 * self._capacity:
            fresh = self._make_room(fresh)
        self._entries += len(fresh)
        if missed:
            counts.update([(key, missed + times) for key, times in fresh.items()])
            self._too_many.setdefault(table_id, {}).update(dict.fromkeys(fresh, missed))
        else:
            counts.update(fresh)

    def top(self, most: int) -> HotList:
        """Return the hottest keys, of those that are surely hotter than any without a counter.

        A key that occurred more than 2 * `missed` times is always one of them.
        """
        found = [
            Hot(table_id, key, count, too_many)
            for table_id, counts in self._counts.items()
            for key, count in counts.items()
            for too_many in [self._too_many.get(table_id, {}).get(key, 0)]
            if count - too_many > self.missed
        ]
        # Of those that are equal, always the same ones.
        best = nlargest(most, found, key=lambda hot: (hot.count, -hot.too_many, hot.key))
        return HotList(found=best, missed=self.missed)

    def _make_room(self, fresh: dict[bytes, int]) -> dict[bytes, int]:
        """Drop all that is not among the highest; return what of `fresh` is."""
        missed = self.missed
        kept = chain.from_iterable(each.values() for each in self._counts.values())
        every = sorted(chain(kept, [missed + times for times in fresh.values()]), reverse=True)
        self.missed = every[self._capacity]
        for table_id, counts in list(self._counts.items()):
            left = {key: times for key, times in counts.items() if times > self.missed}
            errors = self._too_many.get(table_id)
            if errors:
                self._too_many[table_id] = {
                    key: error for key, error in errors.items() if key in left
                }
            # In place: `add` holds on to it.
            counts.clear()
            counts.update(left)
        self._entries = sum(map(len, self._counts.values()))
        least = self.missed - missed
        return {key: times for key, times in fresh.items() if times > least}
