"""Real file systems whose power is cut. Needs root and loop devices; skips itself otherwise."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from strandline.tools.crash.blocks import obstacle, workspace
from strandline.tools.crash.blocks.blocklog import BlockLog, DeviceError
from strandline.tools.crash.blocks.filesystem import LoopFilesystem
from strandline.tools.crash.blocks.image import BusyFilesystemError, MakeFilesystemError
from strandline.tools.crash.blocks.kernel import sync_filesystem
from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.blocks.obstacle import log_obstacle, shutdown_obstacle
from strandline.tools.crash.blocks.recording import Mark, Recording
from strandline.tools.crash.blocks.shutdown import Journal
from strandline.tools.crash.blocks.survivors import at_random, everything, nothing
from strandline.tools.crash.blocks.workspace import PREFIX, Workspace, roomy_directory, sweep

SHUT_DOWN: Final[tuple[KindName, ...]] = ("ext4", "xfs")
LOGGED: Final[tuple[KindName, ...]] = ("ext4", "xfs", "btrfs")
DATA: Final = b"written whole" * 500


def needs(reason: str | None) -> None:
    """Skip a test that this machine cannot run."""
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory that is empty again at the end."""
    path = Path(tempfile.mkdtemp(prefix="blocks-test-", dir=roomy_directory()))
    try:
        yield path
        assert [] == list(path.iterdir())
    finally:
        shutil.rmtree(path)


