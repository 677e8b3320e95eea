"""The index: generations of layers over LMDB, and publishing into them.

A *generation* is the set of active layers of all tables. `cut` freezes it at an LSN and
begins the next; writers do not wait. What was queued below the cut and lands after it
still goes to the frozen layer that it belongs to, so that a frozen generation ends up
holding exactly the operations up to its LSN.

Everything here is called with the log's mutex held, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from strandline.engine.layer import (
    ENTRY_BYTES,
    NO_ENTRIES,
    Entries,
    Entry,
    Layer,
    View,
    absent,
    inserted,
    install,
    linked,
    weight,
)
from strandline.engine.read_view import ReadView
from strandline.engine.table_state import Queued, TableState
from strandline.options import Durability
from strandline.wal.group import Group
from strandline.wal.runtime import Runtime

Views = Mapping[int, View]
Commit = tuple[list[tuple[TableState, Entries]], int, int]
"""Several operations that stand or fall together: by table, with first and last LSN."""


class Retired(NamedTuple):
    """Layers that the index let go of, and the memory that they hold until they are freed."""

    layers: list[Layer]
    bytes: int


class Index:
    """All tables of an open store, in memory."""

    # Slots, for native/fast_put.c to find them by their offsets.
    __slots__ = ("__dict__", "active_bytes", "newest_snapshot")

    def __init__(self, runtime: Runtime, read_view: ReadView) -> None:
        self.runtime = runtime
        self.read_view = read_view
        self.states: dict[int, TableState] = {}
        self.views: Views = MappingProxyType({})
        """Every table's view; replaced whole, so that a snapshot captures it in one step."""
        self.cut_lsn = 0
        """Operations up to here belong to frozen layers."""
        self.active_bytes = 0
        self.frozen_bytes = 0
        self.newest_snapshot = -1
        """The highest LSN that an open snapshot reads at, -1 without any."""
        self.newest_unlogged_snapshot = -1
        self.unlogged_version = 0
        self.dropped_frozen: dict[int, tuple[Layer, ...]] = {}
        """Frozen layers of tables that were dropped since the cut: the checkpoint of that cut
        writes them, for the drop comes after it."""
        self.retired: list[Retired] = []
        """What only snapshots may still read; the checkpointer frees it in slices."""
        self.publish_singles: Callable[[list[Any], int], int] | None = None
        """Publishes single operations in C, from the first on, and says how many; for a list
        and the LSN of the last cut."""

    # ---- tables

    def add(self, state: TableState) -> None:
        """Take in a table."""
        view = self._view_of(state.id, (state.layer, *state.frozen))
        views = MappingProxyType({**self.views, state.id: view})
        # No interrupt can strike from here on, so that it is there whole or not at all.
        state.view, self.views = view, views
        self.states[state.id] = state

    def drop(self, state: TableState) -> None:
        """Forget a table; its view stays with whoever captured it."""
        gone, empty = [state.layer, *state.frozen], Layer(self.runtime, cleared=True)
        view, retired = self._view_of(state.id, (empty,)), Retired(gone, 0)
        views = MappingProxyType({k: v for k, v in self.views.items() if k != state.id})
        # No interrupt can strike before the last of these.
        if state.frozen:
            self.dropped_frozen[state.id] = state.frozen
        state.layer, state.frozen, state.entries = empty, (), empty.entries
        state.view, self.views = view, views
        self.retired += (retired,)
        self.states.pop(state.id, None)

    def clear(self, state: TableState, through: int | None = None) -> None:
        """Empty a table; entries above the LSN `through`, if one is given, stay."""
        gone, empty = state.layer, Layer(self.runtime, cleared=True)
        if through is not None:
            kept = [(k, e) for k, e in gone.entries.items() if e[0] > through]
            empty.entries.update((key, (lsn, value, None)) for key, (lsn, value, _) in kept)
        view, retired = self._view_of(state.id, (empty,)), Retired([gone], 0)
        views = MappingProxyType({**self.views, state.id: view})
        # No interrupt can strike from here on: what is written next is seen.
        state.layer, state.entries = empty, empty.entries
        state.view, self.views = view, views
        self.retired += (retired,)

    def refresh(self, state: TableState) -> None:
        """Build the view of one table anew."""
        view = self._view_of(state.id, (state.layer, *state.frozen))
        views = MappingProxyType({**self.views, state.id: view})
        state.view, self.views = view, views

    def refresh_all(self) -> None:
        """Build all views anew, to be seen in one step by whoever captures `views`."""
        for state in self.states.values():
            state.view = self._view_of(state.id, (state.layer, *state.frozen))
        self.views = MappingProxyType({s.id: s.view for s in self.states.values()})

    def _view_of(self, table_id: int, generations: tuple[Layer, ...]) -> View:
        """Return what a reader of a table with these layers, newest first, is to see."""
        layers: list[Layer] = []
        reads_store = True
        for layer in generations:
            layers.append(layer)
            if layer.cleared:
                reads_store = False
                break
        below: Callable[[bytes], bytes | None] = absent
        if reads_store:
            below = self.read_view.getter(table_id)
        for layer in reversed(layers[2:]):
            below = partial(_get_through, layer.entries, below)
        frozen = layers[1].entries if len(layers) > 1 else NO_ENTRIES
        return View(layers[0].entries, frozen, below, tuple(layers), reads_store)

    # ---- generations

    def cut(self, lsn: int) -> None:
        """Freeze the active generation at `lsn` and begin the next one."""
        self.dropped_frozen = {}  # their drops belong to this generation
        for state in self.states.values():
            if state.entries or state.queued or state.layer.cleared:
                state.layer.cut_lsn = lsn
                state.frozen = (state.layer, *state.frozen)
                state.layer = Layer(self.runtime)
                state.entries = state.layer.entries
        self.cut_lsn = lsn
        self.frozen_bytes += self.active_bytes
        self.active_bytes = 0
        self.refresh_all()

    def frozen(self) -> dict[int, tuple[Layer, ...]]:
        """Return the frozen layers of every table as of the cut, newest first."""
        held = {state.id: state.frozen for state in self.states.values() if state.frozen}
        return {**held, **self.dropped_frozen}

    def replace_frozen(self, merged: Mapping[int, Layer]) -> None:
        """Put one merged layer in the place of all frozen ones of each table."""
        replaced: list[Layer] = []
        for state in self.states.values():
            if state.frozen:
                replaced.extend(state.frozen)
                state.frozen = (merged[state.id],)
        for table_id, layers in self.dropped_frozen.items():
            replaced.extend(layers)
            self.dropped_frozen[table_id] = (merged[table_id],)
        self.retired.append(Retired(replaced, 0))
        self.refresh_all()

    def drop_frozen(self, read_view: ReadView) -> ReadView:
        """Let go of the frozen generation, which LMDB has now; returns the view it replaces."""
        layers: list[Layer] = []
        for state in self.states.values():
            layers.extend(state.frozen)
            state.frozen = ()
        self.dropped_frozen = {}
        self.retired.append(Retired(layers, self.frozen_bytes))
        self.frozen_bytes = 0
        old, self.read_view = self.read_view, read_view
        self.refresh_all()
        return old

    # ---- publishing

    def install(self, state: TableState, key: bytes, entry: Entry) -> None:
        """Make an entry visible, unless a newer one is. Doing it twice changes nothing."""
        entries, frozen = state.entries, False
        if state.frozen and state.logged and entry[0] <= self.cut_lsn:
            # The oldest layer that it belongs in: after a failed flush there can be two.
            for layer in reversed(state.frozen):
                if layer.cut_lsn is None or entry[0] <= layer.cut_lsn:
                    entries, frozen = layer.entries, True
                    break
        old = entries.get(key)
        newest = self.newest_snapshot if state.logged else self.newest_unlogged_snapshot
        if old is None:
            change = weight(key, entry)
            entries[key] = entry
        elif old[0] < entry[0]:
            entry = linked(entry, old, newest)
            change = weight(key, entry)
            if entry[2] is not old:  # one that a snapshot still sees goes on taking its room
                change -= weight(key, old)
            entries[key] = entry
        else:
            if newest >= 0:
                entries[key] = inserted(old, entry)
            return
        if frozen:
            self.frozen_bytes += change
        else:
            self.active_bytes += change

    def install_many(self, state: TableState, fresh: Entries, last_lsn: int) -> None:
        """Make the entries of one commit visible, in one call where nothing stands against it."""
        entries = state.entries
        newest = self.newest_snapshot if state.logged else self.newest_unlogged_snapshot
        if newest < 0 and not (state.frozen and last_lsn <= self.cut_lsn and state.logged):
            # Nobody reads what is older than what is there already.
            self.active_bytes += install(entries, fresh, ENTRY_BYTES)
            return
        for key, entry in fresh.items():
            self.install(state, key, entry)

    def publish(self, queued: list[Any]) -> None:
        """Make queued operations visible: single ones, and commits as they are."""
        done = 0
        if self.publish_singles is not None:
            done = self.publish_singles(queued, self.cut_lsn)
        for item in queued[done:]:
            if type(item[0]) is TableState:
                state, key, entry = item
                self.install(state, key, entry)
                self._dequeue(state, key, entry[0])
            elif callable(item[0]):
                item[0]()
            else:
                parts, _, last_lsn = item
                for state, fresh in parts:
                    self.install_many(state, fresh, last_lsn)
                    if state.queued:
                        for key, entry in fresh.items():
                            self._dequeue(state, key, entry[0])

    def withdraw(self, queued: Iterable[Any], landing: Iterable[Group]) -> list[int]:
        """Forget queued operations that were refused; return their LSNs.

        Where they stood over an older write that is in `landing`, groups on their way to
        the disk, that one is the newest of its key again: updates are computed from it.
        """
        lsns: list[int] = []
        for item in queued:
            if type(item[0]) is TableState:
                state, key, entry = item
                lsns.append(entry[0])
                self._dequeue(state, key, entry[0])
            elif callable(item[0]):
                lsns.append(item[2][0])
            else:
                parts, first_lsn, last_lsn = item
                lsns.extend(range(first_lsn, last_lsn + 1))
                for state, fresh in parts:
                    for key, entry in fresh.items():
                        self._dequeue(state, key, entry[0])
        for group in landing:
            for state, key, entry in _operations(group.sync):
                newest = state.queued.get(key)
                if newest is None or newest.lsn < entry[0]:
                    state.queued[key] = Queued(entry[0], entry[1], group, Durability.SYNC)
        return lsns

    def dirty_bytes(self) -> int:
        """Return the memory that counts against `max_dirty_bytes`."""
        return self.active_bytes + self.frozen_bytes + sum(r.bytes for r in tuple(self.retired))

    def dirty_count(self) -> int:
        """Return how many entries are not in LMDB yet."""
        layers = [layer for s in self.states.values() for layer in (s.layer, *s.frozen)]
        return sum(len(layer.entries) for layer in layers)

    @staticmethod
    def _dequeue(state: TableState, key: bytes, lsn: int) -> None:
        queued = state.queued.get(key)
        if queued is not None and queued.lsn == lsn:
            del state.queued[key]


def _operations(queued: Iterable[Any]) -> Iterator[tuple[TableState, bytes, Entry]]:
    """Yield the single operations of what is queued, definitions left out."""
    for item in queued:
        if type(item[0]) is TableState:
            yield item
        elif not callable(item[0]):
            for state, fresh in item[0]:
                for key, entry in fresh.items():
                    yield state, key, entry


def _get_through(
    entries: Entries, below: Callable[[bytes], bytes | None], key: bytes
) -> bytes | None:
    entry = entries.get(key)
    return below(key) if entry is None else entry[1]
