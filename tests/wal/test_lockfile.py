"""LOCK: one writer a store, over processes, forks and deaths."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from strandline.errors import ForeignStoreError, StoreLockedError
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.faults import fail
from strandline.wal import lockfile
from strandline.wal.lockfile import LOCK_BYTES, WriterLock
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import SystemRuntime
from tests.support.fault_disk import FaultDisk

ROOT = Path(__file__).parents[2]
has_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/fdinfo"), reason="this system has no /proc/<pid>/fdinfo"
)

HEAD = """
import os, sys, time
from strandline.wal.lockfile import WriterLock
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import SystemRuntime

def say(*words):
    print(*words, flush=True)

def acquire():
    return WriterLock.acquire(RealDisk(), sys.argv[1], SystemRuntime())

lock = acquire()
"""

Spawn = Callable[[str], "Child"]


class Child:
    """A process of its own that has taken the lock and then runs `body`.

    It ends when its standard input is closed, and so do the children that it forked:
    none outlives the test.
    """

    def __init__(self, directory: Path, body: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + body, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # select knows nothing of lines that a buffer holds back
        )
        self.pid = self.process.pid

    def hear(self) -> str:
        """Return the child's next line."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 20)[0], "the child says nothing"
        return self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def end(self) -> None:
        """Close the child's input, and wait until nobody has its output open any more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            with self.process:
                self.process.stdin.close()
                self.process.stdout.read()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start children, and end them with the test."""
    children: list[Child] = []

    def start(body: str) -> Child:
        children.append(Child(tmp_path, body))
        return children[-1]

    yield start
    for child in children:
        child.end()


def acquire(directory: Path) -> WriterLock:
    """Take the lock in this process."""
    return WriterLock.acquire(RealDisk(), str(directory), SystemRuntime())


def refusal(directory: Path) -> StoreLockedError:
    """Return the error of an attempt in this process."""
    with pytest.raises(StoreLockedError) as caught:
        acquire(directory)
    return caught.value


WAIT = """
say("locked")
sys.stdin.read()
"""

FORK_AND_WAIT = """
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
say(child)
sys.stdin.read()
"""


def test_a_second_writer_is_told_the_pid(tmp_path: Path, spawn: Spawn) -> None:
    """The refusal names the living writer, the file, and what to do; it comes at once."""
    writer = spawn(WAIT)
    assert writer.hear() == "locked"
    began = time.monotonic()
    error = refusal(tmp_path)
    assert time.monotonic() - began < 5
    assert error.pid == writer.pid
    message = str(error)
    parts = (f"{tmp_path}/LOCK", f"process {writer.pid}", "close the store there", "open it here")
    for part in parts:
        assert part in message
    assert "gone" not in message
    if os.path.exists("/proc/self/comm"):
        comm = Path(f"/proc/{writer.pid}/comm").read_text(encoding="utf-8").strip()
        assert f"{writer.pid} ({comm})" in message


def test_a_second_open_in_one_process_is_refused(tmp_path: Path) -> None:
    """The same process cannot have two writers, and is told that it is the one."""
    lock = acquire(tmp_path)
    error = refusal(tmp_path)
    assert error.pid == os.getpid()
    assert f"this very process (pid {os.getpid()})" in str(error)
    lock.close()
    acquire(tmp_path).close()


def test_close_frees_the_lock_and_may_be_repeated(tmp_path: Path, spawn: Spawn) -> None:
    """After close another process can write; a second close takes nothing from it."""
    lock = acquire(tmp_path)
    lock.close()
    writer = spawn(WAIT)
    assert writer.hear() == "locked"
    lock.close()
    assert refusal(tmp_path).pid == writer.pid


def test_a_killed_writer_frees_the_lock(tmp_path: Path, spawn: Spawn) -> None:
    """With no child left over, its death is enough: nothing is to be removed by hand."""
    writer = spawn(WAIT)
    assert writer.hear() == "locked"
    writer.kill()
    lock = acquire(tmp_path)
    text = json.loads((tmp_path / "LOCK").read_text(encoding="utf-8"))
    assert text["pid"] == os.getpid()
    lock.close()


