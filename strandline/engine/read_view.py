"""The store as of one LMDB commit: `ReadView`, which all threads share.

Beginning a read transaction costs more than a look-up, so a view keeps those that it
began and hands each to one thread at a time: a plain list whose `pop` and `append` are
atomic. All of them read the view's own commit. Whoever puts the next view in its place
retires it: pooled transactions are closed at once and those in use when they come back,
so that the pages of an old commit are pinned no longer than one read lasts.

A retired view still answers `get`, from the newest commit, which is right for a single
key: what a caller missed in the layers above it is in LMDB by then. `get_many` promises
one commit, and raises `ViewRetiredError` instead: take the layers and the view anew. A
change of the map is no commit, and goes unnoticed by both.

An interrupt that strikes while a transaction is in use leaves it out of the pool; it is
closed with the view at the latest. py-lmdb gives a reader slot back only when the
transaction object itself goes, so no frame that an exception may keep alive refers to one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import lmdb

from strandline.engine.environment import explain
from strandline.engine.records import Items, Origin, value_of, values_of
from strandline.engine.walk import walk
from strandline.errors import StoreFailedError, StrandlineError
from strandline.native import native

Databases = Mapping[int, lmdb._Database]
Read = Callable[[bytes, None, lmdb._Database], bytes | None]
"""The `get` of an open read transaction; its `__self__` is the transaction."""

_PAUSE: Final = 0.0005
_PATIENCE: Final = 5.0


def _nothing(_key: bytes) -> None:
    """Read a table that the commit does not have."""


class ViewRetiredError(StrandlineError):
    """The view's commit is no longer the newest; take the layers and the view anew."""


class Source(Protocol):
    """Where transactions come from: the backing store."""

    def begin(self) -> lmdb.Transaction[bytes]:
        """Begin a read transaction on the newest commit."""

    def newest(self) -> ReadView:
        """Return the view of the newest commit."""


