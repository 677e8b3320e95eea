"""The preload shim as a hand that fails, cuts short and kills at one chosen call."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from strandline.tools.crash.shim import build, control
from strandline.tools.crash.shim.control import Action, Kind, Plan
from strandline.tools.crash.shim.record import Close, Failed, Open, SyncBegin, SyncEnd, Write, read
from tests.crash.shimmed import library, needs_shim, run_shimmed, tree

pytestmark = needs_shim

# One call of each kind; each can be made again and again.
CALLS = {
    Kind.OPEN: "os.open(root / 'there', os.O_RDWR)",
    Kind.CREATE: "os.open(root / f'new {turn}', os.O_CREAT | os.O_RDWR)",
    Kind.WRITE: "os.pwrite(fd, b'12345678', 8 * turn)",
    Kind.TRUNCATE: "os.ftruncate(fd, 100 + turn)",
    Kind.ALLOCATE: "os.posix_fallocate(fd, 0, 100 + turn)",
    Kind.RENAME: "os.rename(root / f'a{turn}', root / f'b{turn}')",
    Kind.UNLINK: "os.unlink(root / f'a{turn}')",
    Kind.RMDIR: "os.rmdir(root / f'd{turn}')",
    Kind.MKDIR: "os.mkdir(root / f'new {turn}')",
    Kind.LINK: "os.link(root / f'a{turn}', root / f'b{turn}')",
    Kind.FSYNC: "os.fsync(fd)",
    Kind.FDATASYNC: "os.fdatasync(fd)",
    Kind.SYNC_DIRECTORY: "os.fsync(directory)",
}

_FIVE_TURNS = """
import json
fd = make("fd")
directory = os.open(root, os.O_RDONLY)
for turn in range(5):
    os.mkdir(root / f"d{{turn}}")
    os.close(make(f"a{{turn}}"))
start(Plan({plan}))
found = []
for turn in range(5):
    try:
        {call}
        found.append(0)
    except OSError as error:
        found.append(error.errno)
os.write(1, json.dumps([found, sorted(os.listdir(root)), os.fstat(fd).st_size]).encode())
"""


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("action", [Action.FAIL_ONCE, Action.FAIL_ON], ids=lambda a: a.name)
def test_the_nth_call_fails_and_does_nothing(tmp_path: Path, kind: Kind, action: Action) -> None:
    """The third call of its kind raises the errno asked for, and leaves all as it was."""
    turns = {"FAIL_ONCE": [0, 0, 28, 0, 0], "FAIL_ON": [0, 0, 28, 28, 28]}[action.name]
    plan = f"Action.{action.name}, frozenset({{Kind.{kind.name}}}), nth=3, error=28"
    run = run_shimmed(tmp_path, _FIVE_TURNS.format(plan=plan, call=CALLS[kind]), there=b"")
    found, names, size = json.loads(run.output)
    assert found == turns
    worked = [turn for turn, code in enumerate(turns) if not code]
    files = {"there", "fd", *(f"a{n}" for n in range(5)), *(f"d{n}" for n in range(5))}
    match kind:
        case Kind.CREATE | Kind.MKDIR:
            files |= {f"new {turn}" for turn in worked}
        case Kind.RENAME:
            files = files - {f"a{n}" for n in worked} | {f"b{n}" for n in worked}
        case Kind.UNLINK | Kind.RMDIR:
            files -= {("a" if kind is Kind.UNLINK else "d") + str(n) for n in worked}
        case Kind.LINK:
            files |= {f"b{n}" for n in worked}
        case _:
            pass
    assert set(names) == files
    last = worked[-1]
    assert size == {Kind.WRITE: 8 * last + 8, Kind.TRUNCATE: 100 + last}.get(
        kind, 100 + last if kind is Kind.ALLOCATE else 0
    )
    assert run.board.fired == turns.count(28)
    assert run.board.counts[kind] == 5
    syncs = [event.injected for event in run.of(SyncEnd) if event.error == 28]
    others = [event.injected for event in run.of(Failed) if event.error == 28]
    assert syncs + others == [True] * turns.count(28)


def test_a_close_that_fails_closes(tmp_path: Path) -> None:
    """As on Linux: the descriptor is gone, whatever the call says."""
    run = run_shimmed(
        tmp_path,
        """
fd = make("a")
start(Plan(Action.FAIL_ONCE, frozenset({Kind.CLOSE})))
for _ in range(2):
    try:
        os.close(fd)
    except OSError as error:
        os.write(1, b"%d " % error.errno)
