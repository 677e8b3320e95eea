"""Parents that die before their forked child, and children that end before their parent.

Real processes: a writer of its own, which forks. What it forked can stay asleep, use the
store, or end as every program does, with all that Python and LMDB do at an exit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import StoreLockedError

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "segment_bytes": 64 << 10,
    "max_log_bytes": 1 << 20,
    "map_bytes": 16 << 20,
}

HEAD = f"""
import os, signal, sys
import strandline
from strandline import Durability
path = sys.argv[1]
options = {OPTIONS!r}
def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()
"""

Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start programs that use the store in `tmp_path`; end what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(body), str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        started.append(program)
        return program

    yield start
    for program in started:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        program.wait()
        for pipe in (program.stdin, program.stdout, program.stderr):
            assert pipe is not None
            pipe.close()


def hear(program: subprocess.Popen[str]) -> list[str]:
    """Return the words of the next line that a program says."""
    assert program.stdout is not None
    line = program.stdout.readline().split()
    if not line:
        assert program.stderr is not None
        raise AssertionError(program.stderr.read())
    return line


def tell(program: subprocess.Popen[str], word: str) -> None:
    """Send a line to a program, or to the child that reads in its stead."""
    assert program.stdin is not None
    program.stdin.write(word + "\n")
    program.stdin.flush()


def test_a_dead_parents_lock_is_free_though_its_child_lives(tmp_path: Path, run: Run) -> None:
    """The parent is killed; the child lives on, and a new writer is let in at once.

    The child's handle stays dead, whatever the new writer does. Guard: `lock.close()` in
    `Engine.forget_after_fork`.
    """
    program = run(
        """
        db = strandline.open(path, **options)
        db.put(b"before", b"1")
        child = os.fork()
        if child == 0:
            say("child", os.getpid())
            sys.stdin.readline()
            for verb in (lambda: db.put(b"k", b"child"), lambda: db.get(b"before")):
                try:
                    say("did", verb())
                except strandline.StrandlineError as error:
                    say(type(error).__name__)
            db.close()
            say("closed")
            sys.stdin.readline()
            os._exit(0)
        signal.pause()
        """
    )
    child = int(hear(program)[1])
    with pytest.raises(StoreLockedError) as refused:
        strandline.open(tmp_path / "data", **OPTIONS)
    assert refused.value.pid == program.pid
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    with strandline.open(tmp_path / "data", **OPTIONS) as db:
        os.kill(child, 0)  # it is still there
        assert b"1" == db.get(b"before")
        db.put(b"after", b"1")
        tell(program, "go")
        assert [["StoreClosedError"], ["StoreClosedError"], ["closed"]] == [
            hear(program) for _ in range(3)
        ]
        db.put(b"after", b"2")
        db.flush()
        assert (None, b"2") == (db.get(b"k"), db.get(b"after"))
    tell(program, "end")
    with strandline.open(tmp_path / "data", **OPTIONS) as db:
        assert db.recovery_report.clean
        assert b"2" == db.get(b"after")


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(0)",
        "os._exit(0)",
        "del db, snapshot, rows; import gc; gc.collect(); sys.exit(0)",
        "db.close(); sys.exit(0)",
        "snapshot.close(); rows.close() if hasattr(rows, 'close') else None; sys.exit(0)",
    ],
)
def test_a_childs_end_takes_nothing_from_the_parent(tmp_path: Path, run: Run, end: str) -> None:
    """Children end in every way; the parent's lock, snapshot, log and LMDB are as before.

    The snapshot is the witness of LMDB's reader slots: if the child's end had freed the
    slot, the pages that the snapshot reads would be used again. Guards:
    `Backing.forget_after_fork`, which keeps LMDB from closing what is the parent's, and
    `process_guard`, which forgets the stores that the child inherited.
    """
    program = run(
        f"""
        db = strandline.open(path, **options)
        db.put_many({{b"k%03d" % n: b"old" * 100 for n in range(100)}})
        db.flush()
        db.put(b"dirty", b"1", durability=Durability.ASYNC)
        snapshot, rows = db.snapshot(), db.scan()
        next(rows)
        slots = db.engine.backing._env.readers()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                {end}
            say("ended", os.waitpid(child, 0)[1])
        say("slots", slots == db.engine.backing._env.readers())
        for turn in range(8):
            db.put_many({{b"k%03d" % n: b"new%d" % turn * 100 for n in range(100)}})
            db.flush()
        old = {{snapshot.get(b"k%03d" % n) for n in range(100)}}
        say("snapshot", old == {{b"old" * 100}}, len(list(rows)))
        say("dirty", db.get(b"dirty").decode(), db.health().state.name)
        sys.stdin.readline()
        snapshot.close()
        db.close()
        say("closed")
        """
    )
    for _ in range(3):
        assert ["ended", "0"] == hear(program)
    assert ["slots", "True"] == hear(program)
    assert ["snapshot", "True", "100"] == hear(program)
    assert ["dirty", "1", "OK"] == hear(program)
    with pytest.raises(StoreLockedError) as refused:
        strandline.open(tmp_path / "data", **OPTIONS)
    assert refused.value.pid == program.pid
    tell(program, "end")
    assert ["closed"] == hear(program)
    assert 0 == program.wait()
    with strandline.open(tmp_path / "data", **OPTIONS) as db:
        assert db.recovery_report.clean
        assert b"new7" * 100 == db.get(b"k000")


def test_a_forked_child_is_told_where_to_open_the_store(run: Run) -> None:
    """The child of a writer cannot open the store again, not even when the parent closed it.

    LMDB allows one environment for a path in a process, and the child has its parent's. It
    is told so at once, keeps no lock by trying, and a program that it starts can.
    """
    program = run(
        """
        import subprocess
        db = strandline.open(path, **options)
        db.put(b"k", b"1")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            try:
                strandline.open(path, **options)
            except strandline.StoreLockedError as error:
                say("locked", "started_anew" in str(error).replace(" ", "_"))
            sys.exit(subprocess.call([sys.executable, "-c", "import strandline, sys\\n"
                "with strandline.open(sys.argv[1]) as db: sys.exit(int(db[b'k']))", path]))
        db.close()
        os.write(writer, b"x")
        say("ended", os.WEXITSTATUS(os.waitpid(child, 0)[1]))
        with strandline.open(path, **options) as again:
            say("found", again.get(b"k").decode())
        """
    )
    assert ["locked", "True"] == hear(program)
    assert ["ended", "1"] == hear(program)
    assert ["found", "1"] == hear(program)
