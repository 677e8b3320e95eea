"""What counts in bounded memory keeps to its bounds, and is as exact as it says.

Sketches are made small here; how they work together is shown in test_inspect_analysis.py.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.tools.inspect.analysis.bars import PAUSE, bar, series, sparkline
from strandline.tools.inspect.analysis.figures import OTHER, Bucket, Estimate, Rates
from strandline.tools.inspect.analysis.rates import RateCounter
from strandline.tools.inspect.analysis.sketch import DistinctKeys, HeavyHitters, total
from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.analysis.sync_lag import LagCounter

MS = 1_000_000
T0 = 1_760_000_000_000 * MS


# ---- different keys


def keys_of(count: int, start: int = 0) -> list[bytes]:
    """Return so many different keys."""
    return [b"key %d" % number for number in range(start, start + count)]


def test_different_keys_are_exact_up_to_the_budget() -> None:
    """As many hashes as the budget allows are kept, of all tables together."""
    distinct = DistinctKeys(1000)
    for _ in range(3):
        distinct.add(1, keys_of(600))
        distinct.add(2, keys_of(400))
    assert (distinct.count(1), distinct.count(2)) == (Estimate(600, True), Estimate(400, True))
    assert distinct.entries == 1000


def test_different_keys_beyond_the_budget() -> None:
    """Entries stay within it, estimates within four stated errors; small tables are exact."""
    distinct = DistinctKeys(2000)
    distinct.add(2, keys_of(300))
    for start in range(0, 200_000, 5000):
        distinct.add(1, keys_of(5000, start))
        distinct.add(1, keys_of(5000, start // 2))
        assert distinct.entries <= 2000
    found = distinct.count(1)
    assert not found.exact
    assert 0.01 < found.error < 0.05
    assert abs(found.value - 200_000) < 4 * found.error * 200_000
    assert distinct.count(2) == Estimate(300, True)
    both = total([found, distinct.count(2)])
    assert both.value == found.value + 300
    assert not both.exact
    assert both.error == pytest.approx(found.error, rel=0.01)


@given(st.lists(st.tuples(st.sampled_from("avc"), st.integers(0, 30)), max_size=40))
def test_clearing_and_counting(steps: list[tuple[str, int]]) -> None:
    """A clear voids keys, it does not make them be forgotten, and they can come back."""
    distinct = DistinctKeys(10_000)
    every: set[bytes] = set()
    valid: set[bytes] = set()
    for step, number in steps:
        if step == "c":
            distinct.clear(1)
            valid.clear()
        else:
            distinct.add(1, keys_of(5, number))
            every.update(keys_of(5, number))
            valid.update(keys_of(5, number))
    assert distinct.count(1) == Estimate(len(every), True)
    assert distinct.valid(1) == Estimate(len(valid), True)


def test_clears_stay_within_the_budget() -> None:
    """What was voided counts against it, too."""
    distinct = DistinctKeys(500)
    for start in range(0, 20_000, 100):
        distinct.add(1, keys_of(100, start))
        distinct.clear(1)
        assert distinct.entries <= 500
    assert distinct.valid(1).value == 0
    found = distinct.count(1)
    assert abs(found.value - 20_000) < 4 * found.error * 20_000


# ---- hot keys


@given(st.integers(0, 1 << 32), st.integers(1, 20), st.integers(1, 3))
def test_the_bounds_of_hot_keys(seed: int, capacity: int, tables: int) -> None:
    """What the counters promise.

    A count is never too low, and too high by `too_many` at the most; that is `missed` at the
    most, and that the share of one counter. Who is not listed is no hotter than said.
    """
    chooser = random.Random(seed)
    hitters = HeavyHitters(capacity)
    real: Counter[tuple[int, bytes]] = Counter()
    for _ in range(chooser.randrange(40)):
        table = chooser.randrange(tables)
        fresh = Counter(
            b"%d" % int(200 * chooser.random() ** 3) for _ in range(chooser.randrange(60))
        )
        real.update({(table, key): times for key, times in fresh.items()})
        hitters.add(table, fresh)
        assert hitters.entries <= 2 * capacity
    found = hitters.top(10_000)
    assert found.missed <= sum(real.values()) / (capacity + 1)
    listed = set()
    for each in found.found:
        times = real[each.table_id, each.key]
        assert each.count - each.too_many <= times <= each.count
        assert each.too_many <= found.missed
        assert times > found.missed
        listed.add((each.table_id, each.key))
    for place, times in real.items():
        assert place in listed or times <= 2 * found.missed
    assert [each.count for each in found.found] == sorted(
        (each.count for each in found.found), reverse=True
    )
    assert hitters.top(3).found == found.found[:3]


def test_hot_keys_are_exact_where_all_fit() -> None:
    """Without a counter given up nothing is too many, and nothing is missed."""
    hitters = HeavyHitters(10)
    for _ in range(5):
        hitters.add(1, dict.fromkeys(keys_of(20), 2))
    found = hitters.top(100)
    assert found.missed == 0
    assert {(each.count, each.too_many) for each in found.found} == {(10, 0)}


def test_no_key_stands_out_of_equals() -> None:
    """Of many keys that occur equally often none is called hot."""
    hitters = HeavyHitters(10)
    for start in range(100):
        hitters.add(1, dict.fromkeys(keys_of(50, 50 * start), 1))
    assert hitters.top(10).found == []


# ---- how values spread


VALUES = st.lists(st.integers(0, 1 << 10) | st.integers(0, (1 << 64) - 1), min_size=1)


@given(VALUES, st.floats(0.1, 100))
def test_percentiles(values: list[int], percent: float) -> None:
    """Exact below 64, never too high, and no more than 1/32 too low; the ends are exact."""
    spread = Spread()
    for value in values:
        spread.add({value: 1})
    assert (spread.count, spread.total) == (len(values), sum(values))
    assert (spread.minimum, spread.maximum) == (min(values), max(values))
    rank = max(1, -(-len(values) * percent // 100))
    exact = sorted(values)[int(rank) - 1]
    found = spread.percentile(percent)
    assert found <= exact
    assert exact - found <= exact / 32
    assert found == exact or exact >= 64


@given(VALUES)
def test_powers_of_two(values: list[int]) -> None:
    """Every value is in one power, which has its bounds; there is no hole between powers."""
    spread = Spread()
    spread.add(Counter(values))
    powers = spread.powers()
    for low, high, count in powers:
        assert count == sum(low <= value <= high for value in values)
    assert sum(power.count for power in powers) == len(values)
    for one, following in pairwise(powers):
        assert following.low == one.high + 1


def test_a_spread_is_bounded() -> None:
    """Of any 64-bit values there are no more buckets than were said."""
    spread = Spread()
    chooser = random.Random(1)
    spread.add(Counter(chooser.getrandbits(chooser.randrange(1, 65)) for _ in range(200_000)))
    assert spread.buckets <= 1920


# ---- rates


@given(
    st.lists(st.tuples(st.integers(0, 1 << 64), st.integers(1, 5), st.integers(1, 9)), max_size=80)
)
def test_rates_of_any_clock(written: list[tuple[int, int, int]]) -> None:
    """Whatever the clock says, buckets stay few, and each has what was written in its time."""
    counter = RateCounter(buckets=10, series=3)
    for time_ns, table, times in written:
        assert time_ns in counter.window(time_ns)
        counter.add(time_ns, {table: times}, {table: 7 * times})
    found = counter.result()
    assert len(found.buckets) <= 10
    expected: Counter[int] = Counter()
    for time_ns, _, times in written:
        expected[time_ns - time_ns % found.width_ns] += times
    assert expected == {each.start_ns: sum(each.operations.values()) for each in found.buckets}
    assert all(
        times * 7 == each.data_bytes[table]
        for each in found.buckets
        for table, times in each.operations.items()
    )
    starts = [each.start_ns for each in found.buckets]
    assert starts == sorted(starts)
    assert len(found.tables) <= 4
    assert len(set(found.tables) - {OTHER}) <= 3


@pytest.mark.parametrize("bits", range(20, 65, 2))
def test_buckets_are_joined_rightly_at_every_width(bits: int) -> None:
    """From milliseconds to centuries."""
    chooser = random.Random(bits)
    times = [chooser.getrandbits(bits) for _ in range(300)]
    counter = RateCounter(buckets=60)
    for time_ns in times:
        counter.add(time_ns, {1: 1}, {1: 2})
    found = counter.result()
    expected = Counter(time_ns - time_ns % found.width_ns for time_ns in times)
    assert expected == {each.start_ns: each.operations[1] for each in found.buckets}


def test_the_width_of_buckets() -> None:
    """It is as fine as the number of buckets allows: a second for some minutes."""
    counter = RateCounter()
    for second in range(200):
        counter.add(T0 + second * 1000 * MS, {1: 1}, {})
        counter.add(T0 + second * 1000 * MS + 500 * MS, {1: 1}, {})
    assert counter.result().width_ns == 1000 * MS


def rates_of(*buckets: tuple[int, int]) -> Rates:
    """Rates with buckets of a second, at some seconds, with some operations of table 1."""
    return Rates(
        width_ns=10**9,
        buckets=[Bucket(at * 10**9, {1: times}, {1: 0}) for at, times in buckets],
        tables=[1],
        steps_back=0,
    )


def test_a_series_in_few_columns() -> None:
    """Neighbours are joined, stretches without a write are 0, and nothing is lost."""
    rates = rates_of(*((at, at + 1) for at in range(50)), (53, 9))
    values, column_ns = series(rates, None, 20)
    assert len(values) <= 20
    assert column_ns == 3 * 10**9
    assert len(values) == 18
    amounts = [each for each in values if each is not None]
    assert sum(amounts) * 3 == pytest.approx(sum(range(51)) + 9)
    assert series(rates_of((0, 4), (2, 8)), 1, 20)[0] == [4.0, 0.0, 8.0]
    assert series(rates_of((0, 4), (2, 8)), 2, 20)[0] == [0.0, 0.0, 0.0]
    assert series(rates_of(), None, 20)[0] == []


def test_a_long_pause_is_cut_out() -> None:
    """It takes one column, which says so."""
    values, _ = series(rates_of((0, 4), (1000, 8)), None, 20)
    assert values == [4.0, None, 8.0]
    assert PAUSE in sparkline(values, 8.0)


@given(st.lists(st.integers(0, 1 << 34), min_size=1, max_size=60), st.integers(20, 100))
def test_a_series_fits(times: list[int], columns: int) -> None:
    """Whatever the clocks said, it has no more columns than there are, and loses nothing."""
    counter = RateCounter(buckets=20)
    for each in times:
        counter.add(each * each, {1: 3}, {})
    values, column_ns = series(counter.result(), None, columns)
    assert len(values) <= columns
    amounts = [each for each in values if each is not None]
    assert sum(amounts) * column_ns / 1e9 == pytest.approx(3 * len(times))


def test_bars_and_sparklines() -> None:
    """What is not 0 is seen, what is most is full, and nothing comes of nothing."""
    assert (bar(0, 10, 8), bar(5, 0, 8)) == ("", "")
    assert len(bar(10, 10, 8)) == 8
    assert len(bar(1, 10**9, 8)) == 1
    line = sparkline([0.0, 1.0, 8.0], 8.0)
    assert len(line) == 3
    assert line[0] == " "
    assert len(set(line)) == 3
    assert sparkline([0.0], 0.0) == " "


# ---- sync lag


def lag_of(*frames: tuple[int, int, int, int], waiting: int = 1000) -> Any:
    """The lag of frames of (first LSN, operations, time, synced LSN)."""
    counter = LagCounter(waiting)
    for first, count, time_ns, synced in frames:
        counter.take([(0, first, count, time_ns, synced, b"")])
        assert counter.entries <= waiting
    return counter.result()


def test_sync_lag() -> None:
    """What lies between a frame and what it knows synced was at risk; it was until claimed."""
    found = lag_of((1, 2, 100, 0), (3, 1, 110, 0), (4, 1, 150, 2), (5, 6, 170, 4))
    assert (found.operations.count, found.operations.total) == (4, 0 + 2 + 1 + 0)
    assert found.operations.maximum == 2
    assert found.delay_ns.count == 3
    assert found.delay_ns.total == (150 - 100) + (170 - 110) + (170 - 150)
    assert (found.delay_ns.minimum, found.delay_ns.maximum) == (20, 60)
    assert (found.unclaimed, found.backward, found.sampled) == (1, 0, 1)


def test_sync_lag_of_a_clock_set_back() -> None:
    """No negative delay is made up: such frames are counted apart."""
    found = lag_of((1, 1, 100, 0), (2, 1, 50, 1), (3, 1, 60, 2))
    assert (found.backward, found.delay_ns.count, found.delay_ns.total) == (1, 1, 10)


def test_sync_lag_of_a_frame_that_claims_itself() -> None:
    """A frame that claims more than there was is believed no further than that."""
    found = lag_of((1, 1, 100, 77), (2, 1, 110, 77))
    assert found.operations.maximum == 0
    assert found.delay_ns.total == 10


def test_sync_lag_where_nothing_is_synced_for_long() -> None:
    """Frames that wait are a sample of bounded size, which still stands for all of them."""
    frames = [(lsn, 1, lsn * 10, 0) for lsn in range(1, 5001)]
    found = lag_of(*frames, waiting=100)
    assert found.sampled >= 32
    assert found.unclaimed == 5000
    assert found.delay_ns.count == 0
    found = lag_of(*frames, (5001, 1, 50_010, 5000), waiting=100)
    assert found.delay_ns.count == pytest.approx(5000, abs=found.sampled)
    assert found.delay_ns.mean == pytest.approx(25_000, rel=0.05)
    assert found.operations.maximum == 4999
