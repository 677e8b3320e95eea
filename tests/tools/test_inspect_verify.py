"""`ls` and `verify`: their words and documents, and a second opinion on every CRC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline.tools.inspect import independent
from strandline.wal import reader, resync
from strandline.wal.checksum import crc32c, portable_crc32c
from tests.recovery.check_stores import NEVER, fill, flip, frames, segments, state_of
from tests.support.logs import LogBuilder, sample
from tests.tools.command import environment
from tests.tools.inspecting import PROGRAM, document, inspect, inspected, lay, piped, segment


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store that was closed, and one whose process was killed."""
    directory = tmp_path_factory.mktemp("stores")
    fill(directory / "closed", directory / "crashed")
    return directory / "closed", directory / "crashed"


def test_ls_says_what_each_segment_holds(stores: tuple[Path, Path]) -> None:
    """LSNs are dense over segments, and everything is counted once."""
    report = document("ls", stores[1])
    found = [each for each in report["segments"] if each["operations"]]
    assert [each["segment"] for each in found] == list(range(1, len(found) + 1))
    assert [each["state"] for each in found] == ["sealed"] * (len(found) - 1) + ["open"]
    lsn = 0
    for each in found:
        assert each["first_lsn"] == lsn + 1
        assert each["last_lsn"] - lsn == each["operations"]
        assert each["frames"] >= each["operations"]  # an idle log has a sync mark
        assert 4096 < each["used_bytes"] <= each["file_bytes"]
        assert not each["in_lmdb"]
        lsn = each["last_lsn"]
    assert (report["last_lsn"], report["operations"], report["watermark_lsn"]) == (lsn, lsn, 0)


def test_a_closed_store(stores: tuple[Path, Path]) -> None:
    """The last segment says that it was closed in order, and all is in LMDB."""
    report = document("ls", stores[0])
    last = [each for each in report["segments"] if each["frames"]][-1]
    assert (last["clean"], last["in_lmdb"], last["state"]) == (True, True, "sealed")
    assert [each["state"] for each in report["segments"]][-1] in ("spare", "recycled")


