"""`strandline.testing`: where a program's store goes, what is cut, what an invariant is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability
from strandline import open as open_under_another_name
from strandline.errors import InvalidRequestError, StoreLockedError
from strandline.testing.cut import Crash, Cut, crashes_of, name_of
from strandline.testing.plugin import scratch_directory
from strandline.testing.power_cuts import PowerCuts, Settings
from strandline.testing.world import World

Make = Callable[..., PowerCuts]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make what the fixture makes, with settings of the test's own."""
    with scratch_directory(tmp_path) as directory:

        def cuts(**settings: Any) -> PowerCuts:
            chosen = Settings(**{"cuts": 120, "depth": 1, **settings})
            return PowerCuts(directory, chosen, "a test")

        yield cuts


def accept(_: Cut) -> None:
    """Find nothing wrong."""


def told(error: BaseException) -> str:
    """Return what was added to an error."""
    return "\n".join(error.__notes__)


# ---- where the store goes


def test_every_name_of_open_leads_to_the_simulated_disk(make: Make) -> None:
    """A program that imported `open` under another name, long before, is not let through."""
    cuts = make(cuts=4)

    def program() -> None:
        with open_under_another_name(cuts.path) as db:
            db[b"k"] = b"v"

    cuts.run(program, accept)
    assert not cuts.path.exists()
    assert cuts.tally["cuts"] > 0


def test_a_path_below_is_as_good_and_elsewhere_is_the_real_disk(make: Make, tmp_path: Path) -> None:
    """Only the store under test is cut; another one is as real as ever."""
    cuts = make(cuts=4)
    elsewhere = tmp_path / "elsewhere"

    def program() -> None:
        with strandline.open(elsewhere) as other, strandline.open(str(cuts.path / "a" / "b")) as db:
            other[b"k"] = db[b"k"] = b"v"

    cuts.run(program, accept)
    assert (elsewhere / "IDENTITY").is_file()
    assert not cuts.path.exists()


def test_after_the_run_open_is_what_it_was(make: Make) -> None:
    """Nothing leads to a simulated disk once the run has ended, however it ended."""
    cuts = make(cuts=4)

    def program() -> None:
        strandline.open(cuts.path)
        raise LookupError("the program's own")

    with pytest.raises(LookupError, match="own"):
        cuts.run(program, accept)
    with strandline.open(cuts.path) as db:
        assert Path(db.path) == cuts.path


def test_the_options_of_the_program_are_kept(make: Make) -> None:
    """What a program asks of its store it gets, under test too."""
    cuts = make(cuts=4)

    def program() -> None:
        with strandline.open(cuts.path, max_value_bytes=3, segment_bytes=1 << 30) as db:
            with pytest.raises(strandline.ValueTooLargeError):
                db[b"k"] = b"long"
            for number in range(40):
                db.table(f"table {number}")

    cuts.run(program, accept)


def test_unknown_options_are_refused_as_ever(make: Make) -> None:
    """A typing error in the program is the program's error."""
    cuts = make()
    with pytest.raises(InvalidRequestError, match="unknown option") as caught:
        cuts.run(lambda: strandline.open(cuts.path, durabilty=1), accept)
    assert "raised by the program itself" in told(caught.value)


def test_a_second_store_is_refused(make: Make) -> None:
    """Two stores cannot be cut at one moment; to say so is better than to cut one of them."""
    cuts = make()

    def program() -> None:
        strandline.open(cuts.path / "one")
        strandline.open(cuts.path / "two")

    with pytest.raises(NotImplementedError, match="one store at a time"):
        cuts.run(program, accept)


def test_a_store_is_locked_and_can_be_reopened(make: Make) -> None:
    """Within a run the simulated store behaves as a real one does."""
    cuts = make(cuts=8)

    def program() -> None:
        db = strandline.open(cuts.path)
        db[b"k"] = b"v"
        with pytest.raises(StoreLockedError):
            strandline.open(cuts.path)
        db.close()
        with strandline.open(cuts.path) as db:
            assert db[b"k"] == b"v"
            assert db.flush(timeout=5).remaining == 0

    cuts.run(program, accept)


