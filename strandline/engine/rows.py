"""A frozen layer as LMDB takes it: records in the order of their keys, slice by slice.

None of the steps holds the interpreter for more than about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from strandline.engine.layer import Layer
from strandline.engine.records import Items, encode_slice
from strandline.native import native

_GATHERED: Final = 16384
_SLICE: Final = 256
"""What is encoded is written while it is still in the processor's cache."""
_SLICE_IN_PYTHON: Final = 2048

Slice = tuple[Items, list[bytes]]
"""(key, record) of the entries that have a value, and the keys that are deleted."""


def rows_of(layer: Layer, table_id: int, pause: Callable[[], None]) -> Iterator[Slice]:
    """Yield the entries of a layer that no longer changes.

    `pause` is called between slices, for a background thread to step aside; in C that is
    not needed, for the interpreter is let go of while keys are sorted and at every put.
    """
    if native is None:
        yield from _rows_in_python(layer, table_id, pause)
        return
    sorter = native.Sorter()
    while sorter.gather(layer.entries, _GATHERED):
        pass  # half a millisecond each; threads that wait have their turn in between
    sorter.sort()
    while True:
        items, gone = sorter.encode(table_id, _SLICE)
        if not items and not gone:
            return
        yield items, gone


def _rows_in_python(layer: Layer, table_id: int, pause: Callable[[], None]) -> Iterator[Slice]:
    layer.order.note()
    keys = layer.order.all_sorted(pause)
    entry_of = layer.entries.__getitem__
    for at in range(0, len(keys), _SLICE_IN_PYTHON):
        part = keys[at : at + _SLICE_IN_PYTHON]
        entries = list(map(entry_of, part))
        gone = [key for key, entry in zip(part, entries, strict=True) if entry[1] is None]
        yield encode_slice(table_id, part, entries), gone
        pause()
