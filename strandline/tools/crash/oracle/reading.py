"""Reading a store whole, in more than one way, for the ways must agree."""

from __future__ import annotations

from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.script.model import UNLOGGED, Content
from strandline.tools.crash.script.steps import table_of


def read_whole(db: Store) -> dict[str, Content]:
    """Return every table's content, the default one's under "".

    Raises:
        ViolationError: a read fails, or a scan, `get` and `len` say different things.
    """
    try:
        return {name: _read(db, name) for name in ["", *db.tables()]}
    except StrandlineError as error:
        raise ViolationError(9, f"reading fails: {type(error).__name__}: {error}") from error


def _read(db: Store, name: str) -> Content:
    table = db.table(UNLOGGED, logged=False) if name == UNLOGGED else table_of(db, name)
    found = dict(table.scan())
    if len(found) != len(table):
        raise ViolationError(2, f"table {name!r}: a scan finds {len(found)}, len {len(table)}")
    for key, value in found.items():
        got = table.get(key)
        if got != value:
            raise ViolationError(
                3, f"table {name!r}, key {key!r}: a scan finds {value!r:.60}, get {got!r:.60}"
            )
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