@has_proc
def test_a_surviving_fork_is_told_apart(tmp_path: Path, spawn: Spawn) -> None:
    """The writer is dead, its child holds the lock: both are named, and which is which."""
    writer = spawn(FORK_AND_WAIT)
    survivor = int(writer.hear())
    alive = refusal(tmp_path)
    assert alive.pid == writer.pid
    assert f"by process {writer.pid}" in str(alive)
    writer.kill()
    error = refusal(tmp_path)
    assert error.pid == writer.pid
    assert f"its writer, pid {writer.pid}, is gone" in str(error)
    assert f"a process forked from it still holds the lock: {survivor} (" in str(error)
    assert "end that process" in str(error)
    writer.end()
    acquire(tmp_path).close()


@has_proc
def test_a_zombie_writer_is_gone(tmp_path: Path, spawn: Spawn) -> None:
    """A writer that was killed and not yet waited for has a pid, and holds nothing."""
    writer = spawn(FORK_AND_WAIT)
    survivor = writer.hear()
    writer.process.kill()
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    error = refusal(tmp_path)
    assert f"pid {writer.pid}, is gone" in str(error)
    assert survivor in str(error)


def test_a_survivor_is_told_apart_without_proc(
    tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where descriptors cannot be seen, the recorded pid alone tells a dead writer."""
    monkeypatch.setattr(lockfile, "_seen_holding", lambda pid, path: None)
    writer = spawn(FORK_AND_WAIT)
    writer.hear()
    assert f"by process {writer.pid}" in str(refusal(tmp_path))
    writer.kill()
    error = refusal(tmp_path)
    assert f"its writer, pid {writer.pid}, is gone" in str(error)
    assert f"lsof {tmp_path}/LOCK" in str(error)


@has_proc
def test_a_writer_that_closed_but_left_a_fork(tmp_path: Path, spawn: Spawn) -> None:
    """A living process that closed its store is not blamed; nor is it "this very process"."""
    writer = spawn("""
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
lock.close()
try:
    acquire()
except Exception as error:
    say(child)
    say(error)
sys.stdin.read()
""")
    survivor = writer.hear()
    for message in (writer.hear(), str(refusal(tmp_path))):
        assert f"its writer, pid {writer.pid}, no longer holds it" in message
        assert f"still holds the lock: {survivor} (" in message


def test_a_child_that_closes_takes_nothing_from_its_parent(tmp_path: Path, spawn: Spawn) -> None:
    """The forked child's close, and its exit, leave the parent's lock in force."""
    writer = spawn("""
child = os.fork()
if child == 0:
    lock.close()
    os._exit(0)
os.waitpid(child, 0)
say("forked")
sys.stdin.read()
""")
    assert writer.hear() == "forked"
    error = refusal(tmp_path)
    assert error.pid == writer.pid
    assert f"by process {writer.pid}" in str(error)
    writer.kill()
    acquire(tmp_path).close()


def test_a_started_program_does_not_inherit_the_lock(tmp_path: Path, spawn: Spawn) -> None:
    """A program that the writer started lives on after it, without the lock."""
    writer = spawn("""
import subprocess
subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
say("started")
sys.stdin.read()
""")
    assert writer.hear() == "started"
    writer.kill()
    acquire(tmp_path).close()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 512,
        b"\xff\xfe garbage \n",
        b"[" * 512,
        b'{"pid": true, "boot_id": BOOT, "started": ""}\n',
        b'{"pid": 99999999999999999999, "boot_id": BOOT, "started": ""}\n',
        b'{"pid": -1, "boot_id": BOOT, "started": ""}\n',
        b"x" * 100_000,
    ],
)
def test_a_damaged_text_is_no_obstacle(tmp_path: Path, text: bytes) -> None:
    """Whatever LOCK holds, a free lock is taken and a held one is refused."""
    (tmp_path / "LOCK").write_bytes(text)
    lock = acquire(tmp_path)
    owner = json.loads((tmp_path / "LOCK").read_bytes()[:LOCK_BYTES])
    assert owner["pid"] == os.getpid()
    text = text.replace(b"BOOT", json.dumps(owner["boot_id"]).encode())
    (tmp_path / "LOCK").write_bytes(text)
    error = refusal(tmp_path)
    if os.path.exists("/proc/self/fdinfo"):
        assert error.pid == os.getpid()
        assert f"process {os.getpid()} (" in str(error)
    assert "LOCK does not name" in str(error)
    lock.close()


def test_a_text_of_another_boot_is_not_believed(tmp_path: Path, spawn: Spawn) -> None:
    """A pid of another boot, or of another machine, names somebody else here."""
    writer = spawn(WAIT)
    assert writer.hear() == "locked"
    stale = {"pid": os.getppid(), "boot_id": "another", "started": "1970-01-01T00:00:00+00:00"}
    (tmp_path / "LOCK").write_text(json.dumps(stale) + "\n", encoding="utf-8")
    error = refusal(tmp_path)
    assert error.pid != os.getppid()
    assert "LOCK does not name" in str(error)


def test_a_writer_that_has_just_locked_gets_time_to_write_its_name(tmp_path: Path) -> None:
    """A text of the writer before is not taken for the one who has the lock now."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(20)
    lock = acquire(tmp_path)
    fresh = (tmp_path / "LOCK").read_bytes()
    stale = {**json.loads(fresh), "pid": gone.pid}
    (tmp_path / "LOCK").write_bytes(json.dumps(stale).encode() + b"\n")

    class Runtime(SystemRuntime):
        def __init__(self) -> None:
            super().__init__()
            self.sleep = lambda seconds: (tmp_path / "LOCK").write_bytes(fresh)  # type: ignore[assignment]

    with pytest.raises(StoreLockedError, match="this very process"):
        WriterLock.acquire(RealDisk(), str(tmp_path), Runtime())
    lock.close()


def test_a_lock_that_comes_free_while_waiting_is_taken(tmp_path: Path) -> None:
    """A holder that cannot be seen alive may be about to end: the lock is tried again."""
    lock = acquire(tmp_path)
    (tmp_path / "LOCK").write_bytes(b"")

    class Runtime(SystemRuntime):
        def __init__(self) -> None:
            super().__init__()
            self.sleep = lambda seconds: lock.close()

    WriterLock.acquire(RealDisk(), str(tmp_path), Runtime()).close()


def test_the_text_is_one_line_of_fixed_length(tmp_path: Path) -> None:
    """pid, boot id and start can be read by a person and by json; the file never grows."""
    for _ in range(2):
        acquire(tmp_path).close()
    data = (tmp_path / "LOCK").read_bytes()
    assert len(data) == LOCK_BYTES
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    text = json.loads(data)
    assert text["pid"] == os.getpid()
    assert abs(time.time() - datetime.fromisoformat(text["started"]).timestamp()) < 60
    if os.path.exists("/proc/sys/kernel/random/boot_id"):
        assert text["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_text_still_gives_the_lock(tmp_path: Path, code: int) -> None:
    """The flock counts: a full disk must not keep a store from being opened."""
    disk = FaultDisk()
    disk.faults = fail("pwrite", OSError(code, "planted"))
    lock = WriterLock.acquire(disk, str(tmp_path), SystemRuntime())
    assert refusal(tmp_path).pid in (os.getpid(), None)
    lock.close()


def test_a_refusal_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """The file that was opened to try is closed, whatever the trial came to."""
    lock = acquire(tmp_path)
    before = len(os.listdir("/dev/fd"))
    refusal(tmp_path)
    disk = FaultDisk()
    disk.faults = fail("try_lock", OSError(errno.ENOLCK, "planted"))
    with pytest.raises(OSError, match="planted"):
        WriterLock.acquire(disk, str(tmp_path), SystemRuntime())
    assert len(os.listdir("/dev/fd")) == before
    lock.close()


def test_what_is_not_a_file_is_foreign(tmp_path: Path) -> None:
    """Nothing is written through a link, and a directory is no lock."""
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ForeignStoreError, match="found a link"):
        acquire(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "precious"
    (tmp_path / "LOCK").unlink()
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(ForeignStoreError, match="found a directory"):
        acquire(tmp_path)


def test_two_that_create_the_file_at_once_agree(tmp_path: Path) -> None:
    """One creates LOCK between the other's look and its creation: the other opens it."""
    disk = FaultDisk()

    def other_process(op: str, path: str) -> None:
        if op == "create":
            (tmp_path / "LOCK").touch()

    disk.faults = other_process
    WriterLock.acquire(disk, str(tmp_path), SystemRuntime()).close()
    assert [op.op for op in disk.operations if op.op in ("create", "open")] == ["create", "open"]


def test_a_simulated_store_is_locked_alike() -> None:
    """On a simulated disk a second writer is refused, and a crash frees the lock."""
    disk = SimulatedDisk()
    disk.mkdir("/data")
    lock = WriterLock.acquire(disk, "/data", SystemRuntime())
    with pytest.raises(StoreLockedError, match="this very process"):
        WriterLock.acquire(disk, "/data", SystemRuntime())
    WriterLock.acquire(disk.crash("all"), "/data", SystemRuntime()).close()
    lock.close()
    WriterLock.acquire(disk, "/data", SystemRuntime()).close()
