"""Rounds side by side: budgets, seeds, findings, and what goes wrong in the harness itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from strandline.tools.crash import runner
from strandline.tools.crash.layer import Finding, Tally
from strandline.tools.crash.runner import HarnessError, Plan, run_layer

Work = Callable[[int, frozenset[int] | None], Tally]


class StubLayer:
    """A layer whose rounds are a function."""

    name = "stub"
    number = "L9"
    title = "a stub"

    def __init__(self, work: Work, steps: int = 8) -> None:
        self.work = work
        self.count = steps

    def obstacle(self) -> str | None:
        return None

    def left_out(self) -> Sequence[str]:
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[StubBench]:
        (directory / "mark").touch() if directory.exists() else None
        yield StubBench(self)


class StubBench:
    """What a worker of it works on."""

    def __init__(self, layer: StubLayer) -> None:
        self._layer = layer

    def steps(self, seed: int) -> int:
        return self._layer.count

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        return self._layer.work(seed, kept)


def run(work: Work, plan: Plan, steps: int = 8):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Run a stub without a display."""
    return run_layer(StubLayer(work, steps), plan, lambda tally, seconds: None)


def test_seeds_are_taken_once_in_a_row(tmp_path: Path) -> None:
    """Two workers share the seeds from the first on; the tallies are summed."""

    def work(seed: int, _kept: frozenset[int] | None) -> Tally:
        (tmp_path / str(seed)).touch(exist_ok=False)
        return Tally(rounds=1, cases=10, faults=11, acknowledged=12)

    result = run(work, Plan(seconds=60, seed=5, jobs=2, cases=200))
    seeds = sorted(int(path.name) for path in tmp_path.iterdir())
    assert seeds == list(range(5, 5 + len(seeds)))
    tally = result.tally
    assert tally.cases >= 200
    assert (tally.cases, tally.faults, tally.acknowledged) == (
        10 * tally.rounds, 11 * tally.rounds, 12 * tally.rounds,
    )  # fmt: skip
    assert tally.rounds == len(seeds)


def test_a_finding_ends_the_layer_and_is_shrunk() -> None:
    """Steps 2 and 6 together break a promise of seed 9; only these are left."""

    def work(seed: int, kept: frozenset[int] | None) -> Tally:
        steps = frozenset(range(8)) if kept is None else kept
        broken = seed == 9 and {2, 6} <= steps
        found = Finding(3, f"with {sorted(steps)}", "here") if broken else None
        return Tally(rounds=1, cases=1, finding=found)

    result = run(work, Plan(seconds=60, seed=0, jobs=2))
    assert result.seed == 9
    assert result.kept == (2, 6)
    assert result.tally.finding == Finding(3, "with [2, 6]", "here")


def test_a_finding_that_does_not_come_again_stays_as_it_is(tmp_path: Path) -> None:
    """Shrinking needs it twice; what was found once is told all the same, with its seed."""

    def work(_seed: int, kept: frozenset[int] | None) -> Tally:
        found = Finding(1, "once", "") if kept is None else None
        return Tally(rounds=1, cases=1, finding=found)

    result = run(work, Plan(seconds=60, seed=3, jobs=1))
    assert (result.seed, result.kept) == (3, None)
    assert result.tally.finding is not None


def test_another_promise_is_not_what_was_found() -> None:
    """While shrinking, a round that breaks something else does not count."""

    def work(_seed: int, kept: frozenset[int] | None) -> Tally:
        whole = kept is None or len(kept) == 8
        return Tally(rounds=1, cases=1, finding=Finding(1 if whole else 2, "", ""))

    result = run(work, Plan(seconds=60, seed=0, jobs=1))
    assert result.kept == tuple(range(8))
    assert result.tally.finding is not None
    assert result.tally.finding.invariant == 1


def test_the_time_ends_a_layer() -> None:
    """Rounds end with the one that is under way."""

    def work(_seed: int, _kept: frozenset[int] | None) -> Tally:
        time.sleep(0.01)
        return Tally(rounds=1, cases=1)

    result = run(work, Plan(seconds=0.3, seed=0, jobs=2))
    assert result.tally.rounds > 2
    assert result.seconds >= 0.3


def test_a_round_is_run_however_short_the_time() -> None:
    """A layer that takes longer to set up than its budget has not passed for nothing."""

    class Slow(StubLayer):
        @contextlib.contextmanager
        def bench(self, directory: Path) -> Iterator[StubBench]:
            time.sleep(0.5)
            yield StubBench(self)

    layer = Slow(lambda seed, kept: Tally(1, 1))
    result = run_layer(layer, Plan(seconds=0.1, seed=1, jobs=1), lambda tally, seconds: None)
    assert result.tally.cases >= 1


def test_one_worker_takes_no_more_rounds_than_it_was_asked_for() -> None:
    """The command that repeats a finding runs the round of that seed, and no other."""
    for _ in range(5):
        result = run(lambda seed, kept: Tally(1, 1), Plan(seconds=60, seed=1, jobs=1, cases=1))
        assert result.tally.rounds == 1


def test_a_round_that_does_not_end_is_told_by_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is worth most of all to be found again."""

    def work(seed: int, _kept: frozenset[int] | None) -> Tally:
        if seed == 3:
            time.sleep(60)
        return Tally(rounds=1, cases=1)

    monkeypatch.setattr(runner, "_PATIENCE", 0.5)
    with pytest.raises(HarnessError, match="in the round of seed 3: not ended"):
        run(work, Plan(seconds=0.2, seed=1, jobs=1))


def test_an_error_of_the_harness_is_no_finding() -> None:
    """What a round raises is told with its traceback."""

    def work(_seed: int, _kept: frozenset[int] | None) -> Tally:
        raise RuntimeError("a fault of the harness")

    with pytest.raises(HarnessError, match="a fault of the harness"):
        run(work, Plan(seconds=60, seed=0, jobs=2))


def test_a_worker_that_dies_is_told() -> None:
    """A signal ends the worker, not the harness."""

    def work(_seed: int, _kept: frozenset[int] | None) -> Tally:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(HarnessError, match="stub-0, in the round of seed 0 ended with status -9"):
        run(work, Plan(seconds=60, seed=0, jobs=1))


def test_workers_work_in_a_directory_that_goes(tmp_path: Path) -> None:
    """Each in one of its own, below the one that was asked for; nothing is left."""

    def work(_seed: int, _kept: frozenset[int] | None) -> Tally:
        made = list(tmp_path.glob("strandline-crash-*/worker-0/mark"))
        return Tally(rounds=1, cases=len(made))

    result = run(work, Plan(seconds=60, seed=0, jobs=1, cases=1, directory=tmp_path))
    assert result.tally.cases
    assert list(tmp_path.iterdir()) == []


def test_only_steps_that_were_asked_for_are_taken() -> None:
    """They go to every round, and nothing is shrunk further."""

    def work(_seed: int, kept: frozenset[int] | None) -> Tally:
        assert kept == frozenset({1, 2})
        return Tally(rounds=1, cases=1, finding=Finding(1, "", ""))

    result = run(work, Plan(seconds=60, seed=4, jobs=1, kept=frozenset({1, 2})))
    assert (result.seed, result.kept) == (4, None)
