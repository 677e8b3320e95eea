"""LOCK: one writer a store, by a flock that the kernel drops when its last holder ends.

    {"pid": 4242, "boot_id": "6f0c...", "started": "2025-01-31T12:00:00+00:00", "note": ...}

The lock is the flock and nothing else. The text, one line of JSON in the file's first
512 bytes, only tells others whom to look for: it may be damaged, stale or empty, and is
never a reason to refuse, nor is a file left over from a writer that was killed. The file
is never removed.

An open file description holds the lock, so a second open in the same process is refused
as well, and a child that a writer forked holds it as long as its inherited descriptor is
open, even when the writer is long gone. Such a survivor is told apart from a living
writer: /proc/<pid>/fdinfo names the locks behind each descriptor. Where /proc is
missing or closed to us, only whether the recorded process runs is known.

Refuses to unlock: `close` closes the descriptor, which in a forked child takes nothing
from the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from typing import Final, NamedTuple

from strandline.errors import ForeignStoreError, StoreLockedError
from strandline.wal.disk import Disk, DiskFile, let_go
from strandline.wal.runtime import Runtime

LOCK_NAME: Final = "LOCK"
LOCK_BYTES: Final = 512

_NOTE: Final = "the flock counts, not this text; removing this file lets two writers in"
_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"
_ATTEMPTS: Final = 10
_PAUSE: Final = 0.02


class Owner(NamedTuple):
    """What the text of LOCK says of the writer."""

    pid: int
    boot_id: str | None
    """The kernel's id of this boot, None where it has none: a pid means nothing in another."""
    started: str
    """When it took the lock, ISO 8601."""


class WriterLock:
    """The right to write to one store; held until `close`, or the end of the process."""

    __slots__ = ("_file", "path")

    def __init__(self, path: str, file: DiskFile) -> None:
        self.path = path
        self._file = file

    @classmethod
    def acquire(cls, disk: Disk, directory: str, runtime: Runtime) -> WriterLock:
        """Take the lock of the store in `directory`, without waiting for a living writer.

        A holder that is not seen to be alive gets 0.2 s: a writer that has just locked
        has not written its name yet, and a process that was killed while it started a
        program lives on in that child until the child's exec.

        Raises:
            StoreLockedError: somebody holds it; `pid` is the writer's, if it is known.
            ForeignStoreError: LOCK is not a regular file.
            OSError: LOCK cannot be opened or created.
        """
        path = os.path.join(directory, LOCK_NAME)
        file = _open(disk, path)
        try:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    runtime.sleep(_PAUSE)
                if file.try_lock():
                    # A full or failing disk must not keep a store from being recovered.
                    with contextlib.suppress(OSError):
                        file.pwrite(_encode(runtime), 0)
                    return cls(path, file)
                owner = _read(file)
                if owner is not None and _holds(owner.pid, path):
                    break
            raise _refusal(path, owner)
        except BaseException:
            let_go(file)
            raise

    def close(self) -> None:
        """Close the descriptor; the lock is free once no forked child has a copy of it."""
        let_go(self._file)


def _open(disk: Disk, path: str) -> DiskFile:
    """Open LOCK, or create it; two processes may be doing so at once."""
    kind = disk.kind(path)
    if kind == "absent":
        try:
            return disk.open(path, "create")
        except FileExistsError:
            kind = disk.kind(path)
    if kind != "file":
        found = "a directory" if kind == "directory" else "a link or a special file"
        raise ForeignStoreError(
            f"{path}: expected a regular file, found {found}; "
            "open the directory of a strandline store, or one that is empty"
        )
    return disk.open(path, "rw")


def _encode(runtime: Runtime) -> bytes:
    """Return this process's line, padded so that one write replaces all of an older one."""
    started = datetime.fromtimestamp(runtime.time_ns() / 1e9, UTC).isoformat(timespec="seconds")
    owner = Owner(os.getpid(), _boot_id(), started)
    line = json.dumps({**owner._asdict(), "note": _NOTE}).encode()
    return line.ljust(LOCK_BYTES - 1) + b"\n"


