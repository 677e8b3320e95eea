"""`Batch`: operations on any number of tables that are written as one commit."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from strandline.engine.table import Table
from strandline.engine.table_state import TableState
from strandline.errors import InvalidRequestError
from strandline.options import Durability

if TYPE_CHECKING:
    from strandline.engine.store import Store


class Batch:
    """Collects writes; they become one atomic commit when the `with` block ends.

    An exception in the block discards them all. The batch reads nothing: use a
    read-modify-write verb or a snapshot for that. Not for use by several threads at once.
    """

    __slots__ = ("_done", "_level", "_parts", "_store", "lsn")

    def __init__(self, store: Store, level: Durability | None) -> None:
        self._store = store
        self._level = level
        self._parts: dict[int, tuple[TableState, list[bytes], list[bytes | None]]] = {}
        self._done = False
        self.lsn: int | None = None
        """The last LSN, once the batch is written; None if it was empty or unlogged."""

    def __enter__(self) -> Batch:
        """Begin to collect; a batch is written once."""
        self._refuse_if_over()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write everything, or discard it after an exception."""
        self._done = True
        if kind is None:
            self.lsn = self._store._write_batch(list(self._parts.values()), self._level)
        self._parts = {}

    def __len__(self) -> int:
        """Return how many operations were collected."""
        return sum(len(keys) for _, keys, _ in self._parts.values())

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value in the default table."""
        self._add(self._store, key, value)

    def delete(self, key: bytes) -> None:
        """Delete a key of the default table, present or not."""
        self._delete(self._store, key)

    def table(self, table: Table[Any, Any] | str) -> TableBatch:
        """Return the same two verbs for another table."""
        return TableBatch(self, self._store.table(table) if isinstance(table, str) else table)

    def _add(self, table: Table[Any, Any], key: Any, value: Any) -> None:
        self._push(table, table._raw_key(key), table._raw_value(value))

    def _delete(self, table: Table[Any, Any], key: Any) -> None:
        self._push(table, table._raw_key(key), None)

    def _push(self, table: Table[Any, Any], key: bytes, value: bytes | None) -> None:
        self._refuse_if_over()
        if table._store is not self._store:
            raise InvalidRequestError(f"{table!r} belongs to another store than this batch")
        state = table._state
        for other, _, _ in self._parts.values():
            if other.logged != state.logged:
                raise InvalidRequestError(
                    f"{state!r} and {other!r} cannot share a batch: one is logged, one is not"
                )
        _, keys, values = self._parts.setdefault(state.id, (state, [], []))
        keys.append(key)
        values.append(value)

    def _refuse_if_over(self) -> None:
        if self._done:
            raise InvalidRequestError("this batch is over; begin another with db.batch()")


class TableBatch:
    """The verbs of a batch, for one table."""

    __slots__ = ("_batch", "_table")

    def __init__(self, batch: Batch, table: Table[Any, Any]) -> None:
        self._batch = batch
        self._table = table

    def put(self, key: Any, value: Any) -> None:
        """Store a value."""
        self._batch._add(self._table, key, value)

    def delete(self, key: Any) -> None:
        """Delete a key, present or not."""
        self._batch._delete(self._table, key)
