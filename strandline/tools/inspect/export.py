"""`wal-inspect export`: the state of a store at an LSN or a time.

What is printed, and how: `exports.py`. What is exported: `cut.py` and `state.py`. Nothing
is written to the store, and a file or a store that is made appears whole or not at all.
"""

from __future__ import annotations

import enum
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from strandline.engine.catalog import TableRow
from strandline.errors import CorruptionError
from strandline.recovery.check import find_writer
from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.report import RecoveryProgress
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import ProgressBar, note, out_is_terminal
from strandline.tools.inspect.examine import STATUS, Examination, examine
from strandline.tools.inspect.params import LogPath
from strandline.tools.inspect.state.cut import Cut, RestlessError, plan_cut
from strandline.tools.inspect.state.merged import State, read_beside_writer, store_directory
from strandline.tools.inspect.state.outlets import Destination, FileDump, PrintedDump, StoreCopy
from strandline.tools.inspect.summary import tell_findings
from strandline.tools.inspect.target import Target, resolve
from strandline.tools.inspect.times import parse_time

EXAMPLES: Final = (
    "wal-inspect export data > state.jsonl",
    "wal-inspect export data --to-lsn 4711 --table users --output users.jsonl",
    "wal-inspect export data --at 2026-02-28T13:45:00Z --format store --output before",
)

_ATTEMPTS: Final = 5
"""How often a store is read while a writer changes it."""
_PATIENCE: Final = 0.5


class Format(enum.Enum):
    """What an export is."""

    JSONL = "jsonl"
    STORE = "store"


ToLsn = Annotated[
    int | None, typer.Option("--to-lsn", min=0, help="The last LSN; the log's last without.")
]
AtTime = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="As it was then: ISO 8601, or 15m ago."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="A new file, or a new store's directory."),
]
FormatName = Annotated[
    Format, typer.Option("--format", help="Lines as of `strandline dump`, or a new store.")
]
OneTable = Annotated[
    str | None,
    typer.Option("--table", "-t", metavar="NAME", help='Only this table; "" is the default one.'),
]


def export(
    path: LogPath,
    *,
    to_lsn: ToLsn = None,
    at: AtTime = None,
    output: Output = None,
    format_name: FormatName = Format.JSONL,
    table: OneTable = None,
) -> None:
    """Export the state at an LSN or a time, from LMDB and the log.

    The lines are those of `strandline dump`, and `strandline load --format dump` reads
    them. A cut within a commit leaves out that commit. --at takes all that lies before the
    first frame that was written later. What lies below LMDB's watermark can be had only as
    long as the log begins at LSN 1. Damage between the two ends the command, unless the
    state before it is asked for; a torn tail is the end of the log, and status 3 says so.
    """
    if to_lsn is not None and at is not None:
        raise typer.BadParameter("--to-lsn and --at exclude each other; give one of them")
    if format_name is Format.STORE and output is None:
        raise typer.BadParameter("--format store makes a store: say where with --output DIR")
    at_ns = None if at is None else parse_time(at)
    target = resolve(path)
    if output is not None:
        _refuse_place(target, output)
    for attempt in range(_ATTEMPTS):
        destination = _destination(output, format_name)
        try:
            torn = _export(target, to_lsn, at_ns, table, destination)
            break
        except RestlessError:
            if destination.shown or attempt + 1 == _ATTEMPTS:
                whole = "what was printed is not whole" if destination.shown else "nothing is made"
                raise CommandError(
                    f"{path}: expected a store that stays as it is while it is read, found a "
                    f"writer that changed it every time; {whole}. Export when the writer is idle "
                    "or stopped, or export a backup"
                ) from None
    if torn:
        raise typer.Exit(STATUS[CheckVerdict.TORN_TAIL])


