"""The sorted keys of a layer, kept sorted as it grows.

Writers do nothing for it: a dict keeps insertion order and an entry is never removed, so
the keys that came since the last look are the last ones of the dict. They become a
sorted run; runs of like size are merged, so that a key is moved O(log n) times.

Sorting does not hold the interpreter: in C it lets go of it, and without C it is done in
slices of a few thousand keys, none of which takes more than about a millisecond. One `sort`
of 200,000 keys would stop every thread for 31 ms.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from strandline.errors import InvalidRequestError
from strandline.native import native
from strandline.wal.runtime import Runtime

_SLICE: Final = 4096
_SORTED_AT_ONCE: Final = 64
_COPIED: Final = 1 << 16
"""Keys that are copied in one go: half a millisecond."""

Runs = tuple[list[bytes], ...]


class SortedKeys:
    """Sorted runs over the keys of a dict that only grows."""

    __slots__ = ("_entries", "_known", "_lock", "_pending", "_runs")

    def __init__(self, entries: dict[bytes, Any], runtime: Runtime) -> None:
        self._entries = entries
        self._known = 0
        self._pending: list[list[bytes]] = []
        self._runs: Runs = ()
        self._lock = runtime.owned_lock()

    def note(self) -> None:
        """Take note of keys that are new. The caller keeps writers out meanwhile."""
        new = len(self._entries) - self._known
        if new:
            fresh = list(islice(reversed(self._entries), new))
            self._pending += (fresh,)  # no interrupt can strike between these two
            self._known += new

    def at_once(self) -> Runs | None:
        """Return sorted runs that hold every key there is, where little has to be sorted for it.

        None where it is much. The caller keeps writers out; no lock is taken.
        """
        new = len(self._entries) - self._known
        if self._pending or new > _SORTED_AT_ONCE:
            return None
        if not new:
            return self._runs
        return (*self._runs, sorted(islice(reversed(self._entries), new)))

    def runs(self, pause: Callable[[], None] | None = None) -> Runs:
        """Return sorted runs that hold every key noted so far; never changed afterwards.

        `pause` is called between slices, for a background thread to step aside.
        """
        if not self._pending:
            return self._runs
        if self._lock._is_owned():
            raise InvalidRequestError(
                "a scan was started from a signal handler or a finalizer while the same thread "
                "was sorting keys for another; run it from ordinary code"
            )
        with self._lock:
            while self._pending:
                runs = [*self._runs, sort_in_slices(self._pending[0], pause)]
                while len(runs) > 1 and len(runs[-2]) <= 2 * len(runs[-1]):
                    newer = runs.pop()
                    runs[-1] = merge_in_slices(runs[-1], newer, pause)
                self._runs = tuple(runs)
                self._pending.pop(0)
            return self._runs

    def all_sorted(self, pause: Callable[[], None] | None = None) -> list[bytes]:
        """Return every key noted so far in one sorted list."""
        runs = self.runs(pause)
        merged: list[bytes] = []
        for run in reversed(runs):
            merged = merge_in_slices(run, merged, pause) if merged else run
        return merged


def sort_in_slices(keys: list[bytes], pause: Callable[[], None] | None) -> list[bytes]:
    """Return `keys` sorted. The list is the caller's own and of no use to it afterwards."""
    if native is not None:
        native.sort_keys(keys)
        return keys
    if len(keys) <= _SLICE:
        return sorted(keys)
    runs = []
    for at in range(0, len(keys), _SLICE):
        runs.append(sorted(keys[at : at + _SLICE]))
        if pause is not None:
            pause()
    while len(runs) > 1:
        pairs = [runs[at : at + 2] for at in range(0, len(runs), 2)]
        runs = [
            merge_in_slices(pair[0], pair[1], pause) if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return runs[0]


def merge_in_slices(
    left: list[bytes], right: list[bytes], pause: Callable[[], None] | None
) -> list[bytes]:
    """Return two sorted lists without common keys as one."""
    merged: list[bytes] = []
    if native is not None:
        for part in (left, right):
            for at in range(0, len(part), _COPIED):
                merged += part[at : at + _COPIED]
        native.sort_keys(merged)
        return merged
    at = 0
    for start in range(0, len(left), _SLICE):
        piece = left[start : start + _SLICE]
        end = bisect_right(right, piece[-1], at)
        for middle in range(at, max(end, at + 1), _SLICE):
            upper = min(middle + _SLICE, end)
            last = upper == end
            cut = len(piece) if last else bisect_left(piece, right[upper])
            merged += sorted(piece[:cut] + right[middle:upper])
            piece = piece[cut:]
            if pause is not None:
                pause()
        at = end
    merged += right[at:]
    return merged
