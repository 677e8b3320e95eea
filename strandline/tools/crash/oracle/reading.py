"""Reading a store whole, in more than one way, for the ways must agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.script.model import UNLOGGED, Content
from strandline.tools.crash.script.steps import table_of


def read_whole(db: Store, keys: Mapping[str, Iterable[Any]] | None = None) -> dict[str, Content]:
    """Return every table's content, the default one's under "".

    `keys` are those that were ever written: what no scan shows must not be there for `get`.

    Raises:
        ViolationError: a read fails, or scans, `get`, `get_many` and `len` differ.
    """
    try:
        return {name: _read(db, name, (keys or {}).get(name, ())) for name in ["", *db.tables()]}
    except StrandlineError as error:
        raise ViolationError(9, f"reading fails: {type(error).__name__}: {error}") from error


def _read(db: Store, name: str, keys: Iterable[Any]) -> Content:
    table = db.table(UNLOGGED, logged=False) if name == UNLOGGED else table_of(db, name)
    rows = list(table.scan())
    found = dict(rows)
    if [key for key, _ in rows] != sorted(found):
        raise ViolationError(
            2, f"table {name!r}: a scan is not in the order of its keys, or has one twice: "
            f"{[key for key, _ in rows]!r:.200}",
        )  # fmt: skip
    if list(table.scan(reverse=True)) != rows[::-1]:
        raise ViolationError(2, f"table {name!r}: a scan from the end finds something else")
    if len(found) != len(table):
        raise ViolationError(2, f"table {name!r}: a scan finds {len(found)}, len {len(table)}")
    asked = [*found, *(key for key in keys if key not in found)]
    many = table.get_many(asked)
    for key in asked:
        value, got = found.get(key), table.get(key)
        if got != value:
            invariant = 3 if key in found else 4
            raise ViolationError(
                invariant,
                f"table {name!r}, key {key!r}: a scan finds {value!r:.60}, get {got!r:.60}",
            )
        if many.get(key) != value:
            raise ViolationError(
                3, f"table {name!r}, key {key!r}: a scan finds {value!r:.60}, get_many "
                f"{many.get(key)!r:.60}",
            )  # fmt: skip
    return found


def difference(expected: dict[str, Content], found: dict[str, Content]) -> str:
    """Describe how a state differs from the one that comes nearest."""
    parts = []
    for name in sorted(expected.keys() | found.keys()):
        if (name in expected) != (name in found):
            parts.append(f"table {name!r} is {'missing' if name in expected else 'there'}")
            continue
        want, have = expected[name], found[name]
        parts += [
            f"{name!r}/{key!r}: expected {want.get(key)!r:.40}, found {have.get(key)!r:.40}"
            for key in sorted(want.keys() | have.keys(), key=repr)
            if want.get(key) != have.get(key)
        ]
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    return "; ".join(parts[:4]) + more
