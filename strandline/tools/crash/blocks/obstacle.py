"""Why a machine cannot cut a file system's power: one sentence, or nothing.

What can be looked up is looked up, for its sentence says what to install. The rest (what a
container forbids, what a kernel lacks) is found out the honest way: a child process makes
a file system, cuts it and mounts what is left.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, cast

from strandline.tools.crash.blocks.blocklog import BlockLog
from strandline.tools.crash.blocks.filesystem import LoopFilesystem
from strandline.tools.crash.blocks.kinds import KINDS, KindName
from strandline.tools.crash.blocks.survivors import at_random
from strandline.tools.crash.blocks.workspace import roomy_directory

_SECONDS: Final = 60.0


@functools.cache
def shutdown_obstacle(kind: KindName) -> str | None:
    """Return why `LoopFilesystem` cannot be had here, None if it can."""
    return _lacking(kind) or _tried("shutdown", kind)


@functools.cache
def log_obstacle(kind: KindName) -> str | None:
    """Return why `BlockLog` cannot be had here, None if it can."""
    if (lacking := _lacking(kind)) is not None:
        return lacking
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse: load the kernel's fuse module, or allow it to the container"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed: pip install 'strandline[crash]'"
    return _tried("log", kind)


def _lacking(kind: KindName) -> str | None:
    if sys.platform != "linux":
        return f"loop devices are Linux's, and this is {sys.platform}"
    if os.geteuid():
        return "only root can mount"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control: allow loop devices to the container"
    if shutil.which(mkfs := KINDS[kind].mkfs[0]) is None:
        return f"there is no {mkfs}: install {_PACKAGES[kind]}"
    return None


_PACKAGES: Final[dict[KindName, str]] = {
    "ext4": "e2fsprogs",
    "xfs": "xfsprogs",
    "btrfs": "btrfs-progs",
}


def _tried(way: str, kind: KindName) -> str | None:
    """Return what a child that tries it dies of."""
    command = [sys.executable, "-m", __name__, way, kind]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{kind} was tried, and hung for {_SECONDS:.0f} s"
    if not done.returncode:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{kind} was tried: {said[-1] if said else f'ended with {done.returncode}'}"


def _try(way: str, kind: KindName) -> None:
    """Cut one file system, and mount what is left of it."""
    if way == "shutdown":
        with LoopFilesystem(kind, roomy_directory()) as disk:
            disk.cut()
            disk.remount()
        return
    with (
        BlockLog(kind, roomy_directory()) as log,
        log.end() as recording,
        recording.image(recording.end, at_random(random.Random(0))),
    ):
        pass


if __name__ == "__main__":
    _try(sys.argv[1], cast(KindName, sys.argv[2]))