class ReadView:
    """Reads at one commit. `get(table_id, key)` returns the value, or None if there is none."""

    __slots__ = (
        "_begun",
        "_databases",
        "_origin",
        "_pool",
        "_retired",
        "_source",
        "version",
    )

    def __init__(self, source: Source, version: int, databases: Databases, origin: Origin) -> None:
        self.version: Final = version
        """LMDB's id of the commit that is read."""
        self._source = source
        self._databases = databases
        self._origin = origin
        self._pool: list[Read] = []
        # Every transaction that belongs to the pool, those in use included.
        self._begun: list[lmdb.Transaction[bytes]] = []
        # Holds something once the view is retired: a list so that `get` can be bound to it.
        self._retired: list[bool] = []

    def get(self, table_id: int, key: bytes) -> bytes | None:
        """Return the value of a key, None if it is not there."""
        return self.getter(table_id)(key)

    def getter(self, table_id: int) -> Callable[[bytes], bytes | None]:
        """Return `get` for one table, with everything that it needs bound: it is the hot path."""
        origin, retired = self._origin, self._retired
        pop, push = self._pool.pop, self._pool.append
        read_anew, recover = self._read_anew, self._recover
        discard, drain = self._discard, self._drain
        database = self._databases.get(table_id)
        if database is None:
            return _nothing

        if native is not None:
            stored: Callable[[bytes], bytes | None] = native.StoredGet(
                table_id,
                database,
                self._pool,
                retired,
                lambda key: read_anew(table_id, key, database),
                partial(self._rescue, table_id),
                drain,
                partial(self._value_of, table_id),
            )
            return stored

        def get(key: bytes) -> bytes | None:
            try:
                read = pop()
            except IndexError:
                return read_anew(table_id, key, database)
            try:
                record = read(key, None, database)
            except BaseException as error:
                discard(read)
                del read
                return recover(error, table_id, key)
            push(read)
            if retired:
                drain()
            return None if record is None else value_of(table_id, key, record, origin)

        return get

    def _value_of(self, table_id: int, key: bytes, record: bytes) -> bytes:
        return value_of(table_id, key, record, self._origin)

    def _rescue(self, table_id: int, error: BaseException, read: Read, key: bytes) -> bytes | None:
        """Go on after a read that failed, and whose transaction cannot be used again."""
        self._discard(read)
        del read
        return self._recover(error, table_id, key)

    def get_many(self, table_id: int, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are there, all as of the view's commit.

        Raises:
            ViewRetiredError: a newer commit took the view's place.
        """
        database = self._databases.get(table_id)
        if database is None:
            return {}
        if self._retired:
            return self._successor().get_many(table_id, keys)
        read = self._take()
        txn: lmdb.Transaction[bytes] = read.__self__  # type: ignore[attr-defined]
        try:
            with txn.cursor(database) as cursor:
                found = cursor.getmulti(keys)
        except BaseException as error:
            self._discard(read)
            del read, txn
            if not isinstance(error, lmdb.Error):
                raise
            if self._retired:
                return self._successor().get_many(table_id, keys)
            raise explain(error, self._origin.path, "reading") from error
        self._pool.append(read)
        if self._retired:
            self._drain()
        return dict(values_of(table_id, found, self._origin))

    def chunk(
        self, table_id: int, start: bytes | None, stop: bytes | None, reverse: bool, limit: int
    ) -> Items:
        """Return up to `limit` (key, value) pairs as of the view's commit, as a snapshot does.

        Raises:
            ViewRetiredError: a newer commit took the view's place.
        """
        database = self._databases.get(table_id)
        if database is None:
            return []
        read = self._take()
        txn: lmdb.Transaction[bytes] = read.__self__  # type: ignore[attr-defined]
        try:
            with txn.cursor(database) as cursor:
                found = walk(cursor, start, stop, reverse, limit)
        except BaseException as error:
            self._discard(read)
            del read, txn
            if not isinstance(error, lmdb.Error):
                raise
            if self._retired:
                raise ViewRetiredError("a newer commit took this view's place") from error
            raise explain(error, self._origin.path, "reading") from error
        self._pool.append(read)
        if self._retired:
            self._drain()
        return values_of(table_id, found, self._origin)

    def adopt(self, txn: lmdb.Transaction[bytes]) -> None:
        """Take over the first transaction, which pins the commit until the view is retired."""
        self._begun.append(txn)
        self._pool.append(txn.get)

    def retire(self) -> None:
        """Close what is pooled now, and what is in use when it comes back."""
        self._retired.append(True)
        self._drain()

    def transactions(self) -> int:
        """Return how many of the view's transactions are open; once retired, those in use."""
        return len(self._begun)

    def abandon(self) -> list[object]:
        """Give up all transactions without closing them, as a forked child must."""
        self._retired.append(True)
        kept: list[object] = [*self._begun, *self._pool]
        self._begun.clear()
        self._pool.clear()
        return kept

    def _read_anew(self, table_id: int, key: bytes, database: lmdb._Database) -> bytes | None:
        """Answer `get` when the pool is empty; the transaction joins it if it may."""
        if self._retired:
            newest = self._source.newest()
            if newest is not self:
                return newest.get(table_id, key)
        try:
            txn = self._source.begin()
        except StoreFailedError:
            # After a failed commit LMDB begins nothing more; what was begun still reads.
            read = self._wait_for_one()
        else:
            read = txn.get
            if txn.id() == self.version:
                self._begun.append(txn)
            del txn
        try:
            record = read(key, None, database)
        except BaseException as error:
            self._discard(read)
            del read
            return self._recover(error, table_id, key)
        if read.__self__ in self._begun:  # type: ignore[attr-defined]
            self._pool.append(read)
        else:
            # A commit got in between. Newer is right for one key, and never pooled.
            self._discard(read)
        if self._retired:
            self._drain()
        return None if record is None else value_of(table_id, key, record, self._origin)

    def _recover(self, error: BaseException, table_id: int, key: bytes) -> bytes | None:
        """Ask the newest view if the transaction ended with this one; else raise what it was."""
        if not isinstance(error, lmdb.Error):
            raise error
        if self._retired:
            newest = self._source.newest()
            if newest is not self:
                return newest.get(table_id, key)
        raise explain(error, self._origin.path, "reading") from error

    def _successor(self) -> ReadView:
        """Return the view that reads the same commit now, as after a change of the map."""
        newest = self._source.newest()
        if newest is self or newest.version != self.version:
            raise ViewRetiredError("a newer commit took this view's place")
        return newest

    def _take(self) -> Read:
        """Take a transaction on the view's own commit."""
        try:
            return self._pool.pop()
        except IndexError:
            pass
        try:
            return self._own()
        except StoreFailedError:
            return self._wait_for_one()

    def _own(self) -> Read:
        """Begin a transaction that belongs to the pool."""
        txn = self._source.begin()
        if txn.id() != self.version:
            txn.abort()
            raise ViewRetiredError("a newer commit takes this view's place")
        self._begun.append(txn)
        return txn.get

    def _wait_for_one(self) -> Read:
        """Wait until another thread gives a transaction back."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._pool.pop()
            except IndexError:
                if not self._begun or time.monotonic() > deadline:
                    raise StoreFailedError(
                        f"{self._origin.path}: a commit failed and no read transaction is "
                        "left; open the store anew"
                    ) from None
                time.sleep(_PAUSE)

    def _discard(self, read: Read) -> None:
        txn: lmdb.Transaction[bytes] = read.__self__  # type: ignore[attr-defined]
        try:
            self._begun.remove(txn)
        except ValueError:
            pass
        txn.abort()

    def _drain(self) -> None:
        """Close what is pooled. Several threads may do so at one time."""
        while True:
            try:
                read = self._pool.pop()
            except IndexError:
                return
            self._discard(read)
