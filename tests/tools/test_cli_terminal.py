r"""What reaches a terminal or a pipe, with keys, values and names that mean harm.

Whatever a store holds, a terminal gets nothing of it but printable characters; colours are
the command's own, and a pipe gets none.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strandline
from strandline.tools.cli.terminal import escape, harmless
from tests.tools.command import PROGRAM, environment, on_terminal, piped

CLEAR = "\x1b[2J\x1b[H"
TITLE = "\x1b]0;owned\x07"
HOSTILE = [
    CLEAR,
    TITLE,
    "\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mC1",
    "\u202egnp.exe",
    "a\rb\nc\td\x08e\x7ff\x00g",
    "[bold red]markup[/bold red] [link=http://example.org]x[/link] [@click=app.bell]y[/]",
    ":smile: \\[x] \\x1b",
    "\ud7ff\ufffd\U000e0041\u200d\u2028\u2066\ufeff",
]
NUMBER = {f"{position:02}".encode(): text for position, text in enumerate(HOSTILE)}
OWN = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[[0-9]*[AK]|\x1b\[2K")
"""Colours, the cursor's visibility, and what takes a progress bar away again."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in whose keys, values and table names everything hostile lies."""
    path = tmp_path_factory.mktemp("hostile") / "data"
    with strandline.open(path) as db:
        for text in HOSTILE:
            db[text.encode()] = text.encode() + b"\xff"
        for number, text in NUMBER.items():
            db[number] = text.encode()
        for text in HOSTILE:
            db.table(text, codec="json").put("k", {text: [text]})
    return path


def check_harmless(output: bytes) -> None:
    """Nothing is left but printable text and line ends, once our own sequences are gone."""
    text = OWN.sub(b"", output).decode()
    rest = {char for char in text if not char.isprintable()}
    assert rest <= {"\n", "\r", "\t"}, text
    assert CLEAR.encode() not in output


VERBS = [
    ["scan"],
    ["scan", "--full"],
    ["scan", "--json"],
    ["scan", "--keys", "--reverse"],
    ["scan", "--hex"],
    ["scan", "--table", CLEAR],
    ["dump"],
    ["tables"],
    ["tables", "--json"],
    ["stats"],
    ["stats", "--json"],
    ["check"],
    ["get", CLEAR],
    ["get", CLEAR, "--json"],
    ["get", f"{TITLE}absent"],
    ["get", "k", "--table", f"{TITLE}absent"],
    ["get", "--hex", CLEAR],
    ["get", "k", f"--{CLEAR}"],
    ["get", "k", CLEAR, CLEAR],
    ["get", "k", "--table", CLEAR],
    ["delete", f"{TITLE}absent"],
    ["load", CLEAR, "--key", "k"],
    ["load", f"{CLEAR}.csv", "--key", "k"],
    ["load", "-", "--format", CLEAR],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(map(escape, verb)))
def test_nothing_hostile_reaches_a_terminal(store: Path, verb: list[str]) -> None:
    """In results, in messages of the store and in messages about a wrong use."""
    name, *rest = verb
    shown = on_terminal(name, store, *rest, columns=120)
    assert "Traceback" not in shown.text
    assert shown.output
    check_harmless(shown.output)


@pytest.mark.parametrize("arguments", [[CLEAR], [f"--{CLEAR}"], ["get", CLEAR, "k"]])
def test_nothing_hostile_comes_back_from_arguments(arguments: list[str]) -> None:
    """Verbs, options and paths that do not exist are quoted in messages."""
    check_harmless(on_terminal(*arguments).output)


def test_a_value_on_a_terminal_is_escaped_and_in_a_pipe_is_exact(store: Path) -> None:
    """The one verb whose output differs: a pipe wants the bytes."""
    for number, text in [*NUMBER.items()][::4]:
        shown = on_terminal("get", store, number.decode())
        check_harmless(shown.output)
        assert shown.text.strip() == escape(text).strip()
        assert piped("get", store, number.decode()).stdout == text.encode()


def test_markup_and_emoji_codes_stay_text(store: Path) -> None:
    """What rich would interpret comes out as it is stored."""
    shown = on_terminal("scan", store, "--full", columns=200).text
    assert "[bold red]markup[/bold red]" in shown
    assert ":smile:" in shown
    assert "[@click=app.bell]y[/]" in shown


# ---- pipes


@pytest.mark.parametrize("verb", ["scan", "dump", "tables", "stats", "check"])
def test_pipes_get_no_colours(store: Path, verb: str) -> None:
    """Neither results nor notes have an escape sequence."""
    said = piped(verb, store)
    assert said.returncode == 0
    assert b"\x1b" not in said.stdout + said.stderr


