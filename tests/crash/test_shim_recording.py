"""The preload shim as a recorder: what a real program does to its files, call by call."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path

import pytest

from strandline.tools.crash.shim.control import Kind
from strandline.tools.crash.shim.record import (
    Allocate,
    Close,
    Failed,
    Link,
    Mark,
    Mkdir,
    Open,
    Phase,
    Rename,
    Rmdir,
    Seen,
    SyncBegin,
    SyncEnd,
    Truncate,
    Unlink,
    Unsupported,
    Write,
    read,
)
from tests.crash.shimmed import needs_shim, run_shimmed, tree

pytestmark = needs_shim


ALL_KINDS = """
start()
os.mkdir(root / "d")
a = make("a")
os.write(a, b"one")
os.pwrite(a, b"far", 9000)
os.writev(a, [b"two", b"", b"three"])
os.pwritev(a, [b"x" * 700, b"y"], 100)
os.ftruncate(a, 5000)
os.truncate(root / "before", 3)
os.posix_fallocate(a, 0, 6000)
os.fsync(a)
os.fdatasync(a)
appended = make("d/log", os.O_WRONLY | os.O_APPEND)
os.write(appended, b"first")
os.write(appended, b"second")
os.close(appended)
appended = make("d/log", os.O_WRONLY | os.O_APPEND)
os.pwrite(appended, b"third", 0)  # Linux appends all the same
through = make("through", os.O_RDWR | os.O_DSYNC)
os.write(through, b"t" * 600)
os.pwritev(a, [b"now"], 50, os.RWF_DSYNC)
os.pwritev(a, [b"end"], 0, os.RWF_APPEND)
os.rename(root / "a", root / "d" / "b")
os.write(os.dup(a), b"after the rename")
os.replace(root / "through", root / "replaced")
os.link(root / "replaced", root / "second name")
os.close(make("gone"))
os.unlink(root / "gone")
directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
os.mkdir("sub", dir_fd=directory)
os.close(os.open("sub/c", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
os.rename("sub", "moved", src_dir_fd=directory, dst_dir_fd=directory)
os.unlink("moved/c", dir_fd=directory)
os.close(os.open("moved/c", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
os.mkdir(root / "no more")
os.rmdir(root / "no more")
os.fsync(directory)
with open(root / "text", "w") as file:
    file.write("through Python's own buffer")
emptied = make("emptied", os.O_WRONLY | os.O_TRUNC)
os.write(emptied, b"new")
os.chdir(root)
os.close(os.open("relative", os.O_CREAT))
disarm()
"""


def test_what_is_replayed_is_what_is_there(tmp_path: Path) -> None:
    """Every kind of call, replayed without a loss, gives the real files, byte for byte."""
    run = run_shimmed(
        tmp_path, ALL_KINDS, before=b"0123456789", replaced=b"old", emptied=b"full" * 999
    )
    there = tree(run.root)
    assert there["d/b"] is not None
    assert len(there["d/b"]) == 6003
    assert there["d/log"] == b"firstsecondthird"
    assert tree(run.survivors(tmp_path / "image")) == there
    kinds = {type(event) for event in run.recording.events}
    assert kinds == {
        Allocate, Close, Link, Mkdir, Open, Rename, Rmdir, Seen, SyncBegin, SyncEnd, Truncate,
        Unlink, Write,
    }  # fmt: skip
    assert all(run.board.counts[kind] for kind in Kind)


def test_an_open_says_what_it_did(tmp_path: Path) -> None:
    """Made, emptied, written through, a directory: what an open does to a file is told."""
    run = run_shimmed(
        tmp_path,
        """
start()
os.close(make("new"))
os.close(make("new"))
os.close(make("new", os.O_RDWR | os.O_SYNC))
os.close(make("there", os.O_WRONLY | os.O_TRUNC))
os.close(os.open(root, os.O_RDONLY))
""",
        there=b"x",
    )
    found = [
        (event.path, event.created, event.truncated, event.through, event.directory)
        for event in run.of(Open)
    ]
    assert found == [
        ("new", True, False, False, False),
        ("new", False, False, False, False),
        ("new", False, False, True, False),
        ("there", False, True, False, False),
        (".", False, False, False, True),
    ]
    assert run.board.counts[Kind.CREATE] == 2
    assert run.board.counts[Kind.OPEN] == 3


def test_a_number_stands_for_the_file_not_for_its_name(tmp_path: Path) -> None:
    """A file keeps its number when it moves; what is made under its old name has another."""
    run = run_shimmed(
        tmp_path,
        """
start()
for _ in range(3):
    first = make("a")
    os.rename(root / "a", root / "b")
    os.write(first, b"1")
    os.close(first)
    os.unlink(root / "b")
""",
    )
    made = [event.file for event in run.of(Open)]
    assert len(set(made)) == 3
    assert [event.file for event in run.of(Rename)] == made
    assert [event.file for event in run.of(Write)] == made
    assert [event.file for event in run.of(Unlink)] == made


def test_a_descriptor_from_before_is_known(tmp_path: Path) -> None:
    """What was opened before the shim was armed is recorded, introduced as seen."""
    run = run_shimmed(
        tmp_path,
        """
fd = os.open(root / "old", os.O_RDWR)
os.write(fd, b"not recorded, ")
start()
os.write(fd, b"recorded")
""",
        old=b"",
    )
    assert [(event.path, event.directory) for event in run.of(Seen)] == [("old", False)]
    assert [(event.offset, event.data) for event in run.of(Write)] == [(14, b"recorded")]


def test_what_lies_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Files outside of the root, also those whose name begins like it, are not looked at."""
    run = run_shimmed(
        tmp_path,
        """
start()
beside = Path(str(root) + "-beside")
beside.write_bytes(b"x")
os.rename(beside, str(beside) + "2")
reader, writer = os.pipe()
os.write(writer, b"x")
""",
    )
    assert run.recording.events == []
    assert run.board.count(frozenset(Kind)) == 0


def test_failed_calls_are_recorded_with_their_errno(tmp_path: Path) -> None:
    """A call that the system refuses is no event of its kind, but a failure with an errno."""
    run = run_shimmed(
        tmp_path,
        """
start()
for attempt in (
    lambda: os.open(root / "absent", os.O_RDONLY),
    lambda: os.unlink(root / "absent"),
    lambda: os.rename(root / "absent", root / "b"),
    lambda: os.mkdir(root / "there"),
    lambda: os.truncate(root / "absent", 1),
    lambda: os.write(os.open(root / "there", os.O_RDONLY), b"x"),
):
    try:
        attempt()
    except OSError:
        pass
""",
        there=b"",
    )
    found = [(event.call, event.error, event.path, event.injected) for event in run.of(Failed)]
    assert found == [
        ("open", errno.ENOENT, "absent", False),
        ("unlink", errno.ENOENT, "absent", False),
        ("rename", errno.ENOENT, "absent", False),
        ("mkdir", errno.EEXIST, "there", False),
        ("truncate", errno.ENOENT, "", False),
        ("write", errno.EBADF, "", False),
    ]


def test_marks_and_phases_stand_in_the_same_order(tmp_path: Path) -> None:
    """What is written to the descriptor of marks is recorded where it happened, and arrives."""
    run = run_shimmed(
        tmp_path,
        """
start()
fd = make("a")
os.write(1, b"before ")
os.write(fd, b"x")
os.writev(os.dup(1), [b"af", b"ter"])
enter_phase(7)
os.fsync(fd)
""",
    )
    assert run.output == b"before after"
    assert [type(event) for event in run.recording.events] == [
        Open, Mark, Write, Mark, Phase, SyncBegin, SyncEnd,
    ]  # fmt: skip
    assert run.recording.marks == [b"before ", b"after"]
    assert [event.number for event in run.of(Phase)] == [7]
    assert run.board.phase == 7
    assert run.board.count() == 1, "a phase counts from its beginning"


def test_threads_are_recorded_in_the_order_of_execution(tmp_path: Path) -> None:
    """Threads write to files of their own and to one that they share; the order is the real one."""
    run = run_shimmed(
        tmp_path,
        """
import threading
start()
shared = make("shared", os.O_RDWR | os.O_APPEND)
overwritten = make("overwritten")
def work(number):
    own = make(f"own {number}")
    for turn in range(200):
        os.write(own, b"%d," % turn)
        os.write(shared, b"%d:%d," % (number, turn))
        os.pwrite(overwritten, b"%d:%03d" % (number, turn), 0)
        if turn % 20 == number:
            os.fdatasync(shared)
            os.rename(root / f"own {number}", root / f"own {number}.")
            os.rename(root / f"own {number}.", root / f"own {number}")
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for each in threads: each.start()
for each in threads: each.join()
""",
    )
    there = tree(run.root)
    assert tree(run.survivors(run.root.parent / "image")) == there
    begun: dict[int, SyncBegin] = {}
    for event in run.recording.events:
        if isinstance(event, SyncBegin):
            assert event.token not in begun
            begun[event.token] = event
        elif isinstance(event, SyncEnd):
            assert begun.pop(event.token).file == event.file
    assert not begun
    assert len({event.thread for event in run.of(Write)}) == 4


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("mmap", "import mmap; os.ftruncate(fd, 99); mmap.mmap(fd, 99)"),
        ("sendfile", "os.sendfile(fd, os.open(sys.executable, os.O_RDONLY), 0, 10)"),
        ("copy_file_range", "os.copy_file_range(os.open(root / 'there', os.O_RDONLY), fd, 3)"),
        ("splice", "r, w = os.pipe(); os.write(w, b'x'); os.splice(r, fd, 1)"),
        ("open with O_DIRECT", "os.open(root / 'there', os.O_RDWR | os.O_DIRECT)"),
        ("open with O_TMPFILE", "os.open(root, os.O_RDWR | os.O_TMPFILE, 0o600)"),
        ("symlink", "os.symlink('there', root / 's')"),
        ("mknod", "os.mkfifo(root / 's')"),
        ("rename", "os.rename(root / 'there', str(root) + '-outside')"),
        ("link", "os.link(_board, root / 's')"),
        ("syncfs", "libc.syncfs(fd)"),
        ("fopen", "libc.fopen(bytes(root / 'there'), b'a')"),
        ("fopen", "libc.fopen64(bytes(root / 's'), b'w')"),
        ("mkostemp", "libc.mkstemp(ctypes.create_string_buffer(bytes(root / 'tXXXXXX')))"),
        ("fallocate with a mode", "libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(9))"),
        ("syscall", "libc.syscall(1, fd, b'x', 1)"),
        ("rename", "libc.renameat2(-100, bytes(root / 'there'), -100, bytes(root / 'made'), 2)"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_noticed(tmp_path: Path, call: str, act: str) -> None:
    """A call that changes files in another way is recorded as unsupported: never missed."""
    run = run_shimmed(
        tmp_path,
        f"import ctypes\nlibc = ctypes.CDLL(None)\nfd = make('made')\nstart()\n{act}",
        there=b"x" * 9,
    )
    assert [(event.call, event.child) for event in run.of(Unsupported)] == [(call, False)]
    assert run.board.unsupported == 1


@pytest.mark.parametrize(
    "act",
    [
        "if os.fork() == 0:\n    os.write(fd, b'x'); os._exit(0)\nos.wait()",
        "import subprocess; subprocess.run(['/bin/sh', '-c', f'echo x > {root}/made'])",
        "import subprocess; subprocess.run(['/bin/rm', root / 'made'])",
    ],
)
def test_what_a_child_changes_is_noticed(tmp_path: Path, act: str) -> None:
    """A forked child, and a program that is started, are watched; their order is not known."""
    run = run_shimmed(tmp_path, f"fd = make('made')\nstart()\n{act}")
    assert {event.child for event in run.of(Unsupported)} == {True}


def test_a_child_that_changes_nothing_is_no_matter(tmp_path: Path) -> None:
    """Reading, and writing elsewhere, is no business of the recording."""
    run = run_shimmed(
        tmp_path,
        "import subprocess\nstart()\n"
        "subprocess.run(['/bin/cat', root / 'there'], stdout=subprocess.DEVNULL)",
        there=b"x",
    )
    assert run.recording.events == []


def test_the_record_of_a_killed_process_is_whole(tmp_path: Path) -> None:
    """A kill leaves whole records of all that was done, and the files agree with them."""
    run = run_shimmed(
        tmp_path,
        """
start(Plan(Action.KILL_BEFORE, nth=30))
fd = make("a")
for turn in range(99):
    os.write(fd, b"%d," % turn)
""",
    )
    assert run.code == -9
    assert run.recording.cut == 0
    assert len(run.of(Write)) == 28
    assert tree(run.survivors(tmp_path / "image")) == tree(run.root)


def test_a_record_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    """The events before it are there; a damaged record is an error that says where."""
    run = run_shimmed(
        tmp_path, "start()\nfd = make('a')\nos.write(fd, b'1' * 100)\nos.write(fd, b'2' * 100)"
    )
    path = run.root.parent / "record"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    cut = read(path)
    assert cut.cut == 131
    assert cut.events == run.recording.events[:-1]
    path.write_bytes(raw[:20] + b"\x63" + raw[21:])
    with pytest.raises(ValueError, match="no record at offset 16: type 99"):
        read(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected"):
        read(path)


def test_each_sync_lies_between_its_two_records(tmp_path: Path) -> None:
    """fsync and fdatasync, of files and of directories, are told apart."""
    run = run_shimmed(
        tmp_path,
        """
start()
fd = make("a")
directory = os.open(root, os.O_RDONLY)
os.fsync(fd); os.fdatasync(fd); os.fsync(directory); os.fdatasync(directory)
""",
    )
    found = [(event.directory, event.data_only) for event in run.of(SyncBegin)]
    assert found == [(False, False), (False, True), (True, False), (True, True)]
    tokens = [event.token for event in run.of(SyncEnd)]
    assert all(before < after for before, after in pairwise(tokens))
    assert run.board.counts[Kind.FSYNC] == run.board.counts[Kind.FDATASYNC] == 1
    assert run.board.counts[Kind.SYNC_DIRECTORY] == 2
