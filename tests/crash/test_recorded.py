"""L3: a sound store gives no finding at any cut of its recording, a planted bug does."""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline.tools.crash.layer import Tally
from strandline.tools.crash.layers.recorded import RecordedLayer
from strandline.tools.crash.recording.images import digest, images
from strandline.tools.crash.shim.record import Mark
from tests.crash.planted import BUGS
from tests.crash.shimmed import needs_shim, run_shimmed

pytestmark = needs_shim

_WRITES = """
start()
file = make("file")
os.write(1, b"made")
os.pwrite(file, b"one" * 1000, 0)
os.write(1, b"written")
os.fsync(file)
os.write(1, b"synced")
"""


def _round(place: Path, seed: int, bug: str | None = None, *steps: int) -> Tally:
    prelude = () if bug is None else (f"{BUGS[bug].plant.__module__}:{bug}",)
    kept = frozenset(steps) if steps else None
    with RecordedLayer(prelude=prelude).bench(place) as bench:
        return bench.round(seed, kept)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_found_in_a_sound_store(place: Path, seed: int) -> None:
    """One writer, or three: every image opens, and holds what was said before its cut."""
    tally = _round(place, seed, None, 0, 1, 2, 10, 11, 12, 13, 20)
    assert tally.finding is None
    assert tally.cases > 50
    assert tally.acknowledged
    assert tally.faults > tally.cases, "no recovery was cut short"


@pytest.mark.parametrize(
    ("bug", "seed", "invariants"),
    [
        ("log_never_synced", 0, {1}),
        pytest.param("watermark_one_too_high", 0, {1}, marks=pytest.mark.slow),
        pytest.param("database_not_synced", 0, {1, 2, 9, 10}, marks=pytest.mark.slow),
    ],
)
def test_a_planted_bug_is_found(place: Path, bug: str, seed: int, invariants: set[int]) -> None:
    """Planted where the store is recorded, not where its images are judged."""
    finding = _round(place, seed, bug).finding
    assert finding is not None
    assert finding.invariant in invariants, finding
    assert "power cut" in finding.where


@pytest.mark.slow
def test_a_round_can_be_shortened(place: Path) -> None:
    """Without any step nothing is acknowledged but openings; it is a round all the same."""
    layer = RecordedLayer()
    with layer.bench(place) as bench:
        assert bench.steps(0) > bench.steps(2) / 3 > 0
        tally = bench.round(0, frozenset())
    assert tally.finding is None
    assert tally.cases
    assert tally.acknowledged == 0


def test_images_of_a_recording(tmp_path: Path) -> None:
    """Each once, again when more was said; before the sync torn ones too, after it one."""
    recording = run_shimmed(tmp_path, _WRITES).recording
    found = list(images(recording, None, "seed"))
    keys = [(digest(image.disk), image.said) for image in found]
    assert len(set(keys)) == len(keys)
    assert len({digest(image.disk) for image in found if image.said == 2}) > 3
    assert {image.said for image in found} == {0, 1, 2, 3}
    after = [n for n, event in enumerate(recording.events) if isinstance(event, Mark)][-1]
    assert next(image.position for image in images(recording, None, "seed", start=after)) == after
