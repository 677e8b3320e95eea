"""Batches in C: taken apart, made into entries and installed as in Python."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine import layer
from strandline.engine.layer import ENTRY_BYTES, Entries
from strandline.native import native as loaded

if loaded is None:
    pytest.skip("the functions in C are not there", allow_module_level=True)

native: Any = loaded
python_make_batch, python_install = layer.PYTHON

U64 = (1 << 64) - 1

# ---- batches

batch_keys = st.one_of(st.binary(min_size=1, max_size=1), st.binary(min_size=1, max_size=40))
batch_values = st.none() | st.binary(max_size=20)
batches = st.lists(st.tuples(batch_keys, batch_values), max_size=30)
lsns = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 40))
entries_there = st.dictionaries(
    batch_keys,
    st.tuples(st.integers(0, 60), batch_values, st.none() | st.just((0, b"older", None))),
    max_size=20,
)


@given(batches, lsns)
def test_a_batch_is_made_as_in_python(
    pairs: list[tuple[bytes, bytes | None]], first_lsn: int
) -> None:
    """The flat list and the entries, their order included, are the same; the last of a key wins."""
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    expected, expected_entries = python_make_batch(keys, values, first_lsn, 9, 1 << 40)
    flat, entries = native.make_batch(keys, values, first_lsn, 9, 1 << 40)
    assert expected == flat
    assert list(expected_entries.items()) == list(entries.items())
    assert ([key for key, _ in pairs], [value for _, value in pairs]) == (keys, values)


@given(entries_there, entries_there, st.integers(0, 500))
def test_entries_are_installed_as_in_python(
    there: Entries, fresh: Entries, entry_bytes: int
) -> None:
    """Newer entries take the place of older ones, and only those; the bytes are the same."""
    in_c, in_python, before = dict(there), dict(there), dict(fresh)
    expected = python_install(in_python, fresh, entry_bytes)
    assert expected == native.install(in_c, fresh, entry_bytes)
    assert list(in_python.items()) == list(in_c.items())
    assert before == fresh


def test_only_a_newer_entry_takes_the_place_of_another() -> None:
    """One with the same LSN is the same operation, and leaves what is there as it is."""
    for lsn, grown in ((4, 0), (5, 0), (6, -2)):
        entries: Entries = {b"k": (5, b"there", None)}
        assert native.install(entries, {b"k": (lsn, b"new", None)}, 100) == grown
        assert entries == {b"k": (6, b"new", None) if lsn == 6 else (5, b"there", None)}


@given(entries_there, entries_there)
def test_installing_twice_changes_nothing(there: Entries, fresh: Entries) -> None:
    """What is there already is counted no second time, be it the same object or an equal one."""
    native.install(there, fresh, ENTRY_BYTES)
    expected = dict(there)
    assert native.install(there, fresh, ENTRY_BYTES) == 0
    assert native.install(there, copy.deepcopy(fresh), ENTRY_BYTES) == 0
    assert expected == there


# ---- the items of a batch

MOST = 30
pairs_given = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=MOST + 2)), max_size=9)


@given(pairs_given)
def test_acceptable_items_are_taken_apart(pairs: list[tuple[bytes, bytes]]) -> None:
    """Keys, values and their bytes, in order; None as soon as one of them is not acceptable."""
    for items in (pairs, tuple(pairs), dict(pairs)):
        order = list(items.items()) if isinstance(items, dict) else pairs
        good = all(0 < len(key) < 512 and len(value) <= MOST for key, value in order)
        keys, values = [key for key, _ in order], [value for _, value in order]
        expected = (keys, values, sum(map(len, keys + values))) if good else None
        assert expected == native.raw_items(items, MOST)


class Subclass(bytes):
    """Bytes, but not exactly."""


class Mapped(dict[bytes, bytes]):
    """A dict, but not exactly."""


@pytest.mark.parametrize(
    "items",
    [
        (pair for pair in [(b"k", b"v")]),
        Mapped({b"k": b"v"}),
        {b"k": b"v"}.items(),
        {b"k": b"v"}.keys(),
        None,
        5,
        b"kv",
        "kv",
        [(b"k", b"v"), [b"k", b"v"]],
        [(b"k", b"v"), (b"k",)],
        [(b"k", b"v"), (b"k", b"v", b"w")],
        [(b"k", b"v"), None],
        [(b"k", b"v"), b"kv"],
        *[[(b"k", b"v"), (key, b"v")] for key in ("k", 5, None, Subclass(b"k"), bytearray(b"k"))],
        *[[(b"k", b"v"), (b"k", value)] for value in ("v", 5, None, Subclass(), bytearray())],
        {b"k": None},
        {"k": b"v"},
        {b"": b"v"},
        {b"k" * 512: b"v"},
        {b"k": bytes(MOST + 1)},
    ],
)
def test_other_items_are_handed_back(items: Any) -> None:
    """What is not plain is left to Python, which takes it or says what is wrong."""
    assert native.raw_items(items, MOST) is None


def test_keys_and_values_at_their_limits_are_taken() -> None:
    """A key of 511 bytes and a value of exactly the limit are acceptable, and empty values are."""
    key = b"k" * 511
    for most, value in ((0, b""), (MOST, bytes(MOST)), (U64, bytes(MOST))):
        assert native.raw_items({key: value}, most) == ([key], [value], 511 + len(value))
        assert native.raw_items([(key + b"k", value)], most) is None
    assert native.raw_items([], 0) == native.raw_items({}, 0) == ([], [], 0)


# ---- references and types


def test_no_reference_is_kept_or_lost() -> None:
    """Keys, values and entries are held as often after the calls as before."""
    keys, values = [b"key %d" % n for n in range(9)], [b"value %d" % n for n in range(9)]
    older = {key: (0, value, None) for key, value in zip(keys, values, strict=True)}
    tag = 1 << 40
    watched = [*keys, *values, *older.values(), tag]
    before = [sys.getrefcount(o) for o in watched]
    for lsn in range(50):
        _, fresh = native.make_batch(keys, [*values[1:], None], lsn, tag, tag)
        entries = dict(older)
        native.install(entries, fresh, 1)
        native.install(fresh, older, 1)
        native.raw_items(list(zip(keys, values, strict=True)), 100)
        native.raw_items([*zip(keys, values, strict=True), None], 100)
        with pytest.raises(TypeError):
            native.make_batch([*keys, []], [*values, None], lsn, tag, tag)
    del entries, fresh, _
    assert before == [sys.getrefcount(o) for o in watched]


WRONG: dict[str, list[tuple[Any, ...]]] = {
    "make_batch": [
        (),
        ([], [], 0, 1),
        ((), [], 0, 1, 2),
        ([], (), 0, 1, 2),
        ([b"k"], [], 0, 1, 2),
        ([], [], -1, 1, 2),
        ([], [], None, 1, 2),
        ([[]], [b"v"], 0, 1, 2),
    ],
    "install": [
        (),
        ({}, {}),
        ([], {}, 1),
        ({}, Mapped(), 1),
        ({}, {}, -1),
        ({}, {}, None),
        ({}, {"k": (1, b"v", None)}, 1),
        ({}, {b"k": None}, 1),
        ({}, {b"k": (1, b"v")}, 1),
        ({}, {b"k": (-1, b"v", None)}, 1),
        ({}, {b"k": [1, b"v", None]}, 1),
    ],
    "raw_items": [(), ({},), ({}, -1), ({}, None), ({}, 1, 2)],
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, cases in WRONG.items() for arguments in cases],
)
def test_wrong_arguments_are_type_errors(name: str, arguments: tuple[Any, ...]) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    with pytest.raises(TypeError):
        getattr(native, name)(*arguments)
