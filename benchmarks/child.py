"""What has to happen in a process of its own: being killed, and being weighed.

`python -m benchmarks.child fill ENGINE PATH COUNT BATCH` writes COUNT records, each batch
acknowledged at BUFFERED, and dies of SIGKILL with the store open; a BATCH of 1 is single puts.
`python -m benchmarks.child weigh WHAT PATH COUNT` prints how many bytes of resident memory
each of COUNT dirty records costs beyond its key and value.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys

from benchmarks.peers import ENGINES, STRANDLINE, Level
from benchmarks.scale import VALUE_BYTES
from benchmarks.timing import KEY_BYTES, random_pairs, slices

FILL_SEED = 6
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def spawn(*arguments: object) -> str:
    """Run a command of this module in a new process; return what it printed.

    `fill` must end by SIGKILL and everything else with 0, or RuntimeError has its errors.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", *map(str, arguments)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = -signal.SIGKILL if arguments[0] == "fill" else 0
    if done.returncode != expected:
        raise RuntimeError(
            f"benchmarks.child {' '.join(map(str, arguments))}: expected exit {expected}, found "
            f"{done.returncode}\n{done.stderr}"
        )
    return done.stdout


def fill(engine: str, path: str, count: int, batch: int) -> None:
    """Write `count` records and die."""
    session = ENGINES[engine].open(path, Level.BUFFERED, True)
    pairs = random_pairs(count, VALUE_BYTES, FILL_SEED)
    if batch == 1:
        put = session.put
        for key, value in pairs:
            put(key, value)
    else:
        for part in slices(pairs, batch):
            session.put_many(part)
    os.kill(os.getpid(), signal.SIGKILL)


def weigh(what: str, path: str, count: int) -> float:
    """Return the bytes that a dirty record costs beyond its key and value.

    Every record has a key and a value object of its own, whose headers count as cost.
    `what` is "strandline" or, for the floor under anything in Python, "dict".
    """
    plain: dict[bytes, bytes] = {}
    session = STRANDLINE.open(path, Level.ASYNC, True) if what == STRANDLINE.name else None
    put = session.put if session else plain.__setitem__
    randbytes = random.Random(7).randbytes
    put(randbytes(KEY_BYTES), randbytes(VALUE_BYTES))
    gc.collect()
    before = _resident_bytes()
    for _ in range(count):
        put(randbytes(KEY_BYTES), randbytes(VALUE_BYTES))
    if session:
        session.drain()
    gc.collect()
    grown = _resident_bytes() - before
    if session:
        session.close()
    return grown / count - KEY_BYTES - VALUE_BYTES


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> None:
    """Run one of the two commands."""
    match arguments:
        case ["fill", engine, path, count, batch]:
            fill(engine, path, int(count), int(batch))
        case ["weigh", what, path, count]:
            print(weigh(what, path, int(count)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
