"""`Rig`: a store whose log is on a simulated disk, and whose power can be cut.

    base/N/data/LOCK, IDENTITY, log/, quarantine/    on a `SimulatedDisk`
    base/N/data/store/                               LMDB, on the real file system

LMDB syncs every commit, so what a power cut leaves of it is its last commit: an image
takes a copy of `store/` beside the crashed disk. An image is a rig of its own, under its
own number N, because LMDB refuses to open one path twice in a process; so the old store
may still be open, its threads stuck at a `Gate`, while its images are opened, and one
run gives any number of images, also from within a hook.

By default nothing happens behind the test's back: `HandRuntime` starts no threads, and
its clock stands still but for what sleeps. `drain`, `housekeep` and `checkpoint` do what
the threads would do, on the caller's thread. `threads=True` gives the real runtime.

LMDB's look from a child process after an unclean end is left out: it takes longer than
all else together, and the images are sound by construction. `probe=True` leaves it in.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from unittest import mock

import xxhash

import strandline
from strandline.engine.store import Store
from strandline.errors import WriteOutcomeUnknownError
from strandline.tools.crash.script.settings import NeverFlush
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.media import CrashPolicy, Directory
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.runtime import Runtime, SystemRuntime

SMALL: Final[dict[str, Any]] = {
    "segment_bytes": 64 << 10,
    "group_bytes": 4 << 10,
    "max_log_bytes": 64 << 20,
    "map_bytes": 16 << 20,
    "max_tables": 16,
    "max_readers": 16,
    "disk_reserve_bytes": 0,
}
"""Options that make opening quick: small segments, a small map."""

CHANGES: Final = (
    "allocate",
    "create",
    "fdatasync",
    "mkdir",
    "pwrite",
    "rename",
    "sync_directory",
    "truncate",
    "unlink",
)
"""The operations of a disk that a crash can come before and find something else than after."""

_TXNID: Final = struct.Struct("<Q")
_TXNID_AT: Final = 144
_PAGE: Final = 4096


class Rig:
    """One store's directory, at one moment and from then on. Use it in a `with` block.

    `options` are the defaults of every opening, of its images too.
    """

    def __init__(
        self,
        base: Path,
        *,
        threads: bool = False,
        probe: bool = False,
        **options: Any,
    ) -> None:
        self._base = base
        self._threads = threads
        self._probe = probe
        self._options = {**SMALL, "flush_strategy": NeverFlush(), **options}
        self._numbers = itertools.count()
        self._family: list[Rig] = []
        self._lmdb: bytes | None = None
        self._runtime: Runtime | None = None
        self._opened: Store | None = None
        self._cut: Callable[[str], None] | None = None
        self.cut_by: CrashPolicy | Literal["kill"] = "none"
        """For an image in a sweep: its policy."""
        self.cut_before = ""
        """For an image in a sweep: the operation that the crash came before."""
        self.disk = SimulatedDisk()
        """Where the log is; hooks go to `disk.faults`."""
        self._number = next(self._numbers)
        for parent in (*reversed(self._top.parents), self._top):
            if self.disk.kind(str(parent)) == "absent":
                self.disk.mkdir(str(parent))
                self.disk.sync_directory(str(parent.parent))
        self._settle_in()

    # The store ------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        """The store's directory, on both file systems."""
        return str(self._top / "data")

    @property
    def store(self) -> Store:
        """The store that was opened last."""
        assert self._opened is not None, "the rig was not opened yet"
        return self._opened

    @property
    def clock(self) -> HandRuntime:
        """The runtime of the open store, where no threads were asked for."""
        assert isinstance(self._runtime, HandRuntime)
        return self._runtime

    def open(self, *, runtime: Runtime | None = None, **options: Any) -> Store:
        """Open the store; once more too, when it was closed."""
        if runtime is None:
            runtime = SystemRuntime() if self._threads else HandRuntime(self._number)
        self._runtime = runtime
        self._show_lmdb()
        settings = {**self._options, "disk": self.disk, "runtime": self._runtime, **options}
        unlooked = mock.patch("strandline.engine.probe.probe", new=_trusting)
        with contextlib.nullcontext() if self._probe else unlooked:
            self._opened = strandline.open(self.directory, **settings)
        return self._opened

    def drain(self) -> None:
        """Do what the log's thread does: write what is queued."""
        self.store.engine.log.drain()

    def housekeep(self) -> bool:
        """Do what the sync's thread does; True when nothing is left to be done."""
        return self.store.engine.log.housekeep()

    def checkpoint(
        self, *, before: Literal["sync", "write"] = "sync", meanwhile: Callable[[], object] = int
    ) -> bool:
        """Do what the checkpointer's thread does; True if all went to LMDB.

        `meanwhile` is done when the generation is frozen: before the log is synced through
        it, or before it is written to LMDB. What it raises is what the pass meets.
        """
        engine = self.store.engine
        owner, name = {
            "sync": (engine.log, "sync_through"),
            "write": (engine.backing, "reserve"),
        }[before]
        go_on = getattr(owner, name)

        def interrupted(*arguments: int) -> None:
            setattr(owner, name, go_on)  # once: what is done meanwhile may come here too
            meanwhile()
            go_on(*arguments)

        with mock.patch.object(owner, name, interrupted):
            done = engine.checkpointer.run()
        engine.checkpointer.free_retired()
        return done

    def close(self) -> None:
        """End the store if it is open, without a flush; what the disk refuses is let pass."""
        if self._opened is not None:
            self.disk.faults = None
            with contextlib.suppress(WriteOutcomeUnknownError):
                self._opened.close(drain=False, timeout=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store, and those of all images."""
        for rig in reversed(self._family):
            rig.close()

    def fingerprint(self) -> bytes:
        """Return a digest of what is on the disk and in LMDB, and of how much a cut can lose."""
        return _fingerprint(self.disk, self._top, self._read_lmdb())

    # Images ---------------------------------------------------------------------------

    def power_cut(self, policy: CrashPolicy = "none") -> Rig:
        """Return what is there after a power cut at this moment; this rig goes on as it was.

        `policy` says which of the unsynced events survive: "none", "all", the first n,
        or a choice by a `random.Random`.
        """
        return self._image(lambda: self.disk.crash(policy))

    def kill(self) -> Rig:
        """Return what is there after SIGKILL: the page cache is as it was, and unsynced."""
        return self._image(self.disk.kill)

    def sweep(
        self,
        run: Callable[[], object],
        look: Callable[[Rig], object],
        *policies: CrashPolicy | Literal["kill"],
        draw: Callable[[], Sequence[CrashPolicy | Literal["kill"]]] | None = None,
        promised: Callable[[], object] = int,
    ) -> int:
        """Do `run` and give `look` an image as of before every operation that changes the disk.

        Each policy gives one image, "kill" that of a killed process; `draw` returns those of
        one operation, where they are not the same for all. One that is the same as
        an earlier one is left out, unless more is `promised` by now: what was lawful before
        an acknowledgement is a loss after it. An image is released when `look` comes back.
        What `look` raises first is raised in the end, for `run` may hide it. Returns the
        number of images.
        """
        seen: set[object] = set()
        errors: list[Exception] = []

        def take(op: str, path: str) -> None:
            if op in CHANGES:
                cut(f"{op} of {path.removeprefix(f'{self._top}/')}")

        def cut(before: str) -> None:
            if errors:
                return
            for policy in policies if draw is None else draw():
                disk = self.disk.kill() if policy == "kill" else self.disk.crash(policy)
                content = _fingerprint(disk, self._top, self._read_lmdb())
                fingerprint = (content, policy == "kill", promised())
                if fingerprint in seen:
                    continue
                seen.add(fingerprint)
                image = self._image(lambda taken=disk: taken)  # type: ignore[misc]
                image.cut_by = policy
                image.cut_before = f"{before}, operation {len(self.disk.operations)}"
                try:
                    look(image)
                except Exception as error:
                    name = crash_name(policy)
                    error.add_note(f"after a crash ({name}) before {image.cut_before}")
                    errors.append(error)
                image.release()

        self.disk.faults, self._cut = take, cut
        try:
            run()
        finally:
            self.disk.faults = self._cut = None
            if errors:
                raise errors[0]
        return len(seen)

    def cut_now(self, when: str) -> None:
        """In a sweep, take images as of now, when the disk is not asked for anything."""
        if self._cut is not None:
            self._cut(when)

    def release(self) -> None:
        """Close the store and forget the rig, to keep a sweep over many images small."""
        self.close()
        self._opened = None
        self._family.remove(self)

    def _image(self, take: Callable[[], SimulatedDisk]) -> Rig:
        while True:
            lmdb = self._read_lmdb()
            disk = take()
            if _transaction(lmdb) == _transaction(self._read_lmdb()):
                break
        image = object.__new__(Rig)
        image.__dict__.update(self.__dict__)
        image._lmdb, image.disk = lmdb, disk
        image._runtime = image._opened = image._cut = None
        image._number = next(self._numbers)
        disk.rename(str(self._top), str(image._top))
        disk.sync_directory(str(self._base))
        image._settle_in()
        disk.operations.clear()
        return image

    @property
    def _top(self) -> Path:
        return self._base / str(self._number)

    def _read_lmdb(self) -> bytes | None:
        path = Path(self.directory, "store", "data.mdb")
        return path.read_bytes() if path.exists() else None

    def _settle_in(self) -> None:
        """Make the real directory, with the copy of LMDB in it."""
        self._family.append(self)
        store = Path(self.directory, "store")
        store.parent.mkdir(parents=True)
        if self._lmdb is not None:
            store.mkdir(mode=0o700)
            (store / "data.mdb").write_bytes(self._lmdb)
        self._show_lmdb()

    def _show_lmdb(self) -> None:
        """Let the simulated disk have a directory where LMDB's is."""
        store = str(Path(self.directory, "store"))
        if os.path.exists(store) and self.disk.kind(store) == "absent":
            hook, self.disk.faults = self.disk.faults, None
            self.disk.mkdir(store)
            self.disk.sync_directory(self.directory)
            self.disk.faults = hook


def crash_name(policy: CrashPolicy | Literal["kill"]) -> str:
    """Return what a crash is called: what it leaves, or that it is a kill."""
    return "some" if isinstance(policy, random.Random) else str(policy)


def _fingerprint(disk: SimulatedDisk, top: Path, lmdb: bytes | None) -> bytes:
    """Return a digest of what an image would hold, and of how much of it is not durable.

    Below `top` alone: every image lies under a number of its own.
    """
    digest = xxhash.xxh3_128(lmdb or b"")

    def add(directory: Directory) -> None:
        for name, node in sorted(directory.current.items()):
            digest.update(name.encode() + b"/")
            if isinstance(node, Directory):
                add(node)
                digest.update(b"..")
            else:
                digest.update(len(node.current).to_bytes(8) + bytes(node.current))

    add(disk._directory(str(top)))
    digest.update(disk.pending().to_bytes(8))
    return digest.digest()


def _transaction(data: bytes | None) -> int:
    """Return the number of the last commit that a file of LMDB holds, 0 without one."""
    if data is None:
        return 0
    return max(int(_TXNID.unpack_from(data, page + _TXNID_AT)[0]) for page in (0, _PAGE))


def _trusting(path: str, values: bool, progress: object = None) -> None:
    """Stand in for the look at LMDB from a child process."""