""",
    )
    assert run.output == b"%d %d " % (errno.EIO, errno.EBADF)
    assert run.of(Close) == []


def test_a_failed_sync_does_not_sync(tmp_path: Path) -> None:
    """The disk is not asked: seen from outside, by the system calls that were made."""
    program = """
import os, sys
from pathlib import Path
from strandline.tools.crash.shim.control import *
root = Path(sys.argv[1])
fd = os.open(root / "a", os.O_CREAT | os.O_RDWR)
arm(root)
plan(Plan(Action.FAIL_ONCE, frozenset({Kind.FDATASYNC}), nth=2))
for _ in range(3):
    try:
        os.fdatasync(fd)
    except OSError as error:
        print(error.errno)
"""
    if not Path("/usr/bin/strace").exists():
        pytest.skip("needs strace")
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=fdatasync", sys.executable, "-c", program, str(tmp_path)],
        env=control.environment(library()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "5\n"
    assert done.stderr.count("fdatasync(") == 2


@pytest.mark.parametrize(
    ("call", "written"),
    [
        ("os.write(fd, b'abcdef')", b"abc"),
        ("os.pwrite(fd, b'abcdef', 2)", b"\0\0abc"),
        ("os.writev(fd, [b'ab', b'cd', b'ef'])", b"abc"),
        ("os.pwritev(fd, [b'ab', b'cd', b'ef'], 1)", b"\0abc"),
    ],
)
def test_a_short_write_writes_its_first_bytes(tmp_path: Path, call: str, written: bytes) -> None:
    """It says how many they were; the next one is whole."""
    run = run_shimmed(
        tmp_path,
        f"""
fd = make("a")
start(Plan(Action.SHORT_ONCE, frozenset({{Kind.WRITE}}), bytes=3))
os.write(1, b"%d " % {call})
now = (root / "a").read_bytes()
os.write(1, b"%d " % {call})
os.write(1, now)
""",
    )
    assert run.output == b"3 6 " + written
    first, second = run.of(Write)
    assert (first.data, first.asked, first.injected) == (b"abc", 6, True)
    assert (second.data, second.asked, second.injected) == (b"abcdef", 6, False)


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.name)
def test_a_kill_comes_before_the_nth_call(tmp_path: Path, kind: Kind) -> None:
    """Two calls were made, the third was not, and nothing came after it."""
    plan = f"Action.KILL_BEFORE, frozenset({{Kind.{kind.name}}}), nth=3"
    run = run_shimmed(tmp_path, _FIVE_TURNS.format(plan=plan, call=CALLS[kind]), there=b"")
    assert run.code == -signal.SIGKILL
    assert run.output == b""
    assert (run.board.fired, run.board.counts[kind]) == (1, 3)
    made = [event for event in run.recording.events if type(event).__name__ not in _AROUND]
    assert len(made) == 2
    assert len([name for name in tree(run.root) if name.startswith("new")]) == (
        2 if kind in (Kind.CREATE, Kind.MKDIR) else 0
    )


_AROUND = ("Seen", "Close", "SyncEnd")


def test_a_kill_within_a_write_leaves_its_first_bytes(tmp_path: Path) -> None:
    """What was written is there, and is what the record says."""
    run = run_shimmed(
        tmp_path,
        """
start(Plan(Action.KILL_WITHIN, frozenset({Kind.WRITE}), nth=2, bytes=4))
fd = make("a")
os.write(fd, b"whole,")
os.write(fd, b"partial")
""",
    )
    assert run.code == -signal.SIGKILL
    assert tree(run.root) == {"a": b"whole,part"}
    assert [event.data for event in run.of(Write)] == [b"whole,", b"part"]


def test_a_plan_waits_for_its_phase(tmp_path: Path) -> None:
    """Calls before the phase do not count, neither for the plan nor on the board."""
    run = run_shimmed(
        tmp_path,
        """
start(Plan(Action.FAIL_ONCE, frozenset({Kind.WRITE}), nth=2, phase=1))
fd = make("a")
for phase in range(3):
    enter_phase(phase)
    for turn in range(3):
        try:
            os.write(fd, b"x")
        except OSError:
            os.write(1, b"%d:%d " % (phase, turn))
    os.write(1, b"%d " % counts().counts[Kind.WRITE])
""",
    )
    assert run.output == b"3 1:1 3 3 "


def test_a_sync_that_fails_is_recorded_from_beginning_to_end(tmp_path: Path) -> None:
    """Replay has to know what it covered, since those pages are taken for clean."""
    run = run_shimmed(
        tmp_path,
        """
