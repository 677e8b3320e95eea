"""The short form of the gate: each planted bug in the round that finds it the quickest.

The whole matrix, with every layer, is `python -m tests.crash.gate`; where a bug is found is
stored by its `--pin`. Scripts follow from their seeds, so whoever changes how a script or a
round is made lets them be stored anew. Rounds that take long, and controls that few bugs share,
are marked slow.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest
from _pytest.mark.structures import ParameterSet

from strandline.tools.crash.registry import load_layer
from tests.crash.planted import BUGS
from tests.crash.planted.bug import Planting
from tests.crash.planted.matrix import Matrix
from tests.crash.planted.pins import Pin, pins_of

_PINS = pins_of()
_LONG: Final = 1.0
"""Seconds of processor time from which on a round is left out of the short runs of the tests."""


_SHARED: Final = 3
"""How many of the bugs of the short runs have to share a round for its control to be in them."""


def _is_long(name: str) -> bool:
    return _PINS[name].cpu > _LONG


def _bug(name: str) -> ParameterSet:
    return pytest.param(name, marks=[pytest.mark.slow] if _is_long(name) else [])


def _controls() -> list[ParameterSet]:
    """Return each round once, with and without strandline's C as its bugs have it."""
    rounds = {name: (pin, BUGS[name].in_python) for name, pin in _PINS.items()}
    short = Counter(rounds[name] for name in rounds if not _is_long(name))
    return [
        pytest.param(
            pin, in_python, marks=[pytest.mark.slow] if short[pin, in_python] < _SHARED else []
        )
        for pin, in_python in sorted(set(rounds.values()), key=repr)
    ]


def test_every_bug_is_caught_by_some_layer() -> None:
    """No row of the matrix is without a catch, and each bug has a round that is run here."""
    assert Matrix.read().missed() == []
    assert [name for name in BUGS if name not in _PINS] == []


@pytest.mark.parametrize("name", [_bug(name) for name in sorted(_PINS)])
def test_a_planted_bug_is_found(name: str) -> None:
    """The harness finds the bug in the round where it found it before."""
    pin = _PINS[name]
    _skip_unless_runnable(pin)
    outcome = pin.run(name)
    assert outcome.failed is None, outcome.failed
    assert outcome.caught, f"{name}: nothing found in {outcome.cases} cases of {pin}"


@pytest.mark.parametrize(("pin", "in_python"), _controls())
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
