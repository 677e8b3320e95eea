"""`wal-inspect history`: every version of a key, what removed it, and what a reader sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

import strandline
from strandline.engine.operations import DELETE, PUT
from strandline.engine.record_apart import StoredRecord, read_record_apart
from strandline.errors import StoreCorruptionError
from strandline.tools.inspect.versions import Version, contradiction, seen_now
from tests.recovery.check_stores import NEVER, copy_open, flip, frames, rewrite_frame
from tests.tools.inspecting import document, inspect, inspected


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "data"


def facts(found: dict[str, Any]) -> list[tuple[int, str, str | None, bool | None, str]]:
    """LSN, operation, value, whether it is in LMDB, and state of every version."""
    return [
        (each["lsn"], each["op"], each["value"], each["in_lmdb"], each["state"])
        for each in found["versions"]
    ]


def test_every_version(store: Path) -> None:
    """Each put and delete of the key is there, with its frame; other keys are not."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        db[b"other"] = b"k"
        db.put_many({b"a": b"x", b"k": b"2", b"z": b"x"})
        db.flush()
        del db[b"k"]
        db[b"k"] = b"3"
        found = document("history", store, "k")
    assert facts(found) == [
        (1, "put", "1", True, "superseded"),
        (4, "put", "2", True, "superseded"),
        (6, "delete", None, False, "superseded"),
        (7, "put", "3", False, "current"),
    ]
    frame = found["versions"][1]
    assert (frame["frame_first_lsn"], frame["frame_operations"]) == (3, 3)
    assert frame["segment"] == 1
    assert frame["offset"] > found["versions"][0]["offset"]
    assert found["lmdb"] == {"watermark_lsn": 5, "lsn": 4, "value": "2"}
    assert found["seen"] == {"lsn": 7, "present": True, "source": "log"}
    assert found["contradiction"] is None
    assert (found["key"], found["table"], found["logged"]) == ("k", "", True)


def test_a_clear_removes_it(store: Path) -> None:
    """A clear of its table decides about the key; that of another table does not."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        db.table("other")[b"k"] = b"no"
        db.table("other").clear()
        db.clear()
        found = document("history", store, "k")
    assert [each[:2] for each in facts(found)] == [(1, "put"), (5, "clear")]
    assert found["versions"][-1]["state"] == "current"
    assert found["seen"] == {"lsn": 5, "present": False, "source": "log"}
    assert document("history", store, "k")["seen"]["present"] is False


def test_a_table_that_was_dropped_and_made_anew(store: Path) -> None:
    """All tables that had the name count, each by its own id."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        users = db.table("users", codec="int64/msgpack")
        users[17] = {"n": 1}
        db.drop_table("users")
        db.table("users", codec="int64/msgpack")[17] = {"n": 2}
        db[b"17"] = b"default"
        text = inspected("history", store, "17", "--table", "users", "--values", "msgpack")
        found = document("history", store, "17", "--table", "users", "--values", "msgpack")
    assert [(each["op"], each["table_id"]) for each in found["versions"]] == [
        ("create", 2),
        ("put", 2),
        ("drop", 2),
        ("create", 3),
        ("put", 3),
    ]
    assert [each["value"] for each in found["versions"] if each["op"] == "put"] == [
        {"n": 1},
        {"n": 2},
    ]
    assert found["key"] == 17
    assert '{"n":2}' in text
    with strandline.open(store) as db:
        db.drop_table("users")
    found = document("history", store, "17", "--table", "users")
    assert found["seen"]["present"] is False
    found = document("history", store, "17", "--table", "#3")
    assert found["versions"][-1]["op"] == "drop"


def version(lsn: int, op: int, value: bytes | None = None) -> Version:
    """An operation on the key, in a frame of its own."""
    return Version(lsn, 1, 1, op, value, 1, 4096, lsn, 1)


def test_what_a_reader_sees() -> None:
    """Up to LMDB's watermark LMDB decides, above it the log; without LMDB the log alone."""
    put, delete = version(7, PUT, b"log"), version(7, DELETE)
    assert seen_now(put, StoredRecord(6, 3, b"lmdb")) == (7, b"log", "log")
    assert seen_now(delete, StoredRecord(6, 3, b"lmdb")) == (7, None, "log")
    assert seen_now(put, StoredRecord(9, 8, b"lmdb")) == (8, b"lmdb", "lmdb")
    assert seen_now(put, StoredRecord(9, None, None)) == (None, None, "lmdb")
    assert seen_now(put, None) == (7, b"log", "log")
    assert seen_now(None, None) is None