def write(path: Path, data: bytes = DATA, *, sync: bool) -> None:
    """Write a file; with `sync`, make it and its name durable."""
    with path.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        parent = os.open(path.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


def content(path: Path) -> bytes | None:
    """Return what is in a file, None if there is none."""
    return path.read_bytes() if path.exists() else None


class TestShutdown:
    @pytest.mark.parametrize("kind", SHUT_DOWN)
    def test_what_was_synced_survives_and_the_rest_can_be_lost(
        self, kind: KindName, directory: Path
    ) -> None:
        """Over several cuts of one file system, each with files before and after a sync."""
        needs(shutdown_obstacle(kind))
        lost = 0
        with LoopFilesystem(kind, directory) as disk:
            for turn in range(5):
                write(disk.path / f"synced {turn}", sync=True)
                write(disk.path / f"unsynced {turn}", sync=False)
                disk.cut()
                disk.remount()
                for earlier in range(turn + 1):
                    assert DATA == content(disk.path / f"synced {earlier}")
                lost += content(disk.path / f"unsynced {turn}") != DATA
        assert lost

    @pytest.mark.parametrize("kind", SHUT_DOWN)
    def test_nothing_can_be_written_after_the_cut(self, kind: KindName, directory: Path) -> None:
        """A writer learns of it at its next call, until the file system is mounted again."""
        needs(shutdown_obstacle(kind))
        with LoopFilesystem(kind, directory) as disk:
            disk.cut()
            with pytest.raises(OSError, match="Input/output error"):
                write(disk.path / "late", sync=True)
            disk.remount()
            write(disk.path / "later", sync=True)

    @pytest.mark.parametrize("kind", SHUT_DOWN)
    def test_the_journal_in_memory_is_lost_or_flushed_first(
        self, kind: KindName, directory: Path
    ) -> None:
        """A name that nobody synced is only in the journal: it shows what became of it."""
        needs(shutdown_obstacle(kind))
        with LoopFilesystem(kind, directory) as disk:
            for journal, survives in ((Journal.LOST, False), (Journal.FLUSHED, True)):
                (disk.path / journal.name).touch()
                disk.cut(journal)
                disk.remount()
                assert survives is (disk.path / journal.name).exists()

    def test_btrfs_is_refused_with_the_way_out(self, directory: Path) -> None:
        """It has no shutdown, and its obstacle says so; the block log takes it."""
        needs(log_obstacle("btrfs"))
        with LoopFilesystem("btrfs", directory) as disk, pytest.raises(OSError, match="BlockLog"):
            disk.cut()
        assert "BlockLog" in str(shutdown_obstacle("btrfs"))

    def test_a_file_that_is_still_open_is_an_error(self, directory: Path) -> None:
        """The dead file system would come back otherwise; nothing of it is left mounted."""
        needs(shutdown_obstacle("ext4"))
        with (directory / "held").open("wb"), LoopFilesystem("ext4", directory) as disk:
            held = (disk.path / "held").open("wb")
            disk.cut()
            with pytest.raises(BusyFilesystemError, match="still open"):
                disk.remount()
            assert not disk.path.is_mount()
            held.close()
        (directory / "held").unlink()

    def test_what_goes_wrong_inside_is_what_is_seen(self, directory: Path) -> None:
        """The error of the body is not covered by that of a file that it left open."""
        needs(shutdown_obstacle("ext4"))
        with pytest.raises(LookupError), LoopFilesystem("ext4", directory) as disk:
            held = (disk.path / "held").open("wb")
            raise LookupError
        held.close()
        assert not disk.path.exists()


def recorded(kind: KindName, directory: Path, *, sync: bool, files: int = 20) -> Recording:
    """Write files; mark each as acknowledged."""
    with BlockLog(kind, directory) as log:
        for number in range(files):
            write(log.path / str(number), sync=sync)
            log.mark(b"%d" % number)
        return log.end()


def missing(recording: Recording, cut: int, path: Path) -> list[bytes]:
    """Return which acknowledged files are not there as they were written."""
    return [mark for mark in recording.marks(cut) if content(path / mark.decode()) != DATA]


@pytest.mark.parametrize("kind", LOGGED)
class TestBlockLog:
    def test_acknowledged_files_survive_every_cut(self, kind: KindName, directory: Path) -> None:
        """Whatever is lost of the pending writes: the file system's recovery holds."""
        needs(log_obstacle(kind))
        rng = random.Random(3)
        with recorded(kind, directory, sync=True) as recording:
            assert [b"%d" % number for number in range(20)] == recording.marks(recording.end)
            for cut in recording.cuts(rng, 12):
                with recording.image(cut, at_random(rng)) as path:
                    assert [] == missing(recording, cut, path)

    def test_a_writer_that_does_not_sync_is_found_out(
        self, kind: KindName, directory: Path
    ) -> None:
        """It acknowledges what is still pending: in some image that is not there."""
        needs(log_obstacle(kind))
        rng = random.Random(4)
        with recorded(kind, directory, sync=False) as recording:
            losses = 0
            for cut in recording.cuts(rng, 8):
                with recording.image(cut, at_random(rng)) as path:
                    losses += len(missing(recording, cut, path))
            assert losses

    def test_with_everything_kept_it_is_what_was_there(
        self, kind: KindName, directory: Path
    ) -> None:
        """A cut of all that was recorded, nothing lost, equals the file system itself."""
        needs(log_obstacle(kind))
        rng = random.Random(5)
        with BlockLog(kind, directory) as log:
            for number in range(30):
                write(log.path / f"{number % 7}", rng.randbytes(rng.randrange(40000)), sync=False)
                if number % 5 == 4:
                    (log.path / f"{number % 7}").rename(log.path / f"renamed {number}")
            sync_filesystem(log.path)
            truth = {path.name: content(path) for path in log.path.iterdir() if path.is_file()}
            recording = log.end()
        with recording, recording.image(recording.end, everything) as path:
            assert truth == {file.name: content(file) for file in path.iterdir() if file.is_file()}

    def test_images_do_not_see_each_other(self, kind: KindName, directory: Path) -> None:
        """What is written into one is not in the next, nor in one of an earlier cut."""
        needs(log_obstacle(kind))
        with recorded(kind, directory, sync=True, files=3) as recording:
            for cut in (recording.end, recording.end, recording.begin):
                with recording.image(cut, nothing) as path:
                    assert not (path / "mine").exists()
                    assert (path / "0").exists() is (cut == recording.end)
                    write(path / "mine", sync=True)

    def test_marks_of_other_processes_come_in_order(self, kind: KindName, directory: Path) -> None:
        """A mark is in the log when its write(2) returned, between the writes around it."""
        needs(log_obstacle(kind))
        program = "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b'child')"
        with BlockLog(kind, directory) as log:
            log.mark(b"before")
            subprocess.run([sys.executable, "-c", program, log.marks], check=True)
            write(log.path / "file", sync=True)
            log.mark(b"after")
            recording = log.end()
        with recording:
            assert [b"before", b"child", b"after"] == recording.marks(recording.end)
            first = recording.records.index(Mark(b"before"))
            assert [] == recording.marks(first)
            assert [b"before"] == recording.marks(first + 1)
            with recording.image(recording.end, nothing) as path:
                assert DATA == content(path / "file")
            with recording.image(recording.begin, everything) as path:
                assert not (path / "file").exists()


def test_a_file_open_at_the_end_of_a_recording_is_an_error(directory: Path) -> None:
    """The file system loses its device, the daemon ends, and nothing hangs."""
    needs(log_obstacle("ext4"))
    with BlockLog("ext4", directory) as log:
        held = (log.path / "held").open("wb")
        with pytest.raises(BusyFilesystemError, match="still open"):
            log.end()
    held.close()


def test_a_device_that_does_not_start_says_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the daemon said last is in the error; nothing is left behind."""
    needs(log_obstacle("ext4"))
    broken = directory / "daemon.py"
    broken.write_text("raise SystemExit('no libfuse here')")
    monkeypatch.setattr("strandline.tools.crash.blocks.daemon.__file__", str(broken))
    with pytest.raises(DeviceError, match="no libfuse here"), BlockLog("ext4", directory):
        pass
    broken.unlink()


def test_a_file_system_that_cannot_be_made_says_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mkfs said is in the error."""
    needs(shutdown_obstacle("ext4"))
    (directory / "mkfs.ext4").write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    (directory / "mkfs.ext4").chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
    with pytest.raises(MakeFilesystemError, match="ended with 3: no such option"):
        LoopFilesystem("ext4", directory).__enter__()
    (directory / "mkfs.ext4").unlink()


KILLED: Final = """
import os, sys, time
from pathlib import Path
from strandline.tools.crash.blocks.{module} import {name}
with {name}("ext4", Path(sys.argv[1])) as disk:
    (disk.path / "file").write_bytes(b"x" * 100000)
    loop = os.minor(disk.path.stat().st_dev)
    sequence = Path(f"/sys/block/loop{{loop}}/diskseq").read_text().strip()
    children = Path(f"/proc/self/task/{{os.getpid()}}/children").read_text()
    print(loop, sequence, children, flush=True)
    time.sleep(60)
"""


def attached(loop: str, sequence: str) -> bool:
    """Return whether a loop device still has the image that it had then."""
    device = Path("/sys/block") / f"loop{loop}"
    return (device / "loop").exists() and sequence == (device / "diskseq").read_text().strip()


def alive(process: str) -> bool:
    """Return whether a process has not ended yet."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what a process leaves to the kernel when it ends."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "something outlives the process that it belongs to"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("module", "name"), [("filesystem", "LoopFilesystem"), ("blocklog", "BlockLog")]
)
def test_a_killed_worker_leaves_nothing(module: str, name: str, directory: Path) -> None:
    """No mount, no loop device, no daemon; its empty directory goes with the next worker's."""
    needs(log_obstacle("ext4"))
    worker = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(module=module, name=name), directory],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    loop, sequence, *children = worker.stdout.readline().split()
    assert attached(loop, sequence)
    assert (module == "blocklog") == bool(children)
    assert str(directory) not in Path("/proc/mounts").read_text()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not attached(loop, sequence) and not any(map(alive, children)))
    assert [PREFIX] == [path.name[: len(PREFIX)] for path in directory.iterdir()]
    with LoopFilesystem("ext4", directory) as disk:
        assert [disk.path.parent] == list(directory.iterdir())


