"""Every row of the comparison, in the order in which it runs."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from benchmarks.background import background_rows
from benchmarks.harness import Row
from benchmarks.reads import read_rows
from benchmarks.scale import Scale
from benchmarks.writes import write_rows
from benchmarks.ycsb import ycsb_rows


def all_rows(scale: Scale) -> list[Row]:
    """Return all rows, with those of their contenders that can be imported."""
    return [*write_rows(scale), *read_rows(scale), *background_rows(scale), *ycsb_rows(scale)]


def choose(rows: list[Row], patterns: Sequence[str]) -> list[Row]:
    """Return the rows whose names match one of the shell patterns; ValueError for an idle one."""
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            names = ", ".join(row.name for row in rows)
            raise ValueError(f"no row is named {pattern!r}; the rows are {names}")
    return [row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in patterns)]
