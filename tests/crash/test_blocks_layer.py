"""L6: a sound store survives every cut of a recording, and what is planted is found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.blocks.recording import Flush, Mark, Record
from strandline.tools.crash.blocks.survivors import Write
from strandline.tools.crash.killing import children
from strandline.tools.crash.layer import Finding, Tally
from strandline.tools.crash.layers import blocks
from strandline.tools.crash.layers.blocks import (
    BlocksBench,
    BlocksLayer,
    Survivors,
    history_of,
    quiet_positions,
    told_before,
)
from strandline.tools.crash.script.model import Model
from tests.crash.planted import BUGS
from tests.crash.test_blocks import needs

ALONE, TOGETHER = 0, 3
"""Seeds of rounds with one writer, and with several."""
_CUTS = 8


@pytest.fixture(name="kind", params=["ext4", "xfs", "btrfs"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KindName:
    """One file system, the only one that the layer knows, and few images of it."""
    kind: KindName = request.param
    monkeypatch.setattr(blocks, "KINDS", (kind,))
    monkeypatch.setattr(blocks, "_CUTS", _CUTS)
    needs(BlocksLayer().obstacle())
    return kind


def _rounds(folder: Path, seeds: list[int]) -> tuple[Tally, BlocksBench]:
    """Run rounds until one has a finding."""
    total = Tally()
    with BlocksLayer().bench(folder) as bench:
        for seed in seeds:
            total.add(bench.round(seed))
            if total.finding is not None:
                break
    assert ["forked"] == [path.name for path in folder.iterdir()]
    return total, bench


def _expect_finding(tally: Tally) -> Finding:
    assert tally.finding is not None, f"{tally.cases} images found nothing"
    return tally.finding


def test_there_are_rounds_of_one_writer_and_of_several() -> None:
    """The seeds of these tests are of either kind."""
    assert history_of(ALONE).writers == 1 < history_of(TOGETHER).writers


@pytest.mark.slow
def test_a_sound_store_gives_no_finding(kind: KindName, tmp_path: Path) -> None:
    """Cut in several cycles, of one writer or of several."""
    tally, bench = _rounds(tmp_path, [TOGETHER if kind == "xfs" else ALONE])
    assert tally.finding is None, tally.finding
    assert (tally.rounds, tally.cases) == (1, _CUTS)
    assert tally.acknowledged > 100
    assert bench.cycles.total() == tally.cases
    assert len(bench.cycles) > 1


def test_a_log_that_is_never_synced_is_found(kind: KindName, tmp_path: Path) -> None:
    """What was acknowledged is gone, or what LMDB has is ahead of the log."""
    with BUGS["log_never_synced"].planted():
        tally, _ = _rounds(tmp_path, list(range(20)))
    finding = _expect_finding(tally)
    assert finding.invariant in {1, 2}
    assert finding.where.startswith(f"{kind}, image ")
    assert "unflushed writes" in finding.where


def test_a_recovered_store_must_survive_its_next_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a judge has seen is the base of the cuts that come after: another one is refused."""
    needs(BlocksLayer().obstacle())
    sound = children.judge

    def forgetful(*arguments: Any, **options: Any) -> Model:
        model = sound(*arguments, **options)
        model.tables[""] = {**model.tables[""], b"k0": b"seen and lost"}
        return model

    monkeypatch.setattr(blocks, "judge", forgetful)
    assert _expect_finding(_rounds(tmp_path, [ALONE])[0]).invariant in {1, 2}


def test_a_round_keeps_the_steps_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a history says how many there are."""
    monkeypatch.setattr(blocks, "_CUTS", 3)
    needs(BlocksLayer().obstacle())
    with BlocksLayer().bench(tmp_path) as bench:
        assert bench.round(ALONE, frozenset()).acknowledged == 0
        assert bench.steps(ALONE) == history_of(ALONE).steps


def test_what_was_told_before_a_cut_begins_with_its_cycle() -> None:
    """Earlier cycles are part of the base; a message that was split is whole again."""
    assert told_before([]) == (0, b"")
    assert told_before([b"cycle 0", b"\x94a", b"b"]) == (0, b"\x94ab")
    assert told_before([b"cycle 0", b"\x94a", b"cycle 2", b"\x94c"]) == (2, b"\x94c")


def test_quiet_are_the_positions_about_the_beginning_of_a_cycle() -> None:
    """What is written before the first message of a cycle, and after its last."""
    told, first, second = Mark(b"\x94"), Mark(b"cycle 0"), Mark(b"cycle 1")
    write, flush = Write(0, bytes(512)), Flush()
    records: list[Record] = [write, first, write, flush, told, write, told, write, second, flush]
    assert quiet_positions(records) == [2, 3, 4, 7, 8]
    assert quiet_positions([write, told, write, told]) == []


def test_survivors_are_described() -> None:
    """By how many bytes there were, and how many are left."""
    pending = [Write(512 * number, bytes(512)) for number in range(4)]
    survivors = Survivors(random.Random(3))
    kept = survivors.choose(pending)
    size = sum(len(write.data) for write in kept)
    assert survivors.what == f"of 4 unflushed writes, 2048 bytes, survived {size} bytes"


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file system that cannot be recorded is left out; without any there is no layer."""
    monkeypatch.setattr(blocks, "log_obstacle", {"btrfs": "no mkfs"}.get)
    assert BlocksLayer().obstacle() is None
    assert ["btrfs: no mkfs"] == list(BlocksLayer().left_out())
    monkeypatch.setattr(blocks, "log_obstacle", lambda kind: "no fuse")
    assert BlocksLayer().obstacle() == "ext4: no fuse; xfs: no fuse; btrfs: no fuse"
