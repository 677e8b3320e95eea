"""`wal-inspect stats`: the page, the JSON document, and how it ends.

What the figures must be is shown in test_inspect_analysis.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import pytest

import strandline
from strandline import Durability
from strandline.codecs import get_codec
from strandline.engine.operations import CLEAR, CREATE, PUT, encode_table_options, tag_of
from strandline.wal.format import FRAME_HEADER_BYTES
from tests.recovery.check_stores import NEVER, copy_open, flip
from tests.support.logs import LogBuilder, sample
from tests.tools import command
from tests.tools.command import Shown, environment
from tests.tools.inspecting import PROGRAM, document, inspect, inspected, lay, piped, segment

STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SPREAD = {"count", "minimum", "mean", "p50", "p90", "p99", "p999", "maximum", "powers"}
TABLE = {
    "id",
    "name",
    "codec",
    "operations",
    "kinds",
    "key_bytes",
    "value_bytes",
    "frames",
    "distinct_keys",
    "overwritten",
    "saved",
}
EVIL = "\x1b]0;evil\x07\x1b[31m\u202e"


def operations(*each: tuple[int, int, bytes | None, bytes | None]) -> bytes:
    """Return the payload of operations of (table, operation, key, value)."""
    items: list[Any] = [None]
    for table, op, key, value in each:
        items += [tag_of(table, op), key, value]
    packed: bytes = msgpack.packb(items)
    return packed


def fifty() -> LogBuilder:
    """A log of fifty puts of ten keys, two in a frame, a second between frames."""
    log = LogBuilder()
    log.open()
    for number in range(25):
        puts = [(1, PUT, b"user:%d" % (n % 10), b"v") for n in (2 * number, 2 * number + 1)]
        log.data(2, operations(*puts), time_ns=(1_760_000_000 + number) * 10**9)
    return log


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store after a crash, with three tables, one of which has a name that acts."""
    path = tmp_path / "data"
    with strandline.open(tmp_path / "open", flush_strategy=NEVER) as db:
        users = db.table(EVIL)
        for number in range(300):
            users.put(f"{EVIL}:{number % 7}".encode(), b"v" * 30, durability=Durability.ASYNC)
        db.table("numbers", codec="int64/bytes").put(-5, b"five")
        db.put_many({b"k%d" % number: b"" for number in range(50)})
        users.delete(f"{EVIL}:1".encode())
        db.sync()
        copy_open(tmp_path / "open", path)
    return path


