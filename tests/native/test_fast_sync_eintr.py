"""The short way's own pwrite when a signal comes before it has written anything.

No local file system interrupts the write of a regular file, so a library that is loaded first
stands in for pwrite, in a process of its own: it raises a signal, and says EINTR.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from strandline.native import native

CC: Final = shutil.which("cc") or shutil.which("gcc")

pytestmark = [
    pytest.mark.skipif(native is None, reason="the functions in C were not built"),
    pytest.mark.skipif(CC is None or sys.platform != "linux", reason="needs a compiler, on Linux"),
]

SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

int interruptions = 0, number = 0;

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
    if (interruptions > 0) {
        interruptions--;
        if (number) {
            raise(number);
        }
        errno = EINTR;
        return -1;
    }
    return real(file, data, length, offset);
}

ssize_t pwrite64(int file, const void *data, size_t length, off_t offset) {
    return pwrite(file, data, length, offset);
}
"""

CHILD: Final = """
import ctypes, signal, sys
import strandline
from strandline import Durability

library, path, level = ctypes.CDLL(sys.argv[1]), sys.argv[2], Durability[sys.argv[3]]
left, number = (ctypes.c_int.in_dll(library, name) for name in ("interruptions", "number"))
with strandline.open(path, sync_interval=60.0) as db:
    log, seen = db.engine.log, []

    def short(key, times, signal_number=0):
        db.put(b"before", b"b", durability=level)
        last, left.value, number.value = log.tail[3], times, signal_number
        done = db._writes.fast(db._state, key, b"v", level)
        assert left.value == 0 and log.tail[3] == last + 1
        return db._writes.wait(done) if type(done) is tuple else done

    def handle(*_):
        try:
            db.put(b"handler", b"h", durability=level)
        except strandline.InvalidRequestError:
            seen.append(("refused", db.get(b"two"), log.leading))

    assert short(b"one", 3) == 2
    signal.signal(signal.SIGUSR1, handle)
    assert short(b"two", 1, signal.SIGUSR1) == 4
    assert seen == [("refused", None, False)], seen
    try:
        short(b"three", 1, signal.SIGINT)
    except KeyboardInterrupt:
        seen.append("interrupted")
    assert seen[1:] == ["interrupted"]
    assert (log.tail[3], log.next_lsn(), log.leading, len(log.unsynced)) == (5, 6, False, 0)
    assert short(b"four", 0) == 7
with strandline.open(path) as db:
    assert set(db) == {b"before", b"one", b"two", b"four"}, set(db)
print("done")
"""


@pytest.mark.parametrize("level", ["BUFFERED", "SYNC"])
def test_a_signal_before_the_write(tmp_path: Path, level: str) -> None:
    """The write is tried again; a handler that raises ends it, and nothing has changed then.

    A handler that writes is refused, for the frame is under way.
    """
    assert CC is not None
    source, library = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(SHIM)
    subprocess.run([CC, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, library, tmp_path / "data", level],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (0, "done\n", "") == (child.returncode, child.stdout, child.stderr)
