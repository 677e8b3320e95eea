"""Opening a store: from a path to a `Store` that takes writes.

    lock        the writer's lock, before anything is looked at
    identity    read, or the whole store created, IDENTITY last
    probe       after an unclean end LMDB is looked at in a child process first
    survey      the whole log is read and judged; nothing is written yet
    epoch       one up, made durable before this opening changes anything
    settle      what is dropped goes to quarantine; the last segment is written anew
    replay      operations above the watermark, through memory, to LMDB where they are many
    start       a new segment; worker threads

Every step can be cut short and done again at the next opening. The log is durable before
the first LMDB commit of a replay: settling comes before replaying.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any, Final

from strandline.engine import probe
from strandline.engine.backing import Backing
from strandline.engine.engine import Engine
from strandline.engine.operations import PayloadError
from strandline.engine.replay import Replay
from strandline.engine.reserve import RESERVE_NAME, DiskReserve
from strandline.engine.store import Store
from strandline.errors import (
    DiskFullError,
    ForeignStoreError,
    InvalidRequestError,
    InvalidTypeError,
    LogCorruptionError,
    LogGapError,
    StoreCorruptionError,
)
from strandline.options import Options, make_options
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.recovery.report import RecoveryReport
from strandline.recovery.survey import Survey, survey
from strandline.recovery.tail import Settlement, ended_cleanly, settle, sweep_damaged
from strandline.recovery.verdict import GIVING_UP
from strandline.wal.disk import Disk, let_go
from strandline.wal.format import segment_id_of, segment_name
from strandline.wal.identity import (
    IDENTITY_NAME,
    IDENTITY_NEW_NAME,
    Identity,
    read_identity,
    write_identity,
)
from strandline.wal.lockfile import LOCK_NAME, WriterLock
from strandline.wal.log import OUT_OF_ROOM, Log, LogSettings
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import Runtime, SystemRuntime
from strandline.wal.segments import SealedSegment, Segments

LOG_NAME: Final = "log"
STORE_NAME: Final = "store"
_OURS: Final = {
    LOCK_NAME,
    IDENTITY_NAME,
    IDENTITY_NEW_NAME,
    LOG_NAME,
    STORE_NAME,
    STORE_NAME + ".new",
    QUARANTINE_NAME,
    RESERVE_NAME,
}


def open_store(path: str | os.PathLike[str], **options: Any) -> Store:
    """Open the store at `path` for writing; create it where there is nothing.

    `options` are the fields of `Options`. Recovery is done before this returns; what it
    found is in `Store.recovery_report`.

    Raises:
        InvalidRequestError: an unknown option, or one out of bounds; a path that cannot
            be written.
        StoreLockedError: another process has it open; `pid` says which.
        ForeignStoreError: no store, or one of a newer format.
        LogCorruptionError, LogGapError, StoreCorruptionError: what is on disk is not
            what was written; the message says what to run next.
        DiskFullError: no room to open it.
    """
    return _open(path, options, None)


def open_locked(path: str | os.PathLike[str], lock: WriterLock, **options: Any) -> Store:
    """Open a store whose writer's lock the caller holds; raises what `open_store` does.

    The lock is the store's from then on: it goes with the store, and where opening fails.
    So whoever looks at a store before opening it lets no other writer in between.
    """
    return _open(path, options, lock)


def _open(path: str | os.PathLike[str], options: dict[str, Any], lock: WriterLock | None) -> Store:
    try:
        settings = make_options(options)
        directory = _absolute(path)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    opening = _Opening(directory, settings, lock)
    try:
        return opening.run()
    except BaseException as error:
        opening.give_up()
        if isinstance(error, OSError) and not isinstance(error, DiskFullError):
            raise _explained(error, directory) from error
        raise


_MOST_BLOCKS: Final = 3
"""By how many blocks an opening can move the ceiling, without operations in the log or in LMDB."""


class _Opening:
    """The state of one opening, so that it can let go of everything when it fails."""

    def __init__(self, directory: str, options: Options, lock: WriterLock | None) -> None:
        self._directory = directory
        self._options = options
        self._disk: Disk = options.disk or RealDisk()
        self._runtime: Runtime = options.runtime or SystemRuntime()
        self._log_dir = os.path.join(directory, LOG_NAME)
        self._store_dir = os.path.join(directory, STORE_NAME)
        self._lock = lock
        self._backing: Backing | None = None
        self._log: Log | None = None
        self._engine: Engine | None = None

    def run(self) -> Store:
        disk, directory = self._disk, self._directory
        _look_at(disk, directory)
        if self._lock is None:
            self._lock = WriterLock.acquire(disk, directory, self._runtime)
        identity = self._identity()
        if self._options.check == "always" or not ended_cleanly(disk, self._log_dir, identity.uuid):
            probe.probe(self._store_dir, values=self._options.check == "always")
        backing = self._backing = Backing.open(self._store_dir, self._options)
        _check_uuid(backing, identity, self._store_dir)
        self._refuse_no_log()
        found = survey(
            disk,
            self._log_dir,
            uuid=identity.uuid,
            watermark_lsn=backing.watermark.lsn,
            mode=self._options.recovery,
            progress=self._options.progress,
            monotonic=self._runtime.monotonic,
        )
        identity = self._next_epoch(identity, found)
        next_lsn = self._next_lsn(identity, found)
        settled = settle(
            found,
            runtime=self._runtime,
            quarantine_dir=os.path.join(directory, QUARANTINE_NAME),
            quarantine_bytes=self._options.quarantine_bytes,
        )
        engine = self._make_engine(identity, next_lsn, settled.sealed, settled.last_id)
        self._engine = engine
        replay, seconds = self._replay(engine, found)
        if found.checkpoint_first:
            engine.checkpointer.run_or_raise()
            sweep_damaged(found, settled)
        report = _report(found, settled, replay, seconds, identity.epoch)
        engine.start()
        return Store(engine, report)

    def give_up(self) -> None:
        """Let go of what was taken, newest first; nothing on disk is undone."""
        if self._engine is not None and self._engine.started:
            self._engine.shut("opening failed")
            self._engine.stop_threads(1.0)
        if self._log is not None:
            for file in self._log.files():
                let_go(file)
        try:
            if self._backing is not None:
                self._backing.close()
        finally:
            if self._lock is not None:
                self._lock.close()

    def _identity(self) -> Identity:
        disk, directory = self._disk, self._directory
        try:
            return read_identity(disk, directory)
        except FileNotFoundError:
            pass
        with contextlib.suppress(PermissionError):
            # Whoever made the directory may have been killed before its name was durable.
            disk.sync_directory(os.path.dirname(directory))
        names = disk.listdir(self._log_dir) if disk.kind(self._log_dir) == "directory" else []
        first = os.path.join(self._log_dir, segment_name(1))
        if names and not (names == [segment_name(1)] and _is_empty(disk, first)):
            raise StoreCorruptionError(
                f"{os.path.join(directory, IDENTITY_NAME)}: expected the store's identity, found "
                f"nothing although {self._log_dir} holds {len(names)} files. Restore IDENTITY from "
                "a backup of this store"
            )
        if disk.kind(self._store_dir) == "absent":
            identity = Identity(self._runtime.random_bytes(16), 0, 0)
            Backing.create(self._store_dir, identity.uuid, 0, self._options).close()
        else:
            backing = Backing.open(self._store_dir, self._options)
            identity = Identity(backing.watermark.uuid, 0, 0)
            fresh = backing.watermark.lsn == 0
            backing.close()
            if not fresh:
                raise StoreCorruptionError(
                    f"{os.path.join(directory, IDENTITY_NAME)}: expected the store's identity, "
                    f"found nothing although {self._store_dir} holds data. Restore IDENTITY and "
                    "log from a backup of this store"
                )
        if disk.kind(self._log_dir) == "absent":
            disk.mkdir(self._log_dir)
        if not names:
            # From here on there always is a segment, so that none at all is a gap.
            let_go(disk.open(first, "create"))
        disk.sync_directory(self._log_dir)
        disk.sync_directory(directory)
        write_identity(disk, directory, identity)
        return identity

    def _refuse_no_log(self) -> None:
        """Refuse a log without any segment, of which LMDB cannot tell how far it went."""
        if self._options.recovery in GIVING_UP:
            return
        if self._disk.kind(self._log_dir) != "directory":
            return  # the survey says what that is
        if not any(segment_id_of(name) for name in self._disk.listdir(self._log_dir)):
            raise LogGapError(
                f"{self._log_dir}: expected at least one segment, found none: whatever was "
                "written after the last checkpoint is gone. Restore the log from a backup, or "
                'open with recovery="point-in-time" to go on with what LMDB holds'
            )

    def _next_epoch(self, identity: Identity, found: Survey) -> Identity:
        """Make the epoch of this opening durable, and with it the LSNs that it may issue."""
        assert self._backing is not None, "LMDB is open by now"
        seen = max(identity.epoch, found.max_epoch, self._backing.watermark.epoch)
        following = identity._replace(epoch=seen + 1)
        first = self._next_lsn(identity, found)
        block = self._options.lsn_block
        ceiling = max(identity.lsn_ceiling, (first // block + 2) * block)
        following = following._replace(lsn_ceiling=ceiling)
        self._previous = identity
        write_identity(self._disk, self._directory, following)
        return following

    def _next_lsn(self, identity: Identity, found: Survey) -> int:
        """Return the first LSN of this opening: above any that could have been issued."""
        before = getattr(self, "_previous", identity)
        orderly = found.clean and found.epoch == before.epoch
        if orderly or before.epoch == 0:
            return found.last_lsn + 1
        following = max(found.last_lsn + 1, before.lsn_ceiling)
        assert self._backing is not None, "LMDB is open by now"
        unknown = max(found.max_epoch, self._backing.watermark.epoch) - before.epoch
        if unknown > 0:
            # An older IDENTITY was put in the place of the newest. Its ceiling says nothing of
            # the openings since, each of which can have begun and ended blocks further on.
            block = self._options.lsn_block
            following = (following // block + _MOST_BLOCKS * (unknown + 1)) * block
        return following

    def _make_engine(
        self, identity: Identity, next_lsn: int, sealed: list[SealedSegment], last_id: int
    ) -> Engine:
        options, backing = self._options, self._backing
        assert backing is not None, "LMDB is open by now"
        assert self._lock is not None, "the lock was taken first"
        segments = Segments(
            self._disk, self._runtime, self._log_dir, options.segment_bytes, sealed, last_id
        )

        def raise_ceiling(lsn: int) -> None:
            write_identity(self._disk, self._directory, identity._replace(lsn_ceiling=lsn))

        start = LogSettings(
            uuid=identity.uuid,
            epoch=identity.epoch,
            next_lsn=next_lsn,
            previous=sealed[-1] if sealed else None,
            stored_lsn=backing.watermark.lsn,
            lsn_ceiling=identity.lsn_ceiling,
            lsn_block=options.lsn_block,
            raise_ceiling=raise_ceiling,
            group_bytes=options.group_bytes,
            log_interval=options.log_interval,
            sync_interval=options.sync_interval,
            max_log_bytes=options.max_log_bytes,
        )
        self._log = Log(self._runtime, segments, start)
        reserve = DiskReserve(
            os.path.join(self._directory, RESERVE_NAME), options.disk_reserve_bytes, self._disk
        )
        return Engine(
            self._directory, options, self._runtime, self._log, backing, self._lock, reserve
        )

    def _replay(self, engine: Engine, found: Survey) -> tuple[Replay, float]:
        started = self._runtime.monotonic()
        replay = Replay(engine, salvage=self._options.recovery == "salvage")
        after = found.watermark_lsn
        for frames in found.batches(after, self._options.progress):
            try:
                replay.apply(frames, after)
            except PayloadError as error:
                raise LogCorruptionError(
                    f"{self._log_dir}: frame at LSN {replay.lsn}: its checksum holds, but "
                    f"{error}. It was written by a faulty or foreign program; restore a backup, "
                    "or open with recovery='point-in-time' or 'salvage'"
                ) from error
        engine.replayed_lsn = max(engine.replayed_lsn, found.last_lsn)
        engine.replayed_operations = replay.operations
        return replay, self._runtime.monotonic() - started


def _is_empty(disk: Disk, path: str) -> bool:
    if disk.kind(path) != "file":
        return False
    file = disk.open(path, "r")
    try:
        return file.size() == 0
    finally:
        let_go(file)


def _absolute(path: Any) -> str:
    """Return a store's path made absolute; refuse what names no place.

    A link that leads to a directory stands for it. One that leads nowhere is left as it
    is, and refused: a typing error must not make a store at its other end.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"path: expected str or a path object, found {type(path).__name__}; "
            "os.fsdecode() turns bytes into str"
        )
    if not name or "\0" in name:
        raise InvalidRequestError(
            f"path: expected the name of a directory, found {name!r}; give another path"
        )
    return os.path.realpath(name) if os.path.isdir(name) else os.path.abspath(name)