def test_what_contradicts() -> None:
    """Only what lies at or below the watermark can be another in LMDB than in the log."""
    put, delete = version(7, PUT, b"v"), version(7, DELETE)
    assert contradiction(put, StoredRecord(6, 3, b"w")) is None
    assert contradiction(put, StoredRecord(7, 7, b"v")) is None
    assert contradiction(delete, StoredRecord(7, None, None)) is None
    assert contradiction(None, StoredRecord(7, 3, b"v")) is None
    assert "expected LSN 7 for the key" in str(contradiction(put, StoredRecord(7, 3, b"v")))
    assert "expected nothing for the key" in str(contradiction(delete, StoredRecord(7, 3, b"v")))


def test_a_name_within_another(store: Path) -> None:
    """A table whose name merely contains the one that is asked for is another table."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db.table("users")[b"k"] = b"1"
        db.table("users-old")[b"k"] = b"2"
        db.drop_table("users-old")
        found = document("history", store, "k", "--table", "users")
    assert [(each["op"], each["value"]) for each in found["versions"]] == [
        ("create", None),
        ("put", "1"),
    ]


def test_damage_explains_what_does_not_fit(store: Path, tmp_path: Path) -> None:
    """No contradiction is told where the version that LMDB holds is damaged in the log."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        db[b"k"] = b"2"
        db[b"other"] = b"3"
        db.flush()
        copy_open(store, tmp_path / "copy")
    log = tmp_path / "copy" / "log" / "0000000000000001.wal"
    flip(log, frames(log)[1] + 75)
    found = document("history", tmp_path / "copy", "k", status=4)
    assert [(each["lsn"], each["state"]) for each in found["versions"]] == [(1, "superseded")]
    assert found["seen"] == {"lsn": 2, "present": True, "source": "lmdb"}
    assert found["contradiction"] is None


def test_lmdb_decides_what_the_log_no_longer_holds(store: Path) -> None:
    """A key whose versions were given back is told from LMDB; a key that never was, too."""
    with strandline.open(store) as db:
        db[b"k"] = b"1"
    with strandline.open(store) as db:
        db[b"other"] = b"2"
    found = document("history", store, "k")
    assert found["versions"] == []
    assert found["lmdb"]["value"] == "1"
    assert found["seen"] == {"lsn": 1, "present": True, "source": "lmdb"}
    text = inspected("history", store, "k")
    assert "The log holds no version of key k." in text
    assert "LMDB holds, as of LSN 2: LSN 1: 1" in text
    assert "A reader sees: LSN 1, from LMDB" in text
    text = inspected("history", store, "never")
    assert "LMDB holds, as of LSN 2: nothing for it" in text
    assert "A reader sees: nothing" in text


def test_a_log_without_a_store(store: Path, tmp_path: Path) -> None:
    """Of a lone log the versions are told, and that LMDB is not known."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        copy_open(store / "log", tmp_path / "copied")
    found = document("history", tmp_path / "copied", "k")
    assert facts(found) == [(1, "put", "1", None, "current")]
    assert found["lmdb"] is None
    assert found["seen"] == {"lsn": 1, "present": True, "source": "log"}
    text = inspected("history", tmp_path / "copied", "never")
    assert "A reader sees: what LMDB holds, which is not known here" in text


def test_an_unlogged_table(store: Path, tmp_path: Path) -> None:
    """What is not logged is as LMDB has it, and no contradiction to its create in the log."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db.table("cache", logged=False)[b"k"] = b"1"
        db[b"x"] = b"1"
        db.flush()
        copy_open(store, tmp_path / "copy")
        found = document("history", tmp_path / "copy", "k", "--table", "cache")
        assert "is not logged" in inspected("history", store, "k", "--table", "cache")
    assert found["logged"] is False
    assert found["lmdb"]["value"] == "1"
    assert found["seen"]["source"] == "lmdb"
    assert found["contradiction"] is None


