"""The short form of the gate: each planted bug in the round that finds it the quickest.

The whole matrix, with every layer, is `python -m tests.crash.gate`; where a bug is found is
stored by its `--pin`. Scripts follow from their seeds, so whoever changes how a script or a
round is made lets them be stored anew.
"""

from __future__ import annotations

import pytest

from strandline.tools.crash.registry import load_layer
from tests.crash.planted import BUGS
from tests.crash.planted.bug import Planting
from tests.crash.planted.matrix import Matrix
from tests.crash.planted.pins import Pin, pins_of

_PINS = pins_of()
_CONTROLS = sorted({(pin, BUGS[name].in_python) for name, pin in _PINS.items()}, key=repr)


_HOLES = {
    "failed_commit_tried_again": "a write acknowledged after a failed sync of LMDB's file",
    "frame_across_watermark_skipped": "a crash after a checkpoint that cut a group in two",
    "segment_header_not_synced": "a turn and a checkpoint, with nothing synced behind the turn",
    "tombstones_lost_in_merge": "a checkpoint that failed, with deletes, and one that succeeds",
    "waiters_not_woken": "a step that takes longer than any time-out allows",
}
"""Bugs that no layer has caught, and what would have to happen for that."""


def test_every_bug_is_caught_by_some_layer() -> None:
    """No row of the matrix is without a catch, but for the holes that are known."""
    assert Matrix.read().missed() == [name for name in BUGS if name in _HOLES]


@pytest.mark.parametrize("name", sorted(_PINS))
def test_a_planted_bug_is_found(name: str) -> None:
    """The harness finds the bug in the round where it found it before."""
    pin = _PINS[name]
    _skip_unless_runnable(pin)
    outcome = pin.run(name)
    assert outcome.failed is None, outcome.failed
    assert outcome.caught, f"{name}: nothing found in {outcome.cases} cases of {pin}"


@pytest.mark.parametrize(("pin", "in_python"), _CONTROLS)
def test_without_the_bug_nothing_is_found(pin: Pin, in_python: bool) -> None:
    """The same round finds nothing in the store as it is."""
    _skip_unless_runnable(pin)
    outcome = pin.run(None, in_python=in_python)
    assert outcome.failed is None, outcome.failed
    assert not outcome.caught, f"invariant {outcome.invariant}: {outcome.what} ({outcome.where})"
    assert outcome.cases, f"{pin} looked at nothing"


def test_a_planted_bug_is_gone_afterwards() -> None:
    """Planting replaces attributes, and puts every one of them back."""
    for bug in BUGS.values():
        before: list[tuple[object, str, object]] = []

        class Watched(Planting):
            def replace(self, owner: object, name: str, new: object) -> None:
                before.append((owner, name, getattr(owner, name)))  # noqa: B023 - used at once
                super().replace(owner, name, new)

        planting = Watched()
        bug.plant(planting)
        assert before, f"{bug.name} replaces nothing"
        assert all(getattr(owner, name) is not old for owner, name, old in before), bug.name
        planting.undo()
        first = {(id(owner), name): (owner, old) for owner, name, old in reversed(before)}
        for (_, name), (owner, old) in first.items():
            assert getattr(owner, name) == old, f"{bug.name} leaves {name} replaced"


def _skip_unless_runnable(pin: Pin) -> None:
    reason = load_layer(pin.layer).obstacle()
    if reason is not None:
        pytest.skip(reason)
