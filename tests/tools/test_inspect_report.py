"""The report: what is on the page, what never is, how big it gets, what it refuses."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strandline
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.page.cells import CELLS, ROWS
from strandline.tools.inspect.page.merging import group, merge
from strandline.tools.inspect.page.words import script_json
from strandline.tools.inspect.regions import Region, RegionKind
from tests.recovery.check_stores import fill, flip, frames, segments, state_of
from tests.support.logs import LogBuilder
from tests.tools import reporting
from tests.tools.inspecting import inspect, lay, piped, segment


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.words = ""
        self.cells = 0
        self.rows: list[int] = []
        self._in: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        names = (dict(attrs).get("class") or "").split()
        if "bar-of" in names:
            self.rows.append(0)
        if tag == "button" and "cell" in names:
            self.rows[-1] += 1

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["script"]:
            self.scripts.append(data)
        elif self._in[-1:] != ["style"]:
            self.words += data

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    @property
    def details(self) -> list[dict[str, Any]]:
        """What map.js is given."""
        return list(json.loads(self.scripts[0]))


def page(path: Path, tmp_path: Path, status: int) -> Page:
    """Write the page of a log and take it apart."""
    return Page(reporting.page_of(path, tmp_path / "page.html", status))


# ---- what is on it


def test_a_page_of_a_sound_store(tmp_path: Path) -> None:
    """It says so, shows every segment and every chart, and changes nothing of the store."""
    store = tmp_path / "store"
    fill(tmp_path / "original", store)
    before = state_of(store)
    output = tmp_path / "page.html"
    result = inspect("report", store, "--output", output)
    assert result.exit_code == 0, result.output
    assert str(output) in result.stdout
    assert "sound" in result.stdout
    assert state_of(store) == before

    found = Page(output.read_text(encoding="utf-8"))
    assert len([*(store / "log").iterdir()]) == len(found.rows)
    for heading in (
        "Nothing is wrong",
        "Map of the segments",
        "Writes over time",
        "Operations of a group",
        "Size of a frame",
        "What coalescing saves",
        "Hot keys and prefixes",
        "How far syncs stay behind",
        "1,200",
    ):
        assert heading in found.words
    assert len(found.details) == sum(found.rows)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """It holds keys of a store that nobody else may read."""
    output = tmp_path / "page.html"
    reporting.page_of(reporting.sound(tmp_path / "log"), output, 0)
    assert 0o600 == stat.S_IMODE(output.stat().st_mode)


def test_nothing_is_loaded_and_only_its_own_script_runs(tmp_path: Path) -> None:
    """No address anywhere; the policy names the script by its hash and allows no other."""
    found = page(reporting.damaged(tmp_path / "log"), tmp_path, 4)
    assert not {"link", "img", "iframe", "object", "form", "a", "base"} & {*found.tags}
    names = {name for name, _ in found.attributes}
    assert not {"src", "href", "action", "srcset", "data"} & names
    assert not [name for name in names if name.startswith("on")]
    assert 2 == found.tags.count("script"), "the details, as data, and what shows them"
    policy = next(v for _, v in found.attributes if v.startswith("default-src"))
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (reporting.torn, 3, "torn tail"),
        (reporting.damaged, 4, "damage in mid-log"),
        (reporting.gap, 5, "gap"),
        (reporting.foreign, 6, "foreign or unsupported"),
    ],
)
def test_what_is_wrong_is_said_in_words_and_by_the_status(
    tmp_path: Path, make: Callable[[Path], Path], status: int, words: str
) -> None:
    """Each finding has its place, what was expected and found, and what to do next."""
    found = page(make(tmp_path / "log"), tmp_path, status)
    assert words in found.words
    for label in ("expected", "found", "behind it", "next"):
        assert label in found.words
    assert any(detail["fault"] for detail in found.details)


def test_a_finding_leads_to_its_place_on_the_map(tmp_path: Path) -> None:
    """The cell that is named holds the offset of the finding."""
    log = tmp_path / "log"
    found = page(reporting.damaged(log), tmp_path, 4)
    places = [int(value) for name, value in found.attributes if name == "data-cell"]
    assert len(places) == 3
    titles = [found.details[place]["title"] for place in places]
    assert ["segment 1: damaged"] * 2 + ["segment 3: torn"] == [t.split(",")[0] for t in titles]
    facts = dict(found.details[places[0]]["facts"])
    assert "CRC-32C" in facts["expected"]
    assert "payload-crc" in facts["found"]
    assert facts["next"]
    assert facts["see"].startswith(f"wal-inspect frame {log} --segment 1 --offset ")


def test_a_valid_region_tells_what_it_holds(tmp_path: Path) -> None:
    """Offset, length, LSNs, frames, operations, and how to see them."""
    found = page(reporting.sound(tmp_path / "log"), tmp_path, 0)
    facts = dict(found.details[1]["facts"])
    assert "1 to 12" == facts["LSNs"]
    assert "6" == facts["frames"]
    assert "12" == facts["operations"]
    assert facts["offset"].startswith("4,096 to ")
    assert "--from-lsn 1" in facts["see"]


def test_frames_behind_a_torn_tail_are_said_to_go(tmp_path: Path) -> None:
    """They verify, but an opening drops them with the tail."""
    log = reporting.three_segments()
    last = log.active
    tail = [reporting.puts(log, b"unsynced"), reporting.puts(log, b"unsynced too")]
    for built in tail:
        assert built in last.frames
    log.segments[3].content[tail[0].offset + 80] ^= 1
    path = lay(_unsynced_from(log, tail), tmp_path / "log")
    found = page(path, tmp_path, 3)
    assert [True] == [
        "an opening drops it" in str(detail["facts"]) for detail in found.details[-2:-1]
    ]


def _unsynced_from(log: LogBuilder, tail: list[Any]) -> LogBuilder:
    """Write the last frames of a log anew so that none says that another was synced."""
    before = tail[0].first_lsn - 1
    segment_3 = log.active
    broken = bytes(segment_3.content[tail[0].offset : tail[0].end])
    del segment_3.content[tail[0].offset :]
    del segment_3.frames[-2:]
    log.next_lsn, log.synced = tail[0].first_lsn, before
    for built in tail:
        log.data(1, built.payload, synced=False, time_ns=reporting.BASE_NS)
    segment_3.content[tail[0].offset : tail[0].offset + len(broken)] = broken
    return log


def test_a_log_without_operations_has_a_map_and_no_charts(tmp_path: Path) -> None:
    """There is nothing to count, and that is no error."""
    log = LogBuilder()
    log.open()
    found = page(lay(log, tmp_path / "log"), tmp_path, 0)
    assert [2] == found.rows
    assert "svg" not in found.tags
    assert "Writes over time" not in found.words


def test_one_segment_alone(tmp_path: Path) -> None:
    """A copy of a segment is looked at by itself, and the page may lie beside it."""
    copy = reporting.sound(tmp_path / "log") / "copy"
    copy.write_bytes(segment(tmp_path / "log", 2).read_bytes())
    found = page(copy, tmp_path / "log", 0)
    assert [4] == found.rows
    assert "one segment" in found.words


def test_beside_a_writer(tmp_path: Path) -> None:
    """What the writer may be writing is not judged, and the page says so."""
    with strandline.open(tmp_path / "store") as db:
        db[b"k"] = b"v"
        found = page(tmp_path / "store", tmp_path, 0)
    assert "A writer was at work" in found.words
    assert "not looked at" in found.scripts[0]


# ---- what never is


def test_nothing_hostile_gets_through(tmp_path: Path) -> None:
    """Keys, names and paths make neither a tag nor an attribute, and nothing invisible."""
    plain = page(reporting.damaged(tmp_path / "plain"), tmp_path, 4)
    found = page(reporting.hostile(tmp_path), tmp_path, 4)
    assert {*found.tags} <= {*plain.tags}
    assert {name for name, _ in found.attributes} <= {name for name, _ in plain.attributes}
    assert 2 == found.tags.count("script")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>window" not in text
    assert "<img" not in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "<" not in found.scripts[0]
    for shown in (reporting.SCRIPT, r"\x1b[31mred\x07\x00\r\n\t", r"\xff\xfe\x80", r"back\\slash"):
        assert shown in found.words
    assert "\\u202e" in found.words


@given(st.text())
def test_json_for_a_script_holds_no_markup_and_reads_the_same(text: str) -> None:
    """Neither `</script>` nor `<!--` can occur in it."""
    made = script_json([text])
    assert not set("<>&") & {*made}
    assert made.isascii()
    assert [text] == json.loads(made)


# ---- how big it gets


def test_hundreds_of_damages_share_some_cells(tmp_path: Path) -> None:
    """A row stays usable, every byte has a cell, and the page says what was put together."""
    log = reporting.riddled(tmp_path / "log")
    found = page(log, tmp_path, 4)
    assert [CELLS] == found.rows
    assert "regions share a part of their bar" in found.words
    assert all(detail["fault"] for detail in found.details[2:-2])
    shared = found.details[1]
    assert len(shared["parts"]) + shared["more"] > 24
    spans = [re.findall(r"[\d,]+", dict(each["facts"])["offset"]) for each in found.details]
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    assert 1_000_000 > (tmp_path / "page.html").stat().st_size


def test_many_segments_share_some_rows(tmp_path: Path) -> None:
    """What is wrong stands alone; what is missing is not lost among what is sound."""
    found = page(reporting.numerous(tmp_path / "log"), tmp_path, 5)
    assert ROWS >= len(found.rows)
    assert max(found.rows) <= CELLS
    assert "share bars with their neighbours" in found.words
    titles = [detail["title"] for detail in found.details]
    for number in (50, 60, 61, 62):
        assert any(title.startswith(f"segment {number}: damaged") for title in titles)
    assert "segments 150 to 169: no file" in titles
    assert 1_000_000 > (tmp_path / "page.html").stat().st_size


REGIONS = st.lists(
    st.tuples(st.sampled_from(RegionKind), st.integers(1, 1 << 20)), min_size=1, max_size=500
)


@given(REGIONS, st.integers(4, 30))
def test_merging_keeps_every_region_in_order(
    lengths: list[tuple[RegionKind, int]], limit: int
) -> None:
    """Pieces are what was there, and no more of them than asked for."""
    at, regions = 0, []
    for kind, length in lengths:
        regions.append(Region(kind=kind, offset=at, end=at + length))
        at += length
    pieces = merge(regions, limit)
    assert regions == [region for piece in pieces for region in piece]
    assert len(pieces) == min(limit, len(regions)) or len(regions) > 200 >= len(pieces)
    assert len(pieces) <= limit


@given(st.integers(1, 500), st.sets(st.integers(1, 500)), st.integers(12, 120))
def test_grouping_keeps_every_segment_in_order(count: int, faulty: set[int], rows: int) -> None:
    """Rows are what was there; faults stand alone as far as there is room."""
    scans = [SegmentScan(number, f"{number}") for number in range(1, count + 1)]
    found = group(scans, faulty, rows)
    assert scans == [scan for row in found for scan in row]
    assert len(found) <= rows + 1
    if len(faulty) <= rows // 2 - 4:
        assert all(len(row) == 1 for row in found if {s.segment_id for s in row} & faulty)


# ---- what it refuses


def test_a_page_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    """Nothing is replaced without being asked to; then it is replaced whole."""
    log = reporting.damaged(tmp_path / "log")
    output = tmp_path / "page.html"
    output.write_text("precious")
    result = inspect("report", log, "--output", output)
    assert 2 == result.exit_code
    assert "--force" in result.stderr
    assert "precious" == output.read_text()
    assert "<!DOCTYPE html>" in reporting.page_of(log, output, 4)
    assert ["log", "page.html"] == sorted(os.listdir(tmp_path)), "nothing is left behind"


def test_a_page_that_cannot_be_finished_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs neither the old page nor leaves half of a new one."""
    log = reporting.sound(tmp_path / "log")
    output = tmp_path / "page.html"
    output.write_text("precious")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))

    monkeypatch.setattr(os, "replace", full)
    result = inspect("report", log, "--output", output, "--force")
    assert 1 == result.exit_code
    assert "No space left" in result.stderr
    assert "precious" == output.read_text()
    assert ["log", "page.html"] == sorted(os.listdir(tmp_path))


