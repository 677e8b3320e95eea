"""What the log changes in tables, in key order, on disk where it is much.

    chunk   a dict for each table: what a key was set to last, None where it was deleted
    run     a chunk that grew to `CHUNK_BYTES`, sorted, in a temporary file without a name
    merge   the runs of one table; of the same key the newest wins

A table that is cleared or dropped loses what it had: its part of the chunk goes, and older
runs no longer count for it. Runs are merged into one whenever there are `MOST_RUNS`.

Promises bounded memory for any number of operations: a chunk, and a buffer for each run.

Turned down: a temporary LMDB environment. Keys come in any order, so that nearly all of its
pages are touched again and again, and mapped pages count as memory of the process.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from operator import itemgetter
from typing import IO, Any, Final, NamedTuple

import msgpack

CHUNK_BYTES: Final = 32 << 20
MOST_RUNS: Final = 48
_ENTRY_BYTES: Final = 250
"""What an entry of a chunk takes beside its key and value."""
_READ_BYTES: Final = 64 << 10
_UNPACKER_BYTES: Final = (1 << 31) - 1
_SLICE: Final = 2000

Change = tuple[bytes, bytes | None]
"""A key, and its value; None where it was deleted."""


class _Part(NamedTuple):
    """Where the changes of one table lie in a run."""

    start: int
    end: int


class _Run(NamedTuple):
    """Sorted changes in a file."""

    number: int
    file: IO[bytes]
    parts: dict[int, _Part]


class Overlay:
    """The changes of tables by table id. Close it, or use it in a `with` block."""

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, most_runs: int = MOST_RUNS) -> None:
        self._chunk: dict[int, dict[bytes, bytes | None]] = {}
        self._size = 0
        self._chunk_bytes = chunk_bytes
        self._most_runs = most_runs
        self._runs: list[_Run] = []
        self._next = 0
        self._first: dict[int, int] = {}
        """By table: the first run that counts for it."""
        self._files = ExitStack()

    def change(self, table_id: int, keys: list[bytes], values: list[bytes | None]) -> None:
        """Set keys of a table; later ones over earlier ones."""
        self._chunk.setdefault(table_id, {}).update(zip(keys, values, strict=True))
        # What is overwritten within a chunk is counted twice: it is written out early.
        self._size += _ENTRY_BYTES * len(keys) + sum(map(len, keys))
        self._size += sum([len(value) for value in values if value is not None])
        if self._size >= self._chunk_bytes:
            self._write_out()

    def forget(self, table_id: int) -> None:
        """Let go of all changes to a table so far."""
        self._chunk.pop(table_id, None)
        self._first[table_id] = self._next

    def changes(self, table_id: int) -> Iterator[Change]:
        """Yield the changes of a table in key order, each key once."""
        sources: list[Iterable[tuple[bytes, int, Any]]] = [
            _numbered(run, run.parts[table_id]) for run in self._counting(table_id, self._runs)
        ]
        newest = self._chunk.get(table_id)
        if newest:
            sources.append((key, -self._next, newest[key]) for key in sorted(newest))
        return _newest(sources)

    def close(self) -> None:
        """Let go of all files."""
        self._files.close()
        self._chunk.clear()

    def __enter__(self) -> Overlay:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _counting(self, table_id: int, runs: list[_Run]) -> list[_Run]:
        first = self._first.get(table_id, 0)
        return [run for run in runs if run.number >= first and table_id in run.parts]

    def _write_out(self) -> None:
        """Make the chunk a run."""
        chunk, self._chunk, self._size = self._chunk, {}, 0
        self._add({table_id: _in_order(changes) for table_id, changes in chunk.items()})
        if len(self._runs) >= self._most_runs:
            self._merge()

    def _merge(self) -> None:
        """Make all runs one."""
        runs, self._runs = self._runs, []
        files, self._files = self._files, ExitStack()
        with files:
            tables = {table_id for run in runs for table_id in run.parts}
            self._add(
                {
                    table_id: _newest([_numbered(run, run.parts[table_id]) for run in counting])
                    for table_id in tables
                    if (counting := self._counting(table_id, runs))
                }
            )

    def _add(self, changes: dict[int, Iterator[Change]]) -> None:
        file = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it does
        packer = msgpack.Packer()
        parts = {}
        for table_id, pairs in changes.items():
            start = file.tell()
            for key, value in pairs:
                file.write(packer.pack(key))
                file.write(packer.pack(value))
            parts[table_id] = _Part(start, file.tell())
        file.flush()
        self._runs.append(_Run(self._next, file, parts))
        self._next += 1


def _in_order(changes: dict[bytes, bytes | None]) -> Iterator[Change]:
    for key in sorted(changes):
        yield key, changes[key]


def _numbered(run: _Run, part: _Part) -> Iterator[tuple[bytes, int, bytes | None]]:
    """Yield key, number of the run, and value; the newest run has the lowest number."""
    unpacker = msgpack.Unpacker(max_buffer_size=_UNPACKER_BYTES)
    at, number = part.start, -run.number
    key: bytes | None = None
    while at < part.end:
        run.file.seek(at)
        data = run.file.read(min(_READ_BYTES, part.end - at))
        at += len(data)
        unpacker.feed(data)
        for item in unpacker:
            if key is None:
                key = item
            else:
                yield key, number, item
                key = None


def _newest(sources: list[Iterable[tuple[bytes, int, Any]]]) -> Iterator[Change]:
    """Merge sorted changes; of the same key the one with the lowest number wins."""
    if len(sources) == 1:
        yield from map(itemgetter(0, 2), sources[0])
        return
    last: bytes | None = None
    # Key and number differ between any two, so values are never compared.
    for key, _, value in heapq.merge(*sources):
        if key != last:
            last = key
            yield key, value
