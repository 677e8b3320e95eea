"""`dump`: what it prints is what was written, filtered as asked, and harmless."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgpack
import pytest

import strandline
from strandline import Durability
from tests.recovery.check_stores import NEVER, copy_open, flip, frames, rewrite_frame, segments
from tests.tools.command import environment
from tests.tools.inspecting import PROGRAM, inspect, inspected, piped

ESCAPE = b"\x1b]0;owned\x07\x1b[31mred\n"
SCRIPT = b"<script>alert(1)</script>"
N109 = b"\x80\0\0\0\0\0\0\x6d"
RLO = "\N{RIGHT-TO-LEFT OVERRIDE}abc"


def history(path: Path) -> list[tuple[str, str, bytes | None, bytes | None]]:
    """Write to a store; return table, operation, key and value of every LSN, from 1 on."""
    done: list[tuple[str, str, bytes | None, bytes | None]] = []
    with strandline.open(path, segment_bytes=1 << 16, flush_strategy=NEVER) as db:
        users: Any = db.table("users", codec="int64/msgpack")
        done.append(("users", "create", b"users", None))
        for number in range(300):
            key, value = b"key%03d" % (number % 40), b"v" * number
            db.put(key, value, durability=Durability.BUFFERED)
            done.append(("", "put", key, value))
            if number % 7 == 0:
                db.delete(key)
                done.append(("", "delete", key, None))
            if number % 50 == 9:
                with db.batch() as batch:
                    batch.table(users).put(number, {"n": [number, None]})
                    batch.put(ESCAPE, SCRIPT)
                packed = msgpack.packb({"n": [number, None]})
                encoded = (number + (1 << 63)).to_bytes(8, "big")
                done += [("users", "put", encoded, packed), ("", "put", ESCAPE, SCRIPT)]
        users.clear()
        done.append(("users", "clear", None, None))
        db.put(RLO.encode(), b"\xff\xfe")
        done.append(("", "put", RLO.encode(), b"\xff\xfe"))
        db.sync()
        copy_open(path, path.with_name("crashed"))
    return done


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A store that a killed process left, and its history."""
    directory = tmp_path_factory.mktemp("dump")
    done = history(directory / "data")
    return directory / "crashed", done


def lines(*args: object, status: int = 0) -> list[dict[str, Any]]:
    """Dump as JSON lines."""
    output = inspected("dump", *args, "--json", status=status)
    return [json.loads(line) for line in output.splitlines()]


def key_of(table: str, key: bytes | None) -> Any:
    """A key as JSON should have it."""
    if key is None:
        return None
    if table == "users" and len(key) == 8:
        return int.from_bytes(key, "big") - (1 << 63)
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise AssertionError from None


def test_every_operation_in_order(written: tuple[Path, list[Any]]) -> None:
    """LSN, table, operation and key of all that was written; times never go back here."""
    store, done = written
    found = lines(store, "--values", "none")
    expected = [
        (lsn, table, op, key_of(table, key)) for lsn, (table, op, key, _) in enumerate(done, 1)
    ]
    assert expected == [(each["lsn"], each["table"], each["op"], each["key"]) for each in found]
    assert "value" not in found[0]
    times = [each["time"] for each in found]
    assert times == sorted(times)
    places = [(each["segment"], each["offset"]) for each in found]
    assert places == sorted(places)


