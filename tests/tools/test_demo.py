"""The demonstration proves what it says, and fails where what it says is not so."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import strandline
from strandline import Store
from strandline.tools.cli.app import app
from strandline.tools.demo import run
from strandline.tools.demo.chart import Interruption, Panel, Points, draw
from strandline.tools.demo.source import HEADER, SourceError, find_data, read_lines

DATA = find_data()
ROWS = 900


def invoke(tmp_path: Path, *arguments: str) -> Result:
    """Run the command with its page in `tmp_path`."""
    page = str(tmp_path / "page.html")
    return CliRunner().invoke(app, ["demo", "--html", page, *arguments])


def text(result: Result) -> str:
    """Return the output as one line, so that wrapping does not matter."""
    return " ".join(result.output.split())


class Elements(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


# ---- the whole


def test_a_short_run_survives_two_kills_and_proves_it(tmp_path: Path) -> None:
    """Two crashes, every proof holds, the page stands alone, and the store is there."""
    store = tmp_path / "store"
    result = invoke(tmp_path, "--rows", str(ROWS), "--seed", "3", "--dir", str(store))
    assert result.exit_code == 0, result.output
    assert "seed 3" in result.output
    assert "All 15 proofs hold" in text(result)
    assert "SIGKILL 2" in result.output
    assert "FAILED" not in result.output

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert elements.tags.count("svg") == 9
    assert not {"script", "link", "img", "iframe"} & set(elements.tags)
    assert not {"src", "href"} & set(elements.attributes)
    assert "url(" not in page
    assert "SIGKILL 2" in page

    with strandline.open(store) as db:
        assert [*db.table("events").values()] == read_lines(DATA, ROWS)


def test_the_temporary_store_goes_at_the_end_and_stays_with_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind unless it was asked for."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert invoke(tmp_path, "--rows", "40").exit_code == 0
    assert [*place.iterdir()] == []
    assert invoke(tmp_path, "--rows", "40", "--keep").exit_code == 0
    (kept,) = place.iterdir()
    assert (kept / "store" / "IDENTITY").is_file()


def add_one(store: Store) -> None:
    """One counter is one too high."""
    routes = store.table("routes")
    routes.incr(next(iter(routes)))


def change_an_aircraft(store: Store) -> None:
    """One plane is not where it was seen last."""
    aircraft = store.table("aircraft")
    key = next(iter(aircraft))
    aircraft[key] = aircraft[key] | {"status": "diverted"}


def change_a_line(store: Store) -> None:
    """One line of the log table is cut short."""
    events = store.table("events")
    events[next(iter(events))] = b"2013,1,1"


def lose_a_line(store: Store) -> None:
    """The first line is gone."""
    store.table("events").popitem()


def lose_the_last_line(store: Store) -> None:
    """The last line is gone."""
    events = store.table("events")
    del events[next(reversed(events))]


@pytest.mark.parametrize("tamper", [add_one, change_an_aircraft, change_a_line, lose_a_line])
def test_one_wrong_value_after_a_crash_fails_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Store], None]
) -> None:
    """One value that differs ends it with exit status 1, a page that says so, and the store."""
    reopen = run.reopen

    def tampered(path: Path) -> Store:
        store = reopen(path)
        tamper(store)
        return store

    monkeypatch.setattr(run, "reopen", tampered)
    store = tmp_path / "store"
    result = invoke(tmp_path, "--rows", "200", "--dir", str(store))
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "SIGKILL 2" not in result.output, "what is no prefix is not gone on from"
    unwrapped = "".join(result.output.split())
    assert f"Thestoreiskeptin{store}" in unwrapped
    assert 'class="verdict failed"' in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("tamper", [add_one, change_an_aircraft, change_a_line, lose_the_last_line])
def test_one_wrong_value_at_the_end_fails_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Store], None]
) -> None:
    """The plain computation over the file finds what both crashes left right."""
    reopen, opened = run.reopen, 0

    def tampered(path: Path) -> Store:
        nonlocal opened
        opened += 1
        store = reopen(path)
        if opened == 3:
            tamper(store)
        return store

    monkeypatch.setattr(run, "reopen", tampered)
    result = invoke(tmp_path, "--rows", "200", "--dir", str(tmp_path / "store"))
    assert result.exit_code == 1
    assert "1 of 15 proofs failed" in text(result)


def test_a_store_that_cannot_be_opened_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that recovery refuses is a failure with the store's own message."""
    reopen = run.reopen

    def damaged(path: Path) -> Store:
        (path / "IDENTITY").write_bytes(b"damage")
        return reopen(path)

    monkeypatch.setattr(run, "reopen", damaged)
    result = invoke(tmp_path, "--rows", "50", "--dir", str(tmp_path / "store"))
    assert result.exit_code == 1
    assert "IDENTITY" in result.output
    assert "The store is kept in" in text(result)


# ---- arguments


def test_a_directory_that_exists_is_refused(tmp_path: Path) -> None:
    """An existing store is never written over."""
    result = invoke(tmp_path, "--rows", "10", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "name a path that does not exist" in text(result)


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    """A minute's work is not done in vain."""
    result = invoke(tmp_path, "--html", str(tmp_path / "absent" / "page.html"))
    assert result.exit_code == 1
    assert "--html" in result.output
    assert "seed" not in result.output


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Neither a missing file, one that is not xz, another header nor no flights get further."""
    other, plain, empty = tmp_path / "other.xz", tmp_path / "plain.xz", tmp_path / "empty.xz"
    other.write_bytes(lzma.compress(b"a,b\n1,2\n"))
    plain.write_bytes(HEADER + b"\n")
    empty.write_bytes(lzma.compress(HEADER + b"\n"))
    for path, message in (
        (tmp_path / "absent.xz", "cannot be read"),
        (plain, "cannot be read"),
        (other, "expected the header"),
        (empty, "found none"),
    ):
        with pytest.raises(SourceError, match=message):
            read_lines(path)
        assert invoke(tmp_path, "--data", str(path)).exit_code == 1


# ---- the charts


@pytest.mark.parametrize("width", [360, 720, 1080])
@pytest.mark.parametrize(
    "lines", [[], [[]], [[(0.0, 0.0)]], [[(0.5, 3.0), (9.0, 2e6)], [(9.5, 1.0)]]]
)
def test_a_chart_is_well_formed_and_stays_inside(lines: list[Points], width: int) -> None:
    """Whatever was measured, the drawing is valid and no letter is cut off at the right."""
    pauses = [Interruption("SIGKILL 1", 3.0, 4.0), Interruption("SIGKILL 2", 9.9, 10.0)]
    svg = ElementTree.fromstring(draw(Panel("a < b", lines, [5.0]), 10.0, pauses, width))
    assert [each.text for each in svg if each.get("class") == "label"] == [
        "SIGKILL 1",
        "SIGKILL 2",
    ]
    for each in svg.iter("text"):
        reach = (
            7
            * len(each.text or "")
            * {"start": 1, "middle": 0.5, "end": 0}[each.get("text-anchor", "")]
        )
        assert float(each.get("x", "nan")) + reach <= width