def on_terminal(*args: object, columns: int = 80) -> Shown:
    """Run wal-inspect on a terminal of this width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "PROGRAM", PROGRAM)
        return command.on_terminal(*args, columns=columns)


# ---- JSON


def test_the_document(store: Path) -> None:
    """It has the documented fields, and what they say is what was written."""
    found = document("stats", store)
    assert found["verdict"] == "sound"
    assert found["operations"] == found["total"]["operations"] == 354
    assert set(found["range"]) == {
        *("from_lsn", "to_lsn", "tables", "frames", "payload_bytes", "frame_bytes")
    }
    assert found["range"]["tables"] is None
    assert found["range"]["payload_bytes"] < found["range"]["frame_bytes"]
    assert all(set(each) == TABLE for each in [found["total"], *found["tables"]])
    users, default, numbers = found["tables"]
    assert (users["id"], users["name"], default["name"]) == (2, EVIL, "")
    assert (numbers["name"], numbers["codec"]) == ("numbers", "int64/bytes")
    assert users["kinds"] == {"put": 300, "delete": 1, "create": 1}
    assert users["distinct_keys"] == {"value": 7, "exact": True, "error": 0.0}
    assert users["overwritten"] == {"value": 294, "exact": True, "error": 0.0}
    assert users["saved"] == round(294 / 301, 6)
    assert default["key_bytes"] == 10 * 2 + 40 * 3
    assert found["total"]["id"] is found["total"]["name"] is None
    spreads = [found["group_sizes"], found["frame_sizes"], *found["sync"].values()]
    for each in spreads:
        assert not isinstance(each, dict) or set(each) == SPREAD
    assert sum(each["count"] for each in found["group_sizes"]["powers"]) == found["range"]["frames"]
    assert set(found["sync"]) == {
        *("unsynced_operations", "delay_ns", "sampled", "unclaimed_frames", "backward_frames")
    }
    buckets = found["rates"]["buckets"]
    written = [table for bucket in buckets for table in bucket["tables"]]
    assert sum(each["operations"] for each in written) == 354
    assert {each["id"] for each in written} == {1, 2, 3}
    assert all(set(each) == {"start", "start_ns", "tables"} for each in buckets)
    hot = found["hot_keys"]["found"]
    assert len(hot) == 10
    assert hot[0] == {"table": 2, "key": f"{EVIL}:1", "count": 44, "too_many": 0}
    assert found["hot_prefixes"]["found"][0]["prefix"] == f"{EVIL}:"
    assert found["undecodable"] == {"frames": 0, "operations": 0, "first": []}
    assert found["gone"] == []


def test_keys_of_integers_are_integers(store: Path) -> None:
    """In the document, as in the table."""
    found = document("stats", store, "--table", "numbers")
    assert found["hot_keys"]["found"] == [{"table": 3, "key": -5, "count": 1, "too_many": 0}]
    assert found["range"]["tables"] == ["numbers"]
    assert [each["id"] for each in found["tables"]] == [3]


def test_keys_on_the_page_are_those_of_the_table(tmp_path: Path) -> None:
    """Integers of a table of integers; elsewhere escaped so that it can be undone."""
    log = LogBuilder()
    log.open()
    log.data(1, operations((2, CREATE, b"n", encode_table_options("int64/bytes", logged=True))))
    seven = get_codec("int64/bytes").encode_key(7)
    log.data(4, operations(*[(2, PUT, seven, b""), (1, PUT, b"\\\xff", b"")] * 2))
    text = inspected("stats", lay(log, tmp_path / "log"))
    assert re.search(r"\n +2 +50.0 % +n +7\n", text)
    assert re.search(r"\n +2 +50.0 % +\(default\) +\\\\\\xff\n", text)


def test_a_range(tmp_path: Path) -> None:
    """Only operations from the one LSN to the other count, and names from before are known."""
    path = lay(fifty(), tmp_path / "log")
    found = document("stats", path, "--from-lsn", 4, "--to-lsn", 9)
    assert found["operations"] == 50
    assert found["total"]["operations"] == 6
    assert found["range"]["frames"] == 4
    assert (found["range"]["from_lsn"], found["range"]["to_lsn"]) == (4, 9)
    log = LogBuilder()
    log.open()
    options = encode_table_options("bytes", logged=True)
    log.data(1, operations((7, CREATE, b"seven", options)))
    log.data(2, operations((7, PUT, b"k", b"v"), (7, CLEAR, None, None)))
    found = document("stats", lay(log, tmp_path / "other"), "--from-lsn", 2, "--table", "seven")
    assert found["tables"][0]["name"] == "seven"
    assert found["tables"][0]["kinds"] == {"put": 1, "clear": 1}
    assert found["tables"][0]["overwritten"]["value"] == 1


def test_how_many_hot_keys(tmp_path: Path) -> None:
    """As many as --top says."""
    path = lay(fifty(), tmp_path / "log")
    assert len(document("stats", path, "--top", 3)["hot_keys"]["found"]) == 3
    assert document("stats", path, "--top", 0)["hot_keys"] == {"missed": 0, "found": []}
    assert len(document("stats", path, "--top", 1000)["hot_keys"]["found"]) == 10


@pytest.mark.parametrize(
    "wrong",
    [["--top", "-1"], ["--top", "1001"], ["--from-lsn", "5", "--to-lsn", "4"], ["--nonsense"]],
)
def test_a_wrong_use(tmp_path: Path, wrong: list[str]) -> None:
    """It ends with 2 and says why."""
    result = inspect("stats", lay(fifty(), tmp_path / "log"), *wrong)
    assert result.exit_code == 2
    assert result.stderr


# ---- the page


def test_the_page(tmp_path: Path) -> None:
    """In a pipe it is plain text with all that there is to say."""
    text = inspected("stats", lay(fifty(), tmp_path / "log"))
    assert "\x1b" not in text
    assert "sound; 25 frames, 50 operations, LSN 1 to 50" in text
    assert "Coalescing would save 80.0 %: of 50 puts and deletes 40 are overwritten" in text
    assert "2025-10-09T08:53:20 to 2025-10-09T08:53:44" in text
    for title in ("operations a frame", "size of a frame", "hottest keys", "hottest prefixes"):
        assert f"\n{title}" in text
    assert re.search(r"2 to 3 +25 █+\n", text)
    assert re.search(r"\n +5 +10.0 % +user:0\n", text)
    assert re.search(r"\n +50 +100.0 % +user:\n", text)
    assert "within 1 s for half of the frames" in text
    assert "every frame was written after all before it was synced" in text


def test_several_tables(store: Path) -> None:
    """Each has a line, and so has the sum; each has a line in the chart."""
    text = inspected("stats", store)
    lines = [line.split()[-1] for line in text.splitlines() if line.strip()]
    for name in ("(default)", "numbers", "total", r"\x1b]0;evil\x07\x1b[31m\u202e"):
        assert name in lines
        assert re.search(rf"\n{re.escape(name)} .* max ", text)


@pytest.mark.parametrize("columns", [80, 140])
def test_nothing_from_the_log_acts_on_a_terminal(store: Path, columns: int) -> None:
    """Names, keys and prefixes are escaped; the page keeps within the terminal's width."""
    shown = on_terminal("stats", store, columns=columns)
    assert shown.status == 0
    assert "\x07" not in shown.text
    assert "\u202e" not in shown.text
    assert "\x1b]" not in shown.text
    assert "\x1b[31m" not in shown.text
    assert r"\x1b[31m\u202e:0" in shown.text
    page = STYLES.sub("", shown.text[shown.text.rindex("counted ") :]).splitlines()
    grids = [line for line in page if "█" in line or "max " in line or "users" in line]
    assert grids
    assert max(map(len, grids)) <= columns


