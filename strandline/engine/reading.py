"""Reads of more than one key: many at once, counting, iterating."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from strandline.engine.backing import ViewRetiredError
from strandline.engine.definitions import refuse_inside
from strandline.engine.engine import Engine
from strandline.engine.layer import View, visible
from strandline.engine.scan import Items, note_keys, scan_chunks
from strandline.engine.snapshots import SnapshotState
from strandline.engine.table_state import TableState

if TYPE_CHECKING:
    from strandline.engine.table import Table

_COUNT_AT_ONCE = 1000


def get_many(engine: Engine, state: TableState, keys: list[bytes]) -> dict[bytes, bytes]:
    """Return the values of the keys that are present, whole commits of them."""
    refuse_inside(engine)
    while True:
        if engine.closing:
            engine.check_open()
        with engine.log.mutex:
            engine.log.settle()
            view, read_view = state.view, engine.index.read_view
            found, missing = _look_up(view, keys)
        if not missing or not view.reads_store:
            return found
        try:
            found.update(read_view.get_many(state.id, missing))
        except ViewRetiredError:
            continue  # a checkpoint took its place: layers and LMDB no longer fit together
        return found


def _look_up(view: View, keys: list[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return what the layers say of some keys, and those that they do not know."""
    found: dict[bytes, bytes] = {}
    missing: list[bytes] = []
    for key in keys:
        for layer in view.layers:
            entry = layer.entries.get(key)
            if entry is not None:
                if entry[1] is not None:
                    found[key] = entry[1]
                break
        else:
            missing.append(key)
    return found, missing


def count_entries(engine: Engine, state: TableState) -> int:
    """Return how many keys a table has, at the cost of its dirty entries."""
    snapshot = SnapshotState(engine)
    try:
        view = snapshot.views.get(state.id)
        if view is None:
            return 0
        version = snapshot.version(state)
        dirty: dict[bytes, bool] = {}
        for layer in reversed(view.layers):
            with engine.log.mutex:
                layer.order.note()
            for run in layer.order.runs():
                for key in run:
                    entry = visible(layer.entries[key], version)
                    if entry is not None:
                        dirty[key] = entry[1] is not None
        total = sum(dirty.values())
        if view.reads_store:
            total += snapshot.txn.entries(state.id)
            keys = list(dirty)
            for at in range(0, len(keys), _COUNT_AT_ONCE):
                total -= len(snapshot.txn.get_many(state.id, keys[at : at + _COUNT_AT_ONCE]))
        return total
    finally:
        snapshot.close()


def iterate(
    table: Table[Any, Any],
    snapshot: SnapshotState,
    bounds: tuple[bytes | None, bytes | None],
    reverse: bool,
    limit: int | None,
    *,
    owned: bool,
) -> Iterator[tuple[Any, Any]]:
    """Iterate over the decoded (key, value) pairs of a table as of `snapshot`.

    The first chunk is read at once. Where it is all there is, an `owned` snapshot is
    closed before this returns; otherwise when the iterator ends or is dropped.
    """
    chunks = _chunks(table, snapshot, bounds, reverse, limit, owned=owned)
    first = next(chunks, [])
    raw: Iterator[tuple[bytes, bytes]] = chain(first, chain.from_iterable(chunks))
    codec = table._codec
    if codec is None:
        return raw
    return ((codec.decode_key(key), codec.decode_value(value)) for key, value in raw)


def _chunks(
    table: Table[Any, Any],
    snapshot: SnapshotState,
    bounds: tuple[bytes | None, bytes | None],
    reverse: bool,
    limit: int | None,
    *,
    owned: bool,
) -> Iterator[Items]:
    """Yield the chunks of a scan and see to it that the snapshot is closed after the last."""
    engine, state = table._store.engine, table._state
    if engine.closed_fully:
        engine.check_open()
    try:
        with engine.log.mutex:
            note_keys(snapshot, state)
        for chunk, last in scan_chunks(snapshot, state, bounds[0], bounds[1], reverse, limit):
            if last and owned:
                snapshot.close()
            yield chunk
    except GeneratorExit:  # dropped half-way, maybe by the garbage collector: take no lock
        raise
    except BaseException:
        if owned:
            snapshot.close()
        raise
    if owned:
        snapshot.close()
