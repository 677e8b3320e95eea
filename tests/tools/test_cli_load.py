"""`load`: formats, compression, keys, and files that are not as they should be."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import strandline
from tests.tools.command import PROGRAM, as_json, done, environment, piped, run

CSV = 'id,name,city\n1,Ada,London\n2,Grace,"New York, NY"\n3,Edsger,"Rotter\ndam"\n'
JSONL = '{"id": 1, "name": "Ada"}\n\n{"id": "b", "tags": ["x", null]}\n'


def contents(store: Path, table: str = "") -> dict[Any, Any]:
    """Everything in a table."""
    with strandline.open(store) as db:
        return dict(db.table(table))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the store will be."""
    return tmp_path / "data"


# ---- formats


def test_csv_rows_become_json_objects(tmp_path: Path, store: Path) -> None:
    """Fields are text; commas, quotes and line ends within them are kept."""
    (tmp_path / "people.csv").write_text(CSV)
    said = as_json("load", store, tmp_path / "people.csv", "--key", "id", "--create")
    assert said[0]["records"] == said[0]["new_keys"] == 3
    found = contents(store)
    assert json.loads(found[b"3"]) == {"id": "3", "name": "Edsger", "city": "Rotter\ndam"}
    assert found[b"1"] == b'{"id":"1","name":"Ada","city":"London"}'


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.tsv", "k\tv\n1\tx\n", []),
        ("a.csv", "k;v\n1;x\n", ["--delimiter", ";"]),
        ("a.csv", "\ufeffk,v\r\n1,x\r\n\r\n", []),
        ("a.txt", "k,v\n1,x", ["--format", "csv"]),
    ],
    ids=["tsv", "semicolons", "byte order mark and carriage returns", "no line end"],
)
def test_kinds_of_csv(
    tmp_path: Path, store: Path, name: str, text: str, options: list[str]
) -> None:
    """--value takes one column alone."""
    (tmp_path / name).write_text(text, newline="")
    done("load", store, tmp_path / name, "--key", "k", "--value", "v", "--create", *options)
    assert contents(store) == {b"1": b"x"}


def test_json_lines_keep_their_types(tmp_path: Path, store: Path) -> None:
    """An integer can be a key; blank lines are passed over; a json table gets the object."""
    (tmp_path / "a.jsonl").write_text(JSONL)
    arguments = ("load", store, tmp_path / "a.jsonl", "--key", "id", "--create")
    done(*arguments, "-t", "j", "--codec", "json")
    done(*arguments, "-t", "b")
    assert contents(store, "j") == {
        "1": {"id": 1, "name": "Ada"},
        "b": {"id": "b", "tags": ["x", None]},
    }
    assert contents(store, "b")[b"1"] == b'{"id":1,"name":"Ada"}'


def test_one_field_as_the_value(tmp_path: Path, store: Path) -> None:
    """Text stays text in a table of bytes, anything else is JSON."""
    (tmp_path / "a.jsonl").write_text('{"k": "a", "v": "x"}\n{"k": "b", "v": [1, "é"]}\n')
    done("load", store, tmp_path / "a.jsonl", "--key", "k", "--value", "v", "--create")
    assert contents(store) == {b"a": b"x", b"b": '[1,"é"]'.encode()}


def test_keys_of_several_fields(tmp_path: Path, store: Path) -> None:
    """They are joined in the order of the options."""
    (tmp_path / "a.csv").write_text("y,m,d\n2013,1,5\n")
    done("load", store, tmp_path / "a.csv", "--key", "y", "--key", "d", "--create")
    done("load", store, tmp_path / "a.csv", "--key", "m", "--key", "y", "--separator", "/")
    assert set(contents(store)) == {b"2013:5", b"1/2013"}


def test_integer_keys(tmp_path: Path, store: Path) -> None:
    """A table of int64 keys takes text and JSON integers."""
    (tmp_path / "a.csv").write_text("k,v\n-5,x\n")
    (tmp_path / "a.jsonl").write_text('{"k": 6, "v": "y"}\n')
    for name in ("a.csv", "a.jsonl"):
        options = ("-t", "n", "--codec", "int64/utf-8", "--create")
        done("load", store, tmp_path / name, "--key", "k", "--value", "v", *options)
    assert contents(store, "n") == {-5: "x", 6: "y"}