def test_help_and_errors_in_pipes_have_no_colours(store: Path) -> None:
    """Nor have those of the argument parser."""
    for arguments in (["--help"], ["get", "--help"], ["get"], ["get", store, "nobody"]):
        said = piped(*arguments)
        assert b"\x1b" not in said.stdout + said.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    """`strandline dump | head` leaves no traceback, and the store is closed in order."""
    path = tmp_path / "data"
    with strandline.open(path) as db:
        db.put_many({b"%06d" % number: b"x" * 50 for number in range(20_000)})
    for verb in ("dump", "scan"):
        process = subprocess.Popen(
            [*PROGRAM, verb, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        process.wait()
        assert said == b""
        with strandline.open(path) as db:
            assert db.recovery_report.clean


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("verb", ["dump", "tables"])
def test_output_that_cannot_be_written_is_an_error(store: Path, verb: str) -> None:
    """A dump onto a full disk must not end with status 0, however short it is."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, verb, str(store)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


# ---- widths


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_scan_cuts_lines_to_the_terminal(store: Path, columns: int) -> None:
    """A pair takes one line, whatever its length; a wide character takes two columns."""
    wide = store.parent / f"wide{columns}"
    with strandline.open(wide) as db:
        db[b"key"] = b"v" * 500
        db["鍵".encode()] = "値".encode() * 500
        db[b"k" * 300] = b"v"
    shown = on_terminal("scan", wide, columns=columns)
    lines = [OWN.sub(b"", line).decode() for line in shown.output.splitlines() if line]
    assert len(lines) == 3
    assert all(sum(1 + (char > "\u2e80") for char in line) <= columns for line in lines)
    assert "v" * 500 in piped("scan", wide).stdout.decode()


def test_progress_is_shown_on_a_terminal_alone(tmp_path: Path) -> None:
    """A bar while it loads, gone when it is done; nothing of it in a pipe."""
    rows = "".join(f"{number},x\n" for number in range(60_000))
    (tmp_path / "rows.csv").write_text(f"k,v\n{rows}")
    arguments = ("load", tmp_path / "data", tmp_path / "rows.csv", "--key", "k", "--create")
    shown = on_terminal(*arguments, columns=120)
    assert shown.status == 0
    assert "loading" in shown.text
    assert "records, " in shown.text
    assert "60,000 records loaded" in shown.text
    said = piped(*arguments)
    assert said.stderr == b""
    assert said.stdout.count(b"\n") == 1


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(
    store: Path, setting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the usual variables."""
    (name, value) = next(iter(setting.items()))
    script = f"{name}={value} exec {' '.join(PROGRAM)} tables {store}"
    said = subprocess.run(
        ["script", "-qec", script, "/dev/null"], capture_output=True, env=environment(), check=True
    )
    assert b"\x1b[3" not in said.stdout
    assert b"default" in said.stdout


# ---- escaping


def test_escapes_are_those_that_are_documented() -> None:
    """One form for each kind of character."""
    assert escape(b"a\n\t\r\x1b\x00\x7f\\") == r"a\n\t\r\x1b\x00\x7f\\"
    assert escape(b"\xff\xc3") == r"\xff\xc3"
    assert escape("\x85\u202e\U000e0041é鍵 ") == "\\u0085\\u202e\\U000e0041é鍵 "
    assert harmless("a\\x1b\x1b") == r"a\x1b\x1b"


@given(st.binary())
def test_escaping_can_be_undone(data: bytes) -> None:
    """Different bytes never look the same, and what is shown is printable."""
    text = escape(data)
    assert text.isprintable()
    assert unescape(text) == data


def unescape(text: str) -> bytes:
    """Undo `escape`, the slow way."""
    codes = {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\"}
    found = b""
    for part in re.findall(r"\\x..|\\u.{4}|\\U.{8}|\\.|[^\\]+", text):
        if part[0] != "\\":
            found += part.encode()
        elif part[1] == "x":
            found += bytes.fromhex(part[2:])
        elif part[1] in "uU":
            found += part.encode().decode("unicode_escape").encode()
        else:
            found += codes[part[1]]
    return found


def test_an_encoding_that_lacks_a_character(store: Path) -> None:
    """It is escaped, and is no error."""
    environ = {**environment(), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*PROGRAM, "scan", str(store)], capture_output=True, env=environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_a_closed_stdin_is_no_error(store: Path) -> None:
    """As under a supervisor that gives none."""
    done = subprocess.run(
        [*PROGRAM, "tables", str(store)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert done.stdout.count(os.linesep.encode()) == 1 + len(HOSTILE)
