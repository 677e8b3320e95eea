"""L2 in the simulation: a sound store gives no finding, and what a bad one does is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from strandline.native import native
from strandline.tools.crash.layer import Tally
from strandline.tools.crash.layers.errors_simulated import SLICES, SimulatedErrors
from tests.crash.planted import BUGS


def _slices(place: Path, script: int, slices: range) -> Tally:
    """Run slices of a script until something is found."""
    total = Tally()
    for number in slices:
        total.add(SimulatedErrors(place / "round", script * SLICES + number, None).run())
        if total.finding is not None:
            break
    return total


@pytest.mark.slow
def test_nothing_is_found_in_a_sound_store(place: Path) -> None:
    """Four slices of a script's calls, in every way."""
    tally = _slices(place, 0, range(4))
    assert tally.finding is None
    assert tally.cases > 20
    assert tally.acknowledged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "invariants"),
    [
        ("goes_on_after_failed_sync", {1, 8}),
        ("failed_sync_retried", {1, 8}),
        ("full_disk_acknowledged", {1, 2, 9}),
    ],
)
def test_a_planted_bug_is_found(place: Path, bug: str, invariants: set[int]) -> None:
    """Within one script."""
    if BUGS[bug].in_python and native is not None:
        pytest.skip("it is planted in Python; run with STRANDLINE_NATIVE=0")
    with BUGS[bug].planted():
        finding = _slices(place, 0, range(SLICES)).finding
    assert finding is not None
    assert finding.invariant in invariants, finding
