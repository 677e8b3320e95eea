"""Logs whose checksums hold and whose content is hostile or makes no sense, and odd arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

import strandline
from strandline.engine.operations import CREATE, PUT, encode_table_options, tag_of
from tests.recovery.check_stores import NEVER, copy_open
from tests.support.logs import LogBuilder
from tests.tools.inspecting import inspect, inspected, lay
from tests.tools.test_inspect_dump import lines

ODD_NAME = "a\N{LINE SEPARATOR}b\x85c,d\x1bE\N{RIGHT-TO-LEFT OVERRIDE}"
NO_CODEC = encode_table_options("x/y", logged=True)
BYTES = encode_table_options("bytes/bytes", logged=True)

SENSELESS: dict[str, list[Any]] = {
    "a name that is no text": [None, tag_of(6, CREATE), b"\xff\xfe", BYTES],
    "a codec that is none": [
        None,
        tag_of(6, CREATE),
        b"t",
        encode_table_options("x/y", logged=True),
    ],
    "marks that do not fit": [
        [0, 2**63, 5, 7],
        tag_of(1, PUT),
        b"a",
        b"1",
        tag_of(1, PUT),
        b"b",
        b"",
    ],
    "marks that are none": ["ab", tag_of(1, PUT), b"a", b"1"],
    "a table that never is": [None, tag_of(0, PUT), b"a", b"1"],
}


def senseless(directory: Path, name: str) -> tuple[Path, int]:
    """A log with a frame of this content between sound ones, and how many are sound."""
    log = LogBuilder()
    log.open()
    log.data(1, msgpack.packb([None, tag_of(1, PUT), b"before", b"1"]))
    items = SENSELESS[name]
    log.data(len(items) // 3, msgpack.packb(items))
    log.data(1, msgpack.packb([None, tag_of(1, PUT), b"after", b"1"]))
    log.spare()
    return lay(log, directory / "log"), len(items) // 3


@pytest.mark.parametrize("name", SENSELESS)
def test_content_that_makes_no_sense(tmp_path: Path, name: str) -> None:
    """`verify --operations` says so, and `export` refuses it; neither is silent."""
    path, _ = senseless(tmp_path, name)
    inspected("verify", path, "--operations", status=4)
    result = inspect("export", path)
    assert (result.exit_code, type(result.exception)) == (4, SystemExit), result.exception


def test_passing_over_such_a_frame_is_no_success(tmp_path: Path) -> None:
    """What could be read is printed, and the status is that of damage."""
    path, count = senseless(tmp_path, "marks that do not fit")
    found = lines(path, status=4)
    assert [each["lsn"] for each in found] == [1, 2 + count]
    inspected("history", path, "after", status=4)
    inspected("stats", path, status=4)
    inspected("follow", path, "--from-lsn", 1, "--to-lsn", 2 + count, status=4)


def test_names_of_tables_are_escaped(tmp_path: Path) -> None:
    """In no format does a name break a line or act on a terminal."""
    with strandline.open(tmp_path / "data", flush_strategy=NEVER) as db:
        table: Any = db.table(ODD_NAME)
        table.put(b"k", b"v")
        copy_open(tmp_path / "data", tmp_path / "copy")
    for form, count in (("table", 3), ("csv", 3), ("jsonl", 2)):
        output = inspected("dump", tmp_path / "copy", "--format", form)
        assert all(char.isprintable() or char == "\n" for char in output)
        assert output.count("\n") == count


@pytest.mark.parametrize(
    "arguments",
    [
        ["dump", "--prefix", r"\UFFFFFFFF"],
        ["dump", "--key", r"\U00110000"],
        ["frame", "--segment", "1", "--offset", "99999999999999999999999"],
        ["history", r"\UFFFFFFFF"],
    ],
)
def test_arguments_that_no_value_can_be(tmp_path: Path, arguments: list[str]) -> None:
    """They are a wrong use, without a traceback."""
    log = LogBuilder()
    log.open()
    path = lay(log, tmp_path / "log")
    result = inspect(arguments[0], path, *arguments[1:])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.exception


def test_a_table_that_nobody_knows(tmp_path: Path) -> None:
    """A name that was mistyped does not look like a table without operations."""
    path, _ = senseless(tmp_path, "a table that never is")
    result = inspect("dump", path, "--table", "no such table")
    assert result.exit_code == 1
    assert "no such table" in result.stderr
    # Where the log was not read to its end its definition may lie behind.
    for end in (["--limit", "1"], ["--to-lsn", "1"]):
        inspected("dump", path, "--table", "no such table", *end)
