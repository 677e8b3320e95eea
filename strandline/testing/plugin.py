"""The pytest plugin: the fixture, the options, the line in the summary."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from strandline.testing.cut import crashes_of
from strandline.testing.power_cuts import PowerCuts, Settings

_PROPERTY: Final = "strandline power cuts"
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a place for directories of our own


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    default = Settings()
    group = parser.getgroup("strandline", "power cuts (strandline.testing)")
    group.addoption(
        "--strandline-seed",
        type=int,
        default=default.seed,
        metavar="N",
        help="what survives by chance, and when the store works behind the program: from this seed",
    )
    group.addoption(
        "--strandline-cuts",
        type=_count,
        default=default.cuts,
        metavar="N",
        help=f"at most so many cuts of one program, evenly spread (default {default.cuts})",
    )
    group.addoption(
        "--strandline-depth",
        type=_count,
        default=default.depth,
        metavar="N",
        help="1: cut the program; 2: also cut a recovery from each cut; and so on "
        f"(default {default.depth})",
    )
    group.addoption(
        "--strandline-cut",
        type=_cut,
        metavar="CUT",
        help="only this cut, as a failure names it: 41:lost, or 41:killed,7:lost",
    )


@pytest.fixture
def power_cuts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PowerCuts]:
    """Run a program on a simulated disk, cut its power everywhere, check an invariant."""
    option = request.config.getoption
    only = option("--strandline-cut")
    settings = Settings(
        seed=option("--strandline-seed"),
        cuts=option("--strandline-cuts"),
        depth=option("--strandline-depth"),
        only=None if only is None else crashes_of(only),
    )
    with scratch_directory(tmp_path_factory.getbasetemp()) as directory:
        cuts = PowerCuts(directory, settings, request.node.nodeid)
        request.node.user_properties.append((_PROPERTY, cuts.tally))
        yield cuts


@contextlib.contextmanager
def scratch_directory(otherwise: Path) -> Iterator[Path]:
    """Make a directory for LMDB's files: in memory if there is such a place, else there.

    No sync of them has to be real: an image is a copy of what LMDB has committed.
    """
    parent = _IN_MEMORY if _IN_MEMORY.is_dir() else otherwise
    with tempfile.TemporaryDirectory(prefix="power-cuts-", dir=parent) as directory:
        yield Path(directory)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many cuts there were."""
    tallies = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if tallies:
        cuts = sum(tally["cuts"] for tally in tallies)
        deeper = sum(tally["in recoveries"] for tally in tallies)
        terminalreporter.write_line(
            f"power cuts: {cuts} of the programs of {len(tallies)} tests, {deeper} of recoveries"
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, found {text!r}")
    return int(text)


def _cut(text: str) -> str:
    """Check a cut's name; it stays text, which pytest-xdist can hand on."""
    try:
        crashes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
