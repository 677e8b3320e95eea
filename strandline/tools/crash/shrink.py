"""The fewest steps of a script that still break a promise.

Delta debugging: leave out halves, quarters and so on as long as what remains still breaks
the same invariant. A round that is not quite repeatable is simply not made as small.

Source: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002.
"""

from __future__ import annotations

import time

from strandline.tools.crash.layer import Bench, Finding


def shrink(
    bench: Bench, seed: int, found: Finding, deadline: float
) -> tuple[tuple[int, ...], Finding] | None:
    """Return the steps that are needed and the finding that they give.

    None if it did not come again even with all of them. `deadline` is on `time.monotonic`.
    """
    kept = list(range(bench.steps(seed)))
    finding = _broken(bench, seed, kept, found)
    if finding is None:
        return None
    parts = 2
    while len(kept) >= 2 and time.monotonic() < deadline:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            smaller = _broken(bench, seed, fewer, found)
            if smaller is not None:
                kept, finding = fewer, smaller
                parts = max(2, parts - 1)
                break
            if time.monotonic() >= deadline:
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), 2 * parts)
    return tuple(kept), finding


def _broken(bench: Bench, seed: int, kept: list[int], found: Finding) -> Finding | None:
    finding = bench.round(seed, frozenset(kept)).finding
    return finding if finding is not None and finding.invariant == found.invariant else None
