"""An analysis says what a plain computation over all operations says.

The logs are built frame by frame on a simulated disk. What the sketches promise is shown in
test_inspect_sketches.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.engine.operations import (
    CLEAR,
    CREATE,
    DELETE,
    DROP,
    OPERATION_NAMES,
    PUT,
    VOID,
    encode_table_options,
    tag_of,
)
from strandline.recovery.check_report import CheckVerdict
from strandline.tools.inspect.analysis import counting
from strandline.tools.inspect.analysis.analyse import analyse
from strandline.tools.inspect.analysis.bars import series
from strandline.tools.inspect.analysis.counting import OperationCounter
from strandline.tools.inspect.analysis.figures import OTHER, Analysis, Estimate
from strandline.tools.inspect.examine import Examination, examine
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.target import Target
from strandline.wal.format import FRAME_HEADER_BYTES
from strandline.wal.reader import frame_bytes
from tests.support.logs import LOG, UUID, LogBuilder, LogDisk, sample

MS = 1_000_000
T0 = 1_760_000_000_000 * MS


class Op(NamedTuple):
    """An operation as a test writes it."""

    table: int
    op: int
    key: bytes | None = None
    value: bytes | None = None


class Written(NamedTuple):
    """A frame as a test writes it."""

    operations: list[Op]
    time_ns: int = T0
    behind: int = 0
    """How many operations before it are not known synced."""


def put(key: bytes, value: bytes = b"v", table: int = 1) -> Op:
    """Return a put."""
    return Op(table, PUT, key, value)


def payload_of(operations: Sequence[Op]) -> bytes:
    """Return operations as a frame holds them."""
    items: list[Any] = [None]
    for each in operations:
        items += [tag_of(each.table, each.op), each.key, each.value]
    packed: bytes = msgpack.packb(items)
    return packed


def build(frames: Sequence[Written], *, a_segment: int = 10) -> LogBuilder:
    """Build a log with so many frames in a segment."""
    log = LogBuilder()
    for number, frame in enumerate(frames):
        if number % a_segment == 0:
            if number:
                log.seal()
            log.open()
        synced = max(0, log.next_lsn - 1 - frame.behind)
        payload = payload_of(frame.operations)
        count = len(frame.operations)
        log.data(count, payload, time_ns=frame.time_ns, synced_lsn=synced)
    if not frames:
        log.open()
    return log


def look(disk: LogDisk) -> Examination:
    """Examine the log on a disk."""
    return examine(Target(path="log", kind="log", disk=disk, log_dir=LOG, store=None, uuid=UUID))


def analysed(frames: Sequence[Written], **options: Any) -> Analysis:
    """Build a log of these frames and analyse it."""
    log = look(build(frames).on_disk())
    assert log.findings == []
    return analyse(log, Tables(None), **options)


def key_list() -> st.SearchStrategy[bytes]:
    """Few keys, so that they meet; with separators in all places."""
    texts = ["a", "b", "c:d", "c:e", "c:d:f", ":x", ":x|y", "u/1", "u/2", "plain", "\0\0", "n\n-1"]
    return st.sampled_from([text.encode() for text in texts])


def operation_list() -> st.SearchStrategy[list[Op]]:
    """Operations of one frame: of one table, or anything."""
    keyed = st.builds(
        Op,
        st.integers(1, 4),
        st.sampled_from([PUT, PUT, PUT, DELETE]),
        key_list(),
        st.none() | st.binary(max_size=9),
    )
    other = st.builds(Op, st.integers(1, 4), st.sampled_from([CLEAR, DROP, VOID, CREATE]))
    one_table = st.lists(st.builds(put, key_list()), min_size=1, max_size=8)
    return one_table | st.lists(keyed | keyed | keyed | other, min_size=1, max_size=8)


FRAMES = st.lists(
    st.builds(
        Written,
        operation_list(),
        st.integers(0, 5000).map(lambda ms: T0 + ms * MS // 3),
        st.integers(0, 12),
    ),
    max_size=30,
)


class Plain:
    """The figures, computed one operation at a time."""

    def __init__(self, frames: Sequence[Written], first: int = 0, last: int | None = None) -> None:
        self.kinds: dict[int, Counter[str]] = defaultdict(Counter)
        self.data: Counter[int] = Counter()
        self.frames: Counter[int] = Counter()
        self.distinct: dict[int, set[bytes]] = defaultdict(set)
        self.overwritten: Counter[int] = Counter()
        self.hot: Counter[tuple[int, bytes]] = Counter()
        self.by_time: Counter[tuple[int, int]] = Counter()
        self.sizes: list[int] = []
        valid: dict[int, set[bytes]] = defaultdict(set)
        lsn = 0
        for frame in frames:
            inside: set[int] = set()
            if lsn + len(frame.operations) >= first and (last is None or lsn + 1 <= last):
                self.sizes.append(len(frame.operations))
            for each in frame.operations:
                lsn += 1
                if lsn < first or (last is not None and lsn > last):
                    continue
                inside.add(each.table)
                self.kinds[each.table][OPERATION_NAMES[each.op]] += 1
                self.data[each.table] += len(each.key or b"") + len(each.value or b"")
                self.by_time[frame.time_ns, each.table] += 1
                if each.op in (CLEAR, DROP):
                    self.overwritten[each.table] += len(valid[each.table])
                    valid[each.table].clear()
                elif each.op in (PUT, DELETE):
                    assert each.key is not None
                    self.overwritten[each.table] += each.key in valid[each.table]
                    valid[each.table].add(each.key)
                    self.distinct[each.table].add(each.key)
                    self.hot[each.table, each.key] += 1
            self.frames.update(inside)


def check(found: Analysis, plain: Plain) -> None:
    """All figures by table, by key and by time are those of the plain computation."""
    assert {each.table_id for each in found.tables} == set(plain.kinds)
    for each in found.tables:
        assert each.table_id is not None
        number = each.table_id
        assert each.kinds == dict(plain.kinds[number])
        assert each.data_bytes == plain.data[number]
        assert each.frames == plain.frames[number]
        assert each.distinct == Estimate(len(plain.distinct[number]), True)
        assert each.overwritten == Estimate(plain.overwritten[number], True)
    kinds: Counter[str] = sum(plain.kinds.values(), Counter())
    assert found.total.kinds == dict(kinds)
    assert found.total.operations == sum(kinds.values())
    assert found.total.data_bytes == sum(plain.data.values())
    assert found.total.distinct.value == sum(map(len, plain.distinct.values()))
    assert found.total.overwritten.value == sum(plain.overwritten.values())
    hot = {(each.table_id, each.key): each.count for each in found.hot_keys.found}
    assert hot == dict(plain.hot)
    assert found.hot_keys.missed == 0
    assert not any(each.too_many for each in found.hot_keys.found)
    width = found.rates.width_ns
    expected: Counter[tuple[int, int]] = Counter()
    for (time_ns, table), times in plain.by_time.items():
        expected[time_ns - time_ns % width, table] += times
    assert expected == {
        (bucket.start_ns, table): times
        for bucket in found.rates.buckets
        for table, times in bucket.operations.items()
    }
    data = sum(sum(bucket.data_bytes.values()) for bucket in found.rates.buckets)
    assert data == found.total.data_bytes


@given(FRAMES)
def test_the_figures_are_those_of_a_plain_computation(frames: list[Written]) -> None:
    """Whatever the log holds: clears, drops, voids, several tables in a frame, clocks astray."""
    found = analysed(frames, top=100)
    check(found, Plain(frames))
    assert found.frames == len(frames)
    payloads = [len(payload_of(frame.operations)) for frame in frames]
    assert found.payload_bytes == sum(payloads)
    assert found.frame_bytes == sum(map(frame_bytes, payloads))
    back = sum(b.time_ns < a.time_ns for a, b in pairwise(frames))
    assert found.rates.steps_back == back


@given(FRAMES, st.integers(0, 60), st.integers(0, 60))
def test_a_range_of_lsns(frames: list[Written], one: int, other: int) -> None:
    """With from_lsn and to_lsn only operations between them count, both included."""
    first, last = sorted((one, other))
    found = analysed(frames, top=100, from_lsn=first, to_lsn=last)
    plain = Plain(frames, first, last)
    check(found, plain)
    assert found.frames == len(plain.sizes)


@given(FRAMES, st.sets(st.integers(1, 4)))
def test_some_tables_only(frames: list[Written], wanted: set[int]) -> None:
    """With `only` the operations of other tables count nowhere; frames do."""
    found = analysed(frames, top=100, only={f"#{table}" for table in wanted})
    kept = [
        frame._replace(operations=[op for op in frame.operations if op.table in wanted])
        for frame in frames
    ]
    check(found, Plain(kept))
    assert found.frames == len(frames)
    assert found.total.frames == sum(bool(frame.operations) for frame in kept)


@given(FRAMES)
def test_small_batches_change_nothing(frames: list[Written]) -> None:
    """Where batches end has no influence on any figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BATCH_OPERATIONS", 3)
        patch.setattr(counting, "_PART", 2)
        check(analysed(frames, top=100), Plain(frames))


