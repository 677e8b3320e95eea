"""Running a small program with the preload shim under it.

A program is source text. It finds `root`, an empty directory that is not yet looked at,
`start`, which arms the shim with a record file and a board, and the names of
`control`. Its standard output are the marks.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from strandline.tools.crash.shim import build, control, record, replay

E = TypeVar("E", bound=record.Event)

needs_shim = pytest.mark.skipif(build.obstacle() is not None, reason=str(build.obstacle()))

_PRELUDE = """
import os, sys
from pathlib import Path
from strandline.tools.crash.shim import control
from strandline.tools.crash.shim.control import *
root, _record, _board = map(Path, sys.argv[1:])
def start(*plans):
    control.make_board(_board)
    arm(root, record=_record, board=_board, marks=1)
    for each in plans:
        plan(each)
def make(name, flags=os.O_RDWR):
    return os.open(root / name, flags | os.O_CREAT, 0o600)
"""


@dataclass(frozen=True)
class Run:
    """What a program left: its files, its record, its counts, and how it ended."""

    root: Path
    base: Path
    recording: record.Recording
    board: control.Board
    output: bytes
    code: int

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.recording.events if isinstance(event, kind)]

    def survivors(self, folder: Path) -> Path:
        """Replay all, lose nothing, and return where that was written."""
        cut = list(replay.replay(self.recording, self.base))[-1]
        folder.mkdir()
        replay.write_image(cut.disk.crash("all"), folder)
        return folder


@functools.cache
def library() -> Path:
    """Return the shim, compiled once for this process."""
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache)
    return build.library(Path(cache))


def run_shimmed(scratch: Path, source: str, **before: bytes) -> Run:
    """Run a program below `scratch`; `before` are files that were there before."""
    root, base = scratch / "root", scratch / "base"
    for folder in (root, base):
        folder.mkdir()
        for file, content in before.items():
            (folder / file).write_bytes(content)
    paths = (root, scratch / "record", scratch / "board")
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + source, *map(str, paths)],
        env=control.environment(library()),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr.decode()
    board = control.read_board(paths[2])
    return Run(root, base, record.read(paths[1]), board, done.stdout, done.returncode)


def tree(folder: Path, *, ignored: str = "lock.mdb") -> dict[str, bytes | None]:
    """Return every file's bytes, None for a directory; of `ignored` only that it is there."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = None
        else:
            found[name] = b"" if path.name == ignored else path.read_bytes()
    return found
