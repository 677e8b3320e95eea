"""Checking a store without opening it: every checksum, and whether the parts fit.

    IDENTITY    its checksum, its format
    store/      in a child process: meta pages, every page, every tree, every value's
                checksum, and the entry counts that the last checkpoint committed
    log/        every segment header, frame and seal, judged as an opening would judge it;
                above the watermark also what the frames say
    together    one uuid; epoch and LSN ceiling of IDENTITY above all that the log holds

Reads and never writes: no lock is kept, no file is made, nothing is recovered. It works
on a store that cannot be opened and beside a writer. What a writer changes meanwhile is
looked at again, and only what stays the same counts; about the log's live end nothing is
said then.

Refuses to guess where a file cannot be read: that is a finding of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import lmdb

from strandline.engine import catalog, data_file, probe
from strandline.engine.catalog import Metadata
from strandline.engine.operations import (
    CREATE,
    DROP,
    VOID,
    PayloadError,
    commit_sizes,
    decode_items,
    decode_operations,
)
from strandline.errors import (
    CorruptionError,
    ForeignStoreError,
    LogCorruptionError,
    LogGapError,
)
from strandline.recovery.check_report import (
    CheckProgress,
    CheckReport,
    CheckVerdict,
    Finding,
    LogFacts,
    OnCheckProgress,
    Phase,
    StoreFacts,
    Writer,
)
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.recovery.report import RecoveryProgress
from strandline.recovery.survey import Survey, survey
from strandline.wal.damage import GAPS, Damage
from strandline.wal.format import SegmentHeader, segment_id_of
from strandline.wal.identity import IDENTITY_NAME, Identity, read_identity
from strandline.wal.lockfile import LOCK_BYTES, LOCK_NAME
from strandline.wal.reader import read_segment_header
from strandline.wal.real_disk import RealDisk

_ATTEMPTS: Final = 3
"""How often something is looked at while a writer changes it."""

_MIN_MAP: Final = 1 << 20
_LMDB_09: Final = 0
_STATEMENT: Final = re.compile(
    r"expected (?P<expected>.+?), found (?P<found>.+?)(?:(?:; |\. |: )(?P<next>[^;:]+.*))?$", re.DOTALL
)
_OFFSET: Final = re.compile(r"\boffset (\d+)")
_RESTORE: Final = "restore the store from a backup"


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
        self._told = 0.0

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
            torn = [each for each in self.findings if each.verdict is CheckVerdict.TORN_TAIL]
            self.findings = [each for each in self.findings if each not in torn]
            self.notes.append(
                "a writer has the store open: what lies at the log's end may be a write that is "
                "under way, so nothing is said about it"
            )
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

    # ---- the directory and IDENTITY

    def _is_store(self) -> bool:
        """Tell whether there is anything to check; a finding says why not."""
        kind = self.disk.kind(self.directory)
        if kind == "absent":
            self._find(
                CheckVerdict.UNREADABLE,
                self.directory,
                "the directory of a store",
                "nothing",
                "give the path of a store",
            )
            return False
        names = set(self.disk.listdir(self.directory)) if kind == "directory" else set()
        if names & {IDENTITY_NAME, LOG_NAME, STORE_NAME}:
            return True
        found = f"a directory without {IDENTITY_NAME}" if kind == "directory" else f"a {kind}"
        found = found.replace("a other", "a link or a special file")
        self._find(
            CheckVerdict.FOREIGN,
            self.directory,
            "the directory of a store",
            found,
            "give the path of a store",
        )
        return False

    def _look_at_identity(self) -> None:
        path = os.path.join(self.directory, IDENTITY_NAME)
        with self._reading(path):
            try:
                self.identity = read_identity(self.disk, self.directory)
            except FileNotFoundError:
                self._find(
                    CheckVerdict.STORE_DAMAGE,
                    path,
                    "the store's identity",
                    "nothing",
                    f"restore {IDENTITY_NAME} from a backup of this store",
                )

    # ---- LMDB

    def _look_at_lmdb(self) -> None:
        """Walk LMDB; what a commit may have disturbed is looked at again."""
        for attempt in range(_ATTEMPTS):
            before = self._transaction_id()
            result = probe.examine(self.store_dir, True, self._tell_entries)
            if not result.findings or before == self._transaction_id():
                break
            if attempt == _ATTEMPTS - 1:
                self.notes.append(
                    f"{self.store_dir}: not judged, for every time that it was read a checkpoint "
                    "came in between; check again when the writer is idle or stopped"
                )
                return
        path = os.path.join(self.store_dir, data_file.DATA_NAME)
        for text in result.findings:
            self._find_stated(CheckVerdict.STORE_DAMAGE, path, text, "a sound LMDB environment")
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
            self.notes.append(
                f"{path}: sound, but its watermark cannot be read here ({error}); the log is "
                "judged by the watermark that it names itself"
            )
            return None
