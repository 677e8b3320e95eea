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
    with strandline.open(tmp_path / "data") as db:
        assert db.recovery_report.torn_tail is None
        assert (b"2", b"1") == (db.get(b"weak"), db.table("views").get(b"unlogged"))
