"""`wal-inspect export`: the state at every cut, and no state where there would be a hole."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

import strandline
from strandline import Durability
from strandline.engine.operations import DELETE, PUT, tag_of
from strandline.errors import StrandlineError
from strandline.tools.check import CheckVerdict, check_store
from strandline.tools.inspect.state import outlets, overlay
from strandline.tools.inspect.state.cut import RestlessError
from strandline.tools.inspect.state.merged import State
from tests.api.stores import open_small
from tests.recovery.check_stores import (
    NEVER,
    VALUE,
    copy_open,
    fill,
    flip,
    frames,
    segments,
    state_of,
)
from tests.support.logs import LogBuilder
from tests.tools.command import done
from tests.tools.histories import Dumped, History, dumped, tear, written
from tests.tools.inspecting import inspect, inspected, lay, piped

SECOND: Final = 1_000_000_000


def exported(*args: object, status: int = 0) -> Dumped:
    """Run the command, see it end with a status, and return what its lines say."""
    return dumped(inspected("export", *args, status=status))


def same(history: History, lsn: int, found: Dumped) -> None:
    """The export is the state after the last commit up to an LSN."""
    model = history.at(lsn)
    assert model.lsn == found.lsn
    logged = {name: rows for name, rows in found.tables.items() if name != "unlogged"}
    assert {n: rows for n, rows in model.tables.items() if n != "unlogged"} == logged


# ---- every cut


@pytest.mark.parametrize("seed", range(4))
def test_the_log_alone_gives_the_state_at_every_lsn(seed: int, tmp_path: Path) -> None:
    """Batches, clears, drops, tables made anew: at each LSN what the model held, batches whole."""
    history = written(seed, 110, tmp_path / "data")
    log = shutil.copytree(tmp_path / "data" / "log", tmp_path / "alone")
    for lsn in range(history.last_lsn + 1):
        same(history, lsn, exported(log, "--to-lsn", lsn))


@pytest.mark.parametrize("seed", range(10, 13))
def test_a_store_gives_the_state_at_every_lsn_that_it_still_has(seed: int, tmp_path: Path) -> None:
    """Some of it in LMDB, some in the log: what is there is right, what is not is refused."""
    history = written(seed, 150, tmp_path / "data", flush_after=70)
    last, watermark = history.last_lsn, history.watermark
    assert watermark < last
    for lsn in {watermark - 1, watermark, watermark + 1, last, *range(watermark + 2, last, 17)}:
        result = inspect("export", tmp_path / "data", "--to-lsn", lsn)
        if lsn < watermark and result.exit_code == 1:
            assert f"The earliest is LSN {watermark}" in result.stderr
        else:
            assert result.exit_code == 0, result.stderr
            same(history, lsn, dumped(result.stdout))
    same(history, last, exported(tmp_path / "data"))


def test_an_overlay_that_is_written_out_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of a kilobyte, merged by threes, change nothing."""
    history = written(3, 250, tmp_path / "data", flush_after=40)
    monkeypatch.setattr(
        overlay.Overlay.__init__, "__kwdefaults__", {"chunk_bytes": 1000, "most_runs": 3}
    )
    for lsn in (history.watermark, history.last_lsn // 2 + 20, history.last_lsn):
        same(history, lsn, exported(tmp_path / "data", "--to-lsn", lsn))


def test_it_is_what_dump_prints(tmp_path: Path) -> None:
    """Byte by byte where a store was closed; and reading a store changes nothing in it."""
    written(5, 120, tmp_path / "data", flush_after=60)
    before = state_of(tmp_path / "data")
    found = inspected("export", tmp_path / "data")
    assert before == state_of(tmp_path / "data")
    assert done("dump", tmp_path / "data").splitlines()[1:] == found.splitlines()[1:]
    closed = inspected("export", tmp_path / "data-open")
    assert done("dump", tmp_path / "data-open") == closed


def test_a_cut_within_a_commit_rounds_down_and_says_so(tmp_path: Path) -> None:
    """The batch of LSN 3 to 5 is whole or not there; an LSN beyond the end is the end."""
    with open_small(tmp_path / "data") as db:
        db.update({b"a": b"1"})
        db[b"b"] = b"1"
        db.put_many({b"a": b"2", b"b": b"2", b"c": b"2"})
        copy_open(tmp_path / "data", tmp_path / "copy")
    result = inspect("export", tmp_path / "copy", "--to-lsn", 4)
    assert {"": {b"a": b"1", b"b": b"1"}} == dumped(result.stdout).tables
    assert "within the commit of LSN 3 to 5; rounded down to LSN 2" in result.stderr
    result = inspect("export", tmp_path / "copy", "--to-lsn", 99)
    assert dumped(result.stdout).lsn == 5
    assert "no operation has LSN 99; rounded down to LSN 5" in result.stderr
    assert "rounded" not in inspect("export", tmp_path / "copy", "--to-lsn", 5).stderr


def test_one_table(tmp_path: Path) -> None:
    """--table exports that one, "" the default one; a name that no table has is refused."""
    history = written(6, 100, tmp_path / "data")
    model = history.states[-1]
    found = exported(tmp_path / "data", "--table", "json")
    assert {"json": model.tables["json"]} == found.tables
    assert {"json": ("utf-8/json", True)} == found.definitions
    assert {"": model.tables[""]} == exported(tmp_path / "data", "--table", "").tables
    result = inspect("export", tmp_path / "data", "--table", "nobody")
    assert result.exit_code == 1
    assert "there is no table 'nobody'; there is 'counters', 'events', 'json'" in result.stderr


def test_unlogged_tables_come_from_lmdb_and_not_from_the_log(tmp_path: Path) -> None:
    """Their rows are as of the last checkpoint; the log alone says that it does not know them."""
    with open_small(tmp_path / "data") as db:
        table = db.table("u", codec="int64/msgpack", logged=False)
        table[1] = "flushed"
        db.flush()
        table[2] = "in memory"
        db[b"k"] = b"v"
        copy_open(tmp_path / "data", tmp_path / "copy")
    found = exported(tmp_path / "copy")
    assert {"": {b"k": b"v"}, "u": {1: "flushed"}} == found.tables
    assert found.definitions["u"] == ("int64/msgpack", False)
    result = inspect("export", shutil.copytree(tmp_path / "copy" / "log", tmp_path / "alone"))
    assert {"": {b"k": b"v"}, "u": {}} == dumped(result.stdout).tables
    assert "table 'u' is not logged" in result.stderr


# ---- times


def timed(tmp_path: Path, times: list[int], **fields: Any) -> Path:
    """A log whose nth frame puts the key n, at so many seconds."""
    log = LogBuilder(**fields)
    log.open()
    for number, seconds in enumerate(times, 1):
        payload = msgpack.packb([None, tag_of(1, PUT), b"%d" % number, b"v"])
        log.data(1, payload, time_ns=seconds * SECOND)
    return lay(log, tmp_path / "timed")


@pytest.mark.parametrize(
    ("seconds", "lsn"),
    [(5, 0), (10, 1), (19, 1), (20, 2), (25, 2), (29, 2), (30, 4), (39, 4), (40, 5), (50, 5)],
)
def test_a_time_means_what_lies_before_the_first_later_frame(
    seconds: int, lsn: int, tmp_path: Path
) -> None:
    """A clock that jumped back (30, then 25) hides nothing and reorders nothing."""
    log = timed(tmp_path, [10, 20, 30, 25, 40])
    found = exported(log, "--at", f"1970-01-01T00:00:{seconds:02d}Z")
    assert lsn == found.lsn
    assert {"": {b"%d" % n: b"v" for n in range(1, lsn + 1)}} == found.tables


def test_a_time_before_the_log_is_refused(tmp_path: Path) -> None:
    """Nothing tells when what lies only in LMDB was written."""
    log = timed(tmp_path, [10, 20], next_lsn=7)
    result = inspect("export", log, "--at", "1970-01-01T00:00:05Z")
    assert result.exit_code == 1
    assert "first frame of the log is of 1970-01-01T00:00:10" in result.stderr


def test_a_log_that_begins_later_is_no_state(tmp_path: Path) -> None:
    """Without LMDB, a log from LSN 7 on gives nothing."""
    result = inspect("export", timed(tmp_path, [10, 20], next_lsn=7))
    assert result.exit_code == 1
    assert "begins at LSN 7" in result.stderr
    assert not result.stdout


# ---- damage


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A store of some segments, all of it in the log."""
    fill(tmp_path / "data", tmp_path / "crashed")
    return tmp_path / "crashed"


def test_damage_is_refused_and_the_state_before_it_is_not(crashed: Path) -> None:
    """A flipped byte: status 4, which LSN it is, and up to where an export can go."""
    second = segments(crashed)[1]
    flip(second, frames(second)[3] + 80)
    result = inspect("export", crashed)
    assert (4, "") == (result.exit_code, result.stdout)
    lost = int(result.stderr.split("damage in mid-log at LSN ")[1].split(":")[0])
    assert f"--to-lsn {lost - 1}" in result.stderr
    assert inspect("export", crashed, "--to-lsn", lost).exit_code == 4
    assert inspect("export", crashed, "--to-lsn", 1200).exit_code == 4
    found = exported(crashed, "--to-lsn", lost - 1)
    assert {"": {b"key%05d" % n: VALUE for n in range(lost - 1)}} == found.tables


def test_a_missing_segment_is_refused(crashed: Path) -> None:
    """A gap: status 5, nothing is printed, and no file is left."""
    second = segments(crashed)[1]
    second.unlink()
    result = inspect("export", crashed, "--output", crashed.parent / "out.jsonl")
    assert (5, "") == (result.exit_code, result.stdout)
    assert not list(crashed.parent.glob("*out.jsonl*"))
    first = int(result.stderr.split("gap at LSN ")[1].split(":")[0])
    assert exported(crashed, "--to-lsn", first - 1).lsn == first - 1


def test_a_time_behind_damage_is_refused(crashed: Path) -> None:
    """What the damage took could have been written before that time."""
    second = segments(crashed)[1]
    flip(second, frames(second)[3] + 80)
    assert inspect("export", crashed, "--at", "0s").exit_code == 4


def test_a_torn_tail_ends_the_log(crashed: Path) -> None:
    """Status 3 where more was asked for than there is, 0 where it was not; never a lost frame."""
    tear(crashed)
    found = exported(crashed, status=3)
    assert (1199, 1199) == (found.lsn, len(found.tables[""]))
    assert exported(crashed, "--to-lsn", 1199).lsn == 1199
    assert exported(crashed, "--to-lsn", 1200, status=3).lsn == 1199


def test_frames_behind_a_tear_are_no_part_of_it(tmp_path: Path) -> None:
    """Valid frames behind the torn place, which nothing claims, are dropped as an opening would."""
    log = LogBuilder()
    log.open()
    for number in range(1, 6):
        payload = msgpack.packb([None, tag_of(1, PUT), b"%d" % number, b"v"])
        log.data(1, payload, synced=number < 3)
    directory = lay(log, tmp_path / "log")
    path = next(directory.glob("*.wal"))
    flip(path, frames(path)[2] + 73)
    found = exported(directory, status=3)
    assert (2, {b"1": b"v", b"2": b"v"}) == (found.lsn, found.tables[""])


def test_damage_below_the_watermark_does_not_matter(tmp_path: Path) -> None:
    """What LMDB holds is not asked of the log; the state is whole, and the status 0."""
    with strandline.open(tmp_path / "data", segment_bytes=1 << 16, flush_strategy=NEVER) as db:
        for number in range(1200):
            db.put(b"key%05d" % number, VALUE, durability=Durability.BUFFERED)
        db.sync()
        copy_open(tmp_path / "data", tmp_path / "copy")
        db.flush()
        shutil.rmtree(tmp_path / "copy" / "store")
        shutil.copytree(tmp_path / "data" / "store", tmp_path / "copy" / "store")
    second = segments(tmp_path / "copy")[1]
    flip(second, frames(second)[3] + 80)
    result = inspect("export", tmp_path / "copy")
    assert result.exit_code == 0
    assert len(dumped(result.stdout).tables[""]) == 1200
    assert "damage in mid-log" in result.stderr
    # Of what lies below the watermark the log is the only witness, and a damaged one.
    assert inspect("export", tmp_path / "copy", "--to-lsn", 900).exit_code == 4


def test_damage_in_lmdb_leaves_no_whole_export(tmp_path: Path) -> None:
    """A value whose checksum fails: an error, no last line, no file, no store."""
    with open_small(tmp_path / "data") as db:
        db.update({b"%05d" % n: b"a value to be found %d" % n for n in range(2000)})
    data = tmp_path / "data" / "store" / "data.mdb"
    flip(data, data.read_bytes().index(b"a value to be found 1999"))
    result = inspect("export", tmp_path / "data")
    assert result.exit_code == 4
    assert "fails its checksum" in result.stderr
    assert '"end"' not in result.stdout
    for kind in ("jsonl", "store"):
        place = tmp_path / f"out-{kind}"
        result = inspect("export", tmp_path / "data", "--format", kind, "--output", place)
        assert result.exit_code == 4
        assert ["data"] == sorted(each.name for each in tmp_path.iterdir())


def test_a_frame_of_nonsense_is_refused(tmp_path: Path) -> None:
    """Checksums that hold over what is no operation: status 4, and up to where it is whole."""
    for number, wrong in enumerate(
        (
            [None, tag_of(1, PUT), b"k", None],
            [None, tag_of(1, DELETE), None, None],
            [None, tag_of(9, PUT), b"k", b"v"],
            [None, 7, b"k", b"v"],
        )
    ):
        built = LogBuilder()
        built.open()
        built.data(1, msgpack.packb([None, tag_of(1, PUT), b"k", b"v"]))
        built.data(1, msgpack.packb(wrong))
        directory = lay(built, tmp_path / f"log-{number}")
        result = inspect("export", directory)
        assert result.exit_code == 4, wrong
        assert "frame at LSN 2: its checksum holds" in result.stderr
        assert exported(directory, "--to-lsn", 1).tables == {"": {b"k": b"v"}}


# ---- where it goes


@pytest.mark.parametrize("lsn", [None, 60])
def test_load_makes_the_same_store_of_it(lsn: int | None, tmp_path: Path) -> None:
    """`strandline load --format dump --create` reads it back; dumping that gives the same."""
    history = written(7, 130, tmp_path / "data")
    cut = [] if lsn is None else ["--to-lsn", lsn]
    inspected("export", tmp_path / "data", *cut, "--output", tmp_path / "out.jsonl")
    done("load", tmp_path / "new", tmp_path / "out.jsonl", "--format", "dump", "--create")
    again = dumped(done("dump", tmp_path / "new"))
    before = dumped((tmp_path / "out.jsonl").read_bytes())
    assert before.tables == again.tables
    assert before.definitions == again.definitions
    same(history, history.last_lsn if lsn is None else lsn, before)
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_store_is_made_of_it(tmp_path: Path) -> None:
    """Tables with codec and `logged`, all rows, sound; in an empty directory too."""
    history = written(8, 150, tmp_path / "data", flush_after=60)
    before = state_of(tmp_path / "data")
    (tmp_path / "new").mkdir()
    inspected("export", tmp_path / "data", "--format", "store", "--output", tmp_path / "new")
    assert before == state_of(tmp_path / "data")
    assert check_store(tmp_path / "new").verdict is CheckVerdict.SOUND
    same(
        history,
        history.last_lsn,
        dumped(done("dump", tmp_path / "new"))._replace(lsn=history.last_lsn),
    )
    with strandline.open(tmp_path / "new") as db:
        assert ["counters", "events", "json", "passing", "unlogged"] == db.tables()
        state = db.definitions.find("unlogged")
        assert state is not None
        assert not state.logged
    assert {"data", "data-open", "new"} == {each.name for each in tmp_path.iterdir()}


def test_a_value_of_many_mebibytes_goes_through(tmp_path: Path) -> None:
    """What a store took, an export gives back, as lines and as a store."""
    big = b"x" * (40 << 20)
    with open_small(tmp_path / "data") as db:
        db[b"flushed"] = big
        db.flush()
        db[b"logged"] = big
        copy_open(tmp_path / "data", tmp_path / "copy")
    inspected("export", tmp_path / "copy", "--format", "store", "--output", tmp_path / "new")
    with strandline.open(tmp_path / "new") as db:
        assert dict(db.items()) == {b"flushed": big, b"logged": big}


def test_places_that_are_refused(crashed: Path) -> None:
    """Nothing is written over, nothing is written into the store, nothing is made on the way."""
    taken = crashed.parent / "taken"
    taken.write_text("mine")
    full = crashed.parent / "full"
    full.mkdir()
    (full / "a").touch()
    before = state_of(crashed.parent)
    for place in (
        taken,
        full,
        crashed / "out",
        crashed / "log" / "out",
        crashed.parent / "no" / "x",
    ):
        for kind in ("jsonl", "store"):
            result = inspect("export", crashed, "--format", kind, "--output", place)
            assert (1, "") == (result.exit_code, result.stdout), place
    assert before == state_of(crashed.parent)


@pytest.mark.parametrize(
    "args",
    [["--to-lsn", 3, "--at", "5m"], ["--format", "store"], ["--at", "tomorrow"], ["--to-lsn", -1]],
)
def test_wrong_use(args: list[object], crashed: Path) -> None:
    """Options that contradict each other or mean nothing: status 2."""
    assert inspect("export", crashed, *args).exit_code == 2


def test_what_is_interrupted_leaves_nothing(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor a store nor what was unfinished of them."""

    def interrupted(rows: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(outlets, "_chunks", interrupted)
    for kind in ("jsonl", "store"):
        result = inspect("export", crashed, "--format", kind, "--output", crashed.parent / "out")
        assert result.exit_code != 0
        assert {"data", "crashed"} == {each.name for each in crashed.parent.iterdir()}


# ---- beside a writer


def test_beside_an_idle_writer(tmp_path: Path) -> None:
    """A store that another process has open is exported as it is at that moment."""
    with open_small(tmp_path / "data") as db:
        db.put_many({b"a": b"1", b"b": b"2"})
        db.flush()
        db[b"a"] = b"3"
        found = dumped(piped("export", tmp_path / "data").stdout)
        assert {"": {b"a": b"3", b"b": b"2"}} == found.tables
        assert found.lsn == 3


def test_beside_a_busy_writer_it_is_a_moment_or_nothing(tmp_path: Path) -> None:
    """Whatever comes out whole is the state at its LSN; what cannot be had says so."""
    stop = threading.Event()
    with open_small(tmp_path / "data", segment_bytes=1 << 16) as db:
        db.put_many({b"%03d" % n: b"0" for n in range(200)})

        def write() -> None:
            number = 1
            while not stop.is_set():
                lsn = db.put_many({b"%03d" % n: b"%d" % number for n in range(200)})
                assert lsn == 200 * (number + 1)
                number += 1
                if number % 5 == 0:
                    db.flush()
                stop.wait(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            results = [piped("export", tmp_path / "data") for _ in range(6)]
            assert any(not result.returncode for result in results), results
        finally:
            stop.set()
            writer.join()
    for result in results:
        if result.returncode:
            assert result.returncode == 1, result.stderr
            assert b"a writer that changed it every time; nothing is made" in result.stderr
            assert not result.stdout
            continue
        found = dumped(result.stdout)
        expected = b"%d" % (found.lsn // 200 - 1)
        assert {b"%03d" % n: expected for n in range(200)} == found.tables[""]


def test_a_writer_that_comes_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines on stdout then lack their end; a file is made anew, of the newer state."""
    with open_small(tmp_path / "data") as db:
        db.update({b"%05d" % n: b"v" for n in range(50_000)})
    real, came = outlets._chunks, list[int]()

    def chunks(rows: Any) -> Any:
        for chunk in real(rows):
            if not came:
                came.append(1)
                with open_small(tmp_path / "data") as db:
                    db[b"new"] = b"v"
            yield chunk

    monkeypatch.setattr(outlets, "_chunks", chunks)
    result = inspect("export", tmp_path / "data")
    assert result.exit_code == 1
    assert "what was printed is not whole" in result.stderr
    assert '"end"' not in result.stdout
    came.clear()
    inspected("export", tmp_path / "data", "--output", tmp_path / "out")
    assert dumped((tmp_path / "out").read_bytes()).tables[""][b"new"] == b"v"


def test_a_writer_that_comes_before_lmdb_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a later commit never go with the log as it was looked at before."""
    with open_small(tmp_path / "data") as db:
        db[b"old"] = b"v"
    real, came = State.read_log, list[int]()

    def read_log(*args: Any) -> None:
        real(*args)
        if not came:
            came.append(1)
            with open_small(tmp_path / "data") as db:
                db[b"new"] = b"v"

    monkeypatch.setattr(State, "read_log", read_log)
    found = exported(tmp_path / "data")
    assert (2, {b"old": b"v", b"new": b"v"}) == (found.lsn, found.tables[""])


def test_a_writer_that_never_rests_ends_it(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some attempts it says to try when the writer is idle."""

    def restless(*_: object) -> None:
        raise RestlessError

    monkeypatch.setattr(State, "read_store", restless)
    result = inspect("export", crashed)
    assert result.exit_code == 1
    assert "when the writer is idle" in result.stderr
    assert not issubclass(RestlessError, StrandlineError)