def test_nothing_is_written_into_what_is_inspected(tmp_path: Path) -> None:
    """Not even with --force, and not through a link."""
    store = tmp_path / "store"
    fill(tmp_path / "original", store)
    (tmp_path / "link").symlink_to(store / "log")
    before = state_of(store)
    own = segments(store)[0]
    for inspected_path, output in (
        (store, own),
        (store, store / "page.html"),
        (store / "log", store / "page.html"),
        (store, tmp_path / "link" / "page.html"),
        (own, own),
        (own, own.with_name("0000000000000099.wal")),
    ):
        result = inspect("report", inspected_path, "--output", output, "--force")
        assert 2 == result.exit_code, output
        assert "outside of what is inspected" in result.stderr
    assert state_of(store) == before


@pytest.mark.parametrize("output", ["absent/page.html", "."])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    """Before the log is read."""
    result = inspect("report", reporting.sound(tmp_path / "log"), "--output", tmp_path / output)
    assert 2 == result.exit_code
    assert "expected" in result.stderr


def test_what_cannot_be_inspected_leaves_no_page(tmp_path: Path) -> None:
    """There is nothing to show."""
    result = inspect("report", tmp_path / "absent", "--output", tmp_path / "page.html")
    assert 1 == result.exit_code
    assert [] == os.listdir(tmp_path)


def test_stdout_gets_the_page_and_nothing_else(tmp_path: Path) -> None:
    """So that it can be piped on."""
    log = reporting.torn(tmp_path / "log")
    done = piped("report", log, "--output", "-")
    assert 3 == done.returncode
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    assert done.stdout.endswith(b"</html>\n")


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """What is no file is not put aside by one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    result = inspect("report", reporting.sound(tmp_path / "log"), "--output", fifo)
    reader.join()
    assert 0 == result.exit_code
    assert read[0].startswith(b"<!DOCTYPE html>")
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_damaged_store_is_reported_with_what_lmdb_says(tmp_path: Path) -> None:
    """How much is in LMDB is on the page."""
    store = tmp_path / "store"
    fill(tmp_path / "original", store)
    path = segments(store)[1]
    flip(path, frames(path)[3] + 80)
    found = page(store, tmp_path, 4)
    assert "operations not in LMDB yet" in found.words
    assert "none of it yet" in found.scripts[0]
