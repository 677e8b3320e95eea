"""`wal-inspect follow`: a live log as it grows."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Final

import typer

from strandline.tools.cli.terminal import note
from strandline.tools.inspect.dump import FormatName, lines_of
from strandline.tools.inspect.fields import Values
from strandline.tools.inspect.following.beginnings import lsn_of_last, tables_of
from strandline.tools.inspect.following.tailing import Found, Tail
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.lines import Format, Lines
from strandline.tools.inspect.params import AsJson, LogPath, ValuesForm
from strandline.tools.inspect.selection import (
    FromLsn,
    KeyText,
    Limit,
    OpNames,
    PrefixText,
    Selection,
    Since,
    TableNames,
    ToLsn,
    Until,
    selection_of,
)
from strandline.tools.inspect.target import Target, resolve

EXAMPLES: Final = (
    "wal-inspect follow data --table orders",
    "wal-inspect follow data --last 20 --values msgpack",
    "wal-inspect follow data --from-lsn 4711 --idle 5 --json > operations.jsonl",
)

DAMAGED: Final = 4
"""The exit status where something was passed over that is damaged."""

_LINES: Final = 2000

Last = Annotated[
    int | None, typer.Option("--last", min=0, help="Begin with the last so many operations.")
]
Idle = Annotated[
    float | None,
    typer.Option("--idle", min=0, metavar="SECONDS", help="End when nothing new came so long."),
]
Interval = Annotated[
    float, typer.Option("--interval", min=0.001, metavar="SECONDS", help="How often to look.")
]


def follow(  # noqa: PLR0913 - one for each filter
    path: LogPath,
    *,
    from_lsn: FromLsn = None,
    last: Last = None,
    to_lsn: ToLsn = None,
    since: Since = None,
    until: Until = None,
    table: TableNames = None,
    key: KeyText = None,
    prefix: PrefixText = None,
    op: OpNames = None,
    limit: Limit = None,
    idle: Idle = None,
    interval: Interval = 0.1,
    values: ValuesForm = Values.UTF8,
    format_name: FormatName = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Print operations as they come into the log, until Ctrl-C; --json is --format jsonl.

    An operation is printed as soon as it is in the log, which says nothing about whether it
    is synced. Rotation, recycling and new openings of the store are followed. What cannot be
    read any more, or does not verify, is told on stderr.
    """
    wanted = selection_of(
        from_lsn=from_lsn,
        to_lsn=to_lsn,
        since=since,
        until=until,
        tables=table,
        key=key,
        prefix=prefix,
        ops=op,
    )
    if from_lsn is not None and last is not None:
        raise typer.BadParameter("--from-lsn and --last exclude each other; give one of them")
    target = resolve(path)
    if target.kind == "segment":
        raise typer.BadParameter(
            f"{path}: a single segment is not followed; give the store, or the folder of its log"
        )
    tail = Tail(target, note)
    try:
        wanted, tables = _begin(tail, target, wanted, from_lsn=from_lsn, last=last)
        lines = Lines(Format.JSONL if as_json else format_name, values, tables)
        lines.begin()
        sys.stdout.flush()
        _Following(tail, wanted, tables, lines).run(limit=limit, idle=idle, interval=interval)
    finally:
        tail.close()
    if tail.damaged or lines.senseless:
        raise typer.Exit(DAMAGED)


def _begin(
    tail: Tail, target: Target, wanted: Selection, *, from_lsn: int | None, last: int | None
) -> tuple[Selection, Tables]:
    """Go to where following begins; return what is wanted from there on, and the tables."""
    if from_lsn is not None:
        tail.to_lsn(from_lsn)
        return wanted, tables_of(target)
    # First the place, then the rest: what comes meanwhile is new.
    tail.to_end()
    tables = tables_of(target)
    if last:
        begin = lsn_of_last(target, last, wanted, tables)
        if begin is not None:
            tail.to_lsn(begin)
            wanted = replace(wanted, from_lsn=begin)
    return wanted, tables


class _Following:
    """Prints what is new, look after look."""

    def __init__(self, tail: Tail, wanted: Selection, tables: Tables, lines: Lines) -> None:
        self._tail = tail
        self._wanted = wanted
        self._tables = tables
        self._lines = lines

    def run(self, *, limit: int | None, idle: float | None, interval: float) -> None:
        """Go on until one of the ends is reached."""
        tail, to_lsn = self._tail, self._wanted.to_lsn
        left = limit
        new_at = time.monotonic()
        while left != 0 and (to_lsn is None or tail.lsn <= to_lsn):
            before = tail.lsn
            left = self._print_new(left)
            now = time.monotonic()
            if tail.lsn != before:
                new_at = now
            elif _reader_is_gone() or (idle is not None and now - new_at >= idle):
                return
            if left != 0 and (to_lsn is None or tail.lsn <= to_lsn):
                time.sleep(interval)

    def _print_new(self, left: int | None) -> int | None:
        """Print what is new, `left` lines at the most; return how many may come after it."""
        part: list[str] = []
        for found in lines_of(self._new(), self._wanted, self._tables, self._lines):
            some = found if left is None else found[:left]
            part += some
            if left is not None:
                left -= len(some)
            if len(part) >= _LINES or left == 0:
                self._print(part)
                part = []
            if left == 0:
                return 0
        self._print(part)
        return left

    def _new(self) -> Iterator[Found]:
        """Yield what is new, no further than is wanted."""
        to_lsn = self._wanted.to_lsn
        for scan, frames in self._tail.look():
            if to_lsn is None:
                yield scan, frames
                continue
            yield scan, [frame for frame in frames if frame[1] <= to_lsn]
            if self._tail.lsn > to_lsn:
                return

    def _print(self, part: list[str]) -> None:
        if part:
            self._lines.print(part)
            sys.stdout.flush()


def _reader_is_gone() -> bool:
    """Tell whether stdout is a pipe that nobody reads: no line would come to say so."""
    poll = getattr(select, "poll", None)
    if poll is None:
        return False
    try:
        watched = poll()
        watched.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in watched.poll(0))
    except (OSError, ValueError):  # stdout is no file
        return False
