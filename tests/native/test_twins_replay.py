"""Replay in C: plain frames go into the index as Python puts them there, others are handed back."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine import replay
from strandline.engine.index import Index
from strandline.engine.layer import Entries, Entry, Layer, absent
from strandline.engine.operations import DELETE, PUT, PayloadError, tag_of
from strandline.engine.replay import Replay
from strandline.engine.table_state import TableState
from strandline.native import native as loaded
from strandline.wal.reader import Batch
from strandline.wal.runtime import SystemRuntime

if loaded is None:
    pytest.skip("the functions in C are not there", allow_module_level=True)

native: Any = loaded

TABLES = (1, 2, 17, 40, 1 << 13, 1 << 30, (1 << 61) - 1)
"""Their tags take from one to nine bytes as msgpack."""
UNKNOWN = 3
NO_LIMIT = 1 << 40
U64 = (1 << 64) - 1

small = st.binary(max_size=2)
wide = st.sampled_from([0, 1, 31, 32, 255, 256, 65535, 65536]).map(lambda n: b"\xa7" * n)
keys_of_log = st.one_of(small, small, st.binary(min_size=31, max_size=33), wide)
values_of_log = st.one_of(small, st.binary(max_size=40), wide)
commits: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.lists(st.integers(0, U64), max_size=20), st.just([0, 1] * 20), st.just([])
)
plain: st.SearchStrategy[list[Any]] = st.tuples(
    st.sampled_from(TABLES), keys_of_log, st.none() | values_of_log
).map(lambda o: [tag_of(o[0], DELETE if o[2] is None else PUT), o[1], o[2]])
ODD: list[list[Any]] = [
    [tag_of(UNKNOWN, PUT), b"k", b"v"],
    [tag_of(UNKNOWN, DELETE), b"k", None],
    *[[tag_of(1, op), None, None] for op in (0, 3)],
    *[[tag_of(1, op), b"k", b"v"] for op in (0, 2, 3, 4, 6, 7)],
    [tag_of(1, PUT), b"k", None],
    [tag_of(1, PUT), None, b"v"],
    [tag_of(1, PUT), "k", b"v"],
    [tag_of(1, PUT), b"k", "v"],
    [tag_of(1, PUT), b"k", 5],
    [tag_of(1, PUT), [], b"v"],
    [tag_of(1, PUT), b"k", {}],
    [tag_of(1, PUT), b"k", True],
    [-1, b"k", b"v"],
    [-9, b"k", b"v"],
    [9.0, b"k", b"v"],
    [None, b"k", b"v"],
    [b"9", b"k", b"v"],
    [[9], b"k", b"v"],
    [True, b"k", b"v"],
]
"""Each is no plain operation on a known table, or none at all."""


def packed(marks: Any, operations: list[list[Any]]) -> bytes:
    """Return the payload of a frame."""
    payload: bytes = msgpack.packb([marks, *(field for o in operations for field in o)])
    return payload


@st.composite
def logs(draw: st.DrawFn, *, oddities: int = 4) -> Batch:
    """Draw frames in a row; one in `oddities` holds something that is not plain."""
    lsn = draw(st.integers(1, 50))
    frames: Batch = []
    for _ in range(draw(st.integers(1, 6))):
        operations = draw(st.lists(plain, min_size=1, max_size=8))
        marks: Any = draw(commits)
        payload = packed(marks, operations)
        if draw(st.integers(1, oddities)) == 1:
            how = draw(st.sampled_from("operation marks cut longer byte count".split()))
            if how == "operation":
                operations.insert(draw(st.integers(0, len(operations))), draw(st.sampled_from(ODD)))
                payload = packed(marks, operations)
            elif how == "marks":
                marks = draw(st.sampled_from([5, "m", b"m", {}, [None], [-1], [[1]], ["1"], [1.0]]))
                payload = packed(marks, operations)
            elif how == "cut":
                payload = payload[: draw(st.integers(0, len(payload) - 1))]
            elif how == "longer":
                payload += draw(st.sampled_from([b"\0", b"\xc0", payload]))
            elif how == "byte":
                changed = bytearray(payload)
                changed[draw(st.integers(0, min(40, len(payload) - 1)))] = draw(st.integers(0, 255))
                payload = bytes(changed)
            else:
                operations += [[tag_of(1, PUT), b"k", b"v"]]
        frames.append((lsn, len(operations), payload))
        lsn += len(operations)
    return frames


def plainly(count: int, payload: bytes) -> tuple[list[Any] | None, bool]:
    """Return the operations of a plain frame, None for any other; and whether it must be taken.

    Python reads more ways to write an int than the log's writers use. Such a frame may be
    left to it.
    """
    try:
        items = msgpack.unpackb(payload)
    except Exception:
        return None, False
    if type(items) is not list or len(items) != 1 + 3 * count:
        return None, False
    marks = items[0]
    usual = marks is None or (
        type(marks) is list and all(type(mark) is int and mark >= 0 for mark in marks)
    )
    operations = [items[at : at + 3] for at in range(1, len(items), 3)]
    for tag, key, value in operations:
        if type(tag) is not int or tag < 0 or tag >> 3 not in TABLES or type(key) is not bytes:
            return None, False
        if (tag & 7, type(value)) not in {(PUT, bytes), (DELETE, type(None))}:
            return None, False
    return operations, usual and msgpack.packb(items) == payload


# ---- replay


@given(logs(), st.integers(0, 80), st.sampled_from([1, 30, 300, NO_LIMIT]), st.integers(0, 1))
def test_plain_frames_are_applied_and_others_reported(
    frames: Batch, after: int, most: int, at: int
) -> None:
    """Up to the limit every plain frame is in the dicts; the first other one left no trace."""
    older: Entry = (0, b"older", None)
    found: dict[int, Entries] = {table: {b"": older} for table in TABLES}
    expected = copy.deepcopy(found)
    end, size, fresh, count = native.replay(frames, at, after, found, most)
    expected_size = expected_count = 0
    before = sum(map(len, expected.values()))
    for first, operations_there, payload in frames[at:end]:
        assert expected_size < most
        operations, _ = plainly(operations_there, payload)
        assert operations is not None
        for lsn, (tag, key, value) in enumerate(operations, first):
            if lsn > after:
                expected[tag >> 3][key] = (lsn, value, None)
                expected_size += len(key) + len(value or b"")
                expected_count += 1
    assert expected == found
    assert [list(e) for e in expected.values()] == [list(e) for e in found.values()]
    fresh_there = sum(map(len, expected.values())) - before
    assert (expected_size, fresh_there, expected_count) == (size, fresh, count)
    if end < len(frames) and size < most:
        operations, must = plainly(*frames[end][1:])
        assert operations is None or not must


class Fixture:
    """As much of an engine as a replay needs."""

    def __init__(self, budget: int) -> None:
        runtime = SystemRuntime()
        view: Any = SimpleNamespace(getter=lambda table_id: absent)
        self.index = Index(runtime, view)
        for table in TABLES:
            new = TableState(table, f"t{table}", "bytes", logged=True, layer=Layer(runtime))
            self.index.add(new)
        self.options = SimpleNamespace(max_dirty_bytes=budget)
        self.highest_table_id = UNKNOWN
        self.replayed_lsn = 0
        self.definitions: list[Any] = []
        self.checkpointer = self

    def run_or_raise(self) -> None:
        """Forget what was counted, as a flush does; the entries stay, to be compared."""
        self.index.active_bytes = 0

    def free_retired(self) -> None:
        """Nothing was retired that a test would miss."""

    def outcome(self, frames: Batch, after: int) -> tuple[Any, ...]:
        """Replay; return all that this comes to."""
        engine: Any = self
        applying = Replay(engine, salvage=False)
        refused = None
        try:
            applying.apply(frames, after)
        except PayloadError as error:
            refused = applying.lsn, str(error)
        states = self.index.states.values()
        return (
            {state.id: state.entries for state in states},
            [list(state.entries) for state in states],
            (applying.operations, applying.frames, applying.bytes),
            self.replayed_lsn,
            refused,
        )


@given(logs(oddities=6), st.integers(0, 80), st.sampled_from([2, 200, NO_LIMIT]))
def test_a_replay_comes_to_the_same_as_in_python(frames: Batch, after: int, budget: int) -> None:
    """Entries, counts and what is refused are the same, frames of every kind between others."""
    after = min(after, frames[-1][0] - 1)  # survey hands over no frame that is below all of it
    frames = [frame for frame in frames if frame[0] + frame[1] - 1 > after]
    with mock.patch.object(replay, "native", None):
        expected = Fixture(budget).outcome(frames, after)
    assert expected == Fixture(budget).outcome(frames, after)


def test_every_cut_of_a_payload_is_refused() -> None:
    """No length within a truncated payload is believed, and nothing of the frame is applied."""
    operations = [[tag_of(t, PUT), b"k" * n, b"v" * (300 * n)] for n, t in enumerate(TABLES, 1)]
    whole = packed([0, 200, 70_000, 1 << 33], operations)
    found: dict[int, Entries] = {table: {} for table in TABLES}
    for length in range(len(whole)):
        frames = [(1, len(operations), whole[:length])]
        assert native.replay(frames, 0, 0, found, NO_LIMIT) == (0, 0, 0, 0)
    assert not any(found.values())
    assert native.replay([(1, len(operations), whole)], 0, 0, found, NO_LIMIT)[0] == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\xc0",
        b"\x94\xdd\xff\xff\xff\xff\x09\xc4\x01k\xc4\x01v",
        b"\x94\xc0\x09\xc6\xff\xff\xff\xff",
        b"\x94\xc0\x09\xc4\x01k\xc6\xff\xff\xff\xff",
        b"\x94\xc0\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x01k\xc4\x01v",
        b"\x84\xc0\x09\xc4\x01k\xc4\x01v",
        b"\x95\xc0\x09\xc4\x01k\xc4\x01v",
        b"\x94\xc0\x09\xa1k\xc4\x01v",
        b"\x94\xc0\x09\xc7\x01k\xc4\x01v",
        b"\x94\xc0\x09\xc7\0\0\0\0\0\0\0\x01k\xc4\x01v",
        b"\x94\xc0\x89\xc4\x01k\xc4\x01v",
        *[packed(None, [operation]) for operation in ODD],
    ],
)
def test_payloads_that_lie_are_reported(payload: bytes) -> None:
    """Lengths and kinds that the rest does not bear out are left to Python."""
    found: dict[int, Entries] = {table: {} for table in TABLES}
    good = (1, 1, packed(None, [[tag_of(1, PUT), b"k", b"v"]]))
    for count in (1, (1 << 32) - 1):
        assert native.replay([good, (2, count, payload)], 0, 0, found, NO_LIMIT) == (1, 2, 1, 1)
        assert native.replay([(2, count, payload), good], 0, 0, found, NO_LIMIT) == (0, 0, 0, 0)
        assert {table: entries for table, entries in found.items() if entries} == {
            1: {b"k": (1, b"v", None)}
        }
        found[1].clear()


def test_the_limit_is_looked_at_before_each_frame() -> None:
    """The frame that reaches the limit is the last; one byte below it there is one more."""
    frames = [(n, 1, packed(None, [[9, b"key%d" % n, b"value"]])) for n in range(1, 5)]
    for most, end in ((0, 0), (1, 1), (9, 1), (10, 2), (18, 2), (19, 3), (100, 4)):
        assert native.replay(frames, 0, 0, {1: {}}, most) == (end, 9 * end, end, end)


def test_an_lsn_at_the_end_of_its_range_is_applied() -> None:
    """The last LSN that a header can state is not passed over."""
    for first, count in ((U64, 1), (U64 - 1, 2), (U64 - 2, 2)):
        found: dict[int, Entries] = {1: {}}
        operations = [[tag_of(1, PUT), b"%d" % n, b"v"] for n in range(count)]
        end, _, fresh, applied = native.replay(
            [(first, count, packed(None, operations))], 0, 0, found, NO_LIMIT
        )
        # Either is right: to apply the frame, or to hand it back as it is.
        assert (end, fresh, applied) in {(1, count, count), (0, 0, 0)}


# ---- references and types


def test_no_reference_is_kept_or_lost() -> None:
    """Payloads, and entries that were there before, are held as often after the calls as before."""
    keys, older = [b"key %d" % n for n in range(9)], (0, b"older", None)
    payload = packed([1], [[tag_of(1, PUT), key, b"value"] for key in keys])
    entries: Entries = dict.fromkeys(keys, older)
    watched = [*keys, payload, entries]
    before, held = [sys.getrefcount(o) for o in watched], sys.getrefcount(older)
    for lsn in range(50):
        native.replay([(lsn, 9, payload), (lsn, 8, payload)], 0, 3, {1: entries}, 1000)
        with pytest.raises(TypeError):
            native.replay([(lsn, 9, payload), None], 0, 3, {1: entries}, 1000)
    assert before == [sys.getrefcount(o) for o in watched]
    assert held - len(keys) == sys.getrefcount(older)
    watched = [entries[key] for key in keys]
    assert {sys.getrefcount(watched[n]) for n in range(9)} == {3}  # the dict, the list, the call


class Mapped(dict[bytes, bytes]):
    """A dict, but not exactly."""


FRAME = (1, 1, packed(None, [[tag_of(1, PUT), b"k", b"v"]]))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ([], 0, 0, {}),
        ((), 0, 0, {}, 1),
        ([], None, 0, {}, 1),
        ([], True, 0, {}, 1),
        ([], 0, -1, {}, 1),
        ([], 0, 0, [], 1),
        ([], 0, 0, {}, 1.0),
        ([None], 0, 0, {}, 1),
        ([FRAME[:2]], 0, 0, {}, 1),
        ([list(FRAME)], 0, 0, {}, 1),
        ([(-1, 1, b"")], 0, 0, {}, 1),
        ([(1, 1 << 32, b"")], 0, 0, {}, 1),
        ([(1, 1, bytearray(FRAME[2]))], 0, 0, {}, 1),
    ],
)
def test_wrong_arguments_are_type_errors(arguments: tuple[Any, ...]) -> None:
    """What is not of the expected type is named as such, and nothing worse happens."""
    with pytest.raises(TypeError):
        native.replay(*arguments)


@pytest.mark.parametrize("known", [{1: []}, {1: Mapped()}, {1: None}, {"1": {}}, {}])
def test_tables_that_are_no_dicts_are_unknown(known: dict[Any, Any]) -> None:
    """Nothing is written into what is no dict of entries."""
    assert native.replay([FRAME], 0, 0, known, NO_LIMIT) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="index"):
        native.replay([FRAME], -1, 0, known, NO_LIMIT)
