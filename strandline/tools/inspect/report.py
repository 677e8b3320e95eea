"""`wal-inspect report`: the log as one HTML page."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from typing import Annotated, Final

import typer

from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import ProgressBar, harmless, write_line
from strandline.tools.inspect.analysis.analyse import analyse
from strandline.tools.inspect.analysis.figures import Analysis
from strandline.tools.inspect.examine import Examination, examine
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.page.render import render
from strandline.tools.inspect.params import LogPath
from strandline.tools.inspect.summary import end_with, log_line
from strandline.tools.inspect.target import Target, resolve
from strandline.tools.inspect.times import show_bytes
from strandline.wal.format import segment_id_of

EXAMPLES: Final = (
    "wal-inspect report data --output report.html",
    "wal-inspect report data/log --output - > report.html",
)

_STDOUT: Final = "-"

Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help="The page to write; - for stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a page that is there already.")]


def report(path: LogPath, *, output: Output, force: Force = False) -> None:
    """Write one HTML page about a log: verdict, findings, a map of every segment, charts.

    The page needs nothing but itself and runs nothing but its own script, so it can be sent
    on and opened from a file. It holds keys of the store, so only its owner may read it.
    The exit status is that of the log, as of `wal-inspect verify`.
    """
    target = resolve(path)
    if output != _STDOUT:
        _refuse(output, target, force=force)
    log = examine(target)
    page = render(log, _figures(log), time.time_ns())
    if output == _STDOUT:
        sys.stdout.buffer.write(page.encode())
    else:
        _write(output, page.encode(), force=force)
        write_line(log_line(log).plain)
        write_line(f"{harmless(output)}: {show_bytes(len(page.encode()))}")
    end_with(log)


def _figures(log: Examination) -> Analysis | None:
    """Return what a log's operations say, None where it holds none."""
    if not log.operations:
        return None
    with ProgressBar("counting operations", "operations", delay=0.3) as bar:
        return analyse(log, Tables(log.metadata), progress=bar.advance)


def _refuse(output: str, target: Target, *, force: bool) -> None:
    """Raise CommandError where a page must not be written, before any work is done."""
    real = os.path.realpath(output)
    inspected = target.store or target.log_dir
    inside = os.path.commonpath((real, inspected)) == inspected
    if target.kind == "segment":
        # Beside a copy of a segment there may be a page, but never in a segment's place.
        inside = inside and segment_id_of(os.path.basename(real)) is not None
        inside = inside or real in target.segments().values()
    if inside:
        raise CommandError(
            f"{output}: expected a place outside of what is inspected, found one in {inspected}; "
            "give another",
            2,
        )
    if not os.path.isdir(os.path.dirname(real)):
        raise CommandError(f"{output}: expected a directory to write into, found none", 2)
    if os.path.isdir(real):
        raise CommandError(f"{output}: expected a file to write, found a directory", 2)
    if not force and os.path.isfile(real):
        raise CommandError(f"{output}: there is a file already; give another, or --force", 2)


def _write(output: str, page: bytes, *, force: bool) -> None:
    """Write the page, whole or not at all."""
    real = os.path.realpath(output)
    if os.path.exists(real) and not stat.S_ISREG(os.stat(real).st_mode):
        # A pipe or a device; there is nothing in it to be kept.
        with open(real, "wb") as device:
            device.write(page)
        return
    # Only its owner may read it (0600), as with the store's own files.
    place, temporary = os.path.dirname(real), real
    try:
        if force:
            number, temporary = tempfile.mkstemp(prefix=".report-", dir=place)
        else:
            number = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CommandError(f"{output}: a file has appeared there; give another", 2) from None
    try:
        with open(number, "wb") as file:
            file.write(page)
        if force:
            os.replace(temporary, real)
    except BaseException:
        os.unlink(temporary)
        raise
