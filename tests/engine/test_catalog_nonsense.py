"""Metadata whose checksum holds and whose content makes no sense is told as damage.

An empty row, or a map in the place of one, ended in an IndexError or a KeyError that no
caller expects, before the open; found by `fuzz.catalog`.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from fuzz.catalog import Rows, rows_of
from strandline.engine.catalog import read_metadata
from strandline.errors import StoreCorruptionError

_WATERMARK = bytes(32)
_ROW = [1, "", "bytes/bytes", True]


@pytest.mark.parametrize(
    ("catalog", "entries"),
    [
        ([1, [[]]], {1: 0}),
        ([1, [{}]], {1: 0}),
        ([1, [""]], {1: 0}),
        ([1, [_ROW[:3]]], {1: 0}),
        ([1, [[*_ROW, 1]]], {1: 0}),
        ([1, [["1", "", "bytes/bytes", True]]], {1: 0}),
        ([1, [[True, "", "bytes/bytes", True]]], {1: 0}),
        ([0, [_ROW]], {1: 0}),
        (["1", [_ROW]], {1: 0}),
        ([1, [_ROW]], {}),
        ([1, [_ROW]], {1: "0"}),
        ([1, [_ROW]], [0]),
        ([1, 2], {1: 0}),
        (7, {1: 0}),
    ],
)
def test_nonsense_is_damage(catalog: Any, entries: Any) -> None:
    """Whatever it is, it is an error of the tree that names the file."""
    txn: Any = Rows(rows_of([_WATERMARK, msgpack.packb(catalog), msgpack.packb(entries)]))
    meta: Any = None
    with pytest.raises(StoreCorruptionError, match=r"^data\.mdb: metadata passes its checksum"):
        read_metadata(txn, meta, "data.mdb")


def test_sense_is_read() -> None:
    """The same rows in order are a catalog."""
    rows = [_WATERMARK, msgpack.packb([1, [_ROW]]), msgpack.packb({1: 5})]
    txn: Any = Rows(rows_of(rows))
    meta: Any = None
    assert read_metadata(txn, meta, "data.mdb").entries == {1: 5}
