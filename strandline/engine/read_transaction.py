"""A snapshot of the store in LMDB: one read transaction of its own, for as long as it lives.

It pins the pages of its commit, so that LMDB cannot reuse them, and holds a reader slot;
close it. When the map has to grow it is expired first: every later use raises
`SnapshotExpiredError`, never a wrong value. The lock keeps that from happening in the
middle of a read; it is re-entrant, so a signal handler that reads while its thread does
so waits for nobody.
"""

from __future__ import annotations

import threading
from typing import Final

import lmdb

from strandline.engine.environment import explain
from strandline.engine.read_view import Databases
from strandline.engine.records import Items, Origin, value_of, values_of
from strandline.engine.walk import walk
from strandline.errors import SnapshotExpiredError, StoreClosedError, StrandlineError


class ReadTransaction:
    """Reads at one commit, from any thread, one at a time."""

    __slots__ = ("__weakref__", "_databases", "_expired", "_lock", "_origin", "_txn", "version")

    def __init__(self, txn: lmdb.Transaction[bytes], databases: Databases, origin: Origin) -> None:
        self.version: Final = txn.id()
        """LMDB's id of the commit that is read."""
        self._txn: lmdb.Transaction[bytes] | None = txn
        self._databases = databases
        self._origin = origin
        self._lock = threading.RLock()
        # Not a bound method: in a cycle with itself a snapshot that is dropped would keep its
        # slot until the garbage collector comes.
        self._expired = False

    def get(self, table_id: int, key: bytes) -> bytes | None:
        """Return the value of a key, or None if it is not there."""
        database = self._databases.get(table_id)
        with self._lock:
            txn = self._live()
            if database is None:
                return None
            try:
                record = txn.get(key, None, database)
            except lmdb.Error as error:
                raise self._explained(error) from error
        return None if record is None else value_of(table_id, key, record, self._origin)

    def get_many(self, table_id: int, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are there."""
        database = self._databases.get(table_id)
        with self._lock:
            txn = self._live()
            if database is None:
                return {}
            try:
                with txn.cursor(database) as cursor:
                    found = cursor.getmulti(keys)
            except lmdb.Error as error:
                raise self._explained(error) from error
        return dict(values_of(table_id, found, self._origin))

    def chunk(
        self, table_id: int, start: bytes | None, stop: bytes | None, reverse: bool, limit: int
    ) -> Items:
        """Return up to `limit` (key, value) pairs with start <= key < stop, in key order.

        None stands for the end of the table. With `reverse` the greatest keys come first.
        To go on, start after the last key (its successor is key + a zero byte), or in
        reverse take it as the new stop. A chunk shorter than `limit` is the last one.
        """
        database = self._databases.get(table_id)
        with self._lock:
            txn = self._live()
            if database is None:
                return []
            try:
                with txn.cursor(database) as cursor:
                    found = walk(cursor, start, stop, reverse, limit)
            except lmdb.Error as error:
                raise self._explained(error) from error
        return values_of(table_id, found, self._origin)

    def entries(self, table_id: int) -> int:
        """Return how many keys a table holds."""
        database = self._databases.get(table_id)
        with self._lock:
            txn = self._live()
            if database is None:
                return 0
            try:
                return txn.stat(database)["entries"]
            except lmdb.Error as error:
                raise self._explained(error) from error

    @property
    def ended(self) -> bool:
        """Tell whether the snapshot was closed or has expired."""
        return self._txn is None

    def close(self) -> None:
        """End the transaction; a second call does nothing."""
        self._finish(expired=False)

    def expire(self) -> None:
        """End the transaction because the map has to grow."""
        self._finish(expired=True)

    def abandon(self) -> object:
        """Give the transaction up without ending it, as a forked child must."""
        # A thread that the child does not have may have held the lock.
        self._lock = threading.RLock()
        txn, self._txn = self._txn, None
        return txn

    def _finish(self, *, expired: bool) -> None:
        with self._lock:
            txn, self._txn = self._txn, None
            if txn is not None:
                self._expired = expired
                txn.abort()

    def _live(self) -> lmdb.Transaction[bytes]:
        if self._txn is None:
            raise self._ended()
        return self._txn

    def _explained(self, error: lmdb.Error) -> Exception:
        if self._txn is None:
            return self._ended()
        if error.code == 0:
            # py-lmdb's own: the transaction ended with its environment.
            return self._outlived()
        return explain(error, self._origin.path, "reading")

    def _ended(self) -> StrandlineError:
        if self._expired:
            return self._outlived()
        return StoreClosedError(f"{self._origin.path}: this snapshot is closed; take a new one")

    def _outlived(self) -> StrandlineError:
        return SnapshotExpiredError(
            f"{self._origin.path}: the snapshot of commit {self.version} was ended because the "
            "environment was opened anew, most likely to grow; take a new one"
        )
