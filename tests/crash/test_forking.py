"""Fork servers: what their children say, how they end, and that none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from strandline.tools.crash.forking.client import ForkServer
from tests.crash.shimmed import library, needs_shim

_WORKS = "tests.crash.killed_works"
_TREE = str(Path(__file__).parents[2])


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[ForkServer]:
    with ForkServer(tmp_path, modules=[_WORKS]) as server:
        yield server


def test_a_work_is_done_in_a_process_of_its_own(server: ForkServer) -> None:
    """It gets its argument, is not this process, and another one each time."""
    ended = server.run(f"{_WORKS}:echo", {"a": [b"1", None, 2]})
    assert b"{'a': [b'1', None, 2]}" == ended.said
    assert (False, False, "") == (ended.killed, ended.hung, ended.crashed)
    processes = {int(server.run(f"{_WORKS}:say_process", None).said) for _ in range(5)}
    assert len(processes) == 5
    assert os.getpid() not in processes


def test_killed_after_its_mark(server: ForkServer) -> None:
    """What was said before the kill is here, and whole; it was said up to the mark at least."""
    ended = server.run(f"{_WORKS}:count", 1000, kill_after=0.001)
    assert ended.killed
    assert not ended.hung
    numbers = [int(line) for line in ended.said.splitlines()]
    assert len(numbers) >= 1000
    assert list(range(len(numbers))) == numbers


def test_what_is_said_under_a_blow_is_told_apart(server: ForkServer) -> None:
    """What was taken in before it is `said`, what came later is `late`; nothing is missing."""
    ended = server.run(f"{_WORKS}:count", 1000, kill_after=0.001, blow=lambda: time.sleep(0.02))
    assert ended.killed
    numbers = [int(line) for line in (ended.said + ended.late).splitlines()]
    assert list(range(len(numbers))) == numbers
    assert ended.said.count(b"\n") >= 1000
    assert ended.late.count(b"\n") > 0


@pytest.mark.parametrize("work", ["say_and_fail", "say_and_abort"])
def test_what_a_child_does_under_a_blow_is_no_error(server: ForkServer, work: str) -> None:
    """It may raise, and end by a signal: its disk was taken away, say."""
    ended = server.run(f"{_WORKS}:{work}", 0.05, kill_after=0.0, blow=lambda: time.sleep(0.5))
    assert (b"said", False, "") == (ended.said, ended.killed, ended.crashed)
    assert b"7" == server.run(f"{_WORKS}:echo", 7).said


def test_a_child_that_hangs_is_ended_and_shows_its_stack(tmp_path: Path) -> None:
    """After its patience; the server lives on."""
    with ForkServer(tmp_path, modules=[_WORKS], patience=0.3) as server:
        ended = server.run(f"{_WORKS}:hang_in_a_function_of_this_name", None)
        assert ended.hung
        assert "in hang_in_a_function_of_this_name" in ended.stacks
        assert b"7" == server.run(f"{_WORKS}:echo", 7).said


def test_a_child_that_crashes_shows_its_stack(server: ForkServer) -> None:
    """The signal has a name, and the server lives on."""
    ended = server.run(f"{_WORKS}:abort", None)
    assert "SIGABRT" == ended.crashed
    assert not ended.killed
    assert "in abort" in ended.stacks
    assert b"7" == server.run(f"{_WORKS}:echo", 7).said


def test_a_work_that_raises_is_an_error_of_the_harness(server: ForkServer) -> None:
    """With its traceback."""
    with pytest.raises(RuntimeError, match=r"(?s)killed_works:fail raised.*no such thing as 7"):
        server.run(f"{_WORKS}:fail", 7)
    assert b"7" == server.run(f"{_WORKS}:echo", 7).said


def test_a_server_that_is_gone_is_an_error_of_the_harness(tmp_path: Path) -> None:
    """Not a wait without end."""
    with ForkServer(tmp_path, modules=[_WORKS]) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="the fork server"):
            server.run(f"{_WORKS}:echo", 7)


def test_what_was_changed_here_is_changed_in_a_forked_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is how a bug is planted."""
    monkeypatch.setattr(f"{_WORKS}.echo", lambda argument, talk: talk.say(b"changed"))
    with ForkServer(tmp_path, modules=[_WORKS]) as server:
        assert b"changed" == server.run(f"{_WORKS}:echo", 7).said


@needs_shim
def test_a_server_that_is_started_anew_runs_its_prelude(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has the shim under it."""
    monkeypatch.setenv("PYTHONPATH", _TREE)
    with ForkServer(
        tmp_path, modules=[_WORKS], prelude=[f"{_WORKS}:acknowledge_early"], shim=library()
    ) as server:
        said = server.run(f"{_WORKS}:preloaded", None).said
    assert f"strandline_shim {_WORKS}".encode() == said


@needs_shim
def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prelude that cannot be found, for one."""
    monkeypatch.setenv("PYTHONPATH", _TREE)
    with (
        ForkServer(tmp_path, modules=[], prelude=[f"{_WORKS}:nothing"], shim=library()) as server,
        pytest.raises(RuntimeError, match="has no attribute 'nothing'"),
    ):
        server.run(f"{_WORKS}:echo", 7)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("shimmed", [False, pytest.param(True, marks=needs_shim)])
def test_nobody_outlives_a_bench_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, shimmed: bool
) -> None:
    """Neither the server nor the child that was at work."""
    monkeypatch.setenv("PYTHONPATH", _TREE)
    shim = library() if shimmed else None
    reader, writer = os.pipe()
    bench = os.fork()
    if not bench:
        try:
            _bench_that_waits(tmp_path, writer, shim)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as said:
        server = int(said.readline())
        child = _child_of(server)
        os.kill(bench, signal.SIGKILL)
        os.waitpid(bench, 0)
    deadline = time.monotonic() + 10
    while (_alive(server) or _alive(child)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [False, False] == [_alive(server), _alive(child)]


def _bench_that_waits(folder: Path, writer: int, shim: Path | None) -> None:
    with ForkServer(folder, modules=[_WORKS], shim=shim) as server:
        os.write(writer, b"%d\n" % server.pid)
        server.run(f"{_WORKS}:say_process", "and wait")


def _child_of(server: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
            if children:
                return int(children[0])
        time.sleep(0.01)
    raise AssertionError("the server has no child")


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
