"""How the command fails: one clear message on stderr, a status, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import strandline
from strandline.errors import StrandlineError
from tests.tools.command import ROOT, done, environment, piped, run

VERBS = ["get", "put", "delete", "scan", "load", "dump", "tables", "stats", "check", "demo"]
READING = [["get", "k"], ["delete", "k"], ["scan"], ["dump"], ["tables"], ["stats"]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    """The help says what it does and shows a call that begins with the program's name."""
    text = " ".join(done(verb, "--help").split())
    assert "Usage" in text
    assert f"strandline {verb}" in text.split("Usage", 1)[1].split("Options", 1)[1]


def test_the_help_lists_every_verb() -> None:
    """In the order in which one meets them."""
    text = done("--help").partition("Commands")[2]
    places = [text.index(f" {verb} ") for verb in VERBS]
    assert places == sorted(places)


def test_the_version() -> None:
    """The package's own."""
    assert done("--version") == f"strandline {strandline.__version__}\n"


@pytest.mark.parametrize("arguments", READING, ids=lambda each: each[0])
def test_a_path_that_does_not_exist_is_never_made(tmp_path: Path, arguments: list[str]) -> None:
    """A typo is an error, for a missing path, an empty directory, other files and a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("text")
    (tmp_path / "file").write_text("text")
    verb, *rest = arguments
    for name in ("missing", "empty", "other", "file"):
        result = run(verb, tmp_path / name, *rest)
        assert result.exit_code == 1
        assert "expected a store" in result.stderr
        assert str(tmp_path / name) in result.stderr
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes"]


def test_put_makes_a_store_only_when_told_to(tmp_path: Path) -> None:
    """And never in a directory that holds something else."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("text")
    assert run("put", tmp_path / "data", "k", "v").exit_code == 1
    assert not (tmp_path / "data").exists()
    assert run("put", tmp_path / "other", "k", "v", "--create").exit_code == 1
    assert run("put", tmp_path / "data", "k", "v", "--create").exit_code == 0


def test_a_store_that_is_open_elsewhere(tmp_path: Path) -> None:
    """The process is named, and what works beside it."""
    with strandline.open(tmp_path / "data"):
        said = piped("get", tmp_path / "data", "k")
    assert said.returncode == 1
    assert str(os.getpid()).encode() in said.stderr
    assert b"strandline check" in said.stderr
    assert b"Traceback" not in said.stderr
    assert said.stderr.count(b"\n") == 1


def test_what_the_store_refuses_is_one_line(tmp_path: Path) -> None:
    """An error of the tree, with status 1."""
    result = run("put", tmp_path / "data", "k" * 512, "v", "--create")
    assert result.exit_code == 1
    assert result.stderr.startswith("strandline: ")
    assert "511" in result.stderr
    assert result.stdout == ""


def test_any_error_of_the_tree_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that no verb knows of, and an OSError; a mistake of the program is not hidden."""
    strandline.open(tmp_path / "data").close()
    errors: list[Exception] = [
        StrandlineError("it\x1b broke"),
        strandline.DiskFullError("no room"),
        PermissionError(13, "Permission denied", "x"),
    ]
    for error in errors:

        def fails(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(strandline, "open", fails)
        result = run("get", tmp_path / "data", "k")
        assert result.exit_code == 1
        assert result.stderr.startswith("strandline: ")
        assert "\x1b" not in result.stderr

    def mistaken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(strandline, "open", mistaken)
    assert isinstance(run("get", tmp_path / "data", "k").exception, ZeroDivisionError)


def test_a_damaged_store_says_what_to_do(tmp_path: Path) -> None:
    """The message of the error, and no traceback."""
    strandline.open(tmp_path / "data").close()
    (tmp_path / "data" / "IDENTITY").write_bytes(b"STRANDID")
    said = piped("get", tmp_path / "data", "k")
    assert said.returncode == 1
    assert b"IDENTITY" in said.stderr
    assert b"Traceback" not in said.stderr


def test_a_file_to_load_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is made for its sake."""
    options = ("--key", "k", "--create")
    result = run("load", tmp_path / "data", tmp_path / "nothing.csv", *options)
    assert result.exit_code == 1
    assert "nothing.csv" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_torn_tail_is_told_once(tmp_path: Path) -> None:
    """A verb that opens a store says what recovery dropped; the next one has nothing to say."""
    path = tmp_path / "data"
    code = (
        "import os, sys, strandline\n"
        "db = strandline.open(sys.argv[1], sync_interval=3600)\n"
        "db[b'k'] = b'v'\n"
        "db.put(b'l', b'w' * 999, durability=strandline.Durability.BUFFERED)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment(), check=True)
    (last,) = (each for each in (path / "log").iterdir() if b"w" * 999 in each.read_bytes())
    data = last.read_bytes()
    last.write_bytes(data[: data.index(b"w" * 999) + 500])
    assert piped("check", path).returncode == 3
    first, second = piped("scan", path), piped("scan", path)
    assert first.stdout == second.stdout == b"k\tv\n"
    assert b"cut short" in first.stderr
    assert b"quarantine" in first.stderr
    assert second.stderr == b""


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """One line, status 1, and the package itself still imports."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import strandline\n"
        "from strandline.tools.cli.main import run\n"
        "run()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=False
    )
    assert said.returncode == 1
    assert b"strandline[cli]" in said.stderr
    assert said.stderr.count(b"\n") == 1


def test_a_mistake_in_the_package_is_not_taken_for_a_missing_extra() -> None:
    """Only the absence of what the extra brings is explained."""
    code = (
        "import sys; sys.modules['msgpack'] = None\n"
        "from strandline.tools.cli.main import run\n"
        "run()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=False
    )
    assert b"Traceback" in said.stderr


def test_the_console_script_is_declared() -> None:
    """The name that pyproject.toml gives leads to a function that runs the command."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["strandline"].partition(":")
    said = subprocess.run(
        [sys.executable, "-c", f"import {module} as m; m.{function}()", "--version"],
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert said.stdout.startswith(b"strandline ")
