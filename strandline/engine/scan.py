"""Ordered scans: the sorted keys of the layers merged with an LMDB cursor, chunk by chunk.

A chunk takes up to N keys from every source. The least of the last keys of those sources
that had N bounds what can be decided; everything up to that bound is merged in a few
calls, not key by key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from strandline.engine.layer import Layer, visible
from strandline.engine.snapshots import SnapshotState
from strandline.engine.sorted_keys import Runs
from strandline.engine.table_state import TableState
from strandline.errors import InvalidRequestError

_FIRST_CHUNK: Final = 128
_LARGEST_CHUNK: Final = 2048

Items = list[tuple[bytes, bytes]]


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
    sources = [(layer, layer.order.runs()) for layer in view.layers if layer.entries]
    size = min(limit or _FIRST_CHUNK, _LARGEST_CHUNK)
    left = limit
    while True:
        stored: Items = []
        if view.reads_store:
            stored = snapshot.txn.chunk(state.id, start, stop, reverse, size)
        bound = stored[-1][0] if len(stored) == size else None
        touched: list[tuple[Layer, list[bytes]]] = []
        for layer, runs in sources:
            keys, bound = _take(runs, start, stop, reverse, size, bound)
            if keys:
                touched.append((layer, keys))
        items = stored
        if touched or (stored and bound is not None and bound != stored[-1][0]):
            items = _merge(stored, touched, bound, version, reverse)
        if left is not None:
            items = items[:left]
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
        size = min(size * 4, _LARGEST_CHUNK, left or _LARGEST_CHUNK)
        size = max(size, 16)


def note_keys(snapshot: SnapshotState, state: TableState) -> None:
    """Let the layers that a scan will read take note of new keys. Under the mutex."""
    view = snapshot.views.get(state.id)
    if view is not None:
        for layer in view.layers:
            layer.order.note()


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


def _merge(
    stored: Items,
    touched: list[tuple[Layer, list[bytes]]],
    bound: bytes | None,
    version: int,
    reverse: bool,
) -> Items:
    """Lay the layers' entries over the stored ones, up to the bound."""
    merged: dict[bytes, bytes | None] = dict(stored)
    for layer, keys in reversed(touched):
        entries = layer.entries
        for key in keys:
            entry = entries[key]
            if entry[0] > version:
                seen = visible(entry, version)
                if seen is None:
                    continue
                entry = seen
            merged[key] = entry[1]
    ordered = sorted(merged, reverse=reverse)
    if bound is not None:
        ordered = [k for k in ordered if (k >= bound if reverse else k <= bound)]
    return [(k, v) for k in ordered if (v := merged[k]) is not None]
