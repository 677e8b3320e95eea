"""The backing store: an LMDB environment that holds the state of the log up to a watermark.

Promises: it is created whole or not at all; a checkpoint is there whole, with its
watermark, or not at all; every value that is read was verified; a read never sees a
changed map. Reads and snapshots come from any thread, checkpoints from one thread at a
time. There is one `Backing` for a path in a process, and it is not used after a fork.

`view` is the newest commit. A checkpoint puts a new one in its place; whoever read through
the old one retires it, once nobody takes it up any more. `begin_snapshot` pins a commit.

The map is made larger by opening the environment anew (`grow`): `set_mapsize` under live
transactions is what crashes programs, and what is closed has none. Snapshots expire then.

Turned down: writemap and unsynced commits, for a full disk kills the process with the
one and a power cut the environment with the other.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Final, Self

import lmdb

from strandline.engine import catalog, data_file, probe
from strandline.engine.catalog import Metadata, TableRow, Watermark
from strandline.engine.checkpoint_transaction import CheckpointTransaction
from strandline.engine.environment import (
    NO_ROOM,
    CommitOutcomeUnknown,
    MapFullError,
    can_grow,
    create_environment,
    explain,
    open_environment,
)
from strandline.engine.read_transaction import ReadTransaction
from strandline.engine.read_view import ReadView, ViewRetiredError
from strandline.engine.records import Origin
from strandline.errors import (
    DiskFullError,
    InvalidRequestError,
    StoreClosedError,
    StoreFailedError,
)
from strandline.options import Options

__all__ = [
    "Backing",
    "CheckpointTransaction",
    "CommitOutcomeUnknown",
    "MapFullError",
    "ReadTransaction",
    "ReadView",
    "TableRow",
    "ViewRetiredError",
    "Watermark",
]

_EMPTIED_MANY: Final = 64
_EMPTIED_LIMIT: Final = 256
"""How many dropped tables may keep an empty database until the environment is opened anew,
which from `_EMPTIED_MANY` on is done when no snapshot has to expire for it."""

_DRAIN_SECONDS: Final = 0.25
_PAUSE: Final = 0.0005
_REVIVAL_SECONDS: Final = 5.0

_graveyard: list[object] = []
"""What forked children inherited: closing it would free the parent's reader slots."""


