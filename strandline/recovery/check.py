"""Checking a store without opening it: every checksum, and whether the parts fit.

    IDENTITY    its checksum and its format
    store/      in a child process: meta pages, every page, every tree, every value's
                checksum, and the entry counts that the last checkpoint committed
    log/        every segment header, frame and seal (see check_log.py)
    together    one uuid; epoch and LSN ceiling of IDENTITY above all that the log holds

Reads and never writes: no lock is kept, no file is made, nothing is recovered. It works
on a store that cannot be opened, and beside a writer. What a writer changes meanwhile is
looked at again, and only what stays as it is counts; of the log's live end nothing is
said then.

Refuses to guess where a file cannot be read: that is a finding of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from typing import Final

import lmdb

from strandline.engine import catalog, data_file, probe
from strandline.engine.catalog import Metadata
from strandline.errors import CorruptionError, ForeignStoreError
from strandline.recovery.check_log import check_log, first_header, restless
from strandline.recovery.check_report import (
    RESTORE,
    CheckProgress,
    CheckReport,
    CheckVerdict,
    Finding,
    LogFacts,
    OnCheckProgress,
    StoreFacts,
    Writer,
    finding_from,
)
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.recovery.survey import Survey
from strandline.wal.identity import IDENTITY_NAME, Identity, read_identity
from strandline.wal.lockfile import LOCK_BYTES, LOCK_NAME
from strandline.wal.real_disk import RealDisk

_ATTEMPTS: Final = 3
"""How often LMDB is walked while a writer commits."""

_MIN_MAP: Final = 1 << 20
_LMDB_09: Final = 0


def check_store(
    path: str | os.PathLike[str], *, progress: OnCheckProgress | None = None
) -> CheckReport:
    """Check the store at `path`; what is wrong with it is in the report and never raised.

    `progress` is called now and then, on this thread.
    """
    return _Check(os.path.abspath(os.fspath(path)), progress).run()


def find_writer(directory: str) -> Writer | None:
    """Return who has the store in `directory` open for writing, None if nobody has.

    The lock is asked for, shared and without waiting, and let go of at once: a writer
    that starts in that instant asks again.
    """
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(os.path.join(directory, LOCK_NAME), flags)
    except OSError:
        return None
    try:
        text = os.pread(descriptor, LOCK_BYTES, 0)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named_in(text)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _named_in(text: bytes) -> Writer:
    try:
        fields = json.loads(text.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        fields = None
    match fields:
        case {"pid": int(pid), "started": str(started)}:
            return Writer(pid=pid, started=started)
    return Writer(pid=None, started=None)


class _Check:
    """The state of one check."""

    def __init__(self, directory: str, progress: OnCheckProgress | None) -> None:
        self.directory = directory
        self.log_dir = os.path.join(directory, LOG_NAME)
        self.store_dir = os.path.join(directory, STORE_NAME)
        self.disk = RealDisk()
        self.progress = progress
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.writer: Writer | None = None
        self.identity: Identity | None = None
        self.metadata: Metadata | None = None
        self.log: LogFacts | None = None
        self.store: StoreFacts | None = None

    def run(self) -> CheckReport:
        """Look at everything, in the order in which an opening would."""
        started = time.monotonic()
        with self._reading(self.directory):
            if self._is_store():
                self.writer = find_writer(self.directory)
                self._look_at_identity()
                with self._reading(self.store_dir):
                    self._look_at_lmdb()
                with self._reading(self.log_dir):
                    self._look_at_log()
                self.writer = self.writer or find_writer(self.directory)
                self._look_at_quarantine()
        if self.writer is not None:
            self.findings = [
                each for each in self.findings if each.verdict is not CheckVerdict.TORN_TAIL
            ]
        return CheckReport(
            path=self.directory,
            findings=tuple(self.findings),
            notes=tuple(self.notes),
            writer=self.writer,
            uuid=self.identity.uuid.hex() if self.identity else None,
            epoch=self.identity.epoch if self.identity else None,
            log=self.log,
            store=self.store,
            seconds=time.monotonic() - started,
        )

    def _has_writer(self) -> bool:
        self.writer = self.writer or find_writer(self.directory)
        return self.writer is not None

    # ---- the directory and IDENTITY

    def _is_store(self) -> bool:
        """Tell whether there is anything to check; a finding says why not."""
        kind = self.disk.kind(self.directory)
        names = set(self.disk.listdir(self.directory)) if kind == "directory" else set()
        if names & {IDENTITY_NAME, LOG_NAME, STORE_NAME}:
            return True
        found = {
            "absent": "nothing",
            "directory": f"a directory without {IDENTITY_NAME}",
            "file": "a file",
            "other": "a link or a special file",
        }[kind]
        verdict = CheckVerdict.UNREADABLE if kind == "absent" else CheckVerdict.FOREIGN
        self._find(
            verdict, self.directory, "the directory of a store", found, "give the path of a store"
        )
        return False

    def _look_at_identity(self) -> None:
        path = os.path.join(self.directory, IDENTITY_NAME)
        with self._reading(path):
            try:
                self.identity = read_identity(self.disk, self.directory)
            except FileNotFoundError:
                step = f"restore {IDENTITY_NAME} from a backup of this store"
                self._find(CheckVerdict.STORE_DAMAGE, path, "the store's identity", "nothing", step)

    # ---- LMDB

    def _look_at_lmdb(self) -> None:
        """Walk LMDB; what a commit may have disturbed is looked at again."""
        for _ in range(_ATTEMPTS):
            before = self._transaction_id()
            result = probe.examine(self.store_dir, True, self._tell_entries)
            if not result.findings or before == self._transaction_id():
                break
        else:
            self.findings.append(restless(self.store_dir))
            return
        path = os.path.join(self.store_dir, data_file.DATA_NAME)
        for text in result.findings:
            self.findings.append(
                finding_from(
                    CheckVerdict.STORE_DAMAGE,
                    path,
                    text.removeprefix(f"{path}: "),
                    expected="a sound LMDB environment",
                    next_step=RESTORE,
                )
            )
        if not result.findings:
            self.metadata = self._read_metadata(path, result.file_bytes)
        watermark = self.metadata.watermark if self.metadata else None
        self.store = StoreFacts(
            tables=result.tables,
            entries=result.entries,
            byte_count=result.file_bytes,
            values_checked=result.values_checked,
            watermark_lsn=watermark.lsn if watermark else None,
        )
        if watermark and self.identity and watermark.uuid != self.identity.uuid:
            self._find(
                CheckVerdict.STORE_DAMAGE,
                self.store_dir,
                f"the LMDB environment of store {self.identity.uuid.hex()}",
                f"that of store {watermark.uuid.hex()}",
                "the parts of two stores were mixed: restore them from one backup",
            )

    def _transaction_id(self) -> int | None:
        try:
            return data_file.look(self.store_dir).transaction_id
        except CorruptionError:
            return None

    def _tell_entries(self, walked: int, of: int) -> None:
        if self.progress is not None:
            self.progress(CheckProgress(phase="store", done=walked, total=of))

    def _read_metadata(self, path: str, file_bytes: int) -> Metadata | None:
        """Read the metadata of an environment that was found sound."""
        try:
            with lmdb.open(
                self.store_dir,
                map_size=max(file_bytes, _MIN_MAP),
                max_dbs=2,
                readonly=True,
                lock=False,
                create=False,
                lib_version=_LMDB_09,
            ) as env:
                meta = catalog.open_metadata(env, path)
                with env.begin() as txn:
                    return catalog.read_metadata(txn, meta, path)
        except lmdb.Error as error:
            # Above all where this very process has the store open.
            self._note(
                f"{path}: sound, but its watermark cannot be read here ({error}); the log is "
                "judged by what its first segment says of it"
            )
            return None

    # ---- the log

    def _look_at_log(self) -> None:
        uuid = self.identity.uuid if self.identity else None
        if uuid is None and self.metadata is not None:
            uuid = self.metadata.watermark.uuid
        if uuid is None:
            header = first_header(self.disk, self.log_dir)
            uuid = header.uuid if header else bytes(16)
        result = check_log(
            self.disk,
            self.log_dir,
            uuid=uuid,
            read_metadata=self._newest_metadata,
            has_writer=self._has_writer,
            progress=self.progress,
        )
        self.log = result.facts
        self.findings += result.findings
        if result.survey is not None and self.identity is not None:
            self._hold_against_identity(result.survey)

    def _newest_metadata(self) -> Metadata | None:
        """Return the metadata, read again where a writer may have moved the watermark."""
        if self.metadata is None or not self._has_writer():
            return self.metadata
        path = os.path.join(self.store_dir, data_file.DATA_NAME)
        with contextlib.suppress(CorruptionError):
            file_bytes = os.path.getsize(path)
            self.metadata = self._read_metadata(path, file_bytes) or self.metadata
        return self.metadata

    def _hold_against_identity(self, found: Survey) -> None:
        """Compare the log with IDENTITY, which is always written first."""
        identity = read_identity(self.disk, self.directory)
        path = os.path.join(self.directory, IDENTITY_NAME)
        step = f"an older {IDENTITY_NAME} was put here: open the store, which brings it up to date"
        if found.max_epoch > identity.epoch:
            expected, seen = f"epoch {found.max_epoch} or later", f"epoch {identity.epoch}"
        elif found.first_lsn is not None and found.last_lsn >= identity.lsn_ceiling:
            expected = f"an LSN ceiling above {found.last_lsn}, the last LSN of the log"
            seen = f"{identity.lsn_ceiling}"
        else:
            return
        self._find(CheckVerdict.STORE_DAMAGE, path, expected, seen, step, fatal=False)

    def _look_at_quarantine(self) -> None:
        path = os.path.join(self.directory, QUARANTINE_NAME)
        if self.disk.kind(path) != "directory":
            return
        # A repair keeps the originals in a directory of its own.
        files = [os.path.join(at, name) for at, _, names in os.walk(path) for name in names]
        if files:
            total = sum(os.lstat(file).st_size for file in files)
            self._note(
                f"{path}: {len(files)} files, {total} bytes, put aside by earlier recoveries; look "
                "at them, then remove them"
            )

    # ---- findings

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Turn what reading one part raises into a finding, and go on with the next."""
        try:
            yield
        except ForeignStoreError as error:
            self._state(CheckVerdict.FOREIGN, path, str(error))
        except CorruptionError as error:
            self._state(CheckVerdict.STORE_DAMAGE, path, str(error))
        except OSError as error:
            self._find(
                CheckVerdict.UNREADABLE,
                str(error.filename or path),
                "to read it",
                error.strerror or str(error),
                "check as a user who may read it; if it is the disk, look at its logs",
            )

    def _state(self, verdict: CheckVerdict, path: str, message: str) -> None:
        self.findings.append(
            finding_from(
                verdict, path, message, expected="a sound part of a store", next_step=RESTORE
            )
        )

    def _find(
        self,
        verdict: CheckVerdict,
        path: str,
        expected: str,
        found: str,
        next_step: str,
        *,
        fatal: bool = True,
    ) -> None:
        self.findings.append(
            Finding(
                verdict=verdict,
                path=path,
                expected=expected,
                found=found,
                next_step=next_step,
                fatal=fatal,
            )
        )