def test_a_program_that_changes_nothing_is_an_error(make: Make) -> None:
    """A test that opens its store somewhere else must not pass."""
    cuts = make()
    with pytest.raises(AssertionError, match=r"nothing to cut: expected it to call .*data"):
        cuts.run(lambda: None, accept)


# ---- what is cut


def test_a_power_cut_takes_what_a_kill_leaves(make: Make) -> None:
    """A BUFFERED write outlives the process, not the power."""
    cuts = make()
    missing: set[str] = set()

    def program() -> None:
        with strandline.open(cuts.path) as db:
            for key in (b"1", b"2", b"3"):
                db.put(key, b"v", durability=Durability.BUFFERED)
                cuts.acknowledge(key)

    def invariant(cut: Cut) -> None:
        with strandline.open(cuts.path) as db:
            if any(key not in db for key in cut.acknowledged):
                missing.add(cut.kind)

    cuts.run(program, invariant)
    assert missing == {"power cut"}


def test_weak_writes_are_cut_off_from_each_other(make: Make) -> None:
    """Behind a program the log is written now and then: between any two ASYNC writes, too."""
    cuts = make()
    found: set[int] = set()

    def program() -> None:
        db = strandline.open(cuts.path, durability=Durability.ASYNC)
        for number in range(8):
            db[b"%d" % number] = b"v"

    def invariant(cut: Cut) -> None:
        with strandline.open(cuts.path) as db:
            assert list(db) == [b"%d" % number for number in range(len(db))]
            found.add(len(db))

    cuts.run(program, invariant)
    assert len(found) > 3