class Backing:
    """An open environment."""

    def __init__(self, path: str, options: Options) -> None:
        """Open what lies at `path`; use `open` or `create`."""
        self.path: Final = path
        self._options = options
        self._data_path = os.path.join(path, data_file.DATA_NAME)
        self._map_bytes = options.map_bytes
        self._env: lmdb.Environment | None = None
        self._ended = False
        self._changing = False
        self._outcome_unknown = False
        self._checkpointing = False
        self._snapshots: set[weakref.ref[ReadTransaction]] = set()
        # The newest and those before it that still hold transactions.
        self._views: list[ReadView] = []
        self._leftover: list[bytes] = []
        self._emptied = 0
        self._connect()

    @classmethod
    def create(cls, path: str, uuid: bytes, epoch: int, options: Options) -> Self:
        """Make an empty store at `path`, whole or not at all, and open it.

        Leftovers of a creation that was cut short are removed.
        """
        create_environment(path, Watermark(uuid, epoch, 0))
        return cls(path, options)

    @classmethod
    def open(cls, path: str, options: Options) -> Self:
        """Open the store at `path`.

        Raises:
            StoreCorruptionError: a file is missing or damaged, or does not hold what the
                last checkpoint committed.
            ForeignStoreError: not a store of this program, or one of a newer format.
            StoreLockedError: this process has it open already.
        """
        seen = data_file.look(path)
        if seen.file_bytes < seen.stated_bytes:
            # Sound only if no page beyond the end is in use. Then make the pages be there,
            # so that no later read can meet the end of the file.
            probe.probe(path, values=False)
            data_file.extend(seen.path, seen.stated_bytes)
        return cls(path, options)

    @property
    def highest_table_id(self) -> int:
        """The greatest table id ever used; ids are not used again."""
        return self._metadata.highest_table_id

    @property
    def watermark(self) -> Watermark:
        """Up to where the log is in LMDB."""
        return self._metadata.watermark

    @property
    def tables(self) -> dict[int, TableRow]:
        """The tables as of the newest commit, by id. Not to be changed."""
        return self._metadata.tables

    @property
    def map_bytes(self) -> int:
        """Address space that the map takes."""
        return self._live().info()["map_size"]

    def entries(self, table_id: int) -> int:
        """Return how many keys a table holds as of the newest commit."""
        return self._metadata.entries.get(table_id, 0)

    def begin_snapshot(self) -> ReadTransaction:
        """Begin a read transaction of its own on the newest commit; close it soon."""
        while True:
            # Handles first: an older transaction must not use a newer handle.
            env, databases = self._env, self._databases
            txn = self.begin()
            if env is self._env:
                break
            txn.abort()
        snapshot = ReadTransaction(txn, databases, self._origin)
        self._snapshots.add(weakref.ref(snapshot, self._snapshots.discard))
        return snapshot

    def checkpoint(self) -> CheckpointTransaction:
        """Begin a write transaction, to be used as a context manager on this thread.

        Raises:
            StoreFailedError: an earlier commit's outcome is unknown; open the store anew.
        """
        if self._outcome_unknown:
            raise StoreFailedError(
                f"{self.path}: an earlier commit failed and may be on disk or not; "
                "open the store anew"
            )
        if self._emptied >= _EMPTIED_LIMIT or (
            self._emptied >= _EMPTIED_MANY and not self._living_snapshots()
        ):
            self._reopen(self._map_bytes)
        env = self._live()
        try:
            txn = env.begin(write=True)
        except lmdb.Error as error:
            raise explain(error, self.path, "beginning a checkpoint") from error
        self._checkpointing = True
        checkpoint = CheckpointTransaction(
            self, env, txn, self._meta, self._metadata, dict(self._databases)
        )
        try:
            checkpoint.delete_databases(self._leftover)
        except BaseException:
            checkpoint.abort()
            self._checkpointing = False
            raise
        return checkpoint

    def reserve(self, room: int) -> None:
        """Have the file system set `room` bytes aside behind the last page in use.

        Call it before a checkpoint, so that a full disk shows before its commit, where it
        costs nothing, and not in it. Where the file system cannot reserve, it is asked how
        much is free.

        Raises:
            DiskFullError: there is not that much.
        """
        info = self._live().info()
        end = (info["last_pgno"] + 1) * self._page_bytes
        try:
            data_file.reserve(self._data_path, end, room)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFullError(
                    f"{self._data_path}: reserving {room} bytes at offset {end}: {error}; "
                    "free some space",
                    error.errno,
                ) from error
            raise

    def grow(self) -> None:
        """Double the map after a `MapFullError`. Snapshots that are open expire.

        Raises:
            DiskFullError: the process has no address space left for it.
        """
        size = 2 * self.map_bytes
        if not can_grow(size):
            raise DiskFullError(
                f"{self.path}: the map of {size // 2} bytes is full and this process has no "
                f"address space for {size}; raise the limit on address space (ulimit -v)"
            )
        self._reopen(size)

    def read_on(self) -> None:
        """Let reads go on after a commit that failed. Snapshots that are open may expire.

        LMDB begins no transaction any more once it could not write its meta page, until the
        environment is opened anew. Whether that shows the commit or not is all the same to
        readers: what was in it is in memory too.
        """
        try:
            self._live().begin().abort()
        except lmdb.ReadersFullError:
            pass
        except lmdb.PanicError:
            self._reopen(self._map_bytes)

    def close(self) -> None:
        """Close everything; a second call does what an interrupt left undone.

        A checkpoint that hangs in a dead disk is not waited for: its environment stays
        open to the end of the process.
        """
        self._ended = True
        for view in self._views:
            view.retire()
        for snapshot in self._living_snapshots():
            snapshot.close()
        env = self._env
        if env is not None:
            if self._checkpointing:
                _graveyard.append(env)
            else:
                env.close()
            self._env = None

    def forget_after_fork(self) -> None:
        """In a forked child: let go of everything without touching the parent's environment."""
        self._ended = True
        env, self._env = self._env, None
        _graveyard.extend((env, self._meta, self._databases))
        for view in self._views:
            _graveyard.extend(view.abandon())
        _graveyard.extend([snapshot.abandon() for snapshot in self._living_snapshots()])

    def begin(self) -> lmdb.Transaction[bytes]:
        """Begin a read transaction on the newest commit; what views and snapshots call."""
        checked = False
        deadline = time.monotonic() + _REVIVAL_SECONDS
        while True:
            env = self._await_env()
            try:
                return env.begin()
            except lmdb.PanicError as error:
                # A commit has just failed: `read_on` is about to be called.
                if time.monotonic() > deadline:
                    raise explain(error, self.path, "beginning to read") from error
                time.sleep(_PAUSE)
            except lmdb.ReadersFullError as error:
                # Slots of processes that died are freed only when somebody looks.
                if checked or not env.reader_check():
                    raise explain(error, self.path, "beginning to read") from error
                checked = True
            except lmdb.Error as error:
                if not self._ended and env is self._env and not self._changing:
                    raise explain(error, self.path, "beginning to read") from error

    def newest(self) -> ReadView:
        """Return the view of the newest commit, after a change of the map if one is going on."""
        self._await_env()
        return self.view

    def on_commit_begun(self) -> None:
        """Stop checkpoints unless one of the next two is called."""
        self._outcome_unknown = True

    def on_commit_refused(self) -> None:
        """Go on: nothing was written."""
        self._outcome_unknown = False

    def on_committed(
        self, metadata: Metadata, databases: dict[int, lmdb._Database], emptied: int
    ) -> None:
        """Let readers see the commit, which emptied so many tables that it dropped."""
        self._emptied += emptied
        self._leftover = []
        self._publish(metadata, databases)
        self._outcome_unknown = False

    def on_finished(self) -> None:
        """Allow the next checkpoint."""
        self._checkpointing = False

    def _connect(self) -> None:
        """Open the environment, read what it says of itself and check it."""
        options = self._options
        # The default table and the metadata; tables that live; as many again that one
        # checkpoint may create while it drops them; emptied ones.
        databases = 2 + 2 * options.max_tables + _EMPTIED_LIMIT
        env = open_environment(self.path, self._map_bytes, databases, options.max_readers)
        try:
            env.reader_check()
            self._page_bytes = env.stat()["psize"]
            self._meta = catalog.open_metadata(env, self._data_path)
            with env.begin() as txn:
                metadata = catalog.read_metadata(txn, self._meta, self._data_path)
                names = list(txn.cursor().iternext(values=False))
            if len(metadata.tables) > options.max_tables + 1:
                raise InvalidRequestError(
                    f"{self.path}: expected at most max_tables = {options.max_tables} tables, "
                    f"found {len(metadata.tables) - 1}; open the store with larger max_tables"
                )
            opened = catalog.open_tables(env, metadata, self._data_path)
            expected = {catalog.META_NAME, *map(catalog.database_name, metadata.tables)}
            self._leftover = [name for name in names if name not in expected]
            self._emptied = 0
        except lmdb.Error as error:
            env.close()
            raise explain(error, self.path, "reading the metadata") from error
        except BaseException:
            env.close()
            raise
        self._env = env
        self._publish(metadata, opened)

    def _publish(self, metadata: Metadata, databases: dict[int, lmdb._Database]) -> None:
        """Make a commit the one that is read."""
        names = {row.id: row.name for row in metadata.tables.values()}
        self._origin = Origin(self._data_path, names)
        self._metadata = metadata
        self._databases = databases
        env = self._live()
        info = env.info()
        data_file.extend(self._data_path, (info["last_pgno"] + 1) * self._page_bytes)
        view = ReadView(self, info["last_txnid"], databases, self._origin)
        try:
            view.adopt(env.begin())
        except lmdb.Error:
            # The commit stands even if no reader slot is free at this moment.
            pass
        for each in self._views[:-1]:
            # Its successor has one already: whoever did not retire it has forgotten it.
            each.retire()
        self._views = [*(each for each in self._views if each.transactions()), view]
        self.view = view

    def _reopen(self, map_bytes: int) -> None:
        """Close the environment and open it again, with nobody reading in between."""
        if self._checkpointing:
            raise AssertionError("a checkpoint is under way")
        env = self._live()
        self._changing = True
        try:
            for view in self._views:
                view.retire()
            for snapshot in self._living_snapshots():
                snapshot.expire()
            self._wait_for_readers()
            self._env = None
            env.close()
            previous, self._map_bytes = self._map_bytes, map_bytes
            try:
                self._connect()
            except OSError:
                self._map_bytes = previous
                self._connect()
                raise
        except BaseException:
            self._ended = self._env is None
            raise
        finally:
            self._changing = False

    def _wait_for_readers(self) -> None:
        """Give reads that are under way time to end; py-lmdb fails those that do not."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while any(view.transactions() for view in self._views):
            if time.monotonic() > deadline:
                return
            time.sleep(_PAUSE)

    def _living_snapshots(self) -> list[ReadTransaction]:
        found = [reference() for reference in self._snapshots.copy()]
        return [snapshot for snapshot in found if snapshot is not None and not snapshot.ended]

    def _await_env(self) -> lmdb.Environment:
        while True:
            if self._ended:
                raise StoreClosedError(f"{self.path}: the store is closed")
            env = self._env
            if env is not None and not self._changing:
                return env
            time.sleep(_PAUSE)

    def _live(self) -> lmdb.Environment:
        if self._env is None:
            raise StoreClosedError(f"{self.path}: the store is closed")
        return self._env