def test_styles_are_for_terminals(store: Path) -> None:
    """In a pipe there are none, and no progress bar either."""
    result = piped("stats", store)
    assert result.returncode == 0
    assert b"\x1b" not in result.stdout
    assert result.stderr == b""


def test_an_output_without_block_characters(tmp_path: Path) -> None:
    """Bars are made of what it has."""
    result = subprocess.run(
        [*PROGRAM, "stats", str(lay(fifty(), tmp_path / "log"))],
        capture_output=True,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert re.search(rb" 25 #+\n", result.stdout)
    assert b"\\u" not in result.stdout


def test_an_empty_log(tmp_path: Path) -> None:
    """A new store: nothing to count, and no error."""
    log = LogBuilder()
    log.open()
    path = lay(log, tmp_path / "log")
    assert "no frames to count" in inspected("stats", path)
    assert document("stats", path)["total"]["operations"] == 0
    text = inspected("stats", lay(fifty(), tmp_path / "other"), "--table", "nowhere")
    assert "counted 0 operations in 25 frames" in text


def test_keys_that_occur_once(tmp_path: Path) -> None:
    """Then none is hot, and that is said."""
    log = LogBuilder()
    log.open()
    log.data(2, operations((1, PUT, b"a", b""), (1, PUT, b"b", b"")))
    text = inspected("stats", lay(log, tmp_path / "log"))
    assert "no key was written twice" in text
    assert "Coalescing would save 0.0 %" in text


# ---- what is wrong with a log


def test_a_damaged_log(tmp_path: Path) -> None:
    """What verifies is counted, what is wrong is said, and the status is that of `ls`."""
    log = fifty()
    path = lay(log, tmp_path / "log")
    flip(segment(path, 1), log.segments[1].frames[3].offset + FRAME_HEADER_BYTES)
    result = inspect("stats", path)
    assert result.exit_code == inspect("ls", path).exit_code == 4
    assert "48 operations" in result.stdout
    assert "damage in mid-log" in result.stderr
    assert document("stats", path, status=4)["total"]["operations"] == 48


def test_a_torn_tail(tmp_path: Path) -> None:
    """The status says so; the rest is counted."""
    log = fifty()
    path = lay(log, tmp_path / "log")
    os.truncate(segment(path, 1), log.segments[1].frames[-1].end - 9)
    assert document("stats", path, status=3)["total"]["operations"] == 48


def test_payloads_that_do_not_decode(tmp_path: Path) -> None:
    """They are counted apart and told of, and are not fatal."""
    log = sample()
    log.data(1, msgpack.packb([None, EVIL, b"k", b"v"]))
    log.data(2, operations((1, PUT, b"a", b""), (1, PUT, b"b", b"")))
    path = lay(log, tmp_path / "log")
    result = inspect("stats", path)
    assert result.exit_code == 4
    assert "10 frames with 14 operations do not decode" in result.stdout
    assert result.stderr.count("LSN") == 8
    assert "\x07" not in result.stderr + result.stdout
    found = document("stats", path, status=4)["undecodable"]
    assert (found["frames"], found["operations"], len(found["first"])) == (10, 14, 8)
    assert set(found["first"][0]) == {"path", "offset", "lsn", "reason"}


def test_what_is_no_log(tmp_path: Path) -> None:
    """Nothing at the path: status 1, as with `ls`."""
    result = inspect("stats", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "found nothing" in result.stderr


def test_the_help_has_examples() -> None:
    """Three of them."""
    text = inspected("stats", "--help")
    assert text.count("wal-inspect stats data") == 3
    assert "--from-lsn" in text