def test_a_daemon_ends_with_its_worker_whoever_else_is_there(directory: Path) -> None:
    """A writer that outlives the worker keeps the mounts, but meets a device that is gone."""
    needs(log_obstacle("ext4"))
    with_writer = KILLED.replace(
        "    time.sleep",
        """    import subprocess
    writer = subprocess.Popen(["sleep", "60"])
    print(writer.pid, flush=True)
    time.sleep""",
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", with_writer.format(module="blocklog", name="BlockLog"), directory],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    loop, sequence, daemon = worker.stdout.readline().split()
    writer = worker.stdout.readline().strip()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    try:
        wait_until(lambda: not alive(daemon))
        assert alive(writer)
        assert attached(loop, sequence)
    finally:
        os.kill(int(writer), signal.SIGKILL)
    wait_until(lambda: not attached(loop, sequence))
    sweep(directory)


def test_a_sweep_leaves_what_is_in_use(directory: Path) -> None:
    """A directory goes only when nobody holds its lock, and only one of ours."""
    needs(shutdown_obstacle("ext4"))
    (directory / "somebody else's").mkdir()
    with Workspace(directory) as used:
        used.mount_point("disk")
        sweep(directory)
        assert (used.path / "disk").exists()
    (directory / f"{PREFIX}dead" / "disk").mkdir(parents=True)
    sweep(directory)
    assert ["somebody else's"] == [path.name for path in directory.iterdir()]
    (directory / "somebody else's").rmdir()


def test_a_forked_process_gets_mounts_of_its_own() -> None:
    """In its parent's namespace they would outlive it; asked twice, it keeps its own."""
    needs(shutdown_obstacle("ext4"))
    program = """
import os
from strandline.tools.crash.blocks.workspace import private_mounts
seen = [os.readlink("/proc/self/ns/mnt")]
for turn in range(2):
    private_mounts()
    seen.append(os.readlink("/proc/self/ns/mnt"))
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
private_mounts()
assert len({*seen, os.readlink("/proc/self/ns/mnt")}) == 3, seen
assert seen[1] == seen[2], seen
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class TestObstacle:
    @pytest.fixture(autouse=True)
    def _as_root_on_linux(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        for question in (shutdown_obstacle, log_obstacle):
            question.cache_clear()
        yield
        for question in (shutdown_obstacle, log_obstacle):
            question.cache_clear()

    def test_who_is_not_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is tried for one who may not mount."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert "only root can mount" == shutdown_obstacle("ext4") == log_obstacle("ext4")

    def test_a_missing_mkfs_names_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sentence says what to install."""
        if not Path("/dev/loop-control").exists():
            pytest.skip("there is no /dev/loop-control")
        monkeypatch.setenv("PATH", "")
        assert "there is no mkfs.xfs: install xfsprogs" == shutdown_obstacle("xfs")

    def test_what_a_trial_dies_of_is_told(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The child's last line is the reason."""
        monkeypatch.setattr(obstacle, "_lacking", lambda kind: None)
        (directory / "mkfs.ext4").write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
        (directory / "mkfs.ext4").chmod(0o755)
        monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
        reason = str(shutdown_obstacle("ext4"))
        (directory / "mkfs.ext4").unlink()
        assert reason.startswith("ext4 was tried: ")
        if os.getuid() == 0 and workspace.roomy_directory().exists():
            assert "out of order" in reason or "cannot" in reason


def test_little_memory_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Images go to disk where /dev/shm has no room for them, as in many containers."""
    monkeypatch.setattr(workspace, "_ROOM", 1 << 60)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert tmp_path == roomy_directory()
