"""The demonstration proves what it says, and fails where what it says is not so."""

from __future__ import annotations

import lzma
import tempfile
from array import array
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import strandline
from strandline import Durability, Store
from strandline.tools.cli.app import app
from strandline.tools.demo import messages, run
from strandline.tools.demo.chart import Interruption, Panel, Points, draw
from strandline.tools.demo.proof import Found, RunStart, Verdict, differences, judge
from strandline.tools.demo.source import HEADER, SourceError, find_data, parse, read_lines
from strandline.tools.demo.totals import Totals, judge_totals
from strandline.tools.demo.watch import KillPlan, Watched, WriterError
from strandline.tools.demo.workload import START, Model, Position, operations

DATA = find_data()
ROWS = 900
FIRST_LSN = 5


def end_of(lines: list[bytes]) -> Position:
    """Return the position behind the last flight."""
    last = len(lines) - 1
    return Position(last, len(operations(last, lines[last])))


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
    assert f"The store is kept in {store}" in result.output.replace("\n", "").replace("  ", " ")
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


# ---- the stream


def test_missing_fields_are_read_as_missing() -> None:
    """A cancelled flight without a plane has neither numbers nor a name."""
    flight = parse(b"2013,1,2,,,,,AA,133,,JFK,LAX,,2475")
    assert flight.day == "2013-01-02"
    assert (flight.departure, flight.arrival_delay, flight.air_minutes) == (None, None, None)
    assert flight.aircraft == ""


def test_every_operation_changes_the_state() -> None:
    """Only then is there one P for a recovered state: no counter is incremented by 0."""
    for number, line in enumerate(read_lines(DATA, 3000)):
        stream = operations(number, line)
        assert stream[0].verb == "append"
        assert all(operation.value for operation in stream)


def test_the_stream_leads_to_the_plain_totals() -> None:
    """The model at the end and the plain computation agree, where neither knows the other."""
    lines = read_lines(DATA, 3000)
    model = Model(lines)
    model.advance(end_of(lines))
    totals = Totals(DATA, 3000)
    assert totals.routes == model.counters["routes"]
    assert totals.hours == model.counters["hours"]
    assert totals.aircraft == model.aircraft
    assert any(" cancelled" in key for key in totals.routes)
    assert model.by_level[Durability.SYNC] > 0


# ---- the proof


def found_at(lines: list[bytes], position: Position) -> Found:
    """Return what a store would hold at a position of its first run."""
    model = Model(lines)
    model.advance(position)
    counters = {
        name: {key: b"%d" % value for key, value in table.items()}
        for name, table in model.counters.items()
    }
    keys = array("Q", [FIRST_LSN + start for start in model.starts])
    return Found(keys, None, counters, dict(model.aircraft))


def verdict_at(position: Position, acknowledged: Position, lines: list[bytes]) -> Verdict:
    """Return the verdict on a store at a position."""
    model = Model(lines)
    model.advance(position)
    last_lsn = FIRST_LSN + model.operations - 1
    found = found_at(lines, position)
    return judge(found, Model(lines), [RunStart(0, FIRST_LSN)], last_lsn, acknowledged)


def positions(lines: list[bytes]) -> list[Position]:
    """Return every position of the stream."""
    return [START] + [
        Position(event, step)
        for event, line in enumerate(lines)
        for step in range(1, len(operations(event, line)) + 1)
    ]


def test_every_prefix_is_found_exactly() -> None:
    """Whatever the crash left, P is found, to the operation."""
    lines = read_lines(DATA, 12)
    for count, position in enumerate(positions(lines)):
        verdict = verdict_at(position, position, lines)
        assert verdict.holds, verdict.proofs
        assert (verdict.position, verdict.recovered) == (position, count)
        assert (verdict.acknowledged, verdict.lost, verdict.unheard) == (count, {}, 0)


def test_an_acknowledgement_beyond_the_prefix_is_told_by_level() -> None:
    """ASYNC operations may be lost; a BUFFERED one may not, and neither may a SYNC one."""
    lines = read_lines(DATA, 300)
    plane = next(
        Position(event, len(stream))
        for event, line in enumerate(lines)
        if (stream := operations(event, line))[-1].level is Durability.SYNC
    )
    before = Position(plane.event, plane.steps - 2)
    weak = verdict_at(before, Position(plane.event, plane.steps - 1), lines)
    assert weak.holds
    assert weak.lost == {Durability.ASYNC: 1}
    strong = verdict_at(before, plane, lines)
    assert [p.claim for p in strong.proofs if not p.holds] == [
        "no acknowledged SYNC write is missing"
    ]
    appended = verdict_at(plane, Position(plane.event + 1, 1), lines)
    assert [p.claim for p in appended.proofs if not p.holds] == [
        "no acknowledged BUFFERED write is missing"
    ]


