"""`-p strandline.testing` in a pytest of its own: options, failures, the summary, the example."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "order_ledger"
GUIDE = ROOT / "docs" / "testing-your-code.md"

SOUND = """
    import strandline

    def test_kept(power_cuts):
        def program():
            with strandline.open(power_cuts.path) as db:
                for number in range(3):
                    db[b"%d" % number] = b"v"
                    power_cuts.acknowledge(b"%d" % number)

        def invariant(cut):
            with strandline.open(power_cuts.path) as db:
                assert all(key in db for key in cut.acknowledged)

        power_cuts.run(program, invariant)
"""
HASTY = SOUND.replace(
    'db[b"%d" % number] = b"v"',
    'db.put(b"%d" % number, b"v", durability=strandline.Durability.ASYNC)',
)


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest as a user would, in a process of its own."""
    return pytester.runpytest_subprocess("-p", "strandline.testing", *options)


def counts(result: pytest.RunResult) -> tuple[int, int]:
    """Return what the summary says: cuts of programs, and of recoveries."""
    line = next(line for line in result.outlines if line.startswith("power cuts: "))
    found = re.fullmatch(r"power cuts: (\d+) of the programs of \d+ tests, (\d+) of .*", line)
    assert found is not None
    return int(found[1]), int(found[2])


@pytest.mark.slow
def test_the_summary_says_how_many_cuts_there_were(pytester: pytest.Pytester) -> None:
    """A test that passes says on how much that rests."""
    pytester.makepyfile(SOUND)
    result = run(pytester, "--strandline-cuts=40")
    result.assert_outcomes(passed=1)
    cuts, deeper = counts(result)
    assert 20 <= cuts <= 40
    assert deeper > cuts


@pytest.mark.slow
def test_the_summary_counts_over_processes(pytester: pytest.Pytester) -> None:
    """pytest-xdist runs the tests elsewhere; options get there, and numbers come back."""
    pytester.makepyfile(SOUND)
    result = run(pytester, "--strandline-cuts=20", "--strandline-depth=1", "--numprocesses=1")
    result.assert_outcomes(passed=1)
    cuts, deeper = counts(result)
    assert 10 <= cuts <= 20
    assert deeper == 0


def test_without_the_plugin_nothing_is_there(pytester: pytest.Pytester) -> None:
    """Whoever only has strandline installed sees nothing of it, in the summary neither."""
    pytester.makepyfile("def test_nothing(): pass")
    assert "power_cuts" not in pytester.runpytest_subprocess("--fixtures").stdout.str()
    assert "power cuts" not in run(pytester).stdout.str()


def test_a_failure_prints_the_command_that_repeats_it(pytester: pytest.Pytester) -> None:
    """One command, one cut, the same failure."""
    pytester.makepyfile(HASTY)
    first = run(pytester, "--strandline-seed=5")
    first.assert_outcomes(failed=1)
    command = next(line for line in first.outlines if "--strandline-cut " in line).split()
    again = run(pytester, *command[2:])
    again.assert_outcomes(failed=1)
    assert counts(again) == (1, 0)

    def told(result: pytest.RunResult) -> list[str]:
        lines = result.outlines
        start = next(n for n, line in enumerate(lines) if "This was after cut" in line)
        return lines[start : next(n for n, line in enumerate(lines) if "Repeat it" in line) + 2]

    assert told(first) == told(again)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--strandline-cut=41", "names no cut: expected a change and one of"),
        ("--strandline-cuts=0", "expected a number from 1 up, found '0'"),
        ("--strandline-depth=deep", "expected a number from 1 up, found 'deep'"),
    ],
)
def test_senseless_options_are_refused(pytester: pytest.Pytester, option: str, words: str) -> None:
    """Before any test is run."""
    result = run(pytester, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()


# ---- the example, and the guide that shows it


@pytest.fixture
def example(pytester: pytest.Pytester) -> pytest.Pytester:
    """Give a directory with a copy of the example."""
    shutil.copytree(EXAMPLE, pytester.path / "order_ledger", ignore=lambda *_: ["__pycache__"])
    return pytester


def test_the_ledger_of_the_example_holds(example: pytest.Pytester) -> None:
    """Its test passes, after more than a hundred cuts."""
    result = run(example, "order_ledger")
    result.assert_outcomes(passed=1)
    cuts, deeper = counts(result)
    assert cuts > 80
    assert deeper > 80


def test_the_guide_shows_what_is_printed(example: pytest.Pytester) -> None:
    """Both bugs of the example are found, and the guide's two failures are those of today."""
    result = run(example, "order_ledger/careless.py", "--tb=short")
    result.assert_outcomes(failed=2)
    shown = re.findall(r"```text\n(E .*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(shown) == 2
    printed = "\n".join(line.rstrip() for line in result.outlines)
    for failure in shown:
        assert failure in printed + "\n"


def test_the_guide_shows_the_test_of_the_example() -> None:
    """What the guide prints of a file is in that file."""
    source = "\n".join(path.read_text() for path in EXAMPLE.glob("*.py"))
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in source
