"""L4: every phase can be hit, what is found is told, and a sound store gives no finding."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgpack
import pytest

from strandline import Store
from strandline.tools.crash.forking.client import Ended, ForkServer
from strandline.tools.crash.killing import works
from strandline.tools.crash.killing.blow import Call, Moment, choose_call
from strandline.tools.crash.killing.case import Case, History
from strandline.tools.crash.killing.phases import Phase, Row, Target, innermost, read_board
from strandline.tools.crash.layer import Finding, Tally
from strandline.tools.crash.layers.kill import KillLayer, history_of, kills_at_calls
from strandline.tools.crash.script.told import DONE, OPENED, Account, unpack
from strandline.tools.crash.shim import build
from tests.crash import killed_works
from tests.crash.shimmed import library, needs_shim

_WORKS = works.__name__
_TREE = str(Path(__file__).parents[2])
_ALONE = History(seed=4, writers=1)
_TOGETHER = History(seed=4, writers=3)


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Path:
    (tmp_path / "stores").mkdir()
    return tmp_path / "stores" / "store"


@pytest.fixture(name="shimmed")
def _shimmed(tmp_path: Path) -> Iterator[ForkServer]:
    (tmp_path / "shimmed").mkdir()
    with ForkServer(tmp_path / "shimmed", modules=[_WORKS], shim=library()) as server:
        yield server


@pytest.fixture(name="forked")
def _forked(tmp_path: Path) -> Iterator[ForkServer]:
    (tmp_path / "forked").mkdir()
    with ForkServer(tmp_path / "forked", modules=[_WORKS]) as server:
        yield server


def _case(store: Path, history: History = _ALONE, *, shim: bool) -> Case:
    board = store.parent.parent / "board"
    return Case(store, board, history, cycle=0, opening=1, drain=True, shim=shim)


def _run(server: ForkServer, work: str, case: Case, after: float | None = None) -> Ended:
    return server.run(f"{_WORKS}:{work}", case.pack(), kill_after=after)


def _messages(ended: Ended) -> Account:
    return Account.of(unpack(ended.said))


# ---- aiming


@needs_shim
@pytest.mark.parametrize(
    ("phase", "within"),
    [
        *((phase, None) for phase in Phase if phase is not Phase.RECOVERING),
        # Nothing is written to give a segment back.
        *((each, 7) for each in Phase if each not in (Phase.RECOVERING, Phase.RELEASING)),
    ],
)
def test_a_kill_at_a_call_hits_its_phase(
    shimmed: ForkServer, store: Path, phase: Phase, within: int | None
) -> None:
    """Before the first change, and in the middle of the first write, where there is one."""
    case = _case(store, shim=True).ended_by(Call(phase, 1, within))
    assert _run(shimmed, "write", case).killed
    assert phase is innermost(read_board(case.board))


@needs_shim
def test_a_kill_at_a_call_hits_a_recovery(shimmed: ForkServer, store: Path) -> None:
    """That of a store that was killed while it wrote."""
    _run(shimmed, "write", _case(store, shim=True).ended_by(Call(Phase.WRITING, 30)))
    case = _case(store, shim=True).ended_by(Call(Phase.RECOVERING, 2))
    assert _run(shimmed, "recover", case).killed
    assert Phase.RECOVERING is innermost(read_board(case.board))


@needs_shim
def test_calls_are_counted_by_phase(shimmed: ForkServer, store: Path) -> None:
    """A life that nobody ends has changed files in every phase but recovering."""
    case = _case(store, shim=True)
    ended = _run(shimmed, "write", case)
    assert not ended.killed
    counted = read_board(case.board)
    assert Row(0, 0, 0, 0) == counted.pop(Phase.RECOVERING)
    assert all(row.within == 0 < row.calls for row in counted.values()), counted
    assert all(row.calls > row.writes for row in counted.values())
    # One more than there are is not met.
    beyond = Call(Phase.OPENING, counted[Phase.OPENING].calls + 1)
    case = _case(store.with_name("another"), shim=True).ended_by(beyond)
    assert not _run(shimmed, "write", case).killed


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.WRITING, Phase.CLOSING])
def test_a_kill_at_a_moment_hits_its_phase(forked: ForkServer, store: Path, phase: Phase) -> None:
    """At once when it begins; those of these phases that are long enough to be hit for sure."""
    hits = 0
    for _ in range(6):
        blow = Moment(Target(phase, 1), 0.0005)
        case = _case(store, shim=False).ended_by(blow)
        if _run(forked, "write", case, blow.kill_after).killed:
            hits += read_board(case.board)[phase].within
    assert hits > 0


def test_a_moment_that_never_comes_kills_nobody(forked: ForkServer, store: Path) -> None:
    """The store is closed, and all steps were told."""
    blow = Moment(Target(Phase.CLOSING, 1000), 0.0)
    case = _case(store, shim=False).ended_by(blow)
    ended = _run(forked, "write", case, blow.kill_after)
    assert not ended.killed
    done = [told for told in _messages(ended).messages if told.kind == DONE]
    assert len(done) == len(case.scripts()[0]) == _ALONE.length


def test_calls_are_chosen_among_those_that_were_counted() -> None:
    """Each of them comes, and none beyond; a phase that never came is not chosen."""
    counted = {phase: Row(0, 0, 0, 0) for phase in Phase}
    assert choose_call(random.Random(1), tuple(Phase), counted) is None
    counted[Phase.ROTATING] = Row(0, 2, 5, 3)
    choose = random.Random(1)
    chosen = [choose_call(choose, tuple(Phase), counted) for _ in range(300)]
    calls = [each for each in chosen if each is not None]
    assert {Phase.ROTATING} == {each.phase for each in calls}
    assert {1, 2, 3, 4, 5} == {each.nth for each in calls if each.bytes is None}
    assert {1, 2, 3} == {each.nth for each in calls if each.bytes is not None}


# ---- scripts


def test_a_case_crosses_a_pipe_whole() -> None:
    """With its blow, and the steps that were kept."""
    history = History(seed=9, writers=3, kept=(1, 5))
    case = Case(Path("/s"), Path("/b"), history, 2, opening=7, drain=False, shim=True)
    blows = (None, Moment(Target(Phase.ROTATING, 2), 0.5), Call(Phase.CLOSING, 3, 4))
    for blow in blows:
        aimed = case.ended_by(blow)
        assert aimed == Case.unpack(msgpack.unpackb(msgpack.packb(aimed.pack())))


@pytest.mark.parametrize("history", [_ALONE, _TOGETHER])
def test_cycles_share_no_step(history: History) -> None:
    """Numbers are counted through, so that a value says which cycle it is from."""
    first, second = history.scripts(0), history.scripts(1)
    assert history.writers == len(first)
    for one, other in zip(first, second, strict=True):
        assert history.length == len(one) == len(other)
        assert not one.keys() & other.keys()


def test_kept_steps_are_those_of_one_writer_each() -> None:
    """Of all steps, counted through over the writers."""
    length = _TOGETHER.steps // 3
    kept = History(seed=4, writers=3, kept=(0, length + 1, 2 * length + _TOGETHER.length))
    assert [[0], [1], []] == [list(script) for script in kept.scripts(0)]
    assert [[], [], [_TOGETHER.length]] == [list(script) for script in kept.scripts(1)]


# ---- rounds


def _first_cycles(history: History, cycles: int) -> frozenset[int]:
    """Return the steps of the first cycles, which are all that a round then runs."""
    length = history.steps // history.writers
    each = range(cycles * history.length)
    return frozenset(writer * length + n for writer in range(history.writers) for n in each)


def _rounds(layer: KillLayer, folder: Path, seeds: range) -> Tally:
    """Run rounds until one has a finding."""
    total = Tally()
    with layer.bench(folder) as bench:
        for seed in seeds:
            total.add(bench.round(seed))
            if total.finding is not None:
                break
    return total


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim is compiled once for all tests, not for each bench."""
    if build.obstacle() is None:
        compiled = library()
        monkeypatch.setattr(build, "library", lambda cache: compiled)


