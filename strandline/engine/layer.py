"""The in-memory index: layers of entries, and what a reader sees of them.

    entry  = (LSN, value or None for a tombstone, older entry or None)
    layer  = the entries of one table in one generation, and their sorted keys
    view   = what a reader of a table captures at once: layers, newest first, and LMDB

An older entry is kept in the chain only while a snapshot can see it, so that taking a
snapshot copies nothing. Unlogged tables count versions of their own where logged ones
have LSNs.

Turned down: a layer per snapshot. Scans take snapshots too, and reads would slow down
with the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, Final, NamedTuple

from strandline.engine.sorted_keys import SortedKeys
from strandline.native import native
from strandline.wal.runtime import Runtime

Entry = tuple[int, bytes | None, "Entry | None"]
Entries = dict[bytes, Entry]

ENTRY_BYTES: Final = 300
"""Memory that a dirty record takes beyond its key and value, as the budget counts it."""

NO_ENTRIES: Final[Entries] = {}

NEWEST: Final = (1 << 64) - 1
"""A version that sees everything."""


class Layer:
    """The entries of one table in one generation."""

    __slots__ = ("cleared", "cut_lsn", "entries", "order")

    def __init__(self, runtime: Runtime, *, cleared: bool = False) -> None:
        self.entries: Entries = {}
        self.order = SortedKeys(self.entries, runtime)
        self.cut_lsn: int | None = None
        """Operations up to here belong in it, once it is frozen."""
        self.cleared = cleared
        """Nothing below this layer belongs to the table any more."""


class View(NamedTuple):
    """What a reader captures in one step; never changed, only replaced."""

    active: Entries
    frozen: Entries
    below: Callable[[bytes], bytes | None]
    """Reads what neither of the two holds."""
    layers: tuple[Layer, ...]
    """All layers that count, newest first."""
    reads_store: bool
    """Whether LMDB lies below the layers; not so once a table was cleared."""


def visible(entry: Entry | None, version: int) -> Entry | None:
    """Return the newest entry of a chain that a reader at `version` may see."""
    while entry is not None and entry[0] > version:
        entry = entry[2]
    return entry


def linked(entry: Entry, old: Entry | None, newest_snapshot: int) -> Entry:
    """Return `entry` with as much of the chain below it as a snapshot can still see."""
    if old is None or newest_snapshot < 0:
        return entry
    below = old if old[0] <= newest_snapshot else old[2]
    return entry if below is None else (entry[0], entry[1], below)


def inserted(chain: Entry, entry: Entry) -> Entry:
    """Return `chain` with the older `entry` at its place in it, once."""
    if chain[0] == entry[0]:
        return chain
    if chain[0] < entry[0]:
        return (entry[0], entry[1], chain)
    below = chain[2]
    return (chain[0], chain[1], entry if below is None else inserted(below, entry))


def weight(key: bytes, entry: Entry) -> int:
    """Return the bytes that an entry counts for in the memory budget."""
    value = entry[1]
    return ENTRY_BYTES + len(key) + (len(value) if value is not None else 0)


def make_batch(
    keys: list[bytes], values: list[bytes | None], first_lsn: int, put_tag: int, delete_tag: int
) -> tuple[list[Any], Entries]:
    """Return the flat list of a batch's operations on one table, and their entries.

    A value of None deletes. Of a key that occurs twice the last one counts.
    """
    flat: list[Any] = [None] * (3 * len(keys))
    flat[::3] = [delete_tag if value is None else put_tag for value in values]
    flat[1::3] = keys
    flat[2::3] = values
    lsns = range(first_lsn, first_lsn + len(keys))
    return flat, dict(zip(keys, zip(lsns, values, repeat(None)), strict=True))


def install(entries: Entries, fresh: Entries, entry_bytes: int) -> int:
    """Put fresh entries over older ones; return by how many bytes that grew.

    Each entry counts `entry_bytes` beside its key and value. Doing it twice changes nothing.
    """
    grown = 0
    for key, entry in fresh.items():
        old = entries.get(key)
        if old is None:
            grown += entry_bytes + len(key) + len(entry[1] or b"")
        elif old[0] < entry[0]:
            grown += len(entry[1] or b"") - len(old[1] or b"")
        else:
            continue
        entries[key] = entry
    return grown


PYTHON: Final = (make_batch, install)
"""The functions of this module that have twins in C, as they are without them."""

if native is not None:
    make_batch, install = native.make_batch, native.install


def absent(_key: bytes) -> None:
    """Read below a layer that was cleared."""
    return
