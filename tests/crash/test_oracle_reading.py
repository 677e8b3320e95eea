"""Reading a store whole: every way of reading must tell the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline import Store
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.reading import read_whole
from strandline.tools.crash.simulation.rig import Rig


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    """A store of two keys, and one that was deleted."""
    with Rig(tmp_path) as rig:
        store = rig.open()
        for key in (b"a", b"b", b"gone"):
            store.put(key, key)
        store.delete(b"gone")
        yield store


def refuses(invariant: int, db: Store) -> None:
    """Expect a violation of an invariant."""
    with pytest.raises(ViolationError) as caught:
        read_whole(db, {"": {b"a", b"gone"}})
    assert caught.value.invariant == invariant, caught.value


def test_what_no_scan_shows_is_asked_for_by_key(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `get` that passes through a tombstone brings back what was deleted."""
    assert read_whole(db, {"": {b"a", b"gone"}}) == {"": {b"a": b"a", b"b": b"b"}}
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, key: get(self, key) or b"gone")
    refuses(4, db)


@pytest.mark.parametrize("change", [lambda rows: [rows[0], *rows], lambda rows: rows[::-1]])
def test_a_scan_has_each_key_once_and_in_order(
    db: Store, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """A dict of its rows would not show that one came twice, or too late."""
    scan = Store.scan
    monkeypatch.setattr(Store, "scan", lambda self, **how: iter(change(list(scan(self, **how)))))
    refuses(2, db)


def test_a_scan_from_the_end_finds_the_same(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes another way through the layers."""
    scan = Store.scan
    monkeypatch.setattr(
        Store,
        "scan",
        lambda self, *, reverse=False: iter(list(scan(self, reverse=reverse))[int(reverse) :]),
    )
    refuses(2, db)


def test_many_keys_at_once_are_what_they_are_one_by_one(
    db: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`get_many` has a way of its own."""
    monkeypatch.setattr(Store, "get_many", lambda self, keys: {b"a": b"a", b"b": b"old"})
    refuses(3, db)
