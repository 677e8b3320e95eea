"""The state of a store at a cut: LMDB's rows with the log's operations laid over them.

    log         operations above the base, up to the cut, go into an overlay
    tables      as the metadata has them, and as the log creates and drops them
    rows        LMDB's and the overlay's, merged in key order, table by table

A commit that the cut would divide is left out as a whole. Operations on tables that are not
there are passed over as a replay passes over them: table ids are never used again.

LMDB is read by a child process. Beside a writer all of its rows are taken into a temporary
file before the log is looked at, and count only if no commit came meanwhile: the log then
has all that is above them, unless a segment was given back. Without a writer they are merged
as they come, and `settle` says at the end whether one came.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from strandline.engine import data_file
from strandline.engine.catalog import DEFAULT_TABLE, TableRow
from strandline.engine.operations import (
    CLEAR,
    CREATE,
    DELETE,
    DROP,
    OPERATION_MASK,
    PUT,
    TAG_SHIFT,
    VOID,
    PayloadError,
    commit_sizes,
    decode_creation,
    decode_items,
)
from strandline.engine.rows_apart import RowsApart
from strandline.errors import CorruptionError, LogCorruptionError
from strandline.recovery.opening import STORE_NAME
from strandline.recovery.report import RecoveryProgress
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.frames import flat_operations
from strandline.tools.inspect.state.cut import Cut, RestlessError
from strandline.tools.inspect.state.overlay import Change, Overlay
from strandline.tools.inspect.target import Target

OnProgress = Callable[[RecoveryProgress], None]
Row = tuple[bytes, bytes]

_CHANGING: Final = (PUT, DELETE)


class State:
    """The tables of a store at a cut, and their rows. Use it in a `with` block."""

    def __init__(self, log: Examination, cut: Cut, rows: RowsApart | None = None) -> None:
        """Begin with what lies below the log; `rows` are all of LMDB's if they were read."""
        self.lsn = cut.base_lsn
        """The last LSN that the state holds, once the log is read."""
        self.divided: tuple[int, int] | None = None
        """The LSNs of a commit that reaches over the cut and was left out."""
        metadata = cut.metadata
        self._log = log
        self._cut = cut
        self._tables = dict(metadata.tables) if metadata else {DEFAULT_TABLE.id: DEFAULT_TABLE}
        self._highest = metadata.highest_table_id if metadata else DEFAULT_TABLE.id
        self._stored = set(self._tables) if metadata else set()
        """Tables whose rows in LMDB count."""
        self._overlay = Overlay()
        self._rows = rows if metadata else None
        self._settled = rows is not None or metadata is None
        """What a writer does from now on does not matter."""

    def __enter__(self) -> State:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of files and processes."""
        self._overlay.close()
        if self._rows is not None:
            self._rows.close()

    # ---- the log

    def read_log(self, progress: OnProgress | None = None) -> None:
        """Take in the operations up to the cut.

        Raises:
            LogCorruptionError: a frame holds something else than operations.
            RestlessError: the writer gave back a segment before it was read.
        """
        survey = self._cut.survey
        try:
            for frames in survey.batches(self._cut.base_lsn, progress):
                for first_lsn, count, payload in frames:
                    if first_lsn > self._cut.lsn:
                        return
                    self._take(first_lsn, count, payload)
        except PayloadError as error:
            raise LogCorruptionError(
                f"{survey.log_dir}: frame at LSN {first_lsn}: its checksum holds, but {error}. It "
                f"was written by a faulty or foreign program; export up to LSN {self.lsn}"
            ) from error
        except (FileNotFoundError, LogCorruptionError):
            if self._log.writer is not None:
                raise RestlessError from None
            raise

    def _take(self, first_lsn: int, count: int, payload: bytes) -> None:
        """Take in the operations of a frame that lie above the base and up to the cut."""
        tags, keys, values = flat_operations((0, first_lsn, count, 0, 0, payload))
        start = max(0, self._cut.base_lsn - first_lsn + 1)
        end = count
        if first_lsn + count - 1 > self._cut.lsn:
            end = self._last_commit(first_lsn, count, payload)
        if end <= start:
            return
        if start or end < count:
            tags, keys, values = tags[start:end], keys[start:end], values[start:end]
        self._apply(tags, keys, values)
        self.lsn = first_lsn + end - 1

    def _last_commit(self, first_lsn: int, count: int, payload: bytes) -> int:
        """Return how many operations of a frame belong to commits that end at the cut or before."""
        wanted = self._cut.lsn - first_lsn + 1
        end = 0
        for size in commit_sizes(decode_items(payload, count), count):
            if end + size > wanted:
                if end < wanted:
                    self.divided = first_lsn + end, first_lsn + end + size - 1
                break
            end += size
        return end

    def _apply(self, tags: list[int], keys: list[bytes | None], values: list[bytes | None]) -> None:
        """Apply operations; many of one kind on one table at once."""
        op, table_id = tags[0] & OPERATION_MASK, tags[0] >> TAG_SHIFT
        if op in _CHANGING and tags.count(tags[0]) == len(tags):
            self._change(table_id, keys, values, deletes=values.count(None), op=op)
            return
        pending: dict[int, tuple[list[bytes | None], list[bytes | None]]] = {}
        for tag, key, value in zip(tags, keys, values, strict=True):
            op, table_id = tag & OPERATION_MASK, tag >> TAG_SHIFT
            if op in _CHANGING:
                if (value is None) != (op == DELETE):
                    raise PayloadError("a put or delete without what it needs")
                part = pending.setdefault(table_id, ([], []))
                part[0].append(key)
                part[1].append(value)
            elif op != VOID:
                self._change_all(pending)
                self._define(op, table_id, key, value)
        self._change_all(pending)

    def _change_all(
        self, pending: dict[int, tuple[list[bytes | None], list[bytes | None]]]
    ) -> None:
        for table_id, (keys, values) in pending.items():
            self._change(table_id, keys, values)
        pending.clear()

    def _change(
        self,
        table_id: int,
        keys: list[Any],
        values: list[bytes | None],
        *,
        deletes: int | None = None,
        op: int = PUT,
    ) -> None:
        """Set or delete keys of a table; with `deletes` all are of one kind, `op`."""
        if deletes is not None and deletes != (len(values) if op == DELETE else 0):
            raise PayloadError("a put or delete without what it needs")
        if None in keys:
            raise PayloadError("a put or delete without a key")
        if self._is_known(table_id):
            self._overlay.change(table_id, keys, values)

    def _is_known(self, table_id: int) -> bool:
        """Tell whether a table is there; PayloadError where it never was."""
        if not 0 < table_id <= self._highest:
            raise PayloadError(f"an operation on table {table_id}, which is unknown")
        return table_id in self._tables

    def _define(self, op: int, table_id: int, key: bytes | None, value: bytes | None) -> None:
        """Apply the creation, the clearing or the end of a table."""
        if op == CREATE:
            name, codec, logged = decode_creation(key, value)
            self._highest = max(self._highest, table_id)
            self._tables.setdefault(table_id, TableRow(table_id, name, codec, logged))
            return
        if op == CLEAR and not self._is_known(table_id):
            return
        self._overlay.forget(table_id)
        self._stored.discard(table_id)
        if op == DROP:
            self._tables.pop(table_id, None)

    # ---- tables and rows

    def tables(self) -> list[TableRow]:
        """Return the tables, the default one first and the others by name."""
        return sorted(self._tables.values(), key=lambda row: row.name)

    def unknown_rows(self, tables: list[TableRow]) -> list[str]:
        """Return the names of unlogged tables whose rows the log alone cannot give."""
        return [row.name for row in tables if not row.logged and self._cut.metadata is None]

    def read_store(self, tables: list[TableRow]) -> None:
        """Begin to read the rows of some tables, which `rows` then gives in this order.

        Raises StoreCorruptionError where LMDB is damaged, RestlessError where a writer came.
        """
        if self._settled:
            return
        stored = [row.id for row in tables if row.id in self._stored]
        directory = store_directory(self._log.target)
        with _undisturbed(directory):
            self._rows = RowsApart(directory, stored)
        if self._rows.metadata != self._cut.metadata:
            raise RestlessError

    def rows(self, tables: list[TableRow]) -> Iterator[tuple[TableRow, Iterator[Row]]]:
        """Yield each table with its rows in key order, which are to be taken before the next."""
        wanted = {row.id for row in tables} & self._stored
        stored = _ByTable(iter(self._rows) if self._rows else iter(()), wanted)
        for row in tables:
            below = stored.of(row.id) if row.id in wanted else iter(())
            yield row, _merged(below, self._overlay.changes(row.id))

    def settle(self) -> None:
        """Raise RestlessError if a commit came since LMDB's rows were begun to be read."""
        if not self._settled and self._rows is not None:
            _settle(store_directory(self._log.target), self._rows.transaction_id)


