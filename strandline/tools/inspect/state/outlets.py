"""What an export becomes: lines on stdout, lines in a file, a store.

A file or a store is made under a temporary name beside its place, put on stable storage,
and then gets its name; whatever ends that early leaves nothing. Lines on stdout are whole
only if the last one is there.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Protocol

import strandline
from strandline import Durability, HybridFlush, Store
from strandline.codecs import Codec, get_codec
from strandline.engine.catalog import TableRow
from strandline.options import GIB, MIB
from strandline.tools.cli import dumps
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.plain import kinds
from strandline.wal.real_disk import RealDisk

PARTIAL_SUFFIX: Final = ".partial"
_LINES: Final = 1000
_CHUNK_BYTES: Final = 1 * MIB
_ROW_BYTES: Final = 64
_FLUSH_BYTES: Final = 24 * MIB
_DIRTY_BYTES: Final = 400
"""What an entry takes beside its key and value until it is flushed."""
_CLOSE_SECONDS: Final = 3600.0
_NEVER: Final = HybridFlush(
    max_count=1 << 40, max_bytes=1 << 50, max_age=1e9, max_log_bytes=1 << 50
)

Rows = Iterator[tuple[bytes, bytes]]


class Destination(Protocol):
    """Where an export goes. Used in a `with` block, which undoes what was not ended."""

    shown_as_lines: bool
    """What is taken goes to stdout."""
    shown: bool
    """Something was printed that cannot be taken back."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, lsn: int, tables: list[TableRow]) -> None:
        """Begin with a state at an LSN."""

    def begin_table(self, row: TableRow) -> None:
        """Begin a table."""

    def take(self, rows: Rows) -> Iterator[int]:
        """Take the rows of the table; yield now and then how many came."""

    def end(self, entries: int, settle: Callable[[], None]) -> None:
        """End it once `settle` agrees; durable on return."""


class _Dump:
    """Lines as `strandline dump` prints them."""

    shown_as_lines = False
    shown = False

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._codec: Codec = get_codec("bytes")

    def begin(self, lsn: int, tables: list[TableRow]) -> None:  # noqa: ARG002 - for stores
        """Begin with the first line."""
        self._lines.append(dumps.head_line(lsn))

    def begin_table(self, row: TableRow) -> None:
        """Begin a table."""
        self._codec = get_codec(row.codec)
        self._lines.append(dumps.table_line(row.name, self._codec, logged=row.logged))

    def take(self, rows: Rows) -> Iterator[int]:
        """Take the rows of the table."""
        key_kind, value_kind = kinds(self._codec)
        decode_key, decode_value = self._codec.decode_key, self._codec.decode_value
        for chunk in _chunks(rows):
            self._lines += [
                dumps.entry_line(key_kind, value_kind, decode_key(key), decode_value(value))
                for key, value in chunk
            ]
            self._write_out()
            yield len(chunk)

    def end(self, entries: int, settle: Callable[[], None]) -> None:
        """End with the last line."""
        settle()
        self._lines.append(dumps.end_line(entries))
        self._write_out()

    def _write_out(self) -> None:
        lines, self._lines = self._lines, []
        self._write("\n".join([*lines, ""]))

    def _write(self, text: str) -> None:
        raise NotImplementedError


