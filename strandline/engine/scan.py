"""Ordered scans: the sorted keys of the layers merged with an LMDB cursor, chunk by chunk.

A chunk takes up to N rows from LMDB and walks the layers' sorted runs beside them. Without C
it takes up to N keys from every run; the least of the last keys of those sources that had N
bounds what can be decided, and everything up to that bound is merged in a few calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from strandline.engine.layer import Entries, visible
from strandline.engine.snapshots import SnapshotState
from strandline.engine.sorted_keys import Runs
from strandline.engine.table_state import TableState
from strandline.errors import InvalidRequestError
from strandline.native import native

_FIRST_CHUNK: Final = 128
_LARGEST_CHUNK: Final = 2048

Items = list[tuple[bytes, bytes]]
Sources = list[tuple[Entries, Runs]]
"""Layers, newest first: the entries of each, and sorted runs over their keys."""


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the first key above all that begin with `prefix`, None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def bounds_of(
    start: bytes | None, stop: bytes | None, prefix: bytes | None
) -> tuple[bytes | None, bytes | None]:
    """Return start and stop of a scan; `prefix` excludes both."""
    if prefix is None:
        return start, stop
    if start is not None or stop is not None:
        raise InvalidRequestError("scan: give either prefix or start and stop, not both")
    return prefix or None, prefix_end(prefix)


def scan_chunks(
    snapshot: SnapshotState,
    state: TableState,
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
    limit: int | None,
) -> Iterator[tuple[Items, bool]]:
    """Yield the entries of a table as of a snapshot, in order: (list, whether it is the last)."""
    view = snapshot.views.get(state.id)
    if view is None or limit == 0:
        return
    version = snapshot.version(state)
    layers = [(layer.entries, layer.order.runs()) for layer in view.layers if layer.entries]
    size = min(limit or _FIRST_CHUNK, _LARGEST_CHUNK)
    left = limit
    while True:
        items: Items = []
        if view.reads_store:
            items = snapshot.txn.chunk(state.id, start, stop, reverse, size)
        bound = items[-1][0] if len(items) == size else None
        if layers:
            items, bound = merge_chunk(items, bound, layers, version, start, stop, size, reverse)
        if left is not None:
            left -= len(items)
        last = bound is None or left == 0
        if items or last:
            yield items, last
        if last:
            return
        if reverse:
            stop = bound
        else:
            start = (bound or b"") + b"\0"
        size = max(16, min(size * 4, _LARGEST_CHUNK))
        if left is not None:
            size = min(size, left)


def note_keys(snapshot: SnapshotState, state: TableState) -> None:
    """Let the layers that a scan will read take note of new keys. Under the mutex."""
    view = snapshot.views.get(state.id)
    if view is not None:
        for layer in view.layers:
            layer.order.note()


def merge_chunk(  # noqa: PLR0917 - as its twin in C takes them
    stored: Items,
    bound: bytes | None,
    layers: Sources,
    version: int,
    start: bytes | None,
    stop: bytes | None,
    limit: int,
    reverse: bool,
) -> tuple[Items, bytes | None]:
    """Lay layers over stored rows; return at most `limit` rows and the key to go on behind.

    `stored` are rows in the order of the scan, all that there are up to `bound`, or to the
    end where that is None. The key is None where nothing comes behind the rows.
    """
    merged: dict[bytes, bytes | None] = dict(stored)
    touched: list[tuple[Entries, list[bytes]]] = []
    for entries, runs in layers:
        keys, bound = _take(runs, start, stop, reverse, limit, bound)
        touched.append((entries, keys))
    for entries, keys in reversed(touched):
        for key in keys:
            seen = visible(entries[key], version)
            if seen is not None:
                merged[key] = seen[1]
    ordered = sorted(merged, reverse=reverse)
    if bound is not None:
        ordered = [k for k in ordered if (k >= bound if reverse else k <= bound)]
    items = [(k, v) for k in ordered if (v := merged[k]) is not None]
    if len(items) > limit:
        del items[limit:]
        bound = items[-1][0]
    return items, bound


PYTHON: Final = (merge_chunk,)
"""The function of this module that has a twin in C, as it is without it."""

if native is not None:
    merge_chunk = native.merge_chunk


def _take(
    runs: Runs,
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
    size: int,
    bound: bytes | None,
) -> tuple[list[bytes], bytes | None]:
    """Return up to `size` keys of each run within the range, and the bound with them in it."""
    taken: list[bytes] = []
    for run in runs:
        low = 0 if start is None else bisect_left(run, start)
        high = len(run) if stop is None else bisect_left(run, stop, low)
        if high <= low:
            continue
        if high - low >= size:
            keys = run[high - size : high] if reverse else run[low : low + size]
            last = keys[0] if reverse else keys[-1]
            if bound is None or (last > bound if reverse else last < bound):
                bound = last
            taken += keys
        else:
            taken += run[low:high]
    return taken, bound
