"""The rows of an LMDB environment, read by a child process and handed over through a pipe.

For whoever wants all of a store's rows without opening it: nobody has checked the
environment, and reading what is damaged can end a process (see `strandline.engine.probe`).
So a child reads, and what ends the child is a `StoreCorruptionError` here. Every record is
verified, every table's keys are in order and as many as the last checkpoint committed.

    child -> parent, msgpack, one value after the other
        [HEAD, transaction id, metadata]
        [TABLE, table id]
        [ROWS, [key, value, key, value, ...]]
        [DONE]  or  [FINDING, what]  or  [FOREIGN, what]

Promises that a rows' message holds about 256 KiB, or a single row; that the environment is
opened read-only and without its lock file, so that it is neither changed nor waited for;
that the child keeps few of LMDB's pages mapped in; and that all comes from one transaction.
A writer does not see that transaction: the pages that it reads are whole as long as no
later one but the next has begun, so whoever reads beside a writer compares `transaction_id`
with that of the data file afterwards, and believes nothing if they differ.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO, Final

import lmdb
import msgpack

from strandline.engine import catalog, data_file
from strandline.engine.probe import (
    Tree,
    metadata_from,
    metadata_said,
    no_core_dump,
    open_seen,
    start_child,
)
from strandline.engine.records import Items, Origin, values_of
from strandline.errors import ForeignStoreError, StoreCorruptionError

HEAD: Final = 0
TABLE: Final = 1
ROWS: Final = 2
DONE: Final = 3
FINDING: Final = 4
FOREIGN: Final = 5

_MESSAGE_BYTES: Final = 256 << 10
_ROW_BYTES: Final = 64
_PIPE_BYTES: Final = 1 << 18
_SILENCE_SECONDS: Final = 60.0
_NOISE_BYTES: Final = 4096
_UNPACKER_BYTES: Final = (1 << 31) - 1
_HELD_BYTES: Final = 16 << 20
_libc: Final = ctypes.CDLL(None)

Rows = tuple[int, list[tuple[bytes, bytes]]]
"""A table's id, and some keys and values of it in order."""


