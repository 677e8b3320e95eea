"""One checkpoint on its way into LMDB: a write transaction that ends in one commit.

All of it or nothing: an exception before `commit` leaves no trace, and `commit` puts the
data, the entry counts and the watermark on disk together. What `commit` itself raises
cannot be told from a failed fdatasync, after which the commit may be on disk or not;
that is `CommitOutcomeUnknown`, and this process commits nothing more. The exception is a
full map, which LMDB finds before it writes anything.

A dropped table is emptied, and its database deleted only when the environment was opened
anew: LMDB closes the handle of a deleted database under every transaction that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Protocol, Self

import lmdb

from strandline.engine import catalog
from strandline.engine.catalog import Metadata, TableRow, Watermark
from strandline.engine.environment import CommitOutcomeUnknown, MapFullError, explain
from strandline.engine.records import Items


class Committed(Protocol):
    """Who is told how a commit went: the backing store."""

    @property
    def path(self) -> str:
        """The environment's directory."""

    def on_commit_begun(self) -> None:
        """The outcome is unknown from here on."""

    def on_commit_refused(self) -> None:
        """Nothing was written."""

    def on_committed(
        self, metadata: Metadata, databases: dict[int, lmdb._Database], emptied: int
    ) -> None:
        """The commit is on disk; it emptied the databases of so many dropped tables."""

    def on_finished(self) -> None:
        """The transaction is over, however it ended."""


class CheckpointTransaction:
    """A write transaction, for the thread that began it; a context manager."""

    def __init__(
        self,
        backing: Committed,
        env: lmdb.Environment,
        txn: lmdb.Transaction[bytes],
        meta: lmdb._Database,
        metadata: Metadata,
        databases: dict[int, lmdb._Database],
    ) -> None:
        self._backing: Final = backing
        self._env = env
        self._txn: lmdb.Transaction[bytes] | None = txn
        self._meta = meta
        self._highest = metadata.highest_table_id
        self._tables = dict(metadata.tables)
        self._entries = dict(metadata.entries)
        self._databases = databases
        self._catalog_changed = False
        self._emptied = 0
        self._touched: set[int] = set()
        self._last_keys: dict[int, bytes] = {}
        """No key of the table is above it."""

    def put_rows(self, table_id: int, items: Items, gone: list[bytes]) -> None:
        """Write (key, record) pairs in the order of their keys, and delete keys.

        Raises:
            MapFullError: abort, then `Backing.grow`.
            DiskFullError: abort, and try again when there is room.
        """
        txn = self._live()
        database = self._databases[table_id]
        try:
            if items:
                with txn.cursor(database) as cursor:
                    # Behind the last key LMDB need not look for the place, nor split pages.
                    cursor.putmulti(items, append=self._is_behind(table_id, items[0][0], cursor))
                self._last_keys[table_id] = max(self._last_keys[table_id], items[-1][0])
            for key in gone:
                txn.delete(key, b"", database)
        except lmdb.Error as error:
            raise self._failed(error, "writing a checkpoint") from error
        self._touched.add(table_id)

    def _is_behind(self, table_id: int, key: bytes, cursor: lmdb.Cursor[bytes]) -> bool:
        """Tell whether a key comes after every key of the table."""
        if table_id not in self._last_keys:
            self._last_keys[table_id] = cursor.key() if cursor.last() else b""
        return key > self._last_keys[table_id]

    def clear(self, table_id: int) -> None:
        """Delete every key of a table."""
        try:
            self._live().drop(self._databases[table_id], delete=False)
        except lmdb.Error as error:
            raise self._failed(error, "clearing a table") from error
        self._last_keys.pop(table_id, None)
        self._touched.add(table_id)

    def create_table(self, row: TableRow, *, made_up: bool = False) -> None:
        """Add a table; its id must be above every id that was ever used.

        Not so of one that a salvage made up: its creation was lost, and a later table can be
        there already.
        """
        if row.id in self._tables or (row.id <= self._highest and not made_up):
            raise AssertionError(f"table id {row.id} is not above {self._highest}")
        txn = self._live()
        name = catalog.database_name(row.id)
        try:
            self._databases[row.id] = self._env.open_db(name, txn=txn, create=True)
        except lmdb.Error as error:
            raise self._failed(error, f"creating database {name!r}") from error
        self._highest = max(self._highest, row.id)
        self._tables[row.id] = row
        self._entries[row.id] = 0
        self._catalog_changed = True

    def drop_table(self, table_id: int) -> None:
        """Remove a table and all its keys."""
        self.clear(table_id)
        self._touched.discard(table_id)
        del self._databases[table_id], self._tables[table_id], self._entries[table_id]
        self._emptied += 1
        self._catalog_changed = True

    def use_table_ids(self, highest: int) -> None:
        """Remember that ids up to `highest` were given out, tables that are gone included."""
        if highest > self._highest:
            self._highest = highest
            self._catalog_changed = True

    def delete_databases(self, names: Iterable[bytes]) -> None:
        """Delete databases that no transaction of this process has ever read."""
        txn = self._live()
        try:
            for name in names:
                txn.drop(self._env.open_db(name, txn=txn, create=False))
        except lmdb.Error as error:
            raise self._failed(error, "deleting the databases of dropped tables") from error

    def commit(self, watermark: Watermark) -> None:
        """Put everything on disk, with the watermark; then the newest view reads it.

        Raises:
            MapFullError: nothing was written; `Backing.grow`, then begin anew.
            CommitOutcomeUnknown: stop, and open the store anew.
        """
        txn = self._live()
        try:
            for table_id in self._touched:
                self._entries[table_id] = txn.stat(self._databases[table_id])["entries"]
            if self._catalog_changed:
                catalog.write_catalog(txn, self._meta, watermark.lsn, self._highest, self._tables)
            catalog.write_entries(txn, self._meta, watermark.lsn, self._entries)
            catalog.write_watermark(txn, self._meta, watermark)
        except lmdb.Error as error:
            raise self._failed(error, "writing a checkpoint's metadata") from error
        self._backing.on_commit_begun()
        self._txn = None
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            self._backing.on_commit_refused()
            raise explain(error, self._backing.path, "committing a checkpoint") from error
        except lmdb.Error as error:
            raise CommitOutcomeUnknown(
                f"{self._backing.path}: committing the checkpoint up to LSN {watermark.lsn}: "
                f"{error}; it may be on disk or not: open the store anew"
            ) from error
        self._backing.on_committed(
            Metadata(watermark, self._highest, self._tables, self._entries),
            self._databases,
            self._emptied,
        )

    def abort(self) -> None:
        """Undo everything; does nothing after `commit`."""
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.abort()
        finally:
            self._backing.on_finished()

    def _live(self) -> lmdb.Transaction[bytes]:
        if self._txn is None:
            raise AssertionError("the checkpoint is over")
        return self._txn

    def _failed(self, error: lmdb.Error, step: str) -> Exception:
        """Explain an error before the commit, where nothing is lost by aborting."""
        return explain(error, self._backing.path, step)


__all__ = ["CheckpointTransaction", "CommitOutcomeUnknown", "Committed", "MapFullError"]
