"""What the numbers depend on beside the code: the machine, the file system, the versions."""

from __future__ import annotations

import os
import platform
from typing import Any

from benchmarks.bare import fdatasync_seconds
from benchmarks.peers import ENGINES

VOLATILE = ("tmpfs", "ramfs", "devtmpfs")
"""File systems that keep nothing on disk, on which a sync measures nothing."""


def file_system(path: str) -> str:
    """Return the type of the file system that holds `path`, "unknown" where nothing says it."""
    try:
        with open("/proc/self/mountinfo") as file:
            lines = file.readlines()
    except OSError:
        return "unknown"
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def machine_facts(directory: str) -> dict[str, Any]:
    """Return the facts of this machine; measures fdatasync in `directory`."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": file_system(directory),
        "fdatasync_us": round(fdatasync_seconds(directory) * 1e6, 1),
    }


def versions() -> dict[str, str]:
    """Return the version of each binding that can be imported."""
    return {e.module: e.version() for e in ENGINES.values() if e.missing() is None}


def skipped() -> dict[str, str]:
    """Return why each other engine is left out."""
    reasons = {name: engine.missing() for name, engine in ENGINES.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
