"""`check_store`: that it never writes, what it says beside a writer, and what weighs most."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import strandline
from strandline import Durability
from strandline.recovery.check import check_store, find_writer
from strandline.recovery.check_report import CheckProgress, CheckVerdict
from tests.recovery.check_stores import (
    NEVER,
    ROOT,
    copy_open,
    fill,
    flip,
    frames,
    only,
    segments,
    state_of,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store that was closed in order, and one that was not."""
    directory = tmp_path_factory.mktemp("stores")
    fill(directory / "closed", directory / "crashed")
    return directory / "closed", directory / "crashed"


@pytest.fixture
def closed(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    """Everything is in LMDB and in the log."""
    return Path(shutil.copytree(originals[0], tmp_path / "closed"))


@pytest.fixture
def crashed(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    """Everything is in the log alone, which has no seal."""
    return Path(shutil.copytree(originals[1], tmp_path / "crashed"))


# ---- never writes


DAMAGES: dict[str, Callable[[Path], object]] = {
    "none": lambda _: None,
    "torn": lambda store: os.truncate(segments(store)[-1], frames(segments(store)[-1])[-1] + 9),
    "log": lambda store: flip(segments(store)[0], frames(segments(store)[0])[3]),
    "gap": lambda store: segments(store)[1].unlink(),
    "identity": lambda store: flip(store / "IDENTITY", 3),
    "no identity": lambda store: (store / "IDENTITY").unlink(),
    "lmdb": lambda store: flip(store / "store" / "data.mdb", 16),
    "no lock": lambda store: (store / "LOCK").unlink(),
    "no lmdb lock": lambda store: (store / "store" / "lock.mdb").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_check_never_writes(crashed: Path, damage: str) -> None:
    """No byte, no name, no mode and no time of change is another afterwards."""
    DAMAGES[damage](crashed)
    before = state_of(crashed)
    check_store(crashed)
    assert state_of(crashed) == before


# ---- beside a writer


def test_beside_a_writer_in_this_process(tmp_path: Path) -> None:
    """The writer is named, the report says that it is approximate, and nothing is found."""
    with strandline.open(tmp_path / "data") as db:
        db[b"k"] = b"v"
        report = check_store(tmp_path / "data")
        assert report.verdict is CheckVerdict.SOUND
        assert report.approximate
        assert report.writer is not None
        assert report.writer.pid == os.getpid()
        db[b"k"] = b"w"  # the check did not take its lock away
    assert not check_store(tmp_path / "data").approximate


WRITER = """
import sys, time, strandline
from strandline import Durability
db = strandline.open(sys.argv[1], segment_bytes=1 << 16, max_log_bytes=1 << 18)
number = 0
print("ready", flush=True)
while True:
    db.put(b"k%d" % (number % 5000), b"v" * 200, durability=Durability.BUFFERED)
    number += 1
    if number % 400 == 0:
        time.sleep(0.02)
"""


def test_beside_a_busy_writer_in_another_process(tmp_path: Path) -> None:
    """Segments that come and go and checkpoints in between are not taken for damage."""
    store = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3):
            report = check_store(store)
            assert report.writer is not None
            assert report.writer.pid == process.pid
            # Where nothing holds still it says so, which is no verdict on the store.
            assert report.verdict in {CheckVerdict.SOUND, CheckVerdict.UNREADABLE}, report.findings
            assert all("every time" in finding.found for finding in report.findings)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    report = check_store(store)
    assert report.verdict in {CheckVerdict.SOUND, CheckVerdict.TORN_TAIL}
    assert not report.approximate


def test_a_torn_tail_beside_a_writer_is_not_reported(tmp_path: Path) -> None:
    """A write that is under way looks the same."""
    store = tmp_path / "data"
    with strandline.open(store, flush_strategy=NEVER, sync_interval=3600) as db:
        db.put(b"k", b"v", durability=Durability.BUFFERED)
        (path,) = segments(store)
        end = frames(path)[-1]
        flip(path, end + 5)
        beside = check_store(store)
        copy_open(store, tmp_path / "copy")
        flip(path, end + 5)
    assert beside.findings == ()
    only(check_store(tmp_path / "copy"), CheckVerdict.TORN_TAIL)


def test_a_lock_file_of_a_dead_writer_is_no_writer(closed: Path) -> None:
    """What LOCK says counts only while somebody holds the lock; nonsense in it is no fault."""
    assert find_writer(str(closed)) is None
    (closed / "LOCK").write_bytes(b"\xff{nonsense")
    assert find_writer(str(closed)) is None
    with strandline.open(closed):
        (closed / "LOCK").write_bytes(b"\xff{nonsense")
        writer = find_writer(str(closed))
        assert writer is not None
        assert writer.pid is None


# ---- progress and gravity


def test_progress_is_told(crashed: Path) -> None:
    """Each report lies within its bounds, and the log is among what is told of."""
    seen: list[CheckProgress] = []
    check_store(crashed, progress=seen.append)
    assert any(each.phase == "log" for each in seen)
    assert all(0 <= each.done <= each.total for each in seen)


def test_the_gravest_finding_is_the_verdict(crashed: Path) -> None:
    """Damage in LMDB outranks a gap, which outranks damage in the log."""
    first, second = segments(crashed)[0], segments(crashed)[2]
    flip(first, frames(first)[4])
    assert check_store(crashed).verdict is CheckVerdict.LOG_DAMAGE
    second.unlink()
    assert check_store(crashed).verdict is CheckVerdict.GAP
    flip(crashed / "store" / "data.mdb", 16)
    report = check_store(crashed)
    assert report.verdict is CheckVerdict.STORE_DAMAGE
    assert {finding.verdict for finding in report.findings} == {
        CheckVerdict.LOG_DAMAGE,
        CheckVerdict.GAP,
        CheckVerdict.STORE_DAMAGE,
    }
