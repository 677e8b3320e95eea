"""`wal-inspect history`: every version of a key that the log still holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from strandline.engine.operations import OPERATION_NAMES, PUT
from strandline.engine.record_apart import StoredRecord, read_record_apart
from strandline.errors import CorruptionError
from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.opening import STORE_NAME
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import (
    ProgressBar,
    escape,
    note,
    out,
    out_is_terminal,
    write_line,
)
from strandline.tools.inspect.examine import Examination, examine
from strandline.tools.inspect.fields import (
    Values,
    parse_key,
    plain_key,
    plain_value,
    show_key,
    show_value,
)
from strandline.tools.inspect.frames import LogFrames, Tables
from strandline.tools.inspect.params import AsJson, LogPath, ValuesForm
from strandline.tools.inspect.summary import end_with, log_plain, tell_findings, tell_gone
from strandline.tools.inspect.target import resolve
from strandline.tools.inspect.times import show_time
from strandline.tools.inspect.versions import (
    Seen,
    Version,
    contradiction,
    ids_of,
    seen_now,
    versions_in,
)

EXAMPLES: Final = (
    "wal-inspect history data user:17",
    "wal-inspect history data 42 --table orders --values msgpack",
    "wal-inspect history data 'a\\x00b' --json",
)

_HEAD: Final = (
    f"{'LSN':>10}  {'time (UTC)':<26}  {'op':<6}  {'segment:offset':<16}  {'frame':<14}  "
    f"{'':<9}  {'':<10}  value"
)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help=r"The key, as shown: a\x00b.")]
TableName = Annotated[
    str, typer.Option("--table", "-t", metavar="NAME", help='Of this table; "" or #ID too.')
]


def history(
    path: LogPath,
    key: KeyArgument,
    *,
    table: TableName = "",
    values: ValuesForm = Values.UTF8,
    as_json: AsJson = False,
) -> None:
    """Show every version of a key that the log holds, and what LMDB holds.

    Whatever decides about the key counts: puts and deletes of it, and clears, drops and
    creates of its table. What a reader sees now is marked.
    """
    log = examine(resolve(path))
    tell_findings(log)
    tables = Tables(log.metadata)
    ids = ids_of(log, table, tables)
    if not ids:
        raise typer.BadParameter(
            f"--table {escape(table)}: neither LMDB nor the log knows a table of this name"
        )
    keys = {table_id: _key(tables.codec(table_id), key) for table_id in ids}
    view = _View(log, table, tables, keys, values)
    frames = LogFrames(log)
    # First what LMDB holds: what the log holds beyond that is newer.
    stored, unlogged = _stored(log, ids, keys)
    found = _with_progress(versions_in(frames, keys), frames)
    if as_json:
        view.write_document(found, stored, unlogged=unlogged)
    else:
        view.write_lines(found, stored, unlogged=unlogged)
    tell_gone(frames)
    end_with(log, senseless=frames.senseless)


def _key(codec: str, text: str) -> bytes:
    try:
        return parse_key(codec, text)
    except ValueError as error:
        raise typer.BadParameter(f"KEY: the table's keys are {codec}: {error}") from None


def _stored(
    log: Examination, ids: list[int], keys: Mapping[int, bytes]
) -> tuple[StoredRecord | None, bool]:
    """Return what LMDB holds, None if that is not known; and whether the table is unlogged."""
    if log.metadata is None or log.target.store is None:
        return None, False
    rows = [row for row in log.metadata.tables.values() if row.id in ids]
    table_id = rows[-1].id if rows else ids[-1]
    directory = os.path.join(log.target.store, STORE_NAME)
    try:
        stored = read_record_apart(directory, table_id, keys[table_id])
    except CorruptionError as error:
        note(f"what LMDB holds of the key is not known: {error}")
        return None, False
    return stored, bool(rows) and not rows[-1].logged


def _with_progress(found: Iterator[Version], frames: LogFrames) -> Iterator[Version]:
    """Pass versions on, with a bar where it is not in the way of lines."""
    with ProgressBar("reading", "versions", delay=0.5) as bar:
        for number, each in enumerate(found, 1):
            if not out_is_terminal():
                bar.advance(number, frames.bytes_done, frames.bytes_total)
            yield each


class _View:
    """How versions are printed: each when the next one is known, for that supersedes it."""

    def __init__(
        self,
        log: Examination,
        table: str,
        tables: Tables,
        keys: Mapping[int, bytes],
        values: Values,
    ) -> None:
        self._log = log
        self._table = table
        self._values = values
        self._codec = tables.codec(max(keys))
        self._key = keys[max(keys)]
        self._watermark = log.watermark_lsn if log.metadata else None
        self._newest: Version | None = None
        self._unlogged = False
        self._printed = 0

    # ---- for a person

    def write_lines(
        self, found: Iterator[Version], stored: StoredRecord | None, *, unlogged: bool
    ) -> None:
        """Print a line for each version, then what LMDB holds and what a reader sees."""
        self._unlogged = unlogged
        width = out().width if out_is_terminal() else None
        for each, state in self._with_state(found, stored):
            if not self._printed:
                write_line(_HEAD)
            self._printed += 1
            line = self._line(each, state)
            if width is not None and len(line) > width:
                line = line[: width - 1] + "…"
            write_line(line)
        what = f"key {show_key(self._codec, self._key)}"
        if self._table:
            what += f" of table {escape(self._table)}"
        write_line("" if self._printed else f"The log holds no version of {what}.")
        if unlogged:
            write_line("The table is not logged: its operations are in no log, its LSN a counter.")
        self._tell_stored(stored)
        write_line(f"A reader sees: {self._said(self._seen(stored))}")
        wrong = self._contradiction(stored)
        if wrong is not None:
            note(wrong)

    def _line(self, each: Version, state: str) -> str:
        place = f"{each.segment_id}:{each.offset}"
        frame = f"{each.frame_first_lsn}+{each.frame_operations}"
        in_lmdb = "in LMDB" if self._in_lmdb(each) else ""
        value = show_value(self._values, each.value)
        return (
            f"{each.lsn:>10}  {show_time(each.time_ns):<26}  {OPERATION_NAMES[each.op]:<6}  "
            f"{place:<16}  {frame:<14}  {in_lmdb:<9}  {state:<10}  {value}"
        ).rstrip()

    def _tell_stored(self, stored: StoredRecord | None) -> None:
        if stored is None:
            return
        if stored.lsn is None:
            said = "nothing for it"
        else:
            value = show_value(self._values, stored.value)
            said = f"LSN {stored.lsn}" + (f": {value}" if self._values is not Values.NONE else "")
        write_line(f"LMDB holds, as of LSN {stored.watermark_lsn}: {said}")

    def _said(self, seen: Seen | None) -> str:
        if seen is None:
            return "what LMDB holds, which is not known here"
        source = "LMDB" if seen.source == "lmdb" else "the log"
        if seen.value is None:
            return f"nothing, by LSN {seen.lsn} in {source}" if seen.lsn else "nothing"
        return f"LSN {seen.lsn}, from {source}"

    # ---- for a program

    def write_document(
        self, found: Iterator[Version], stored: StoredRecord | None, *, unlogged: bool
    ) -> None:
        """Print one JSON document, a version at a time."""
        self._unlogged = unlogged
        head = {
            **log_plain(self._log),
            "table": self._table,
            "key": plain_key(self._codec, self._key),
            "logged": not unlogged,
            "lmdb": self._stored_plain(stored),
        }
        sys.stdout.write(to_json(head)[:-1] + ',"versions":[')
        between = ""
        for each, state in self._with_state(found, stored):
            sys.stdout.write(between + to_json(self._version_plain(each, state)))
            between = ","
        seen = self._seen_plain(self._seen(stored))
        tail = {"seen": seen, "contradiction": self._contradiction(stored)}
        sys.stdout.write("]," + to_json(tail)[1:] + "\n")

    def _version_plain(self, each: Version, state: str) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "lsn": each.lsn,
            "time": show_time(each.time_ns),
            "op": OPERATION_NAMES[each.op],
            "table_id": each.table_id,
        }
        if self._values is not Values.NONE:
            plain["value"] = plain_value(self._values, each.value)
        return plain | {
            "segment": each.segment_id,
            "offset": each.offset,
            "frame_first_lsn": each.frame_first_lsn,
            "frame_operations": each.frame_operations,
            "in_lmdb": self._in_lmdb(each),
            "state": state,
        }

    def _stored_plain(self, stored: StoredRecord | None) -> dict[str, Any] | None:
        if stored is None:
            return None
        plain: dict[str, Any] = {"watermark_lsn": stored.watermark_lsn, "lsn": stored.lsn}
        if self._values is not Values.NONE:
            plain["value"] = plain_value(self._values, stored.value)
        return plain

    def _seen_plain(self, seen: Seen | None) -> dict[str, Any] | None:
        if seen is None:
            return None
        return {"lsn": seen.lsn, "present": seen.value is not None, "source": seen.source}

    # ---- for both

    def _with_state(
        self, found: Iterator[Version], stored: StoredRecord | None
    ) -> Iterator[tuple[Version, str]]:
        """Yield versions with what they are: `superseded`, or `current` for the newest one."""
        for each in found:
            if self._newest is not None:
                yield self._newest, "superseded"
            self._newest = each
        newest = self._newest
        if newest is not None:
            seen = seen_now(newest, stored)
            lsn = newest.lsn if newest.op == PUT else None
            decides = seen is None or seen.source == "log" or seen.lsn == lsn
            yield newest, "current" if decides else "superseded"

    def _seen(self, stored: StoredRecord | None) -> Seen | None:
        """Return what a reader sees; an unlogged table is as LMDB has it."""
        return seen_now(None if self._unlogged else self._newest, stored)

    def _contradiction(self, stored: StoredRecord | None) -> str | None:
        """Return how log and LMDB differ, where neither a writer nor damage explains it."""
        explained = self._unlogged or self._log.writer is not None
        if explained or self._log.verdict.gravity > CheckVerdict.TORN_TAIL.gravity:
            return None
        return contradiction(self._newest, stored)

    def _in_lmdb(self, each: Version) -> bool | None:
        return None if self._watermark is None else each.lsn <= self._watermark
