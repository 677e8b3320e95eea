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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SHORT: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_BYTES: Final = range(0xDC80, 0xDD00)
"""What the error handler `surrogateescape` makes of bytes that are not UTF-8."""

Advance = Callable[[int, int, int | None], None]
"""Called with how many things are done, how far that is, and how far the end; None where
nobody knows."""


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


def note(text: str) -> None:
    """Say something on stderr that is no result."""
    err().print(Text(f"strandline: {harmless(text)}"))


def fail(text: str) -> None:
    """Say on stderr why the command failed."""
    err().print(Text.assemble(("strandline: ", "bold red"), harmless(text)))


class _RateColumn(ProgressColumn):
    """Things per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        done = int(task.fields["things"])
        speed = done / task.elapsed if task.elapsed else 0.0
        return Text(f"{done:,} {self._unit}, {speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Advance]:
    """Show a bar on stderr, with rate and time left, if that is a terminal."""
    console = err()
    if not console.is_terminal:
        yield lambda _things, _done, _total: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        _RateColumn(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task(harmless(title), total=None, things=0)

        def update(things: int, done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total, things=things)

        yield update
