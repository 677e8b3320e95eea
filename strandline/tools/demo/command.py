"""`strandline demo`: the arguments, where the store lies, and how it ends."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from strandline import StrandlineError
from strandline.tools.cli.failure import CommandError
from strandline.tools.demo.display import TerminalScreen, show
from strandline.tools.demo.page import render
from strandline.tools.demo.run import Demonstration, Outcome
from strandline.tools.demo.source import SourceError, find_data, read_lines
from strandline.tools.demo.watch import WriterError

EXAMPLES: Final = (
    "strandline demo",
    "strandline demo --rows 20000 --seed 7",
    "strandline demo --dir store --html page.html",
)


def demo(
    html: Annotated[Path, typer.Option(help="Where to write the page with the charts.")] = Path(
        "strandline-demo.html"
    ),
    rows: Annotated[
        int | None, typer.Option(min=1, help="How many flights to write; all without it.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides when the kills come; a new one each time without it."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Where to make the store, which stays there; a temporary directory without it.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the temporary directory there.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="The flights, if they are not in examples/data.")
    ] = None,
) -> None:
    """Write real data, be killed twice, and prove that nothing acknowledged is missing.

    Takes about a minute. The exit status is 1 where a proof fails.
    """
    _check_page(html)
    console = Console(highlight=False)
    seed = secrets.randbits(32) if seed is None else seed
    try:
        source = find_data() if data is None else data
        lines = read_lines(source, rows)
    except SourceError as error:
        raise CommandError(str(error)) from error
    with _place(directory, keep=keep) as place:
        console.print(f"{len(lines):,} flights, seed {seed}, store in {place.store}")
        outcome = _run(place, source, lines, seed, console)
        place.keep |= not outcome.holds
    show(console, outcome)
    html.write_text(render(outcome), encoding="utf-8")
    console.print(f"Charts: {html}")
    if not outcome.holds:
        raise typer.Exit(1)


def _run(place: _Place, source: Path, lines: list[bytes], seed: int, console: Console) -> Outcome:
    try:
        with TerminalScreen(console, len(lines)) as screen:
            return Demonstration(source, lines, place.store, seed, screen).run()
    except (WriterError, StrandlineError) as error:
        place.keep = True
        raise CommandError(f"{error}. The store is kept in {place.store}") from error


class _Place:
    """Where the store lies, and whether it stays."""

    def __init__(self, store: Path, *, keep: bool) -> None:
        self.store = store
        self.keep = keep


@contextmanager
def _place(directory: Path | None, *, keep: bool) -> Iterator[_Place]:
    """Make room for a new store; take it away at the end unless it is to stay."""
    if directory is not None:
        if directory.exists():
            raise CommandError(
                f"{directory}: expected nothing there, found something. The demonstration begins "
                "with a new store: name a path that does not exist"
            )
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield _Place(directory, keep=True)
        return
    temporary = Path(tempfile.mkdtemp(prefix="strandline-demo-"))
    place = _Place(temporary / "store", keep=keep)
    try:
        yield place
    finally:
        if not place.keep:
            shutil.rmtree(temporary)


def _check_page(html: Path) -> None:
    """Refuse, before anything is done, a path that no page can be written to."""
    if html.is_dir() or not html.absolute().parent.is_dir():
        raise CommandError(
            f"{html}: expected a file's path in a directory that exists. Name another with --html"
        )