def store_directory(target: Target) -> str:
    """Return where the LMDB environment of a store is."""
    assert target.store is not None, "rows come from a store's LMDB"
    return os.path.join(target.store, STORE_NAME)


def read_beside_writer(directory: str) -> RowsApart:
    """Read all rows of an environment that a writer has open, into a temporary file.

    Raises RestlessError where a commit came meanwhile, and what `RowsApart` does.
    """
    with _undisturbed(directory):
        rows = RowsApart(directory, None)
        try:
            rows.spool()
            _settle(directory, rows.transaction_id)
        except BaseException:
            rows.close()
            raise
    return rows


@contextmanager
def _undisturbed(directory: str) -> Iterator[None]:
    """Raise RestlessError for damage that comes of a commit, and nothing else."""
    before = data_file.look(directory).transaction_id
    try:
        yield
    except CorruptionError:
        _settle(directory, before)
        raise


def _settle(directory: str, transaction_id: int) -> None:
    if data_file.look(directory).transaction_id != transaction_id:
        raise RestlessError


class _ByTable:
    """Rows that come table by table, handed out by table."""

    def __init__(self, source: Iterator[tuple[int, list[Row]]], wanted: set[int]) -> None:
        self._source = (part for part in source if part[0] in wanted)
        self._ahead: tuple[int, list[Row]] | None = None

    def of(self, table_id: int) -> Iterator[Row]:
        """Yield the rows of a table, if they come next."""
        while True:
            part = self._ahead or next(self._source, None)
            self._ahead = None
            if part is None:
                return
            if part[0] != table_id:
                self._ahead = part
                return
            yield from part[1]


def _merged(below: Iterator[Row], above: Iterator[Change]) -> Iterator[Row]:
    """Yield rows with changes laid over them, in key order."""
    change = next(above, None)
    for row in below:
        key = row[0]
        while change is not None and change[0] < key:
            if change[1] is not None:
                yield change[0], change[1]
            change = next(above, None)
        if change is None or change[0] != key:
            yield row
            continue
        if change[1] is not None:
            yield key, change[1]
        change = next(above, None)
    while change is not None:
        if change[1] is not None:
            yield change[0], change[1]
        change = next(above, None)
