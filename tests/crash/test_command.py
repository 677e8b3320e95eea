"""`strandline crash-test` as it is called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from strandline.tools.crash import runner
from strandline.tools.crash.simulation.disk import SimulatedFile
from tests.tools.command import run

SHORT = ("--cases", "1", "--seed", "4", "--jobs", "1", "--steps", "0,1,2,3")
"""One round of four steps."""


def test_a_short_run_passes_and_says_what_it_did() -> None:
    """The table has a row for the layer; nothing was found; the status is 0."""
    done = run("crash-test", "--layer", "simulation", *SHORT)
    assert done.exit_code == 0, done.stderr
    assert "L1" in done.stdout
    assert "violations" in done.stdout


def test_json_has_every_figure() -> None:
    """For programs: the layer's figures, and no violation."""
    done = run("crash-test", "--layer", "simulation", *SHORT, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    (layer,) = found["layers"]
    assert found["seed"] == 4
    assert layer["status"] == "passed"
    assert layer["cases"] > 20
    assert layer["faults"] >= layer["cases"]
    assert layer["acknowledged_checked"] > 0
    assert layer["rounds"] >= 1


def test_a_violation_is_shrunk_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is never synced loses what was acknowledged; one command shows it again."""
    real = SimulatedFile.fdatasync

    def lazy(self: SimulatedFile) -> None:
        if not self.path.endswith(".wal"):
            real(self)

    monkeypatch.setattr(SimulatedFile, "fdatasync", lazy)
    monkeypatch.setattr(runner, "_SHRINKING", 20.0)
    done = run("crash-test", "--layer", "simulation", "--seed", "4", "--json")
    assert done.exit_code == 1
    violation = json.loads(done.stdout)["layers"][0]["violation"]
    assert len(violation["steps"]) <= 3
    words = violation["command"].split()
    assert words[:2] == ["strandline", "crash-test"]
    again = run(*words[1:])
    assert again.exit_code == 1
    assert "is broken" in again.stdout
    monkeypatch.undo()
    assert run(*words[1:]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layer", "nowhere"), "expected one of fuzz, simulation"),
        (("--budget", "soon"), "expected a time as 30s"),
        (("--budget", "0s"), "expected a time as 30s"),
        (("--steps", "one"), "expected numbers as 3,4,9"),
    ],
)
def test_a_wrong_use_is_explained(arguments: tuple[str, ...], words: str) -> None:
    """Status 2, and what was expected."""
    done = run("crash-test", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
