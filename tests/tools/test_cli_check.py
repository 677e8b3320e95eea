"""`check`: its words, its JSON and its statuses; tests/recovery/test_check.py has what it finds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import strandline
from strandline.recovery.check_report import CheckVerdict
from strandline.tools.cli.check import STATUS
from strandline.wal.identity import encode_identity, read_identity
from strandline.wal.real_disk import RealDisk
from tests.recovery.check_stores import RECORDS, fill, flip, frames, segments
from tests.tools.command import ROOT, on_terminal, piped, run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed process left behind."""
    directory = tmp_path_factory.mktemp("stores")
    fill(directory / "closed", directory / "crashed")
    return directory / "crashed"


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "data"))


def newer(store: Path) -> None:
    """Make IDENTITY that of a newer format."""
    identity = read_identity(RealDisk(), str(store))._replace(version=2)
    (store / "IDENTITY").write_bytes(encode_identity(identity))


DAMAGES: dict[CheckVerdict, Callable[[Path], object]] = {
    CheckVerdict.SOUND: lambda _: None,
    CheckVerdict.UNREADABLE: shutil.rmtree,
    CheckVerdict.TORN_TAIL: lambda store: os.truncate(
        segments(store)[-1], frames(segments(store)[-1])[-1] + 9
    ),
    CheckVerdict.LOG_DAMAGE: lambda store: flip(segments(store)[0], frames(segments(store)[0])[3]),
    CheckVerdict.GAP: lambda store: segments(store)[1].unlink(),
    CheckVerdict.FOREIGN: newer,
    CheckVerdict.STORE_DAMAGE: lambda store: flip(store / "store" / "data.mdb", 16),
}
STATUSES = {
    CheckVerdict.SOUND: 0,
    CheckVerdict.UNREADABLE: 1,
    CheckVerdict.TORN_TAIL: 3,
    CheckVerdict.LOG_DAMAGE: 4,
    CheckVerdict.GAP: 5,
    CheckVerdict.FOREIGN: 6,
    CheckVerdict.STORE_DAMAGE: 7,
}


def test_the_statuses_are_those_that_are_documented() -> None:
    """Scripts depend on them; 2 is a wrong use."""
    assert STATUS == STATUSES
    assert run("check").exit_code == 2


@pytest.mark.parametrize("verdict", DAMAGES)
def test_status_and_json_agree(store: Path, verdict: CheckVerdict) -> None:
    """The verdict, the status and the findings, each of them whole."""
    DAMAGES[verdict](store)
    result = run("check", store, "--json")
    assert result.exit_code == STATUSES[verdict]
    found = json.loads(result.stdout)
    assert (found["verdict"], found["status"]) == (verdict.value, STATUSES[verdict])
    assert found["path"] == str(store)
    assert found["approximate"] is False
    assert bool(found["findings"]) == (verdict is not CheckVerdict.SOUND)
    for finding in found["findings"]:
        assert set(finding) == {
            "verdict",
            "path",
            "offset",
            "lsn",
            "expected",
            "found",
            "next_step",
            "fatal",
        }
    words = run("check", store)
    assert words.exit_code == STATUSES[verdict]
    assert all(each["next_step"] in words.stdout for each in found["findings"])
    # A store that does not open replays nothing.
    opens = not any(each["fatal"] for each in found["findings"])
    assert ("opening replays" in words.stdout) == opens


def test_the_facts_are_in_the_json(store: Path) -> None:
    """What docs/command.md lists."""
    found = json.loads(run("check", store, "--json").stdout)
    assert found["log"]["operations"] == found["log"]["to_replay"] == RECORDS
    assert found["log"]["clean"] is False
    assert found["store"]["values_checked"] is True
    assert found["writer"] is None
    assert len(found["uuid"]) == 32


def test_the_reference_has_every_field(store: Path) -> None:
    """docs/command.md names each field of the JSON and each status."""
    DAMAGES[CheckVerdict.LOG_DAMAGE](store)
    found = json.loads(run("check", store, "--json").stdout)
    text = (ROOT / "docs" / "command.md").read_text()
    fields = [*found, *found["log"], *found["store"], *found["findings"][0], "pid", "started"]
    assert [name for name in fields if f"`{name}`" not in text] == []
    for verdict, status in STATUSES.items():
        assert f"| {status} | `{verdict.value}` |" in text


def test_a_sound_store_in_words(store: Path) -> None:
    """The verdict comes first, and what the next opening will do is said."""
    text = run("check", store).stdout
    assert text.splitlines()[0] == f"{store}: sound"
    assert f"replays {RECORDS:,} operations" in text


def test_a_writer_is_named(tmp_path: Path) -> None:
    """Words and JSON say who it is, and that the check is approximate."""
    store = tmp_path / "data"
    with strandline.open(store) as db:
        db[b"k"] = b"v"
        said = piped("check", store)
        assert said.returncode == 0
        assert f"pid {os.getpid()}".encode() in said.stdout
        assert b"live end" in said.stdout
        found = json.loads(piped("check", store, "--json").stdout)
    assert found["approximate"] is True
    assert found["writer"]["pid"] == os.getpid()


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_findings_fit_any_terminal(store: Path, columns: int) -> None:
    """No line is longer than the terminal is wide, but for words that are."""
    DAMAGES[CheckVerdict.LOG_DAMAGE](store)
    shown = on_terminal("check", store, columns=columns)
    assert shown.status == 4
    plain = [part for line in shown.text.split("\n") for part in line.split("\r")]
    text = [line for line in plain if "\x1b" not in line and str(store) not in line]
    assert max(map(len, text)) <= columns
    assert "point-in-time" in shown.text


def test_what_is_found_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    """Paths are escaped like everything else."""
    hostile = tmp_path / "a\x1b[2Jb"
    for shown in (on_terminal("check", hostile).output, piped("check", hostile).stdout):
        assert b"\x1b[2J" not in shown
        assert rb"a\x1b[2Jb" in shown