def test_every_kind_of_path_is_taken(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """A store, its log, a copy of the log, one segment, a segment under another name, a link."""
    store = stores[1]
    assert document("ls", store)["kind"] == "store"
    report = document("ls", store / "log")
    assert (report["kind"], report["watermark_lsn"]) == ("log", 0)
    shutil.copytree(store / "log", tmp_path / "copy")
    assert document("ls", tmp_path / "copy")["watermark_lsn"] is None
    one = segments(store)[1]
    report = document("ls", one)
    assert (report["kind"], [each["segment"] for each in report["segments"]]) == ("segment", [2])
    shutil.copy(one, tmp_path / "some file")
    assert document("verify", tmp_path / "some file")["verdict"] == "sound"
    (tmp_path / "link").symlink_to(store)
    assert document("verify", tmp_path / "link")["verdict"] == "sound"


def test_missing_segments_have_a_row(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """The place of a missing segment is listed, and says gap."""
    store = Path(shutil.copytree(stores[1], tmp_path / "data"))
    segments(store)[1].unlink()
    rows = document("ls", store, status=5)["segments"]
    assert [(each["state"], each["verdict"]) for each in rows][1] == ("missing", "gap")
    assert "missing" in inspected("ls", store, status=5)


def test_nothing_is_written(stores: tuple[Path, Path]) -> None:
    """No command changes a file or a time of the store, or leaves one behind."""
    before = state_of(stores[1])
    inspected("ls", stores[1])
    inspected("verify", stores[1], "--independent", "--operations")
    inspected("dump", stores[1])
    inspected("frame", stores[1], 3)
    assert before == state_of(stores[1])


def test_lmdb_that_cannot_be_read(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """The log is judged by what it says itself, and that is said."""
    store = Path(shutil.copytree(stores[1], tmp_path / "data"))
    os.truncate(store / "store" / "data.mdb", 100)
    report = document("verify", store)
    assert (report["verdict"], report["watermark_lsn"]) == ("sound", None)
    assert "what LMDB holds is not known" in report["notes"][0]


def test_a_watermark_beyond_the_log(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """LMDB holds more than the log ever said: a part of the log is missing."""
    store = Path(shutil.copytree(stores[0], tmp_path / "data"))
    shutil.rmtree(store / "log")
    shutil.copytree(stores[1] / "log", store / "log")
    last = segments(store)[-1]
    os.truncate(last, frames(last)[2])
    report = document("verify", store, status=5)
    (finding,) = report["findings"]
    assert finding["verdict"] == "store-damage"
    assert "1200, the watermark in LMDB" in finding["expected"]


def test_two_findings(tmp_path: Path) -> None:
    """Everything that is wrong is told, and the gravest gives the status."""
    log = sample()
    path = lay(log, tmp_path / "log")
    flip(segment(path, 1), log.segments[1].frames[1].offset + 75)
    segment(path, 2).unlink()
    report = document("verify", path, status=5)
    assert {each["verdict"] for each in report["findings"]} >= {"log-damage", "gap"}
    text = inspected("verify", path, status=5)
    assert text.count("expected") == len(report["findings"])
    assert text.count("next") >= len(report["findings"])


def test_operations_that_cannot_be_replayed(tmp_path: Path) -> None:
    """With --operations payloads are decoded too; without, checksums are all that is asked."""
    log = LogBuilder()
    log.open()
    log.data(payload=b"no msgpack of operations")
    path = lay(log, tmp_path / "log")
    assert document("verify", path)["verdict"] == "sound"
    report = document("verify", path, "--operations", status=4)
    assert report["findings"][0]["lsn"] == 1


# ---- a second opinion


def test_crcmod_agrees(stores: tuple[Path, Path]) -> None:
    """Every header and frame, seals and marks included, is computed anew."""
    opinion = document("verify", stores[1], "--independent")["independent"]
    headers = len(segments(stores[1]))
    assert (opinion["headers"], opinion["disagreements"]) == (headers, [])
    assert opinion["frames"] >= 1200 + headers - 1


def test_what_is_damaged_is_so_for_both(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """A flipped bit is confirmed, in a header and in a payload."""
    store = Path(shutil.copytree(stores[1], tmp_path / "data"))
    path = segments(store)[0]
    header, payload = frames(path)[3] + 20, frames(path)[9] + 80
    flip(path, header)
    flip(path, payload)
    report = document("verify", store, "--independent", status=4)
    assert report["independent"]["confirmed"] == 2
    assert report["independent"]["disagreements"] == []


def test_a_library_at_fault_is_seen(
    stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the two compute different sums, that is said and is status 4."""
    calls = 0

    def faulty(data: bytes) -> int:
        nonlocal calls
        calls += 1
        return portable_crc32c(data) ^ (calls == 50)

    monkeypatch.setattr(independent, "portable_crc32c", faulty)
    report = document("verify", stores[1], "--independent", status=4)
    assert len(report["independent"]["disagreements"]) == 1
    assert report["verdict"] == "sound"


def test_a_library_that_calls_sound_bytes_damaged_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What google-crc32c calls damaged and crcmod does not is a disagreement too."""
    log = sample()
    path = lay(log, tmp_path / "log")
    wrong = log.segments[1].frames[1].payload
    for module in (reader, resync):
        monkeypatch.setattr(module, "crc32c", lambda data: crc32c(data) ^ (data == wrong))
    monkeypatch.setattr(reader, "native", None)
    report = document("verify", path, "--independent", status=4)
    assert len(report["independent"]["disagreements"]) == 1
    assert report["findings"][0]["offset"] == log.segments[1].frames[1].offset


# ---- the command


def test_help_has_an_example_for_every_command() -> None:
    """`--help` of the whole and of each command; every command has an example that names it."""
    overview = inspected("--help")
    for name in "ls dump verify stats history frame follow diff export repair report".split():
        assert name in overview
        assert f"wal-inspect {name}" in " ".join(inspected(name, "--help").split())


def test_the_console_script_is_declared() -> None:
    """The distribution installs `wal-inspect`."""
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="wal-inspect")
    assert script.value == "strandline.tools.inspect.main:run"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    """The shell is given a script, and the script the commands."""
    variable = {"_WAL_INSPECT_COMPLETE": f"source_{shell}"}
    script = subprocess.run(
        [*PROGRAM],
        env={**environment(), **variable},
        capture_output=True,
        check=False,
    )
    assert b"wal-inspect" in script.stdout or b"wal_inspect" in script.stdout
    if shell == "bash":
        asked = {
            "_WAL_INSPECT_COMPLETE": "complete_bash",
            "COMP_WORDS": "wal-inspect ver",
            "COMP_CWORD": "1",
        }
        given = subprocess.run(
            [*PROGRAM], env={**environment(), **asked}, capture_output=True, check=False
        )
        assert given.stdout.split() == [b"verify"]


def test_messages_name_the_command(tmp_path: Path) -> None:
    """An error begins with the name of this command, not with that of its sister."""
    result = piped("ls", tmp_path / "nothing")
    assert result.stderr.startswith(b"wal-inspect: ")
    assert (result.returncode, result.stdout) == (1, b"")


def test_json_is_one_line_of_ascii(stores: tuple[Path, Path]) -> None:
    """For programs: one document, whatever a path or table is called."""
    for command in ("ls", "verify"):
        output = inspected(command, stores[1], "--json")
        assert output.isascii()
        assert output.count("\n") == 1
        shown: dict[str, Any] = json.loads(output)
        assert shown["path"] == str(stores[1])


def test_a_live_store_says_who_has_it(tmp_path: Path) -> None:
    """The writer's pid is told; status 0."""
    with strandline.open(tmp_path / "data", flush_strategy=NEVER) as db:
        db.put(b"a", b"b")
        report = document("ls", tmp_path / "data")
        assert report["writer"] == {"pid": os.getpid()}
        assert f"pid {os.getpid()} has it open" in inspected("verify", tmp_path / "data")
    assert document("ls", tmp_path / "data")["writer"] is None
    assert inspect("ls", tmp_path / "data").exit_code == 0