def test_cuts_are_before_every_change_and_at_the_end(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit that is reached no moment is left out, but for what leaves the same."""
    monkeypatch.setattr(World, "likeness", lambda _: (object(),))
    cuts = make(cuts=10_000)
    moments: set[int] = set()

    def program() -> None:
        db = strandline.open(cuts.path)
        for number in range(4):
            db[b"k"] = b"%d" % number
            cuts.acknowledge(number)

    def invariant(cut: Cut) -> None:
        moments.add(crashes_of(cut.name)[0].change)

    cuts.run(program, invariant)
    assert moments == set(range(1, max(moments) + 1))


def test_what_is_equal_is_looked_at_once(make: Make) -> None:
    """Where all is synced, every power cut leaves the same; so do two moments now and then."""
    cuts = make(cuts=10_000)
    names: list[str] = []

    def program() -> None:
        strandline.open(cuts.path).sync()

    cuts.run(program, lambda cut: names.append(cut.name))
    assert names[:2] == ["1:lost", "1:killed"]
    assert not any(name.startswith("1:random") for name in names)
    assert cuts.tally == {"cuts": len(names), "in recoveries": 0}


def test_fewer_cuts_are_spread_over_the_whole_run(make: Make) -> None:
    """A limit leaves out moments evenly, never the end."""
    moments: dict[int, list[int]] = {}
    for limit in (10_000, 16):
        cuts = make(cuts=limit)

        def program(cuts: PowerCuts = cuts) -> None:
            db = strandline.open(cuts.path)
            for number in range(10):
                db[b"k"] = b"%d" % number

        def invariant(cut: Cut, limit: int = limit) -> None:
            moments.setdefault(limit, []).append(crashes_of(cut.name)[0].change)

        cuts.run(program, invariant)
        assert cuts.tally["cuts"] <= limit
    end = max(moments[10_000])
    assert [end // 4, end // 2, end * 3 // 4, end] == pytest.approx(sorted(set(moments[16])), abs=1)


def test_a_recovery_of_the_program_is_cut_too(make: Make) -> None:
    """A recovery that does its work in two steps is found at depth 2, and only there."""

    def bookings(depth: int) -> PowerCuts:
        cuts = make(depth=depth, cuts=400)

        def recover() -> strandline.Store:
            db = strandline.open(cuts.path)
            if b"pending" in db:
                db.incr(b"total", int(db[b"pending"]))
                del db[b"pending"]  # a cut before this line books it twice
            return db

        def program() -> None:
            db = recover()
            db[b"pending"] = b"5"

        def invariant(_: Cut) -> None:
            assert recover().get(b"total", b"0") in (b"0", b"5")

        cuts.run(program, invariant)
        return cuts

    assert bookings(1).tally["in recoveries"] == 0
    with pytest.raises(AssertionError) as caught:
        bookings(2)
    text = told(caught.value)
    assert "of the program, " in text
    assert "of the recovery from that, before its " in text
    assert "# a cut before this line books it twice" in text


# ---- what an invariant is told


def test_what_was_acknowledged_is_copied(make: Make) -> None:
    """What a program does to its objects later does not change what it had promised."""
    cuts = make()

    def program() -> None:
        promised: list[int] = []
        db = strandline.open(cuts.path)
        for number in range(3):
            db[b"k"] = b"v"
            promised.append(number)
            cuts.acknowledge(promised)

    def invariant(cut: Cut) -> None:
        assert cut.acknowledged == [[0], [0, 1], [0, 1, 2]][: len(cut.acknowledged)]
        cut.acknowledged.clear()

    cuts.run(program, invariant)


def test_a_promise_alone_makes_a_cut_of_its_own(make: Make) -> None:
    """What a cut leaves may be as before, and too little all the same once it was promised."""
    cuts = make()
    promised: dict[str, list[str]] = {}

    def program() -> None:
        db = strandline.open(cuts.path)
        db.put(b"k", b"v", durability=Durability.BUFFERED)
        cuts.acknowledge("k")

    def invariant(cut: Cut) -> None:
        promised[cut.name] = cut.acknowledged

    cuts.run(program, invariant)
    end = max(crashes_of(name)[0].change for name in promised)
    assert promised[f"{end}:lost"] == ["k"]


def test_a_cut_of_a_recovery_is_told_the_same_and_more(make: Make) -> None:
    """What the program had promised holds; a recovery can promise more; one power cut is one."""
    cuts = make(depth=2, cuts=160)
    promised: dict[str, list[str]] = {}

    def program() -> None:
        db = strandline.open(cuts.path)
        for key in (b"1", b"2", b"3"):
            db.put(key, b"v")
            cuts.acknowledge("by the program")

    def invariant(cut: Cut) -> None:
        crashes = crashes_of(cut.name)
        killed = all(crash.way == "killed" for crash in crashes)
        assert cut.kind == ("kill" if killed else "power cut")
        promised[cut.name] = list(cut.acknowledged)
        if len(crashes) == 2:
            before = promised[str(crashes[0])]
            assert cut.acknowledged in (before, [*before, "by the recovery"])
        cut.acknowledged.clear()
        with strandline.open(cuts.path) as db:
            db[b"recovered"] = b""
            cuts.acknowledge("by the recovery")

    cuts.run(program, invariant)
    assert any("by the recovery" in told for told in promised.values())
    assert any(told.count("by the program") == 3 for told in promised.values())


def test_threads_of_a_program_are_cut_too(make: Make) -> None:
    """In whatever order they run, nothing that one of them was promised is missed by mistake."""
    cuts = make(cuts=200)

    def program() -> None:
        db = strandline.open(cuts.path)

        def write(name: int) -> None:
            for number in range(3):
                key = b"%d/%d" % (name, number)
                db[key] = b"v"
                cuts.acknowledge(key)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def invariant(cut: Cut) -> None:
        with strandline.open(cuts.path) as db:
            assert all(key in db for key in cut.acknowledged)

    cuts.run(program, invariant)


def test_acknowledged_before_written_is_found(make: Make) -> None:
    """The order of the two lines is what it is all about; the failure says where and how."""
    cuts = make()

    def program() -> None:
        with strandline.open(cuts.path) as db:
            cuts.acknowledge("k")
            db[b"k"] = b"v"

    def invariant(cut: Cut) -> None:
        with strandline.open(cuts.path) as db:
            assert not cut.acknowledged or b"k" in db

    with pytest.raises(AssertionError) as caught:
        cuts.run(program, invariant)
    text = told(caught.value)
    assert 'in program: db[b"k"] = b"v"' in text
    assert "acknowledged by then:\n    'k'" in text
    assert "pytest 'a test' --strandline-seed 0 --strandline-cut " in text
    assert "may not repeat" not in text


def test_an_error_of_the_recovery_is_a_finding(make: Make) -> None:
    """Whatever an invariant raises says which cut it was, `pytest.fail` included."""
    cuts = make(cuts=4)

    def fail(_: Cut) -> None:
        pytest.fail("no good")

    with pytest.raises(pytest.fail.Exception) as caught:
        cuts.run(lambda: strandline.open(cuts.path), fail)
    assert "This was after cut" in told(caught.value)


def test_a_program_that_strays_is_told_of(make: Make) -> None:
    """A cut that may not repeat says so."""
    cuts = make()
    runs: list[int] = []

    def program() -> None:
        runs.append(len(runs))
        with strandline.open(cuts.path) as db:
            for _ in runs:
                db[b"k"] = b"v"

    def invariant(cut: Cut) -> None:
        assert crashes_of(cut.name)[0].change < 5

    with pytest.raises(AssertionError) as caught:
        cuts.run(program, invariant)
    assert "It may not repeat: from change" in told(caught.value)


# ---- names of cuts


@pytest.mark.slow
def test_a_cut_is_found_again_by_its_name(make: Make) -> None:
    """One cut alone leaves what it left among all the others, in recoveries too."""
    left: dict[str, list[bytes]] = {}

    def run(cuts: PowerCuts) -> dict[str, list[bytes]]:
        left.clear()

        def program() -> None:
            db = strandline.open(cuts.path, durability=Durability.BUFFERED)
            for number in range(8):
                db[b"%d" % number] = bytes(700)

        def invariant(cut: Cut) -> None:
            db = strandline.open(cuts.path)
            left[cut.name] = list(db)
            db[b"seen"] = b""

        cuts.run(program, invariant)
        return dict(left)

    everything = run(make(depth=2, seed=7, cuts=60))
    named = [name for name in everything if "random" in name.rpartition(",")[2]]
    for name in [*named[:: len(named) // 4], next(name for name in named if "," in name)]:
        assert run(make(seed=7, only=crashes_of(name)))[name] == everything[name]
    assert run(make(depth=2, seed=7, cuts=60)) == everything
    assert run(make(depth=2, seed=8, cuts=60)) != everything


@pytest.mark.parametrize("name", ["1:lost", "41:killed,7:random-1"])
def test_names_are_read_as_they_are_written(name: str) -> None:
    """What a failure prints is what the option takes."""
    assert name_of(crashes_of(name)) == name


@pytest.mark.parametrize("name", ["", "41", "0:lost", "41:gone", "41:lost,", "lost:41", "1:lost "])
def test_what_names_no_cut_is_refused(name: str) -> None:
    """With words that say what was expected."""
    with pytest.raises(ValueError, match="names no cut: expected a change and one of lost, killed"):
        crashes_of(name)


def test_a_cut_beyond_the_end_is_refused(make: Make) -> None:
    """A cut that does not exist is an error, not a test that passes."""
    for crashes in [(Crash(999, "lost"),), (Crash(3, "lost"), Crash(999, "lost"))]:
        cuts = make(only=crashes)

        def program(cuts: PowerCuts = cuts) -> None:
            strandline.open(cuts.path)

        with pytest.raises(pytest.fail.Exception, match="there is no such cut"):
            cuts.run(program, accept)


def test_what_is_asked_for_is_looked_at(make: Make) -> None:
    """Also where it leaves what an earlier cut left, as one before a recovery's first change."""
    cuts = make(only=(Crash(3, "lost"), Crash(1, "lost")))
    names: list[str] = []

    def program() -> None:
        strandline.open(cuts.path)

    def invariant(cut: Cut) -> None:
        strandline.open(cuts.path)
        names.append(cut.name)

    cuts.run(program, invariant)
    assert names == ["3:lost", "3:lost,1:lost"]