def test_keys_that_come_twice_are_counted_once(tmp_path: Path, store: Path) -> None:
    """The last record wins, and the difference shows."""
    (tmp_path / "a.csv").write_text("k,v\na,1\na,2\nb,3\n")
    options = ("--key", "k", "--value", "v", "--create")
    (said,) = as_json("load", store, tmp_path / "a.csv", *options)
    assert (said["records"], said["new_keys"]) == (3, 2)
    assert contents(store) == {b"a": b"2", b"b": b"3"}
    (again,) = as_json("load", store, tmp_path / "a.csv", *options)
    assert (again["records"], again["new_keys"]) == (3, 0)


# ---- where it comes from


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("stdin", [False, True])
def test_compression_shows_in_the_first_bytes(
    tmp_path: Path, store: Path, pack: Callable[[bytes], bytes], stdin: bool
) -> None:
    """Plain, gzip and xz, from a file whose name does not say so and from a pipe."""
    packed = pack(CSV.encode())
    (tmp_path / "people").write_bytes(packed)
    source, data = ("-", packed) if stdin else (tmp_path / "people", b"")
    options = ("--format", "csv", "--key", "id", "--create")
    assert piped("load", store, source, *options, data=data).returncode == 0
    assert len(contents(store)) == 3


def test_a_suffix_of_compression_is_looked_behind(tmp_path: Path, store: Path) -> None:
    """people.csv.gz is CSV."""
    (tmp_path / "people.csv.gz").write_bytes(gzip.compress(CSV.encode(), mtime=0))
    done("load", store, tmp_path / "people.csv.gz", "--key", "id", "--create")
    assert len(contents(store)) == 3


