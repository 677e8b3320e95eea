"""What the demonstration rests on: its stream, its proofs, and the process that it kills."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from strandline import Durability
from strandline.tools.demo import messages, run
from strandline.tools.demo.proof import Found, RunStart, Verdict, differences, judge
from strandline.tools.demo.source import find_data, parse, read_lines
from strandline.tools.demo.totals import Totals, judge_totals
from strandline.tools.demo.watch import KillPlan, Watched, WriterError
from strandline.tools.demo.workload import START, Model, Position, operations

DATA = find_data()
FIRST_LSN = 5


def end_of(lines: list[bytes]) -> Position:
    """Return the position behind the last flight."""
    last = len(lines) - 1
    return Position(last, len(operations(last, lines[last])))


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
