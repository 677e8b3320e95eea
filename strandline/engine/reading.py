"""Reads of more than one key: many at once, counting, iterating."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from strandline.codecs import Codec
from strandline.engine.backing import ViewRetiredError
from strandline.engine.definitions import refuse_inside
from strandline.engine.engine import Engine
from strandline.engine.layer import NEWEST, View, visible
from strandline.engine.scan import Items, Sources, merge_chunk, note_keys, scan_chunks
from strandline.engine.snapshots import SnapshotState, cut_point
from strandline.engine.table_state import TableState
from strandline.errors import StoreFailedError

if TYPE_CHECKING:
    from strandline.engine.table import Table

_COUNT_AT_ONCE = 1000
_AT_ONCE = 256
"""Rows that a scan without a snapshot has at most."""


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


def scan_at_once(
    engine: Engine,
    state: TableState,
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
    limit: int | None,
) -> Items | None:
    """Return all rows of a short scan as of one moment, without a snapshot; None if it is long.

    The rows of LMDB are read first. Then, under the mutex, the layers are laid over them if
    they still go with that commit. So writers are kept out for the merging of a few rows,
    and no older entry has to be kept for it.
    """
    size = _AT_ONCE if limit is None or limit > _AT_ONCE else limit
    index, log = engine.index, engine.log
    if engine.closing or log.mutex._is_owned() or not size:
        return None
    read_view = index.read_view
    reads_store = state.view.reads_store
    try:
        stored = read_view.chunk(state.id, start, stop, reverse, size) if reads_store else []
    except (ViewRetiredError, StoreFailedError):
        return None
    bound = stored[-1][0] if len(stored) == size else None
    with log.mutex:
        log.settle()
        view = state.view
        if (
            state.gate is not None
            or index.read_view is not read_view
            or view.reads_store is not reads_store
        ):
            return None  # a checkpoint, a clear or the end came between
        if log.closed or log.unsynced or log.group.sync or log.group.buffered:
            _, wait = cut_point(engine)
            if wait is not None:
                return None  # something visible has to wait for what is queued below it
        layers: Sources = []
        for layer in view.layers:
            if layer.entries:
                runs = layer.order.at_once()
                if runs is None:
                    return None
                layers.append((layer.entries, runs))
        if layers:
            stored, bound = merge_chunk(stored, bound, layers, NEWEST, start, stop, size, reverse)
    return stored if bound is None or len(stored) == limit else None


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
    return raw if codec is None else decoded(raw, codec)


def decoded(rows: Iterable[tuple[bytes, bytes]], codec: Codec) -> Iterator[tuple[Any, Any]]:
    """Yield rows as the table's codec has them."""
    return ((codec.decode_key(key), codec.decode_value(value)) for key, value in rows)


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