def test_lmdb_holds_something_else(store: Path, tmp_path: Path) -> None:
    """Where log and LMDB say different things about a key, with nobody at work, that is told."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        db[b"gone"] = b"1"
        db.flush()
        copy_open(store, tmp_path / "copy")
    log = tmp_path / "copy" / "log" / "0000000000000001.wal"
    first, second = frames(log)
    rewrite_frame(log, first, lambda rest: [None, 9, b"k", b"2"] if rest else [None, 9, b"k", b""])
    rewrite_frame(log, second, lambda rest: [None, 10, b"gone" + rest, None])
    found = document("history", tmp_path / "copy", "k")
    assert found["contradiction"] == (
        "LMDB: expected the value of LSN 1 for the key, as the log has it, found another one"
    )
    result = inspect("history", tmp_path / "copy", "k")
    assert result.exit_code == 0
    assert "expected the value of LSN 1" in result.stderr


def test_keys_are_given_as_they_are_shown(store: Path) -> None:
    """Whatever a key is made of, what `dump` shows of it finds it; nothing acts on a terminal."""
    keys = [b"\x00\xff", b"a\\b", b"\x1b[31m", "Straße".encode(), b"new\nline"]
    with strandline.open(store, flush_strategy=NEVER) as db:
        for key in keys:
            db[key] = b"\x1b]0;x\x07" + key
        lines = inspected("dump", store, "--values", "none").splitlines()[1:]
        for key, line in zip(keys, lines, strict=True):
            shown = line.split("put", 1)[1].strip()
            found = document("history", store, shown)
            assert len(found["versions"]) == 1, (key, shown)
            text = inspected("history", store, shown)
            assert all(part.isprintable() for part in text.splitlines())


def test_forms_of_values(store: Path) -> None:
    """--values says how values are shown, here as elsewhere; none leaves them out."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        db[b"k"] = msgpack.packb([1])
        db.flush()
        assert document("history", store, "k", "--values", "msgpack")["lmdb"]["value"] == [1]
        assert document("history", store, "k", "--values", "hex")["versions"][0]["value"] == "9101"
        found = document("history", store, "k", "--values", "none")
        assert "value" not in found["versions"][0]
        assert "value" not in found["lmdb"]
        assert "9101" in inspected("history", store, "k", "--values", "hex")


def test_the_log_s_status(store: Path, tmp_path: Path) -> None:
    """Damage is told on stderr and is the exit status; what verifies is shown."""
    with strandline.open(store, flush_strategy=NEVER) as db:
        for number in range(5):
            db[b"k"] = b"%d" % number
        copy_open(store, tmp_path / "copy")
    log = tmp_path / "copy" / "log" / "0000000000000001.wal"
    flip(log, frames(log)[2] + 75)
    result = inspect("history", tmp_path / "copy", "k", "--json")
    assert result.exit_code == 4
    assert "damage in mid-log" in result.stderr
    assert [each["lsn"] for each in json.loads(result.stdout)["versions"]] == [1, 2, 4, 5]


def test_wrong_use(store: Path) -> None:
    """A table that nobody knows and a key that cannot be one are usage errors."""
    with strandline.open(store) as db:
        db.table("numbers", codec="int64/bytes")[1] = b"1"
    assert inspect("history", store, "k", "--table", "no such").exit_code == 2
    assert inspect("history", store, "k", "--table", "numbers").exit_code == 2


def test_a_record_read_apart(store: Path) -> None:
    """The child finds what LMDB holds, nothing where there is nothing, also for large values."""
    with strandline.open(store) as db:
        db[b"large"] = large = bytes(range(256)) * (1 << 14)
        db.table("other")[b"large"] = b"small"
    directory = str(store / "store")
    assert read_record_apart(directory, 1, b"large") == (3, 1, large)
    assert read_record_apart(directory, 2, b"large") == (3, 3, b"small")
    assert read_record_apart(directory, 1, b"no") == (3, None, None)
    assert read_record_apart(directory, 7, b"large") == (3, None, None)


def test_a_damaged_record_read_apart(store: Path) -> None:
    """A record whose checksum does not hold is refused, and what ends the child is an error."""
    with strandline.open(store) as db:
        db[b"k"] = b"a value to be found"
    data = store / "store" / "data.mdb"
    content = data.read_bytes()
    data.write_bytes(content.replace(b"a value to be found", b"a value to be fOund"))
    with pytest.raises(StoreCorruptionError, match="fails its checksum"):
        read_record_apart(str(store / "store"), 1, b"k")
    result = inspect("history", store, "k")
    assert result.exit_code == 0
    assert "what LMDB holds of the key is not known" in result.stderr
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreCorruptionError):
        read_record_apart(str(store / "store"), 1, b"k")