class PrintedDump(_Dump):
    """Lines on stdout."""

    shown_as_lines = True

    def __enter__(self) -> PrintedDump:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing can be undone."""

    def _write(self, text: str) -> None:
        self.shown = True
        sys.stdout.write(text)


class FileDump(_Dump):
    """Lines in a new file, which only its owner may read, as it is with a store's files."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._partial = ""
        self._file: IO[str] | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> FileDump:
        """Make a file beside its place."""
        number, self._partial = tempfile.mkstemp(
            PARTIAL_SUFFIX, f".{self._path.name}.", self._path.absolute().parent
        )
        self._file = self._cleanup.enter_context(open(number, "w", encoding="ascii"))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what did not get its name."""
        self._cleanup.close()
        with suppress(FileNotFoundError):
            os.unlink(self._partial)

    def end(self, entries: int, settle: Callable[[], None]) -> None:
        """End with the last line, and give the file its name."""
        super().end(entries, settle)
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        _refuse_taken(self._path)
        os.rename(self._partial, self._path)
        RealDisk().sync_directory(str(self._path.absolute().parent))

    def _write(self, text: str) -> None:
        self._opened().write(text)

    def _opened(self) -> IO[str]:
        assert self._file is not None, "used in a with block"
        return self._file


class StoreCopy:
    """A new store: of its own identity, its LSNs begin at 1."""

    shown_as_lines = False
    shown = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = ""
        self._db: Store | None = None
        self._table: Any = None
        self._codec: Codec = get_codec("bytes")
        self._unflushed = 0

    def __enter__(self) -> StoreCopy:
        """Make a directory beside its place."""
        self._partial = tempfile.mkdtemp(
            PARTIAL_SUFFIX, f".{self._path.name}.", self._path.absolute().parent
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what did not get its name."""
        if self._db is not None:
            self._db.close(drain=False)
        shutil.rmtree(self._partial, ignore_errors=True)

    def begin(self, lsn: int, tables: list[TableRow]) -> None:  # noqa: ARG002 - for dumps
        """Make the store, with budgets in which the largest value fits.

        What bounds its memory is that it is flushed now and then.
        """
        self._db = strandline.open(
            self._partial,
            segment_bytes=16 * MIB,
            max_log_bytes=4 * GIB,
            max_dirty_bytes=4 * GIB,
            max_value_bytes=GIB,
            max_tables=max(256, len(tables)),
            flush_strategy=_NEVER,
            durability=Durability.BUFFERED,
        )

    def begin_table(self, row: TableRow) -> None:
        """Make a table as it was."""
        db = self._store()
        self._codec = get_codec(row.codec)
        self._table = db.table(row.name, codec=row.codec, logged=row.logged)

    def take(self, rows: Rows) -> Iterator[int]:
        """Write the rows of the table."""
        decode_key, decode_value = self._codec.decode_key, self._codec.decode_value
        for chunk in _chunks(rows):
            self._table.put_many([(decode_key(key), decode_value(value)) for key, value in chunk])
            self._unflushed += sum(len(key) + len(value) + _DIRTY_BYTES for key, value in chunk)
            if self._unflushed >= _FLUSH_BYTES:
                self._store().flush(_CLOSE_SECONDS)
                self._unflushed = 0
            yield len(chunk)

    def end(self, entries: int, settle: Callable[[], None]) -> None:  # noqa: ARG002
        """Close the store and give it its name."""
        settle()
        db, self._db = self._store(), None
        report = db.close(timeout=_CLOSE_SECONDS)
        if report.remaining:
            raise CommandError(
                f"{self._path}: {report.remaining} entries could not be flushed to LMDB; nothing "
                "was made. Look for room on its file system, then export again"
            )
        _refuse_taken(self._path)
        os.rename(self._partial, self._path)
        RealDisk().sync_directory(str(self._path.absolute().parent))

    def _store(self) -> Store:
        assert self._db is not None, "begun, and not yet ended"
        return self._db


def _refuse_taken(path: Path) -> None:
    """Refuse a place where something came meanwhile."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise CommandError(
            f"{path}: expected nothing here, found something that came meanwhile; it was not "
            "touched. Give another place"
        )


def _chunks(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield rows some at a time, by number and by size."""
    source = iter(rows)
    while True:
        chunk: list[tuple[bytes, bytes]] = []
        size = 0
        for row in islice(source, _LINES):
            chunk.append(row)
            size += len(row[0]) + len(row[1]) + _ROW_BYTES
            if size >= _CHUNK_BYTES:
                break
        if not chunk:
            return
        yield chunk
