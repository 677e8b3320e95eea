"""`Snapshot`: the public face of a snapshot, for the whole store and table by table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from strandline.codecs import ABSENT
from strandline.engine.reading import iterate
from strandline.engine.snapshots import SnapshotState
from strandline.engine.table import Table
from strandline.engine.validation import check_count
from strandline.errors import InvalidRequestError, StoreClosedError

if TYPE_CHECKING:
    from strandline.engine.store import Store


class TableSnapshot:
    """Reads of one table as of a snapshot."""

    __slots__ = ("_held", "_table")

    def __init__(self, held: list[SnapshotState], table: Table[Any, Any]) -> None:
        self._held = held
        self._table = table

    def _state(self) -> SnapshotState:
        if not self._held:
            raise StoreClosedError("this snapshot is closed; take another with db.snapshot()")
        return self._held[0]

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`, or `default` where it was absent."""
        table = self._table
        value = self._state().get(table._state, table._raw_key(key))
        return default if value is None else table._value(value)

    def __getitem__(self, key: Any) -> Any:
        """Return the value of `key`; raises KeyError."""
        value = self.get(key, ABSENT)
        if value is ABSENT:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        """Tell whether `key` was there."""
        return self.get(key, ABSENT) is not ABSENT

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the values of those keys that were present."""
        table, state = self._table, self._state()
        wanted = dict.fromkeys(map(table._raw_key, keys))
        found = ((raw, state.get(table._state, raw)) for raw in wanted)
        return {table._key(raw): table._value(value) for raw, value in found if value is not None}

    def scan(
        self,
        start: Any = None,
        stop: Any = None,
        *,
        prefix: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Iterate over (key, value) in key order, as `Table.scan` does."""
        table = self._table
        bounds = table._bounds(start, stop, prefix)
        if limit is not None:
            check_count("limit", limit)
        return iterate(table, self._state(), bounds, reverse, limit, owned=False)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys in order."""
        return (key for key, _ in self.scan())


class Snapshot(TableSnapshot):
    """The store as of one LSN. Close it, or use it in a `with` block: it pins memory and disk.

    Reads the default table; `table` gives the others. When the LMDB map has to grow, an
    open snapshot ends in SnapshotExpiredError.
    """

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        """Take a snapshot of everything that is acknowledged now."""
        super().__init__([SnapshotState(store.engine)], store)
        self._store = store

    @property
    def lsn(self) -> int:
        """Every logged operation up to here is in it, and none above."""
        return self._state().lsn

    def table(self, table: Table[Any, Any] | str) -> TableSnapshot:
        """Return the same reads for another table, which must exist: a snapshot creates none."""
        if isinstance(table, str):
            if table and table not in self._store.tables():
                raise InvalidRequestError(
                    f"there is no table {table!r} to read in a snapshot; db.table() creates one"
                )
            table = self._store.table(table)
        return TableSnapshot(self._held, table)

    def close(self) -> None:
        """Let go of what is pinned; a second call does nothing."""
        while self._held:
            self._held.pop().close()

    def __enter__(self) -> Snapshot:
        """Use it in a `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