@pytest.mark.parametrize("form", ["hex", "utf8", "msgpack"])
def test_the_forms_of_values(written: tuple[Path, list[Any]], form: str) -> None:
    """Each form gives the value; what is not msgpack is marked."""
    store, done = written
    for each in lines(store, "--values", form):
        table, op, _, value = done[each["lsn"] - 1]
        if op == "create":
            continue
        shown = each["value"]
        if value is None:
            assert shown is None
        elif form == "hex":
            assert bytes.fromhex(shown) == value
        elif form == "utf8" and table == "" and value != b"\xff\xfe":
            assert shown.encode() == value
        elif form == "utf8":
            assert set(shown) == {"$base64"} or shown.encode() == value
        elif table == "users":
            assert shown == msgpack.unpackb(value)
        elif value == b"\xff\xfe":
            assert shown == {"$hex": "fffe"}


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        (["--from-lsn", "100"], lambda lsn, _: lsn >= 100),
        (["--to-lsn", "100"], lambda lsn, _: lsn <= 100),
        (["--from-lsn", "57", "--to-lsn", "61"], lambda lsn, _: 57 <= lsn <= 61),
        (["--table", "users"], lambda _, each: each[0] == "users"),
        (["--table", "#2"], lambda _, each: each[0] == "users"),
        (["--table", ""], lambda _, each: each[0] == ""),
        (["--table", "users", "--from-lsn", "200"], lambda n, each: each[0] and n >= 200),
        (["--key", "key007"], lambda _, each: each[2] == b"key007"),
        (
            ["--key", "109", "--table", "users"],
            lambda _, each: each[2] == b"\x80" + bytes(6) + b"m",
        ),
        (["--key", r"\x1b]0;owned\x07\x1b[31mred\n"], lambda _, each: each[2] == ESCAPE),
        (["--prefix", "key01"], lambda _, each: (each[2] or b"").startswith(b"key01")),
        (["--op", "delete", "--op", "clear"], lambda _, each: each[1] in ("delete", "clear")),
        (["--since", "1h"], lambda _, each: True),
        (["--until", "2001-01-01"], lambda _, each: False),
    ],
)
def test_filters(written: tuple[Path, list[Any]], options: list[str], keep: Any) -> None:
    """Each filter keeps what a plain computation keeps, and several are all meant."""
    store, done = written
    expected = [lsn for lsn, each in enumerate(done, 1) if keep(lsn, each)]
    assert expected == [each["lsn"] for each in lines(store, *options)]


def test_limit(written: tuple[Path, list[Any]]) -> None:
    """At most so many lines, from the first that is wanted."""
    store, _ = written
    assert [each["lsn"] for each in lines(store, "--limit", 7)] == list(range(1, 8))
    assert [each["lsn"] for each in lines(store, "--limit", 2, "--from-lsn", 90)] == [90, 91]
    assert lines(store, "--limit", 0) == []


def test_csv(written: tuple[Path, list[Any]]) -> None:
    """A head line, then a row for each operation that a CSV reader takes apart again."""
    store, done = written
    rows = list(csv.reader(io.StringIO(inspected("dump", store, "--format", "csv"))))
    assert rows[0] == ["lsn", "time", "table", "op", "key", "value"]
    assert [int(row[0]) for row in rows[1:]] == list(range(1, len(done) + 1))
    assert rows[2][5] == ""
    assert rows[3][5] == "v" or rows[4][5] == "v"


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_nothing_acts_on_a_terminal(written: tuple[Path, list[Any]], form: str) -> None:
    """No control character and no directional override gets through, in no format."""
    output = inspected("dump", written[0], "--format", form, "--limit", 10_000)
    assert all(char.isprintable() or char == "\n" for char in output)
    assert "\\u001b" in output if form == "jsonl" else "\\x1b]0;owned\\x07" in output


def test_damage_is_passed_over_and_told(written: tuple[Path, list[Any]], tmp_path: Path) -> None:
    """All that verifies is printed, the place is said on stderr, and the status is verify's."""
    store = Path(shutil.copytree(written[0], tmp_path / "data"))
    path = segments(store)[0]
    flip(path, frames(path)[4] + 80)
    result = inspect("dump", store, "--json")
    assert result.exit_code == 4
    assert f"offset {frames(path)[4]}" in result.stderr
    found = [json.loads(line)["lsn"] for line in result.stdout.splitlines()]
    assert found == [lsn for lsn in range(1, len(written[1]) + 1) if lsn != 5]


def test_a_payload_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    """Its checksums hold: it is passed over, said on stderr, and the rest is printed."""
    done = history(tmp_path / "data")
    store = tmp_path / "crashed"
    path = segments(store)[-1]  # not sealed yet, so that no digest of its frames is there
    rewrite_frame(path, frames(path)[4], lambda filler: {b"no": filler})
    result = inspect("dump", store, "--json")
    assert result.exit_code == 4
    assert "expected a list of 4 elements, found dict" in result.stderr
    assert len(result.stdout.splitlines()) == len(done) - 1


def test_a_closed_pipe_ends_it(written: tuple[Path, list[Any]]) -> None:
    """`dump | head` leaves no traceback."""
    import subprocess

    process = subprocess.Popen(
        [*PROGRAM, "dump", str(written[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(30)


def test_colours_only_on_a_terminal(written: tuple[Path, list[Any]]) -> None:
    """A pipe gets no escape sequence, from no command."""
    for command in (["ls"], ["verify", "--independent"], ["dump"], ["frame", "--operations", "3"]):
        extra = ["5"] if command[0] == "frame" else []
        result = piped(command[0], written[0], *extra, *command[1:])
        assert result.returncode == 0, result.stderr
        assert b"\x1b" not in result.stdout + result.stderr