class RowsApart:
    """The rows of some tables, table by table in the order that was asked for."""

    def __init__(self, directory: str, table_ids: Iterable[int] | None) -> None:
        """Start the child that reads the environment in `directory`.

        `table_ids` None stands for all tables, by name.

        Raises StoreCorruptionError where the data file makes no sense, or no child can be
        started; ForeignStoreError where it is of another format.
        """
        self.path = data_file.look(directory).path
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._spool: BinaryIO | None = None
        wanted = None if table_ids is None else list(table_ids)
        child = start_child(__name__, directory, wanted, stderr=self._noise.fileno())
        if child is None or child.stdout is None:
            self._noise.close()
            raise StoreCorruptionError(
                f"{self.path}: no process can be started here to read it in; run this where "
                "sys.executable is Python"
            )
        self._child, self._pipe = child, child.stdout
        self._messages = self._decoded(_chunks(child.stdout))
        try:
            _, self.transaction_id, said = self._next(HEAD)
            self.metadata = metadata_from(said)
        except BaseException:
            self.close()
            raise

    def spool(self) -> None:
        """Take everything from the child into a temporary file, as fast as it can be read."""
        spool = self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        packer = msgpack.Packer()
        for message in self._messages:
            spool.write(packer.pack(message))
        spool.seek(0)
        self._messages = self._decoded(iter(lambda: spool.read(_PIPE_BYTES), b""))

    def __iter__(self) -> Iterator[Rows]:
        """Yield rows, some of one table at a time; a table that is empty yields nothing.

        Raises as the constructor does, and StoreCorruptionError for what is damaged.
        """
        table_id = 0
        for message in self._messages:
            kind = message[0]
            if kind == TABLE:
                table_id = message[1]
            elif kind == ROWS:
                flat = message[1]
                yield table_id, list(zip(flat[::2], flat[1::2], strict=True))
            elif kind == DONE:
                return
        raise AssertionError("what the child says ends with DONE, or raises")

    def close(self) -> None:
        """End the child; nothing can be read then."""
        self._child.kill()
        self._child.wait()
        self._pipe.close()
        self._noise.close()
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> RowsApart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self, kind: int) -> Any:
        message = next(self._messages)
        if message[0] != kind:
            raise StoreCorruptionError(f"{self.path}: expected what the child begins with")
        return message

    def _decoded(self, chunks: Iterator[bytes]) -> Iterator[Any]:
        """Yield messages up to the last; raise for what it says, or if it does not come."""
        unpacker = msgpack.Unpacker(max_buffer_size=_UNPACKER_BYTES)
        try:
            for chunk in chunks:
                unpacker.feed(chunk)
                for message in unpacker:
                    if message[0] == FINDING:
                        raise StoreCorruptionError(message[1])
                    if message[0] == FOREIGN:
                        raise ForeignStoreError(message[1])
                    yield message
                    if message[0] == DONE:
                        return
            code = self._child.wait(_SILENCE_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise StoreCorruptionError(
                f"{self.path}: reading it made no progress for {_SILENCE_SECONDS:.0f} s; "
                "run `strandline check`, then restore a backup"
            ) from None
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        self._noise.seek(0)
        noise = self._noise.read(_NOISE_BYTES).decode(errors="replace").strip()
        said = f", after {noise!r}" if noise else ""
        raise StoreCorruptionError(
            f"{self.path}: expected to read it to its end, found that the process that read it "
            f"ended {how}{said}; run `strandline check`, then restore a backup"
        )


def _chunks(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield what comes out of a pipe; TimeoutError if nothing comes for too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(_SILENCE_SECONDS):
                raise TimeoutError
            data = os.read(pipe.fileno(), _PIPE_BYTES)
            if not data:
                return
            yield data


# ---- what the child does


def main(directory: str, table_ids: list[int] | None) -> None:
    """Read the rows and write them to stdout."""
    no_core_dump()
    out = sys.stdout.buffer
    packer = msgpack.Packer()
    try:
        for message in _read(directory, table_ids):
            out.write(packer.pack(message))
    except (StoreCorruptionError, lmdb.Error) as error:
        out.write(packer.pack([FINDING, str(error)]))
    except ForeignStoreError as error:
        out.write(packer.pack([FOREIGN, str(error)]))
    out.flush()


def _read(directory: str, table_ids: list[int] | None) -> Iterator[list[Any]]:
    seen = data_file.look(directory)
    with open_seen(seen, directory) as env:
        meta = catalog.open_metadata(env, seen.path)
        with env.begin() as txn:
            tables = catalog.read_metadata(txn, meta, seen.path).tables
        if table_ids is None:
            table_ids = [row.id for row in sorted(tables.values(), key=lambda row: row.name)]
        databases = {
            table_id: env.open_db(catalog.database_name(table_id), create=False)
            for table_id in table_ids
            if table_id in tables
        }
        with env.begin() as txn:
            metadata = catalog.read_metadata(txn, meta, seen.path)
            if metadata.tables != tables:
                raise StoreCorruptionError(
                    f"{seen.path}: a writer defined tables meanwhile; read it again"
                )
            origin = Origin(seen.path, {row.id: row.name for row in tables.values()})
            places, held = _places(seen.path), 0
            yield [HEAD, txn.id(), metadata_said(metadata)]
            for table_id, database in databases.items():
                yield [TABLE, table_id]
                tree = Tree(table_id, metadata.entries[table_id], origin)
                rows: Items = []
                size = 0
                for row in txn.cursor(database):
                    rows.append(row)
                    size += len(row[0]) + len(row[1]) + _ROW_BYTES
                    if size >= _MESSAGE_BYTES:
                        yield _message(tree, table_id, rows, origin)
                        held += size
                        rows, size = [], 0
                        if held >= _HELD_BYTES:
                            _let_go(places)
                            held = 0
                if rows:
                    yield _message(tree, table_id, rows, origin)
                _refuse(tree.end())
    yield [DONE]


def _places(path: str) -> list[tuple[int, int]]:
    """Return where in this process's memory a file is mapped, as far as the system tells."""
    if sys.platform != "linux":
        return []
    inode = str(os.stat(path).st_ino)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        fields = [line.split(maxsplit=5) for line in maps]
    found = [each[0].split("-") for each in fields if each[4] == inode]
    return [(int(start, 16), int(end, 16) - int(start, 16)) for start, end in found]


def _let_go(places: list[tuple[int, int]]) -> None:
    """Let the pages that were read go from this process; the system's cache may keep them.

    Otherwise a large file would in the end be counted as memory of this process in full.
    """
    for start, length in places:
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _message(tree: Tree, table_id: int, rows: Items, origin: Origin) -> list[Any]:
    """Return the message of some rows; raises where one of them is not sound."""
    _refuse(tree.take_keys([key for key, _ in rows]))
    if tree.walked > tree.expected:
        # A tree with a loop in it has no end.
        _refuse(tree.end())
    return [ROWS, [item for row in values_of(table_id, rows, origin) for item in row]]


def _refuse(findings: list[str]) -> None:
    if findings:
        raise StoreCorruptionError(
            f"{findings[0]}; run `strandline check` to see what else is damaged, then restore a "
            "backup"
        )
