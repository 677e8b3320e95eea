"""Interpreters that exit with a store open, in surroundings that make it hard.

Where warnings are errors, where no thread can be started any more (Python 3.12), with what
has no log, after an exception. A normal exit loses nothing that was acknowledged.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import strandline
from strandline.recovery import tail
from strandline.wal.identity import read_identity
from strandline.wal.real_disk import RealDisk

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, threading
import strandline
from strandline import Durability

db = strandline.open(sys.argv[1], log_interval=60.0, map_bytes=16 << 20)
db.table("views", logged=False).put(b"unlogged", b"1")
db.put(b"weak", b"2", durability=Durability.ASYNC)
"""

NO_THREADS = """
import atexit

def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")

atexit.register(lambda: setattr(threading.Thread, "start", refuse))
"""

ENDINGS = {"end": ("", 0), "sys.exit": ("sys.exit(3)", 3), "exception": ("raise KeyError", 1)}


def ended_cleanly(path: Path) -> bool:
    """Tell whether the log ends in the seal of an orderly close."""
    uuid = read_identity(RealDisk(), str(path)).uuid
    return tail.ended_cleanly(RealDisk(), str(path / "log"), uuid)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("warnings", ["always", "error"])
@pytest.mark.parametrize("threads", [True, False])
def test_exit_without_close(tmp_path: Path, ending: str, warnings: str, threads: bool) -> None:
    """Unlogged and ASYNC writes are there afterwards, and the log was closed in order.

    Guards: `_at_exit` in `engine.process_guard` warns last and starts no thread;
    `close_at_exit` flushes what the log does not hold.
    """
    last, code = ENDINGS[ending]
    done = subprocess.run(
        [
            *(sys.executable, "-W", warnings, "-c"),
            PROGRAM + ("" if threads else NO_THREADS) + last,
            str(tmp_path / "data"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert code == done.returncode, done.stderr
    assert "ResourceWarning" in done.stderr
    assert "not closed before the interpreter's exit" in done.stderr
    assert ended_cleanly(tmp_path / "data")
    with strandline.open(tmp_path / "data") as db:
        assert db.recovery_report.torn_tail is None
        assert (b"2", b"1") == (db.get(b"weak"), db.table("views").get(b"unlogged"))


HARD = {
    # The exit gives up in time, and the log comes first.
    "a checkpoint that hangs": """
from strandline.engine import process_guard

process_guard.EXIT_TIMEOUT = 2.0
db.engine.checkpointer.run = lambda: threading.Event().wait()
""",
    # Whoever should have closed the store is not there any more.
    "a checkpointer that has ended": "db.engine.checkpointer.stop(10.0)",
    # What it had frozen is in no active layer.
    "a checkpoint that failed": """
from strandline.errors import DiskFullError

real = db.engine.backing.checkpoint

def refuse():
    raise DiskFullError("no room", 28)

db.engine.backing.checkpoint = refuse
while not db.engine.checkpointer.failures:
    db.flush(timeout=0.1)
db.engine.checkpointer._retry_at = 1e18
db.engine.backing.checkpoint = real
""",
}


@pytest.mark.parametrize("what", HARD)
def test_exit_beside_what_has_failed(tmp_path: Path, what: str) -> None:
    """It is over in time, and what can be saved is saved: the log, and all that is unlogged.

    Guards: `_at_exit` waits with a time limit for the store's own thread, and does its work
    where it is gone; `close_at_exit` syncs the log first, and flushes frozen layers too.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + HARD[what], str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    hangs = what == "a checkpoint that hangs"
    assert ended_cleanly(tmp_path / "data") != hangs
    with strandline.open(tmp_path / "data") as db:
        assert b"2" == db.get(b"weak")
        assert (None if hangs else b"1") == db.table("views").get(b"unlogged")


UNLOGGED = """
import sys
import strandline

class Late:
    armed = False

    def should_flush(self, stats):
        return False

    def on_flush_complete(self, stats):
        if self.armed:
            self.armed = False
            try:
                table.put(b"late", b"acknowledged")
                print("acknowledged")
            except strandline.StoreClosedError:
                print("refused")

late = Late()
db = strandline.open(sys.argv[1], map_bytes=16 << 20, flush_strategy=late)
table = db.table("views", logged=False)
table.put(b"k", b"old")
db.flush()
"""


@pytest.mark.parametrize(
    ("last", "said", "left"),
    [
        ("table.clear()", [], {}),
        ("table.put(b'k', b'new'); late.armed = True", ["refused"], {b"k": b"new"}),
    ],
    ids=["a cleared table", "a write during the exit's flush"],
)
def test_exit_with_an_unlogged_table(
    tmp_path: Path, last: str, said: list[str], left: dict[bytes, bytes]
) -> None:
    """That it was cleared is kept, and no write is acknowledged that has nowhere to go.

    A layer that only says that all below it is gone was not flushed. And writers were let in
    until the exit's flush was over.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", UNLOGGED + last, str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said == done.stdout.split()
    with strandline.open(tmp_path / "data") as db:
        assert left == dict(db.table("views").items())
