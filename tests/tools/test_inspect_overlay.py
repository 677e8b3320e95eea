"""The overlay of an export: whatever is written out and merged, the last change counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strandline.tools.inspect.state.overlay import Overlay

KEYS = st.binary(min_size=1, max_size=2)
TABLES = st.integers(1, 3)
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=300)), min_size=1, max_size=6)
STEPS = st.lists(st.tuples(TABLES, CHANGES) | TABLES, max_size=40)


@pytest.mark.parametrize("most_runs", [2, 3, 48])
@given(steps=STEPS)
def test_the_last_change_of_every_key_counts(
    most_runs: int, steps: list[tuple[int, list[tuple[bytes, bytes | None]]] | int]
) -> None:
    """With chunks of some entries, and runs merged early, it says what a dict does, in order."""
    model: dict[int, dict[bytes, bytes | None]] = {1: {}, 2: {}, 3: {}}
    with Overlay(chunk_bytes=1500, most_runs=most_runs) as overlay:
        for step in steps:
            if isinstance(step, int):
                model[step] = {}
                overlay.forget(step)
                continue
            table_id, pairs = step
            model[table_id].update(pairs)
            overlay.change(table_id, [key for key, _ in pairs], [value for _, value in pairs])
        for table_id in (2, 1, 3):
            assert sorted(model[table_id].items()) == list(overlay.changes(table_id))


def test_values_longer_than_what_is_read_at_once_come_back() -> None:
    """A run hands out values of a mebibyte whole."""
    with Overlay(chunk_bytes=1 << 20) as overlay:
        for number in range(5):
            overlay.change(1, [b"%d" % number], [bytes([number]) * (1 << 20)])
        found = list(overlay.changes(1))
    assert [(b"%d" % n, bytes([n]) * (1 << 20)) for n in range(5)] == found
