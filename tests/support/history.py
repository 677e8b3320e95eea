"""`History`: what was written, commit by commit, and which part of it a store holds.

Every commit is noted *before* it is made, for a crash can leave one that was never
acknowledged. The values must make every state differ from all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strandline.engine.store import Store

Changes = Mapping[tuple[str, bytes], bytes | None]
"""New values by table name and key; None for a delete."""


class History:
    """The commits of one run, in the log's order."""

    def __init__(self) -> None:
        self.states: list[dict[tuple[str, bytes], bytes]] = [{}]
        """The state after no commit, after the first, and so on."""
        self.acknowledged = 0
        """Commits that a power cut at this moment must not lose."""
        self.written = 0
        """Commits that a crash of the process at this moment must not lose."""

    def note(self, changes: Changes) -> int:
        """Take in the next commit; return its number."""
        state = dict(self.states[-1])
        for where, value in changes.items():
            if value is None:
                state.pop(where, None)
            else:
                state[where] = value
        self.states.append(state)
        return len(self.states) - 1

    def check(self, db: Store, at_least: int | None = None) -> int:
        """Assert that a store holds a prefix with all of `at_least` commits; return its length."""
        found = contents(db)
        least = self.acknowledged if at_least is None else at_least
        for length in range(len(self.states) - 1, -1, -1):
            if self.states[length] == found:
                assert length >= least, f"{length} commits are there, {least} were acknowledged"
                return length
        raise AssertionError(f"no prefix of the commits: {_difference(self.states[-1], found)}")

    def resume(self, db: Store) -> int:
        """Check a store that goes on from here; what it lost is not part of the history."""
        length = self.check(db)
        del self.states[length + 1 :]
        return length


def contents(db: Store) -> dict[tuple[str, bytes], bytes]:
    """Return everything that a store holds, read by scans and, key by key, by gets."""
    found: dict[tuple[str, bytes], bytes] = {}
    for name in ["", *db.tables()]:
        table: Any = db.table(name)
        items = dict(table.scan())
        assert {key: table.get(key) for key in items} == items, f"scan and get of {name!r} differ"
        found.update({(name, key): value for key, value in items.items()})
    return found


def _difference(expected: dict[Any, Any], found: dict[Any, Any]) -> str:
    """Describe how a state differs from the newest one."""
    keys = sorted(expected.keys() | found.keys())
    wrong = [k for k in keys if expected.get(k) != found.get(k)]
    return ", ".join(
        f"{k}: newest {expected.get(k)!r:.20}, found {found.get(k)!r:.20}" for k in wrong
    )