def test_what_was_never_heard_of_is_no_fault() -> None:
    """A kill between a write and its acknowledgement leaves more than was acknowledged."""
    verdict = verdict_at(Position(2, 1), Position(1, 4), read_lines(DATA, 3))
    assert verdict.holds
    assert verdict.acknowledged + verdict.unheard == verdict.recovered


def test_a_hole_is_no_prefix() -> None:
    """A state that lacks one operation in the middle is not taken for any P."""
    lines = read_lines(DATA, 12)
    end = end_of(lines)
    whole = found_at(lines, end)
    for table, counters in whole.counters.items():
        for key, value in counters.items():
            counters[key] = b"%d" % (int(value) - 1)
            verdict = judge(whole, Model(lines), [RunStart(0, FIRST_LSN)], 0, end)
            assert verdict.position is None
            assert f"{table} {key!r}" in verdict.proofs[-1].detail
            counters[key] = value


def test_lsns_that_skip_are_found() -> None:
    """A key of the log table, or a last LSN, that counting does not give fails the proof."""
    lines = read_lines(DATA, 12)
    end, runs = end_of(lines), [RunStart(0, FIRST_LSN)]
    found = found_at(lines, end)
    wrong_last = judge(found, Model(lines), runs, 1, end)
    assert next(p.detail for p in wrong_last.proofs if not p.holds).startswith("the last LSN")
    found.keys[7] += 1
    wrong_key = judge(found, Model(lines), runs, 1, end)
    assert next(p.detail for p in wrong_key.proofs if not p.holds).startswith("line 7")


def test_a_state_that_went_back_is_found() -> None:
    """After a second crash what the first proof saw must still be there."""
    lines = read_lines(DATA, 12)
    model = Model(lines)
    model.advance(Position(9, 1))
    for earlier in (Position(3, 2), START):
        verdict = judge(found_at(lines, earlier), model, [RunStart(0, FIRST_LSN)], 0, START)
        assert not verdict.holds


def test_the_totals_tell_what_differs() -> None:
    """A missing counter and a plane too many are both named."""
    lines = read_lines(DATA, 12)
    found = found_at(lines, end_of(lines))
    totals = Totals(DATA, 12)
    assert all(proof.holds for proof in judge_totals(found, totals, 12))
    assert differences(found, {"routes": totals.routes}, totals.aircraft) == []
    del found.counters["hours"]["UA 05h flights"]
    found.aircraft["N1"] = {}
    failed = [p.detail for p in judge_totals(found, totals, 13) if not p.holds]
    assert failed[0] == "12 of 13"
    assert "hours 'UA 05h flights': expected b'3', found None" in failed[1]
    assert "aircraft 'N1': expected None" in failed[2]


# ---- the process that writes


def test_a_writer_that_dies_by_itself_is_an_error(tmp_path: Path) -> None:
    """Its own last words are in the message; it is not taken for a crash."""
    absent = tmp_path / "absent.xz"
    with Watched(tmp_path / "store", absent, 5, START) as watched:  # noqa: SIM117
        with pytest.raises(WriterError, match=r"nobody killed it(.|\n)*absent\.xz"):
            watched.until_closed(lambda _: None)


def test_a_kill_after_the_last_operation_meets_an_open_store(tmp_path: Path) -> None:
    """The writer waits for leave to close, so a late kill still ends uncleanly."""
    store = tmp_path / "store"
    with Watched(store, DATA, 20, START) as watched:
        watched.until_killed(KillPlan(19, 0.3), lambda _: None)
    lines = read_lines(DATA, 20)
    assert watched.acknowledged == end_of(lines)
    with run.reopen(store) as db:
        assert not db.recovery_report.clean
        assert len(db.table("events")) == 20


def test_a_run_with_nothing_left_to_do_can_be_killed_too(tmp_path: Path) -> None:
    """A second kill is not waited for in vain where the first came after the last operation."""
    lines = read_lines(DATA, 20)
    end = end_of(lines)
    for start in (START, end):
        with Watched(tmp_path / "store", DATA, 20, start) as watched:
            watched.until_killed(KillPlan(19, 0.3), lambda _: None)
        assert watched.acknowledged == end
        assert watched.killed_at is not None


def test_messages_come_back_as_they_were_sent() -> None:
    """Every kind of measurement survives the pipe; anything else is refused."""
    for message in (
        messages.Started(1.5, 7),
        messages.Finished(2.5),
        messages.Closed(3.5, 0.25),
        messages.Sample(1.0, 2, [1, 2, 3], [0.1, 0.2, 0.3], *range(12)),
    ):
        assert messages.decode(messages.encode(message)) == message
    assert messages.decode_acknowledgement(b"17 3") == Position(17, 3)
    for line in (b'{"kind": "gone"}', b'{"kind": "started", "at": 1.0}', b"{"):
        with pytest.raises(ValueError):
            messages.decode(line)


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
