"""L5: a sound store survives every cut, what is planted is found, and nothing is left behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NoReturn

import pytest

from strandline import Store
from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.killing.case import CYCLES, History
from strandline.tools.crash.killing.phases import Phase
from strandline.tools.crash.layer import Finding, Tally
from strandline.tools.crash.layers import shutdown
from strandline.tools.crash.layers.shutdown import ShutdownBench, ShutdownLayer, history_of
from tests.crash.planted import BUGS
from tests.crash.test_blocks import needs

ALONE, TOGETHER = 1, 0
"""Seeds of rounds with one writer, and with several."""


def first_cycles(history: History, cycles: int) -> frozenset[int]:
    """Return the steps of the first cycles, which are all that a round then runs."""
    length = history.steps // history.writers
    each = range(cycles * history.length)
    return frozenset(writer * length + n for writer in range(history.writers) for n in each)


def _rounds(
    layer: ShutdownLayer, folder: Path, seeds: list[int], cycles: int = 3
) -> tuple[Tally, ShutdownBench]:
    """Run rounds until one has a finding."""
    total = Tally()
    with layer.bench(folder) as bench:
        for seed in seeds:
            total.add(bench.round(seed, first_cycles(history_of(seed), cycles)))
            if total.finding is not None:
                break
    assert ["forked"] == [path.name for path in folder.iterdir()]
    return total, bench


@pytest.fixture(name="kind", params=["ext4", "xfs"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KindName:
    """One file system, the only one that the layer knows."""
    kind: KindName = request.param
    monkeypatch.setattr(shutdown, "KINDS", (kind,))
    needs(ShutdownLayer().obstacle())
    return kind


def _expect_finding(tally: Tally) -> Finding:
    assert tally.finding is not None, f"{tally.faults} cuts found nothing"
    return tally.finding


def test_there_are_rounds_of_one_writer_and_of_several() -> None:
    """The seeds of these tests are of either kind."""
    assert history_of(ALONE).writers == 1 < history_of(TOGETHER).writers


@pytest.mark.slow
def test_a_sound_store_gives_no_finding(kind: KindName, tmp_path: Path) -> None:
    """Cut while it writes and while it recovers, with one writer and with several."""
    tally, bench = _rounds(ShutdownLayer(), tmp_path, [ALONE, TOGETHER])
    assert tally.finding is None, tally.finding
    assert (tally.rounds, tally.cases) == (2, 6)
    assert tally.faults >= tally.cases
    assert tally.acknowledged > 50
    assert bench.hits.total() > 0


def test_recoveries_are_cut(
    kind: KindName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, before the store is judged."""
    monkeypatch.setattr(shutdown, "_CUT_AGAIN", 0.8)
    tally, bench = _rounds(ShutdownLayer(), tmp_path, [ALONE], cycles=2)
    assert tally.finding is None, tally.finding
    assert tally.faults >= 2 * tally.cases
    assert bench.hits[Phase.RECOVERING] + bench.hits[Phase.OPENING] > 0


def test_a_writer_may_live_on_under_the_cut(
    kind: KindName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is told then is taken for nothing, and its errors for no violation."""
    monkeypatch.setattr(shutdown, "_UNDER_THE_CUT", 0.3)
    monkeypatch.setattr(shutdown, "_LIVES_ON", 1.0)
    tally, _ = _rounds(ShutdownLayer(), tmp_path, [ALONE], cycles=2)
    assert tally.finding is None, tally.finding


def test_a_log_that_is_never_synced_is_found(kind: KindName, tmp_path: Path) -> None:
    """What was acknowledged is gone, or what LMDB has is ahead of the log."""
    with BUGS["log_never_synced"].planted():
        tally, _ = _rounds(ShutdownLayer(), tmp_path, list(range(20)), cycles=CYCLES)
    finding = _expect_finding(tally)
    assert finding.invariant in {1, 2}
    assert finding.where.startswith(f"{kind}, cycle ")
    assert " cut " in finding.where
    assert "its journal" in finding.where


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stacks of the threads; the file system goes all the same."""
    needs(ShutdownLayer().obstacle())

    def close_that_hangs(self: Store, drain: bool = True, timeout: float = 30.0) -> NoReturn:
        while True:
            time.sleep(1)

    monkeypatch.setattr(Store, "close", close_that_hangs)
    layer = ShutdownLayer(patience=3.0)
    finding = _expect_finding(_rounds(layer, tmp_path, list(range(10)))[0])
    assert finding.invariant == 13
    assert "in close_that_hangs" in finding.what


def test_a_round_without_steps_has_no_case(kind: KindName, tmp_path: Path) -> None:
    """And its history says how many there are."""
    with ShutdownLayer().bench(tmp_path) as bench:
        assert bench.round(ALONE, frozenset()).cases == 0
        assert bench.steps(ALONE) == history_of(ALONE).steps


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file system that cannot be cut is left out; without any there is no layer."""
    monkeypatch.setattr(shutdown, "shutdown_obstacle", {"ext4": None, "xfs": "no mkfs"}.get)
    assert ShutdownLayer().obstacle() is None
    assert ["xfs: no mkfs"] == list(ShutdownLayer().left_out())
    monkeypatch.setattr(shutdown, "shutdown_obstacle", lambda kind: "only root can mount")
    assert ShutdownLayer().obstacle() == "ext4: only root can mount; xfs: only root can mount"
