"""`get`, `put`, `delete`, `scan`, `tables`, `stats`: forms, codecs, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import strandline
from tests.tools.command import as_json, done, piped, run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one table for each kind of codec."""
    path = tmp_path / "data"
    with strandline.open(path) as db:
        db.put_many({b"a": b"1", b"ab": b"2", b"b": b"3", b"\xff\x00": b"\xfe"})
        db.table("text", codec="utf-8").put("ключ", "значение")
        db.table("json", codec="json").put("k", {"b": [1, 2.5, None], "a": "x"})
        db.table("pack", codec="int64/msgpack").put(-7, {"raw": b"\xff", "n": 1})
        db.table("bare", logged=False).put(b"k", b"v")
    return path


# ---- get and put


def test_what_was_put_is_got(tmp_path: Path) -> None:
    """A pipe gets the value's bytes and nothing else."""
    store = tmp_path / "data"
    done("put", store, "key", "value", "--create")
    assert piped("get", store, "key").stdout == b"value"


@pytest.mark.parametrize("value", [b"", b"\x00\xff\n", b"--dash", "ä€".encode()])
def test_values_from_stdin_and_to_a_pipe_are_exact(tmp_path: Path, value: bytes) -> None:
    """No byte is added, changed or lost between a file and a file."""
    store = tmp_path / "data"
    done("put", store, "key", "--file", "-", "--create", data=value)
    assert run("get", store, "key").stdout_bytes == value


def test_a_value_from_a_file(tmp_path: Path) -> None:
    """--file takes the place of VALUE, and both or neither is a wrong use."""
    (tmp_path / "value").write_bytes(b"\x00\x01")
    done("put", tmp_path / "data", "k", "--file", tmp_path / "value", "--create")
    with strandline.open(tmp_path / "data") as db:
        assert db[b"k"] == b"\x00\x01"
    assert run("put", tmp_path / "data", "k").exit_code == 2
    assert run("put", tmp_path / "data", "k", "v", "--file", tmp_path / "value").exit_code == 2


def test_arguments_that_are_not_utf_8_are_the_bytes_that_were_typed(tmp_path: Path) -> None:
    """A shell can hand over any bytes but zero."""
    store = tmp_path / "data"
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert piped("put", store, odd, odd, "--create").returncode == 0
    with strandline.open(store) as db:
        assert dict(db) == {b"\xff\xfe": b"\xff\xfe"}


def test_put_says_the_lsn(tmp_path: Path) -> None:
    """Only when asked to; an unlogged table has none."""
    store = tmp_path / "data"
    assert done("put", store, "k", "v", "--create") == ""
    assert as_json("put", store, "k", "w") == [{"key": "k", "lsn": 2}]


@pytest.mark.parametrize("level", ["sync", "buffered", "async"])
def test_every_level_is_stored_when_the_command_ends(tmp_path: Path, level: str) -> None:
    """Closing the store puts weaker writes on disk as well."""
    done("put", tmp_path / "data", "k", level, "--create", "--durability", level)
    assert done("get", tmp_path / "data", "k") == level


def test_an_absent_key_has_a_status_of_its_own(store: Path) -> None:
    """A script tells it from an error."""
    result = run("get", store, "nobody")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "nobody" in result.stderr


@pytest.mark.parametrize(
    ("option", "key", "value"), [("--hex", "ff00", "fe"), ("--base64", "/wA=", "/g==")]
)
def test_bytes_can_be_given_as_digits(store: Path, option: str, key: str, value: str) -> None:
    """The same form goes in and comes out, in JSON too."""
    assert done("get", store, option, key) == value
    assert as_json("get", store, option, key) == [{"key": key, "value": value}]
    assert run("get", store, option, "!!").exit_code == 2


def test_both_forms_at_once_are_a_wrong_use(store: Path) -> None:
    """Nothing is guessed."""
    assert run("get", store, "--hex", "--base64", "00").exit_code == 2


# ---- codecs


def test_values_are_shown_by_their_codec(store: Path) -> None:
    """Text is text, structured values are JSON, what JSON lacks is marked."""
    assert done("get", store, "-t", "text", "ключ") == "значение"
    assert json.loads(done("get", store, "-t", "json", "k")) == {"b": [1, 2.5, None], "a": "x"}
    shown = json.loads(done("get", store, "-t", "pack", "--", "-7"))
    assert shown == {"raw": {"$base64": "/w=="}, "n": 1}


