r"""What is printed: text in which nothing acts on a terminal, and progress bars.

`escape` is for data, and can be undone: a backslash is doubled, and what is not printable
becomes \n, \t, \r, \xNN (a control character, or a byte that is not UTF-8), \uNNNN or
\UNNNNNNNN. Format characters (directional overrides, zero-width ones) count as not
printable. `harmless` is for messages, which hold escaped data already: backslashes stay.

Rich's markup, emoji codes and highlighting are off throughout: text is text. Data goes to
stdout; messages, notes and progress bars go to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

_SHORT: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_BYTES: Final = range(0xDC80, 0xDD00)
"""What the error handler `surrogateescape` makes of bytes that are not UTF-8."""

program: Final = ContextVar("program", default="strandline")
"""The name of the command that is running; messages begin with it."""

_WIDE: Final = 70
"""Columns of a terminal from which on a bar has room for more than the share and the time."""


def escape(data: str | bytes) -> str:
    """Return data as printable text, unambiguously."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    return harmless(text.replace("\\", "\\\\"))


def harmless(text: str) -> str:
    """Return a message with everything escaped that is not printable."""
    return text if text.isprintable() else "".join(map(_harmless, text))


def _harmless(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def out_is_terminal() -> bool:
    """Tell whether somebody looks at stdout."""
    return sys.stdout.isatty()


def out() -> Console:
    """Return the console on stdout."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def err() -> Console:
    """Return the console on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def write_line(text: str) -> None:
    """Write a line to stdout; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def show_grid(titles: Sequence[str], rows: Sequence[Sequence[str | Text]], right: int = 0) -> None:
    """Print rows below their titles, the first `right` columns aligned to the right.

    A terminal cuts what is too wide; in a pipe everything is whole.
    """
    console = out()
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for number, title in enumerate(titles):
        justify: JustifyMethod = "right" if number < right else "left"
        grid.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        grid.add_row(*(each if isinstance(each, Text) else Text(harmless(each)) for each in row))
    if not out_is_terminal():
        console.width = max(console.width, _width_of(console, grid))
    with console.capture() as captured:
        console.print(grid)
    for line in captured.get().splitlines():
        write_line(line.rstrip())


def _width_of(console: Console, grid: Table) -> int:
    wide = console.options.update(width=1 << 16)
    return console.measure(grid, options=wide).maximum


def note(text: str) -> None:
    """Say something on stderr that is no result."""
    err().print(Text(f"{program.get()}: {harmless(text)}"))


def fail(text: str) -> None:
    """Say on stderr why the command failed."""
    err().print(Text.assemble((f"{program.get()}: ", "bold red"), harmless(text)))


class _ShareColumn(ProgressColumn):
    """How much of the whole is done, if anybody knows."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.percentage:3.0f}%", no_wrap=True)


class _RateColumn(ProgressColumn):
    """Things, and things per second."""

    def render(self, task: Task) -> Text:
        done = int(task.fields["things"])
        if not done:
            return Text("")
        speed = done / task.elapsed if task.elapsed else 0.0
        return Text(f"{done:,} {task.fields['unit']}, {speed:,.0f}/s", no_wrap=True)


class ProgressBar:
    """A bar on stderr, with rate and time left; nothing where that is no terminal."""

    def __init__(self, title: str, unit: str, *, delay: float = 0.0) -> None:
        """Show it once work has gone on for `delay` seconds."""
        self._title = title
        self._unit = unit
        self._from = time.monotonic() + delay
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        console = err()
        if console.is_terminal:
            # What cannot shrink comes first; the bar takes the rest.
            columns: list[ProgressColumn] = [
                TextColumn("{task.description}", markup=False, table_column=_whole()),
                BarColumn(bar_width=None),
                _ShareColumn(table_column=_whole()),
                TimeRemainingColumn(compact=True, table_column=_whole()),
            ]
            if console.width >= _WIDE:
                columns.insert(-1, _RateColumn(table_column=_whole()))
            self._progress = Progress(*columns, console=console, transient=True, expand=True)

    def __enter__(self) -> ProgressBar:
        """Begin."""
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        if self._progress is not None and self._task is not None:
            self._progress.stop()

    def begin(self, title: str, unit: str) -> None:
        """Go on with another part of the work, unless it is the one that is shown."""
        if title != self._title:
            self._title, self._unit = title, unit
            if self._progress is not None and self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
                self._show()

    def advance(self, things: int, done: int, total: int | None) -> None:
        """Show how many things are done, how far that is, and how far the end is, if known."""
        if self._progress is not None:
            self._show()
            if self._task is not None:
                self._progress.update(self._task, completed=done, total=total, things=things)

    def _show(self) -> None:
        if self._progress is None or self._task is not None or time.monotonic() < self._from:
            return
        self._progress.start()
        title = harmless(self._title)
        self._task = self._progress.add_task(title, total=None, things=0, unit=self._unit)


def _whole() -> Column:
    return Column(no_wrap=True)