start(Plan(Action.FAIL_ONCE, SYNCS))
fd = make("a")
os.write(fd, b"x")
try:
    os.fsync(fd)
except OSError:
    pass
""",
    )
    (begin,), (end,) = run.of(SyncBegin), run.of(SyncEnd)
    assert begin.token == end.token
    assert (end.error, end.injected) == (errno.EIO, True)


_SERVER = """
import os, sys
from pathlib import Path
from strandline.tools.crash.shim.control import *

def work(root):
    fd = os.open(root / "a", os.O_CREAT | os.O_RDWR)
    for turn in range(3):
        os.write(fd, b"%d" % turn)
        os.fdatasync(fd)
    os.rename(root / "a", root / "b")

for line in sys.stdin:
    home = Path(line.rstrip())
    if (child := os.fork()) == 0:
        arm(home / "root", record=home / "record", board=home / "board")
        plan(Plan(Action.KILL_BEFORE, nth=int(home.name)))
        work(home / "root")
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_fork_server_kills_at_every_call(tmp_path: Path) -> None:
    """One exec: each child arms for itself, and is killed one call later than the one before."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env=control.environment(library()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    states: list[dict[str, bytes | None]] = []
    with server, server.stdin, server.stdout:
        for nth in range(1, 20):
            home = tmp_path / str(nth)
            (home / "root").mkdir(parents=True)
            control.make_board(home / "board")
            print(home, file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            states.append(tree(home / "root"))
            board = control.read_board(home / "board")
            assert len(read(home / "record").events) > 0 or nth == 1
            if os.waitstatus_to_exitcode(status) == 0:
                break
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            assert (board.fired, board.count()) == (1, nth)
    assert board.fired == 0
    assert board.count() == 8, "one open, three writes, three syncs, one rename"
    one, two, three = ({"a": b"0"}, {"a": b"01"}, {"a": b"012"})
    assert states == [{}, {"a": b""}, one, one, two, two, three, three, {"b": b"012"}]


def test_plans_that_mean_nothing_are_refused() -> None:
    """Each says what it was given."""
    with pytest.raises(ValueError, match="counted from 1, not from 0"):
        Plan(Action.KILL_BEFORE, nth=0)
    with pytest.raises(ValueError, match="KILL_WITHIN means something for writes only"):
        Plan(Action.KILL_WITHIN, frozenset({Kind.WRITE, Kind.FSYNC}))
    with pytest.raises(ValueError, match="3 bytes mean nothing to FAIL_ONCE"):
        Plan(Action.FAIL_ONCE, bytes=3)
    with pytest.raises(ValueError, match="0 is no errno"):
        Plan(Action.FAIL_ON, error=0)


def test_arming_says_why_it_cannot(tmp_path: Path) -> None:
    """Without the shim, or with a record below the root; nothing is made then."""
    if hasattr(ctypes.CDLL(None), "strandline_shim_arm"):
        pytest.skip("the shim is under this process")
    with pytest.raises(ValueError, match="would record itself"):
        control.arm(tmp_path, record=tmp_path / "record")
    (tmp_path / "root").mkdir()
    with pytest.raises(RuntimeError, match="the shim is not under this process"):
        control.arm(tmp_path / "root", record=tmp_path / "record")
    assert not (tmp_path / "record").exists()


def test_a_process_is_armed_once(tmp_path: Path) -> None:
    """A second time is refused until it is disarmed; an old record is not written over."""
    run = run_shimmed(
        tmp_path,
        """
start()
for record in (_record, None):
    try:
        arm(root, record=record)
    except OSError as error:
        os.write(1, b"%d " % error.errno)
disarm()
arm(root, record=Path(str(_record) + "2"))
os.close(make("a"))
""",
    )
    assert run.output == b"%d %d " % (errno.EEXIST, errno.EALREADY)
    assert [type(event) for event in read(tmp_path / "record2").events] == [Open, Close]


def test_where_there_is_no_compiler_the_obstacle_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstacle names what is missing, and so does the error of an attempt."""
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    why = build.obstacle()
    assert why is not None
    assert "C compiler" in why
    with pytest.raises(RuntimeError, match="C compiler"):
        build.library(tmp_path)


def test_the_shim_is_compiled_once(tmp_path: Path) -> None:
    """A second call finds what the first one made, and no compiler runs."""
    first = build.library(tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert build.library(tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    assert [path.name for path in first.parent.iterdir()] == [first.name]
