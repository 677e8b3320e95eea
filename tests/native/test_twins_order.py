"""Order in C: sorting, the rows of a checkpoint, and merged scans, as Python has them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine import records, rows, scan, sorted_keys
from strandline.engine.layer import Entries, Entry, Layer
from strandline.engine.scan import Items, Sources
from strandline.native import native as loaded
from strandline.wal.runtime import SystemRuntime

if loaded is None:
    pytest.skip("the functions in C are not there", allow_module_level=True)

native: Any = loaded
(python_merge_chunk,) = scan.PYTHON

Merge = Callable[..., tuple[Items, bytes | None]]

# ---- sorting

SHAPES: dict[str, Callable[[random.Random], bytes]] = {
    "zeros and ones": lambda r: bytes(r.choices(b"\0\1", k=r.randrange(30))),
    "zeros alone": lambda r: bytes(r.randrange(60)),
    "zeros behind a stem": lambda r: b"stem567" + bytes(r.randrange(20)) + b"\1"[: r.randrange(2)],
    "long common prefix": lambda r: b"p" * 480 + r.randbytes(r.randrange(31)),
    "prefixes of one key": lambda r: bytes(range(256))[: r.randrange(257)],
    "one byte": lambda r: r.randbytes(r.randrange(2)),
    "eight bytes": lambda r: r.randbytes(8),
    "high and low": lambda r: bytes(r.choices(b"\0\x7f\x80\xff", k=r.randrange(18))),
    "numbers": lambda r: b"user:%012d" % r.randrange(10**6),
    "any": lambda r: r.randbytes(r.choice([0, 1, 7, 8, 9, 16, 17, 511])),
}
COUNTS = (0, 1, 2, 3, 23, 24, 25, 26, 100, 1000, 1500)


@pytest.mark.parametrize("shape", SHAPES)
def test_keys_of_any_shape_come_out_sorted(shape: str) -> None:
    """Few or many, with or without common prefixes and duplicates: the order is that of bytes."""
    for count in COUNTS:
        for seed in range(3):
            source = random.Random(seed << 16 | count)
            keys = [SHAPES[shape](source) for _ in range(count)]
            expected = sorted(keys)
            assert native.sort_keys(keys) is None
            assert expected == keys


@given(st.lists(st.binary(max_size=20), max_size=80), st.binary(max_size=24), st.integers(0, 60))
def test_any_keys_come_out_sorted(keys: list[bytes], stem: bytes, behind: int) -> None:
    """The same for keys that nobody thought of, some of them behind a common stem."""
    keys = [stem + key for key in keys[:behind]] + keys[behind:]
    expected = sorted(keys)
    native.sort_keys(keys)
    assert expected == keys


def test_sorting_moves_the_objects_themselves() -> None:
    """Each key is in the list as often as before, equal keys that are two objects included."""
    keys = [bytes([n % 7]) * (n % 40) for n in range(500)]
    before = sorted(map(id, keys))
    native.sort_keys(keys)
    assert before == sorted(map(id, keys))


def test_sorted_and_reversed_lists_come_out_sorted() -> None:
    """What is in order already, or in the opposite one, is no special case."""
    expected = [b"key%06d" % n for n in range(3000)]
    for keys in (list(expected), expected[::-1], expected[1500:] + expected[:1500]):
        native.sort_keys(keys)
        assert expected == keys


# ---- the rows of a checkpoint

keys_of_rows = st.one_of(
    st.binary(min_size=1, max_size=12), st.integers(0, 99).map(lambda n: b"0" * 17 + b"%d" % n)
)
plain_entries = st.tuples(
    st.integers(0, (1 << 64) - 1), st.none() | st.binary(max_size=30), st.none()
)
states = st.dictionaries(keys_of_rows, plain_entries, max_size=60)


def rows_in_python(table_id: int, state: Entries) -> tuple[Items, list[bytes]]:
    """Return what there is to write and what to delete, as it is without C."""
    layer = Layer(SystemRuntime())
    layer.entries.update(state)
    with (
        mock.patch.object(sorted_keys, "native", None),
        mock.patch.object(rows, "native", None),
        mock.patch.object(rows, "encode_slice", records.PYTHON[0]),
    ):
        slices = list(rows.rows_of(layer, table_id, lambda: None))
    return [i for items, _ in slices for i in items], [k for _, gone in slices for k in gone]


@given(st.integers(0, 1 << 40), states, st.integers(1, 70), st.integers(1, 70))
def test_the_rows_of_a_layer_are_the_same(
    table_id: int, state: Entries, gathered: int, encoded: int
) -> None:
    """However many at a time are gathered and encoded, all come once, in the order of keys."""
    sorter = native.Sorter()
    while sorter.gather(state, gathered):
        pass
    sorter.sort()
    items: Items = []
    gone: list[bytes] = []
    while (part := sorter.encode(table_id, encoded)) != ([], []):
        assert len(part[0]) + len(part[1]) <= encoded
        items += part[0]
        gone += part[1]
    assert rows_in_python(table_id, state) == (items, gone)
    assert sorter.encode(table_id, encoded) == ([], [])


def test_the_rows_of_a_large_layer_are_the_same() -> None:
    """Several slices of each kind, through the function that checkpoints call."""
    source = random.Random(5)
    state: Entries = {
        source.randbytes(source.randrange(1, 40)): (
            n,
            None if n % 5 == 0 else bytes(n % 400),
            (n - 1, b"older", None) if n % 3 else None,
        )
        for n in range(5000)
    }
    layer = Layer(SystemRuntime())
    layer.entries.update(state)
    slices = list(rows.rows_of(layer, 12, lambda: None))
    found = [i for items, _ in slices for i in items], [k for _, gone in slices for k in gone]
    assert rows_in_python(12, state) == found


def test_a_sorter_out_of_turn_refuses() -> None:
    """What was sorted takes in nothing more, and a dict that grew is not taken for the same."""
    sorter = native.Sorter()
    state: Entries = {b"b": (1, b"x", None), b"a": (2, None, None)}
    assert sorter.gather(state, 1)
    with pytest.raises(RuntimeError):
        sorter.gather({**state, b"c": (3, None, None)}, 1)
    assert not sorter.gather(state, 5)
    sorter.sort()
    assert sorter.encode(1, 1) == ([], [b"a"])
    with pytest.raises(RuntimeError):
        sorter.gather(state, 1)
    with pytest.raises(RuntimeError):
        sorter.sort()
    assert sorter.encode(1, 1) == ([(b"b", records.encode(1, b"b", 1, b"x"))], [])


# ---- merging

KEYS = st.one_of(
    st.binary(max_size=2).map(lambda k: b"k" + k[:1]),
    st.integers(0, 25).map(lambda n: b"k%02d" % n),
)
VERSIONS = 12


@st.composite
def chains(draw: st.DrawFn) -> Entry:
    """Draw an entry over older ones, tombstones among them."""
    lsns = draw(st.sets(st.integers(1, VERSIONS), min_size=1, max_size=3))
    entry: Any = None
    for lsn in sorted(lsns):
        entry = (lsn, draw(st.none() | st.binary(max_size=2)), entry)
    found: Entry = entry
    return found


@st.composite
def sources(draw: st.DrawFn) -> Sources:
    """Draw layers, newest first, each with its keys in one to four sorted runs."""
    layers: Sources = []
    for _ in range(draw(st.integers(0, 3))):
        entries = draw(st.dictionaries(KEYS, chains(), max_size=30))
        runs: list[list[bytes]] = [[] for _ in range(draw(st.integers(1, 4)))]
        for key in sorted(entries):
            draw(st.sampled_from(runs)).append(key)
        layers.append((entries, tuple(runs)))
    return layers


def in_model(
    stored: dict[bytes, bytes],
    layers: Sources,
    version: int,
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
) -> Items:
    """Return what a scan must give, key by key."""
    items: Items = []
    for key in sorted({*stored, *(key for entries, _ in layers for key in entries)}):
        if (start is not None and key < start) or (stop is not None and key >= stop):
            continue
        value = stored.get(key)
        for entries, _ in layers:
            entry: Entry | None = entries.get(key)
            while entry is not None and entry[0] > version:
                entry = entry[2]
            if entry is not None:
                value = entry[1]
                break
        if value is not None:
            items.append((key, value))
    return items[::-1] if reverse else items


def whole_scan(
    merge: Merge,
    stored: dict[bytes, bytes],
    layers: Sources,
    version: int,
    bounds: tuple[bytes | None, bytes | None],
    reverse: bool,
    sizes: list[int],
) -> Items:
    """Scan chunk by chunk, of these sizes in turn, as a scan of a table does."""
    start, stop = bounds
    found: Items = []
    for turn in range(10_000):
        size = sizes[turn % len(sizes)]
        rows_there = in_model(stored, [], version, start, stop, reverse)[:size]
        bound = rows_there[-1][0] if len(rows_there) == size else None
        given_rows = list(rows_there)
        items, bound = merge(given_rows, bound, layers, version, start, stop, size, reverse)
        assert rows_there == given_rows
        assert len(items) <= size
        assert bound is None or all((k >= bound) if reverse else (k <= bound) for k, _ in items)
        found += items
        if bound is None:
            return found
        if reverse:
            assert stop is None or bound < stop
            stop = bound
        else:
            assert start is None or bound >= start
            start = bound + b"\0"
    raise AssertionError("the scan does not end")


@given(
    st.dictionaries(KEYS, st.binary(max_size=2), max_size=30),
    sources(),
    st.integers(0, VERSIONS + 1),
    st.none() | KEYS,
    st.none() | KEYS,
    st.booleans(),
    st.lists(st.sampled_from([1, 1, 2, 3, 7, 8, 9, 40]), min_size=1, max_size=3),
)
def test_a_scan_in_chunks_gives_what_is_there(
    stored: dict[bytes, bytes],
    layers: Sources,
    version: int,
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
    sizes: list[int],
) -> None:
    """In C and in Python: every visible entry once, in order, the newest layer's first."""
    expected = in_model(stored, layers, version, start, stop, reverse)
    arguments = stored, layers, version, (start, stop), reverse, sizes
    assert expected == whole_scan(native.merge_chunk, *arguments)
    assert expected == whole_scan(python_merge_chunk, *arguments)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1, 50, 2048])