def _read(file: DiskFile) -> Owner | None:
    """Return the recorded writer; None where the text is damaged or of another boot."""
    try:
        fields = json.loads(file.pread(LOCK_BYTES, 0).split(b"\n", 1)[0])
    except (OSError, ValueError, RecursionError):
        return None
    match fields:
        case {"pid": int(pid), "boot_id": str() | None as boot_id, "started": str(started)}:
            if 0 < pid < 1 << 31 and not isinstance(pid, bool) and boot_id == _boot_id():
                return Owner(pid, boot_id, started)
    return None


def _boot_id() -> str | None:
    try:
        with open(_BOOT_ID_PATH, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def _refusal(path: str, owner: Owner | None) -> StoreLockedError:
    """Say who holds the lock, as exactly as this process can see."""
    expected = f"{path}: expected no other writer, found the store locked"
    if owner is not None and _holds(owner.pid, path):
        if owner.pid == os.getpid():
            return StoreLockedError(
                f"{expected} by this very process (pid {owner.pid}), since {owner.started}: "
                "use the store that it has open, or close that one first",
                owner.pid,
            )
        return StoreLockedError(
            f"{expected} by process {_named(owner.pid)}, since {owner.started}: "
            "close the store there, then open it here",
            owner.pid,
        )
    holders = _holders(path)
    named = ", ".join(_named(pid) for pid in holders)
    search = f"find it with `lsof {path}`, end it, and open the store again"
    if owner is None:
        if holders:
            return StoreLockedError(
                f"{expected} by process {named}, which {LOCK_NAME} does not name: "
                "close the store there, then open it here",
                holders[0],
            )
        return StoreLockedError(
            f"{expected} by a process that {LOCK_NAME} does not name and that cannot be seen "
            f"from here: {search}"
        )
    fate = "no longer holds it" if _is_running(owner.pid) else "is gone"
    if holders:
        return StoreLockedError(
            f"{expected}: its writer, pid {owner.pid}, {fate}, but a process forked from it "
            f"still holds the lock: {named}; end that process and open the store again",
            owner.pid,
        )
    return StoreLockedError(
        f"{expected}: its writer, pid {owner.pid}, {fate}, but a process forked from it, or one "
        f"of another container or machine, still holds the lock: {search}",
        owner.pid,
    )


def _holds(pid: int, path: str) -> bool:
    """Whether a process has the lock; where its descriptors cannot be seen, whether it runs."""
    seen = _seen_holding(pid, path)
    return _is_running(pid) if seen is None else seen


def _holders(path: str) -> list[int]:
    """Return the processes that are seen holding the lock, in order of their ids."""
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return []
    return [pid for pid in pids if _seen_holding(pid, path)]


def _seen_holding(pid: int, path: str) -> bool | None:
    """Whether one of a process's descriptors has a flock on `path`; None where none is seen.

    Descriptors are compared by name before they are looked at, since a look at a file of
    a network that is down would wait.
    """
    try:
        lock = os.stat(path)
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    for descriptor in descriptors:
        link = f"/proc/{pid}/fd/{descriptor}"
        # A descriptor, and its process with it, may go at any moment.
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(link)) == LOCK_NAME and os.path.samestat(
                os.stat(link), lock
            ):
                with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as info:
                    if "FLOCK" in info.read():
                        return True
    return False


def _is_running(pid: int) -> bool:
    """Whether a process exists and is more than a zombie, which holds nothing."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")


def _named(pid: int) -> str:
    """Return a process id with its command's name, where /proc has it."""
    notes = ["this process"] if pid == os.getpid() else []
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file,
    ):
        notes.insert(0, file.read().strip())
    return f"{pid} ({', '.join(notes)})" if notes else str(pid)