def test_large_files_are_written_in_chunks(tmp_path: Path, store: Path) -> None:
    """More than one chunk by number, and by size."""
    lines = [json.dumps({"k": number, "v": "x" * 10}) for number in range(2500)]
    lines += [json.dumps({"k": f"large{number}", "v": "y" * 3_000_000}) for number in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    done("load", store, tmp_path / "a.jsonl", "--key", "k", "--value", "v", "--create")
    found = contents(store)
    assert len(found) == 2504
    assert found[b"large3"] == b"y" * 3_000_000


# ---- wrong uses


@pytest.mark.parametrize(
    "options",
    [
        ["a.csv"],
        ["a.unknown", "--key", "k"],
        ["-", "--key", "k"],
        ["a.csv", "--key", "k", "--delimiter", "ab"],
        ["a.csv", "--key", "k", "--format", "xml"],
        ["a.csv", "--key", "k", "--format", "dump"],
        ["a.csv", "--key", "k", "--durability", "maybe"],
    ],
)
def test_wrong_uses(
    tmp_path: Path, store: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "a.unknown"):
        (tmp_path / name).write_text("k,v\n1,2\n")
    assert run("load", store, *options, "--create").exit_code == 2
    assert not store.exists() or contents(store) == {}


def test_neither_store_nor_table_is_made_by_mistake(tmp_path: Path, store: Path) -> None:
    """Without --create both have to be there."""
    (tmp_path / "a.csv").write_text("k,v\n1,2\n")
    assert run("load", store, tmp_path / "a.csv", "--key", "k").exit_code == 1
    assert not store.exists()
    strandline.open(store).close()
    assert run("load", store, tmp_path / "a.csv", "--key", "k", "-t", "x").exit_code == 1
    with strandline.open(store) as db:
        assert db.tables() == []


# ---- files that are not as they should be


@pytest.mark.parametrize(
    ("name", "data", "line", "says"),
    [
        ("a.csv", b"", 1, "header"),
        ("a.csv", b"k,k\n1,2\n", 1, "twice"),
        ("a.csv", b"k,v\n1,2\n3\n", 3, "2 fields"),
        ("a.csv", b'k,v\n1,"2\n', 2, "CSV"),
        ("a.csv", b"x,v\n1,2\n", 2, "'k'"),
        ("a.csv", b"k,v\n1,\xff\n", 2, "0xff"),
        ("a.csv", b"k,v\n,2\n", 2, "empty"),
        ("a.csv", b"k,v\n" + b"x" * 600 + b",2\n", 2, "511"),
        ("a.jsonl", b'{"k": 1}\n{"k"\n', 2, "JSON"),
        ("a.jsonl", b"[1]\n", 1, "list"),
        ("a.jsonl", b'{"k": [1]}\n', 1, "list"),
        ("a.jsonl", b'{"k": true}\n', 1, "bool"),
        ("a.jsonl", b'{"k": 1, "v": NaN}\n', 1, "NaN"),
        ("a.jsonl", b"[" * 100_000 + b"\n", 1, "brackets"),
        ("a.jsonl", b'{"k": 1, "v": "\\ud800"}\n', 1, "Unicode"),
        ("a.csv", gzip.compress(CSV.encode(), mtime=0)[:-9], 0, "cut short"),
        ("a.csv", lzma.compress(CSV.encode())[:-9], 0, "cut short"),
    ],
)
def test_a_bad_record_is_named(
    tmp_path: Path, store: Path, name: str, data: bytes, line: int, says: str
) -> None:
    """The message has the file, the line, and what was expected; the status is 1."""
    (tmp_path / name).write_bytes(data)
    result = run("load", store, tmp_path / name, "--key", "k", "--create")
    assert result.exit_code == 1, result.stderr
    assert f"{tmp_path / name}: line {line or ''}" in result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_parts_of_a_key_must_not_hold_the_separator(tmp_path: Path, store: Path) -> None:
    """Otherwise two records could come to have one key."""
    (tmp_path / "a.csv").write_text("a,b\nx:y,z\nx,y:z\n")
    options = ("--key", "a", "--key", "b", "--create")
    assert run("load", store, tmp_path / "a.csv", *options).exit_code == 1
    done("load", store, tmp_path / "a.csv", *options, "--separator", "/")
    assert set(contents(store)) == {b"x:y/z", b"x/y:z"}


def test_what_came_before_a_bad_record_stays(tmp_path: Path, store: Path) -> None:
    """In whole chunks, and the message says how many records that are."""
    lines = [f"{number},x" for number in range(2500)]
    (tmp_path / "a.csv").write_text("\n".join(["k,v", *lines, "bad"]))
    result = run("load", store, tmp_path / "a.csv", "--key", "k", "--create")
    assert result.exit_code == 1
    assert "line 2502" in result.stderr
    assert "2,000 records" in result.stderr
    assert len(contents(store)) == 2000


def test_a_value_that_the_codec_refuses_is_named(tmp_path: Path, store: Path) -> None:
    """Though a whole chunk was refused, the line is that of the one record."""
    lines = [json.dumps({"k": str(number), "v": number}) for number in range(10)]
    lines[6] = json.dumps({"k": "6", "v": 1 << 80})
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    options = ("--key", "k", "--value", "v", "-t", "t", "--codec", "msgpack", "--create")
    result = run("load", store, tmp_path / "a.jsonl", *options)
    assert result.exit_code == 1
    assert "line 7:" in result.stderr
    assert contents(store, "t") == {}


def test_an_interrupt_keeps_what_was_loaded(store: Path) -> None:
    """The store is closed in order, and the status is that of an interrupt."""
    options = ["load", str(store), "-", "--format", "csv", "--key", "k", "--create"]
    process = subprocess.Popen(
        [*PROGRAM, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        # A shell's background job is born deaf to it, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"k,v\n" + b"".join(b"%d,x\n" % number for number in range(60_000)))
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not (store / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # until then a signal finds a program that is still starting
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in said
    with strandline.open(store) as db:
        assert len(db) % 1000 == 0
        assert db.recovery_report.clean