def test_a_large_scan_gives_what_is_there(reverse: bool, size: int) -> None:
    """Runs are looked up several keys at a time: none is lost where chunks begin and end."""
    source = random.Random(3)
    layers: Sources = []
    for depth in range(3):
        entries: Entries = {
            b"%04d" % n: (n + depth, None if n % 9 == depth else b"%d" % depth, (1, b"first", None))
            for n in source.sample(range(1000), 300)
        }
        keys = list(entries)
        runs = tuple(sorted(keys[at : at + 70]) for at in range(0, 300, 70))
        layers.append((entries, runs))
    stored = {b"%04d" % n: b"stored" for n in source.sample(range(1000), 500)}
    for version in (0, 1, 500, 2000):
        expected = in_model(stored, layers, version, b"0010", b"0990", reverse)
        arguments = stored, layers, version, (b"0010", b"0990"), reverse, [size]
        assert expected == whole_scan(native.merge_chunk, *arguments)


def test_no_reference_is_kept_or_lost() -> None:
    """Keys, values and entries are held as often after the calls as before."""
    state: Entries = {
        b"key of row %d" % n: (n, b"value %d" % n if n % 3 else None, (0, b"older", None))
        for n in range(40)
    }
    keys, values = list(state), [entry[1] for entry in state.values() if entry[1]]
    stored = [(key + b"0", b"stored") for key in sorted(keys)]
    watched = [*keys, *values, *state.values(), *stored, state]
    before = [sys.getrefcount(o) for o in watched]
    layers: Sources = [(state, (sorted(keys),)), (state, (sorted(keys[::2]), sorted(keys[1::2])))]
    for limit in range(1, 50):
        native.merge_chunk(stored, None, layers, 20, None, None, limit, limit % 2 == 1)
        native.sort_keys(list(keys))
        sorter = native.Sorter()
        sorter.gather(state, limit)
        sorter.sort()
        sorter.encode(1, limit // 2)
        broken: Any = {b"a": (1, b"x", None), b"b": 5}
        with pytest.raises(TypeError):
            native.Sorter().gather(broken, limit + 1)
    del layers, sorter
    assert before == [sys.getrefcount(o) for o in watched]


LAYER: Any = ({b"k": (1, b"v", None)}, ([b"k"],))
RIGHT: tuple[Any, ...] = ([(b"a", b"1")], None, [LAYER], 5, None, None, 3, False)
WRONG: dict[int, list[Any]] = {
    0: [None, (), [None], [(b"a",)], [("a", b"1")], [[b"a", b"1"]]],
    1: ["a", 5, bytearray(b"a")],
    2: [
        *[None, (LAYER,), [None], [[]], [({},)], [({}, [])], [(None, ())]],
        *[[({}, (None,))], [({}, ((b"k",),))], [({}, (["k"],))]],
    ],
    3: [-1, 1 << 64, None, 1.0],
    4: ["a", 5, bytearray(b"a")],
    5: ["a", 5, bytearray(b"a")],
    6: [0, -1, 1 << 63, None, 1.0, True],
}


@pytest.mark.parametrize(
    ("place", "wrong"),
    [(place, wrong) for place, all_wrong in WRONG.items() for wrong in all_wrong],
)
def test_wrong_arguments_of_a_merge_are_type_errors(place: int, wrong: Any) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    assert native.merge_chunk(*RIGHT) == ([(b"a", b"1"), (b"k", b"v")], None)
    with pytest.raises(TypeError):
        native.merge_chunk(*RIGHT[:place], wrong, *RIGHT[place + 1 :])


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.merge_chunk(*RIGHT[:-1]),
        lambda: native.sort_keys(),
        lambda: native.sort_keys(None),
        lambda: native.sort_keys((b"b", b"a")),
        lambda: native.sort_keys(["a"]),
        lambda: native.sort_keys([b"b", None, b"a"]),
        lambda: native.sort_keys([b"b"] * 1000 + [bytearray(b"a")]),
        lambda: native.Sorter().gather(),
        lambda: native.Sorter().gather([], 1),
        lambda: native.Sorter().gather({"a": (1, b"v", None)}, 1),
        lambda: native.Sorter().gather({b"a": None}, 1),
        lambda: native.Sorter().gather({b"a": (1, b"v")}, 1),
        lambda: native.Sorter().gather({b"a": (1.0, b"v", None)}, 1),
        lambda: native.Sorter().gather({b"a": (1, "v", None)}, 1),
        lambda: native.Sorter().gather({}, "1"),
        lambda: native.Sorter().encode(1),
        lambda: native.Sorter().encode("1", 1),
        lambda: native.Sorter().sort(1),
    ],
)
def test_wrong_arguments_are_type_errors(call: Callable[[], Any]) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    with pytest.raises(TypeError):
        call()


def test_a_key_that_is_noted_twice_is_one_row() -> None:
    """Runs that hold a key twice, in one run or in two, give one row for it.

    An interrupt could have a layer's keys noted twice, and every scan of it then gave every row
    twice, for as long as the layer lived.
    """
    entries: dict[bytes, Any] = {b"a": (1, b"v", None), b"b": (2, b"w", None)}
    run = [b"a", b"b"]
    expected = ([(b"a", b"v"), (b"b", b"w")], None)
    for runs in ((run, run), ([b"a", b"a", b"b", b"b"],)):
        for merge in (native.merge_chunk, python_merge_chunk):
            assert expected == merge([], None, [(entries, runs)], 9, None, None, 10, False)