@needs_shim
@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("at_calls", [False, True])
def test_a_sound_store_gives_no_finding(tmp_path: Path, writers: int, *, at_calls: bool) -> None:
    """A writer that is alone and several, killed at moments and at calls; nothing is left."""
    with KillLayer().bench(tmp_path) as bench:
        seeds = (
            seed
            for seed in range(1000)
            if (history_of(seed).writers, kills_at_calls(seed)) == (writers, at_calls)
        )
        history = history_of(seed := next(seeds))
        tally = bench.round(seed, _first_cycles(history, 5))
    assert tally.finding is None, tally.finding
    assert tally.cases == 5
    assert tally.faults == bench.hits.total() + bench.before_opening >= 2
    assert tally.acknowledged > 0
    assert at_calls == (bench.at_calls.total() > 0)
    assert not (tmp_path / "round").exists()


def test_a_round_without_steps_has_no_case(tmp_path: Path) -> None:
    """And one with the steps of one cycle has one."""
    with KillLayer().bench(tmp_path) as bench:
        assert bench.round(5, frozenset()).cases == 0
        assert bench.round(5, frozenset([3, 4, 5])).cases == 1


def _expect_finding(tally: Tally) -> Finding:
    assert tally.finding is not None, f"{tally.faults} kills found nothing"
    return tally.finding