def test_values_are_taken_by_their_codec(store: Path) -> None:
    """What is shown can be put again, and gives the same value."""
    shown = done("get", store, "-t", "pack", "--", "-7")
    done("put", store, "-t", "pack", "8", shown)
    done("put", store, "-t", "json", "j", '{"x": [true]}')
    with strandline.open(store) as db:
        assert db.table("pack")[8] == {"raw": b"\xff", "n": 1}
        assert db.table("json")["j"] == {"x": [True]}


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("pack", "seven", "1"), ("pack", "7", "{"), ("json", "k", "NaN"), ("pack", "7", '{"$x": 1}')],
)
def test_what_a_codec_cannot_mean_is_a_wrong_use(
    store: Path, table: str, key: str, value: str
) -> None:
    """And nothing is stored."""
    before = done("dump", store)
    assert run("put", store, "-t", table, key, value).exit_code == 2
    assert done("dump", store).splitlines()[1:] == before.splitlines()[1:]


def test_stored_bytes_of_a_codec_table(store: Path) -> None:
    """--hex names what is stored, whatever the codec; what the codec cannot decode is refused."""
    key = "7ffffffffffffff9"
    assert as_json("scan", store, "-t", "pack", "--hex")[0]["key"] == key
    assert done("get", store, "-t", "pack", "--hex", key).startswith("82")
    assert run("get", store, "-t", "pack", "--hex", "00").exit_code == 2


def test_a_table_is_made_with_its_codec(store: Path) -> None:
    """Only with --create; one that exists keeps its own."""
    assert run("put", store, "-t", "new", "k", "[1]").exit_code == 1
    assert run("put", store, "-t", "new", "--codec", "json", "k", "[1]").exit_code == 1
    done("put", store, "-t", "new", "--create", "--codec", "json", "k", "[1]")
    refused = run("put", store, "-t", "new", "--create", "--codec", "bytes", "k", "v")
    assert refused.exit_code == 1
    assert "codec" in refused.stderr


# ---- delete and scan


def test_delete_counts_what_was_there(store: Path) -> None:
    """An absent key is no error."""
    assert as_json("delete", store, "a", "nobody", "b") == [{"deleted": 2, "absent": 1}]
    assert done("delete", store, "ab", "a") == "1 deleted, 1 absent\n"
    assert [row["key"] for row in as_json("scan", store)] == [{"$base64": "/wA="}]


def test_scan_prints_pairs_in_order(store: Path) -> None:
    """One on a line, a tab between, everything escaped."""
    assert done("scan", store) == "a\t1\nab\t2\nb\t3\n\\xff\\x00\t\\xfe\n"
    assert done("scan", store, "--keys") == "a\nab\nb\n\\xff\\x00\n"


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--prefix", "a"], ["a", "ab"]),
        (["--start", "ab", "--stop", "c"], ["ab", "b"]),
        (["--reverse", "--start", "a", "--stop", "b"], ["ab", "a"]),
        (["--limit", "1"], ["a"]),
        (["--limit", "0"], []),
    ],
)
def test_scan_keeps_to_its_bounds(store: Path, options: list[str], keys: list[str]) -> None:
    """The same bounds as Table.scan."""
    assert [row["key"] for row in as_json("scan", store, "--keys", *options)] == keys


def test_scan_refuses_bounds_that_contradict(store: Path) -> None:
    """A prefix and a start are a wrong use; a prefix of integers is refused by the store."""
    assert run("scan", store, "--prefix", "a", "--start", "b").exit_code == 2
    assert run("scan", store, "-t", "pack", "--prefix", "1").exit_code == 1
    assert run("scan", store, "--limit", "-1").exit_code == 2


# ---- tables and stats


def test_tables_lists_them_all(store: Path) -> None:
    """The default one first, with codec, logged and how many keys."""
    rows = as_json("tables", store)
    assert [row["table"] for row in rows] == ["", "bare", "json", "pack", "text"]
    assert rows[0] == {"table": "", "codec": "bytes/bytes", "logged": True, "entries": 4}
    assert rows[1]["logged"] is False
    assert done("tables", store).splitlines()[3] == "pack\tint64/msgpack\tlogged\t1"


def test_stats_say_how_a_store_is(store: Path) -> None:
    """The JSON has what the text has, and every counter."""
    (found,) = as_json("stats", store)
    assert found["path"] == str(store)
    assert found["health"] == {"state": "ok", "reason": ""}
    assert found["stats"]["last_lsn"] == found["stats"]["stored_lsn"]
    assert found["recovery"]["clean"] is True
    assert found["disk"]["store"] > 0
    text = done("stats", store)
    assert "5, with 8 keys" in text
    assert "orderly" in text