SINGLES = st.lists(
    st.builds(
        Written,
        st.lists(
            st.builds(Op, st.integers(1, 2), st.sampled_from([PUT, PUT, DELETE]), key_list())
            | st.builds(Op, st.integers(1, 2), st.sampled_from([CLEAR, VOID, CREATE])),
            min_size=1,
            max_size=1,
        ),
        st.integers(0, 20).map(lambda ms: T0 + ms * MS // 2),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(SINGLES, st.none() | st.sampled_from(["#1", "#2"]))
def test_frames_of_one_operation(frames: list[Written], only: str | None) -> None:
    """They are taken by the batch, and count as any other."""
    found = analysed(frames, top=100, only=None if only is None else {only})
    kept = [
        frame._replace(operations=[op for op in frame.operations if only in (None, f"#{op.table}")])
        for frame in frames
    ]
    check(found, Plain(kept))
    assert found.total.frames == sum(bool(frame.operations) for frame in kept)


def test_a_table_that_the_log_creates_is_known_by_name() -> None:
    """From its CREATE on; `only` takes the name, and its integer keys have no prefixes."""
    options = encode_table_options("int64/bytes", logged=True)
    key = b"\x80bcdefg:"
    frames = [Written([Op(2, CREATE, b"n", options), put(key, table=2), put(b"k:")])]
    found = analysed(frames, only=["n"])
    assert [(each.table_id, each.name, each.codec) for each in found.tables] == [
        (2, "n", "int64/bytes")
    ]
    assert found.hot_prefixes.found == []
    assert [each.key for each in found.hot_keys.found] == [key]


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (b"user:1:name", b"user:"),
        (b"a/b", b"a/"),
        (b"a|b", b"a|"),
        (b"a.b", b"a."),
        (b"a#b", b"a#"),
        (b"a-b", b"a-"),
        (b"a_b", b"a_"),
        (b"a\0b", b"a\0"),
        (b"a\nb:c", b"a\nb:"),
        (b"/usr/lib", b"/usr/"),
        (b"//usr", None),
        (b"plain", None),
        (b"::", None),
        (b"\xff\xfe:", b"\xff\xfe:"),
    ],
)
def test_the_prefix_of_a_key(key: bytes, prefix: bytes | None) -> None:
    """All up to and including its first separator, those that it begins with left aside."""
    found = analysed([Written([put(key), put(key)])])
    expected = [] if prefix is None else [(prefix, 2)]
    assert [(each.key, each.count) for each in found.hot_prefixes.found] == expected


def test_an_empty_log() -> None:
    """There is nothing in it, and nothing is divided by it."""
    found = analysed([])
    assert found.frames == found.total.operations == found.frame_bytes == 0
    assert found.total.saved == found.group_sizes.mean == found.group_sizes.percentile(50) == 0
    assert (found.tables, found.rates.buckets, found.hot_keys.found) == ([], [], [])
    assert found.rates.first_ns == found.rates.end_ns == 0
    assert found.group_sizes.powers() == []


def test_a_damaged_log() -> None:
    """What verifies is counted, behind the damage too; the rest is not."""
    frames = [Written([put(b"k%d" % number)]) for number in range(20)]
    log = build(frames)
    disk = log.on_disk()
    lost = log.segments[1].frames[4]
    disk.flip(log.path(1), lost.offset + FRAME_HEADER_BYTES)
    examined = look(disk)
    assert examined.verdict is CheckVerdict.LOG_DAMAGE
    found = analyse(examined, Tables(None))
    assert found.total.operations == found.frames == 19
    assert found.total.distinct.value == 19


def test_payloads_that_do_not_decode() -> None:
    """They are counted as frames, their places are told, and the others count as ever."""
    log = sample()
    log.data(2, payload_of([put(b"a"), put(b"b")]))
    log.data(1, b"x")
    found = analyse(look(log.on_disk()), Tables(None))
    bad = len(sample().data_frames) + 1
    assert (found.undecodable, found.frames) == (bad, bad + 1)
    assert found.undecodable_operations == 14
    assert found.total.operations == 2
    assert [each.lsn for each in found.undecodable_places][:3] == [1, 2, 5]
    assert len(found.undecodable_places) == 8


def test_the_reason_why_a_payload_does_not_decode() -> None:
    """It can quote what was found, of which no more is kept than a person reads."""
    log = LogBuilder()
    log.open()
    log.data(1, msgpack.packb([None, "t" * 5000, b"k", b"v"]))
    found = analyse(look(log.on_disk()), Tables(None))
    assert "known tag" in found.undecodable_places[0].reason
    assert len(found.undecodable_places[0].reason) == 200


def test_puts_without_a_key() -> None:
    """A faulty writer could write such; they count as operations, and of no key."""
    found = analysed([Written([Op(1, PUT), Op(1, DELETE, None, b"v"), Op(1, CLEAR, b"k", b"v")])])
    assert found.total.kinds == {"put": 1, "delete": 1, "clear": 1}
    assert found.total.data_bytes == 3
    assert found.total.distinct.value == 0
    assert found.hot_keys.found == []


def test_more_tables_than_have_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come late share one row; equal keys of theirs are different keys."""
    monkeypatch.setattr(counting, "ROWS", 3)
    frames = [Written([put(b"k", table=table), put(b"k", table=table)]) for table in range(1, 9)]
    found = analysed(frames)
    assert {each.table_id for each in found.tables} == {1, 2, 3, OTHER}
    others = found.table(OTHER)
    assert (others.operations, others.frames) == (10, 5)
    assert (others.distinct.value, others.overwritten.value) == (5, 5)
    assert found.total.operations == 16
    with pytest.raises(KeyError):
        found.table(7)


def test_progress_is_told() -> None:
    """How many operations and bytes are done, and of how many, up to the end."""
    seen: list[tuple[int, int, int]] = []
    log = look(build([Written([put(b"k")])] * 25).on_disk())
    analyse(log, Tables(None), progress=lambda *each: seen.append(each))
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[-1][0] == 25


# ---- time


def test_a_clock_that_jumps_costs_the_others_nothing() -> None:
    """A frame of 1970 among those of a minute does not widen their buckets."""
    frames = [Written([put(b"k")], T0 + second * 1000 * MS) for second in range(60)]
    frames[30] = frames[30]._replace(time_ns=0)
    frames[40] = frames[40]._replace(time_ns=(1 << 64) - 1)
    found = analysed(frames)
    assert found.rates.width_ns <= 1000 * MS
    assert len(found.rates.buckets) == 60
    assert found.rates.steps_back == 2
    values, _ = series(found.rates, None, 200)
    assert values.count(None) == 2
    assert len(values) <= 200


def test_the_lag_of_a_log() -> None:
    """It is taken from what frames say, in order, over segments."""
    frames = [Written([put(b"k"), put(b"l")], T0 + n * MS, 2 * min(n, 3)) for n in range(30)]
    found = analysed(frames)
    assert found.sync.operations.maximum == 6
    assert found.sync.delay_ns.percentile(50) == pytest.approx(4 * MS, rel=1 / 32)
    assert found.sync.unclaimed == 4


# ---- memory


def test_what_is_kept_does_not_grow_with_the_log() -> None:
    """Many keys, tables, sizes and times: every counter keeps what it may, and no more."""
    tables = Tables(None)
    counter = OperationCounter(tables)
    for number in range(300):
        names: list[bytes | None] = [b"%d:%d" % (number, n) for n in range(1000)]
        tags = [tag_of(1 + number * 7 % 200, PUT)] * 1000
        counter.take(T0 + number**3 * MS, tags, names, [b"v"] * 1000, 10_000)
    counter.flush()
    rows, every = counter.result()
    assert every.operations == 300_000
    assert len(rows) == 200
    assert counter.hot_keys.entries <= 2 << 12
    assert counter.hot_prefixes.entries <= 2 << 12
    assert counter.distinct.entries <= 1 << 17
    rates = counter.rates.result()
    assert len(rates.buckets) <= 240
    assert len(rates.tables) <= 65
    error = every.distinct.error
    assert abs(every.distinct.value - 300_000) < 4 * error * 300_000


def test_a_row_is_found_by_where_it_stands() -> None:
    """Tables are listed by operations, most first."""
    frames = [Written([put(b"k", table=2)] * 3 + [put(b"k")] + [put(b"k", table=3)] * 2)]
    found = analysed(frames)
    assert [each.table_id for each in found.tables] == [2, 3, 1]
    assert found.rates.tables == [2, 3, 1]