def test_a_write_acknowledged_too_early_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted in this process, it is in force in the children that are forked."""
    monkeypatch.setattr("strandline.wal.log.Log.wait_written", killed_works.wait_for_nothing)
    monkeypatch.setattr(build, "obstacle", lambda: "left out")
    finding = _expect_finding(_rounds(KillLayer(), tmp_path, range(100, 120)))
    assert finding.invariant in {1, 2, 4}, "lost, or not shown to who asks later"
    assert " killed " in finding.where


@needs_shim
def test_a_bug_is_planted_by_a_prelude_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the server that is started anew. The one that judges is sound."""
    monkeypatch.setenv("PYTHONPATH", _TREE)
    layer = KillLayer(prelude=[f"{killed_works.__name__}:acknowledge_early"])
    finding = _expect_finding(_rounds(layer, tmp_path, range(200, 230)))
    assert finding.invariant in {1, 2, 4}, "lost, or not shown to who asks later"


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stacks of the threads."""

    def close_that_hangs(self: Store, drain: bool = True, timeout: float = 30.0) -> NoReturn:
        while True:
            time.sleep(1)

    monkeypatch.setattr(Store, "close", close_that_hangs)
    monkeypatch.setattr(build, "obstacle", lambda: "left out")
    layer = KillLayer(patience=4.0)
    finding = _expect_finding(_rounds(layer, tmp_path, range(5, 7)))
    assert finding.invariant == 13
    assert "in close_that_hangs" in finding.what


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the layer runs, and says what it leaves out."""
    layer = KillLayer()
    assert layer.obstacle() is None
    monkeypatch.setattr(build, "obstacle", lambda: "no compiler")
    assert ("kills at the n-th storage call: no compiler",) == layer.left_out()
    monkeypatch.setattr(build, "obstacle", lambda: None)
    assert () == layer.left_out()
    monkeypatch.delattr("os.fork")
    assert layer.obstacle() is not None


def test_an_opening_is_told_once_the_store_is_open(forked: ForkServer, store: Path) -> None:
    """A process killed while it opens its store has said nothing."""
    blow = Moment(Target(Phase.OPENING, 1), 0.0)
    case = _case(store, shim=False).ended_by(blow)
    _run(forked, "write", case, blow.kill_after)
    open_ended = _messages(_run(forked, "write", _case(store, shim=False)))
    assert open_ended.messages[0].kind == OPENED