def _look_at(disk: Disk, directory: str) -> None:
    """Make the directory, or refuse what is not a store, before anything is put there."""
    kind = disk.kind(directory)
    if kind == "absent":
        disk.mkdir(directory)
        disk.sync_directory(os.path.dirname(directory))
        return
    if kind != "directory":
        found = "a file" if kind == "file" else "a link or a special file"
        raise ForeignStoreError(
            f"{directory}: expected a store's directory or nothing, found {found}. "
            "Give another path"
        )
    names = set(disk.listdir(directory))
    if IDENTITY_NAME not in names and names - _OURS:
        others = ", ".join(sorted(names - _OURS)[:3])
        raise ForeignStoreError(
            f"{directory}: expected a store or an empty directory, found no {IDENTITY_NAME} but "
            f"{others}. Give another path; nothing was changed"
        )


def _check_uuid(backing: Backing, identity: Identity, path: str) -> None:
    if backing.watermark.uuid != identity.uuid:
        found = backing.watermark.uuid.hex()
        backing.close()
        raise StoreCorruptionError(
            f"{path}: expected the LMDB environment of store {identity.uuid.hex()}, found that of "
            f"{found}. The parts of two stores were mixed; restore them from one backup"
        )


def _explained(error: OSError, directory: str) -> Exception:
    """Return an error of the tree for what the system said."""
    where = error.filename or directory
    if error.errno in OUT_OF_ROOM:
        return DiskFullError(
            f"{where}: no room to open the store ({error.strerror}). Free some space and try again",
            error.errno or errno.ENOSPC,
        )
    hints: dict[int | None, str] = {
        errno.EROFS: "the file system is read-only; mount it for writing or give another path",
        errno.EACCES: "this user may not write there; give another path or change its mode",
        errno.EPERM: "this user may not write there; give another path or change its mode",
        errno.ENOENT: "the directory above it does not exist; create it first",
        errno.ENOTDIR: "a part of the path is a file; give another path",
        errno.EMFILE: "this process has too many open files; close some or raise the limit",
    }
    hint = hints.get(error.errno, "look at the system's log, then try again")
    return InvalidRequestError(f"{where}: cannot open the store ({error.strerror}): {hint}")


def _report(
    found: Survey, settled: Settlement, replay: Replay, seconds: float, epoch: int
) -> RecoveryReport:
    return RecoveryReport(
        mode=found.mode,
        clean=found.clean and not replay.operations,
        epoch=epoch,
        first_lsn=found.first_lsn,
        last_lsn=found.last_lsn,
        watermark_lsn=found.watermark_lsn,
        segments=len(found.segments),
        frames_scanned=found.frames_scanned,
        operations_scanned=found.operations_scanned,
        bytes_scanned=found.bytes_scanned,
        frames_replayed=replay.frames,
        operations_replayed=replay.operations,
        bytes_replayed=replay.bytes,
        torn_tail=settled.torn_tail,
        damages=found.damages,
        gaps=found.gaps,
        given_up=found.given_up,
        quarantined=settled.quarantined,
        unquarantined_bytes=settled.unquarantined_bytes,
        scan_seconds=found.seconds,
        replay_seconds=seconds,
    )