def _export(
    target: Target,
    to_lsn: int | None,
    at_ns: int | None,
    table: str | None,
    destination: Destination,
) -> bool:
    """Export once; return whether the log ends in a torn tail before what was asked for."""
    with ExitStack() as stack:
        rows = None
        if target.store is not None and find_writer(target.store) is not None:
            # LMDB first: what it lacks the log has, which a writer gives back in its own time.
            rows = stack.enter_context(read_beside_writer(store_directory(target)))
        log = examine(target)
        if log.writer is not None and rows is None:
            raise RestlessError
        metadata = log.metadata if rows is None else rows.metadata
        cut = plan_cut(log, metadata, to_lsn=to_lsn, at_ns=at_ns)
        state = stack.enter_context(State(log, cut, rows))
        stack.enter_context(destination)
        _read_log(state)
        tables = _wanted(state, table)
        state.read_store(tables)
        _tell(log, cut, state, tables)
        _write(state, tables, destination)
        return cut.torn


def _refuse_place(target: Target, output: Path) -> None:
    """Refuse an output that exists, or that lies within what is inspected."""
    inspected = target.store or target.log_dir
    real = os.path.realpath(output)
    if os.path.commonpath([real, inspected]) == inspected:
        raise CommandError(
            f"{output}: lies within {inspected}, to which nothing is written. Give another place"
        )
    if not os.path.isdir(os.path.dirname(real)):
        raise CommandError(f"{output}: the directory above it does not exist; create it first")
    if os.path.lexists(output):
        empty = os.path.isdir(real) and not os.listdir(real)
        if not empty:
            raise CommandError(
                f"{output}: expected nothing here, found something; nothing was changed. Give "
                "another place, or move it away"
            )


def _destination(output: Path | None, kind: Format) -> Destination:
    if output is None:
        return PrintedDump()
    if kind is Format.STORE:
        return StoreCopy(output)
    return FileDump(output)


def _read_log(state: State) -> None:
    with ProgressBar("reading the log", "operations", delay=_PATIENCE) as bar:

        def tell(seen: RecoveryProgress) -> None:
            bar.advance(seen.operations, seen.bytes_done, seen.bytes_total)

        state.read_log(tell)


def _wanted(state: State, table: str | None) -> list[TableRow]:
    """Return the tables to export; CommandError where there is none of this name."""
    tables = state.tables()
    if table is None:
        return tables
    found = [row for row in tables if row.name == table]
    if not found:
        names = ", ".join(repr(row.name) for row in tables if row.name)
        raise CommandError(
            f"at LSN {state.lsn} there is no table {table!r}; there is "
            f"{names or 'none but the default one'}"
        )
    return found


def _tell(log: Examination, cut: Cut, state: State, tables: list[TableRow]) -> None:
    """Say on stderr what a person should know of the state."""
    tell_findings(log)
    if cut.metadata is None:
        for each in log.notes:
            note(each)
    if state.divided is not None:
        first, last = state.divided
        note(
            f"LSN {cut.lsn} lies within the commit of LSN {first} to {last}; rounded down to LSN "
            f"{state.lsn}"
        )
    elif state.lsn < cut.lsn:
        note(f"no operation has LSN {cut.lsn}; rounded down to LSN {state.lsn}, the last before it")
    for name in state.unknown_rows(tables):
        note(f"table {name!r} is not logged: the log alone knows nothing of its rows")


def _write(state: State, tables: list[TableRow], destination: Destination) -> None:
    # A bar between the lines on one terminal would be in their way.
    watched = not (destination.shown_as_lines and out_is_terminal())
    with ProgressBar("exporting", "entries", delay=_PATIENCE) as bar:
        destination.begin(state.lsn, tables)
        done = 0
        try:
            for row, rows in state.rows(tables):
                destination.begin_table(row)
                for count in destination.take(rows):
                    done += count
                    if watched:
                        bar.advance(done, done, None)
        except CorruptionError:
            # What a writer's commits took the place of reads like damage.
            state.settle()
            raise
        destination.end(done, state.settle)
