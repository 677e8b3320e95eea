"""`dump`, and `load --format dump`: whatever a store holds comes back exactly."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strandline
from strandline.codecs import get_codec
from strandline.tools.cli.plain import from_json, from_plain, to_json, to_plain
from tests.tools.command import done, piped, run

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
NAMES = st.text(st.characters(exclude_categories=["Cs"])) | st.just("$base64") | st.just("$map")
JSON_VALUES = st.recursive(
    SCALARS.filter(lambda each: each not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
)
MSGPACK_VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            NAMES | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(), inner, max_size=4
        )
    ),
)


@pytest.mark.parametrize(
    ("kind", "values"), [("bytes", st.binary()), ("json", JSON_VALUES), ("msgpack", MSGPACK_VALUES)]
)
def test_values_survive_json(kind: str, values: st.SearchStrategy[Any]) -> None:
    """What a codec takes comes back equal, of the same type, through ASCII on one line."""
    encode = get_codec(f"bytes/{kind}").encode_value

    @given(values)
    def survives(value: Any) -> None:
        text = to_json(to_plain(kind, value))
        assert text.isascii()
        assert text.isprintable()
        assert encode(from_plain(kind, from_json(text))) == encode(value)

    survives()


def test_floats_that_json_lacks() -> None:
    """nan and the infinities are marked."""
    for number in (float("nan"), float("inf"), float("-inf")):
        text = to_json(to_plain("msgpack", [number]))
        assert str(from_plain("msgpack", from_json(text))) == str([number])


@pytest.mark.parametrize(
    "plain",
    [
        {"$base64": 1},
        {"$base64": "!"},
        {"$base64": "", "x": 1},
        {"$float": "1"},
        {"$map": 1},
        {"$map": [[1]]},
        {"$map": [[[], 1]]},
        {"$map": [[{"$map": []}, 1]]},
        {"$other": 1},
    ],
)
def test_marks_that_are_none_are_refused(plain: Any) -> None:
    """Nothing that begins with a dollar is guessed at."""
    with pytest.raises(ValueError, match="expected"):
        from_plain("msgpack", plain)


def test_deep_nesting_is_refused() -> None:
    """It ends in a message and not in the interpreter's limit."""
    plain: Any = []
    for _ in range(100_000):
        plain = [plain]
    with pytest.raises(ValueError, match="brackets"):
        from_plain("msgpack", plain)
    while plain:  # taken apart from outside: its destructor would recurse too
        plain = plain.pop()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with tables of all kinds."""
    path = tmp_path / "data"
    with strandline.open(path) as db:
        db.put_many({b"a": b"1", b"\xff": b"\x00", "é\u202e".encode(): b"\x1b[31m"})
        db.table("m", codec="int64/msgpack").put(-1, {1: b"\xff", "f": float("inf")})
        db.table("j\n", codec="json").put("k", {"$base64": "as it is"})
        db.table("u", codec="utf-8", logged=False).put("k", "v")
        db.table("empty", codec="bytes/json")
    return path


def tables(path: Path) -> dict[str, Any]:
    """Everything in a store, with how its tables are defined."""
    with strandline.open(path) as db:
        found = {}
        for name in ["", *db.tables()]:
            state = db.definitions.find(name)
            assert state is not None
            found[name] = (state.codec.name, state.logged, dict(db.table(name)))
        return found


def test_a_dump_loads_again(store: Path, tmp_path: Path) -> None:
    """Every table, key, value and definition."""
    (tmp_path / "dump").write_text(done("dump", store))
    done("load", tmp_path / "copy", tmp_path / "dump", "--format", "dump", "--create")
    assert tables(tmp_path / "copy") == tables(store)


@given(st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=40), max_size=20))
def test_any_bytes_load_again(items: dict[bytes, bytes]) -> None:
    """Through two processes' worth of pipes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with strandline.open(path / "data") as db:
            db.put_many(items)
        text = done("dump", path / "data")
        assert text.isascii()
        options = ("--format", "dump", "--create")
        done("load", path / "copy", "-", *options, data=text.encode())
        with strandline.open(path / "copy") as db:
            assert dict(db) == items


def test_one_table_alone(store: Path) -> None:
    """Named by --table; one that does not exist is an error."""
    lines = [json.loads(line) for line in done("dump", store, "-t", "m").splitlines()]
    assert [line.get("table") for line in lines] == [None, "m", None, None]
    assert lines[-1] == {"end": True, "entries": 1}
    assert run("dump", store, "-t", "nobody").exit_code == 1


def test_a_dump_of_something_large_is_whole(tmp_path: Path) -> None:
    """More lines than are written at once."""
    with strandline.open(tmp_path / "data") as db:
        db.put_many({b"%05d" % number: b"x" for number in range(3500)})
    lines = piped("dump", tmp_path / "data").stdout.splitlines()
    assert len(lines) == 3503
    assert json.loads(lines[-1])["entries"] == 3500


def test_tables_are_made_only_with_create(store: Path, tmp_path: Path) -> None:
    """A dump into a store that lacks its tables needs --create too."""
    text = done("dump", store).encode()
    strandline.open(tmp_path / "copy").close()
    assert run("load", tmp_path / "copy", "-", "--format", "dump", data=text).exit_code == 1
    with strandline.open(tmp_path / "copy") as db:
        assert db.tables() == []


def test_a_table_that_is_defined_otherwise_is_refused(store: Path, tmp_path: Path) -> None:
    """Keys of one codec are not put into a table of another."""
    text = done("dump", store).encode()
    with strandline.open(tmp_path / "copy") as db:
        db.table("m", codec="utf-8")
    result = run("load", tmp_path / "copy", "-", "--format", "dump", "--create", data=text)
    assert result.exit_code == 1
    assert "codec" in result.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines[:-1], "cut short"),
        (lambda lines: lines[:3] + lines[4:], "missing"),
        (lambda lines: lines[1:], "first line"),
        (lambda lines: [*lines, '{"key":"x","value":"y"}'], "more"),
        (lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]], "version"),
        (lambda lines: [lines[0], *lines[2:]], "expected a table"),
        (lambda lines: [*lines[:2], "[]", *lines[2:]], "expected a table"),
        (lambda lines: [*lines[:2], '{"key":1,"value":""}', *lines[2:]], "expected a string"),
        (lambda lines: [lines[0], lines[1].replace("bytes", "pickle"), *lines[2:]], "codec"),
        (lambda lines: [lines[0], "{", *lines[2:]], "JSON"),
        (lambda _: [], "first line"),
    ],
)
def test_a_dump_that_is_not_whole_is_refused(
    store: Path, tmp_path: Path, change: Any, says: str
) -> None:
    """Whatever was left out, added or changed, with the line."""
    lines = done("dump", store, "--table", "").splitlines()
    text = "\n".join(change(lines)).encode()
    options = ("--format", "dump", "--create")
    result = run("load", tmp_path / "copy", "-", *options, data=text)
    assert result.exit_code == 1, result.stdout
    assert says in result.stderr
    assert "stdin: line" in result.stderr
