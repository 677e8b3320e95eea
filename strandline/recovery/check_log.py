"""Checking the log: judged as an opening would judge it, and then told in full.

An opening stops at the first damage. Here a damaged log is surveyed a second time as a
salvage would, so that everything that is wrong shows. What the frames above the watermark
say is decoded too, for a replay would have to.

Beside a writer, segments are given back between two looks. What is missing then lies at or
below a watermark that is read afterwards, and is no longer missed. Anything else counts
only where two surveys in a row find the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from strandline.engine.catalog import Metadata
from strandline.engine.operations import (
    CREATE,
    DROP,
    VOID,
    Operation,
    PayloadError,
    commit_sizes,
    decode_items,
    decode_operations,
)
from strandline.errors import ForeignStoreError, LogCorruptionError, LogGapError, StrandlineError
from strandline.recovery.check_report import (
    CheckProgress,
    CheckVerdict,
    Finding,
    LogFacts,
    OnCheckProgress,
    Phase,
    finding_from,
)
from strandline.recovery.report import RecoveryProgress, TornTail
from strandline.recovery.survey import Survey, survey
from strandline.wal.damage import GAPS, Damage
from strandline.wal.disk import Disk
from strandline.wal.format import SegmentHeader, segment_id_of
from strandline.wal.reader import read_segment_header

RESTORE: Final = "restore the store from a backup"

_ATTEMPTS: Final = 5
"""How often a log is surveyed while a writer changes it."""

_ANY_LSN: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What was found in a log."""

    facts: LogFacts | None
    findings: list[Finding]
    survey: Survey | None
    lost_lsn: int = _ANY_LSN
    """The highest LSN that the findings are about; 0 where they are about none."""


def first_header(disk: Disk, log_dir: str) -> SegmentHeader | None:
    """Return the header of the first segment that has a valid one."""
    if disk.kind(log_dir) != "directory":
        return None
    for name in disk.listdir(log_dir):
        path = os.path.join(log_dir, name)
        if segment_id_of(name) is None or disk.kind(path) != "file":
            continue
        file = disk.open(path, "r")
        try:
            header = read_segment_header(file)
        finally:
            file.close()
        if header is not None:
            return header
    return None


def check_log(
    disk: Disk,
    log_dir: str,
    *,
    uuid: bytes,
    read_metadata: Callable[[], Metadata | None],
    has_writer: Callable[[], bool],
    progress: OnCheckProgress | None,
) -> LogCheck:
    """Check the log of the store `uuid`; raises OSError where it cannot be read.

    `read_metadata` gives what LMDB says at this moment, None where it cannot be read;
    then the log is judged by what its first segment says of LMDB.
    """
    before: list[Finding] = []
    for attempt in range(_ATTEMPTS):
        metadata = read_metadata()
        try:
            result = _check_once(disk, log_dir, uuid, metadata, progress)
        except FileNotFoundError:
            # Given back after its name had been read.
            if not has_writer():
                raise
            continue
        serious = [each for each in result.findings if each.verdict is not CheckVerdict.TORN_TAIL]
        if not serious or not has_writer():
            return result
        again = [each for each in serious if each in before]
        newest = read_metadata()
        given_back = newest is not None and result.lost_lsn <= newest.watermark.lsn
        if again or (attempt and given_back):
            return replace(result, findings=again)
        before = serious
    return LogCheck(None, [restless(log_dir)], None)


def _check_once(
    disk: Disk,
    log_dir: str,
    uuid: bytes,
    metadata: Metadata | None,
    progress: OnCheckProgress | None,
) -> LogCheck:
    if metadata is not None:
        watermark = metadata.watermark.lsn
    else:
        header = first_header(disk, log_dir)
        watermark = header.previous_last_lsn if header else 0

    def look(mode: str) -> Survey:
        return survey(
            disk,
            log_dir,
            uuid=uuid,
            watermark_lsn=watermark,
            mode="salvage" if mode == "salvage" else "tolerate-torn-tail",
            progress=_teller(progress, "log"),
        )

    error: StrandlineError | None = None
    try:
        try:
            found = look("as an opening would")
        except (LogCorruptionError, LogGapError) as damage:
            error = damage
            found = look("salvage")
    except ForeignStoreError as foreign:
        return LogCheck(None, [_refusal(CheckVerdict.FOREIGN, log_dir, foreign)], None)
    except StrandlineError as misfit:
        findings = [_refusal(CheckVerdict.STORE_DAMAGE, log_dir, misfit)]
        if error is not None:
            findings.insert(0, _refusal(_verdict_of(error), log_dir, error))
        return LogCheck(None, findings, None)
    findings = _findings(found, error)
    lost = max((last for _, last in found.given_up), default=0)
    to_replay, wrong = _read_operations(found, metadata, _teller(progress, "operations"))
    if wrong is not None:
        findings.append(wrong)
        lost = _ANY_LSN
    facts = LogFacts(
        segments=len(found.segments),
        frames=found.frames_scanned,
        operations=found.operations_scanned,
        byte_count=found.bytes_scanned,
        first_lsn=found.first_lsn,
        last_lsn=found.last_lsn,
        to_replay=None if metadata is None else to_replay,
        clean=found.clean and error is None,
    )
    return LogCheck(facts, findings, found, lost)


def _teller(
    progress: OnCheckProgress | None, phase: Phase
) -> Callable[[RecoveryProgress], None] | None:
    if progress is None:
        return None
    return lambda seen: progress(
        CheckProgress(phase=phase, done=seen.bytes_done, total=seen.bytes_total)
    )


def _verdict_of(error: StrandlineError) -> CheckVerdict:
    return CheckVerdict.GAP if isinstance(error, LogGapError) else CheckVerdict.LOG_DAMAGE


def _refusal(verdict: CheckVerdict, path: str, error: StrandlineError) -> Finding:
    return finding_from(
        verdict, path, str(error), expected="the log of this store", next_step=RESTORE
    )


def restless(path: str) -> Finding:
    """Return the finding that a part could not be judged beside its writer."""
    return Finding(
        verdict=CheckVerdict.UNREADABLE,
        path=path,
        expected="what stays as it is while it is read",
        found="a writer that changed it every time",
        next_step="check again when the writer is idle or stopped",
        fatal=False,
    )


# ---- damage


def _findings(found: Survey, error: StrandlineError | None) -> list[Finding]:
    """Return what a survey found; `error` is what an opening would raise."""
    damages = sorted((*found.damages, *found.gaps), key=lambda each: (each.segment_id, each.offset))
    findings = [
        _damage(damage, found, fatal=error is not None and _is_fatal(damage, found, error))
        for damage in damages
    ]
    if error is not None and not any(each.fatal for each in findings):
        findings.append(_refusal(_verdict_of(error), found.log_dir, error))
    torn = found.torn
    if torn is not None and not any(_is_at(each, torn) for each in findings):
        findings.append(_torn(torn))
    return findings


def _is_fatal(damage: Damage, found: Survey, error: StrandlineError) -> bool:
    lost = any(first <= damage.lsn <= last for first, last in found.given_up)
    return lost or str(error).startswith(str(damage))


def _is_at(finding: Finding, torn: TornTail) -> bool:
    return finding.path == torn.path and finding.offset == torn.offset


def _damage(damage: Damage, found: Survey, *, fatal: bool) -> Finding:
    gap = damage.kind in GAPS
    if fatal:
        kept = f'recovery="point-in-time" to keep what lies before LSN {damage.lsn}'
        step = f'{RESTORE}, or open it with {kept}, or with "salvage" to keep all that verifies'
    else:
        step = (
            f"no operation is lost by it: all up to LSN {found.watermark_lsn} is in LMDB and what "
            "follows is whole. Look at the disk and its logs"
        )
    return Finding(
        verdict=CheckVerdict.GAP if gap else CheckVerdict.LOG_DAMAGE,
        path=damage.path,
        offset=damage.offset,
        lsn=damage.lsn,
        expected=damage.expected,
        found=f"{damage.found} ({damage.kind.value})",
        next_step=step,
        fatal=fatal,
    )


def _torn(torn: TornTail) -> Finding:
    return Finding(
        verdict=CheckVerdict.TORN_TAIL,
        path=torn.path,
        offset=torn.offset,
        lsn=torn.lsn,
        expected=torn.reason.expected,
        found=f"{torn.reason.found} ({torn.reason.kind.value})",
        next_step=(
            f"open the store: it drops these {torn.dropped_bytes} bytes, of which nothing says "
            "that they were ever on disk, and keeps a copy in quarantine/"
        ),
        fatal=False,
    )


# ---- operations


def _read_operations(
    found: Survey,
    metadata: Metadata | None,
    progress: Callable[[RecoveryProgress], None] | None,
) -> tuple[int, Finding | None]:
    """Decode what an opening would replay; return how much it is, and what is wrong with it."""
    tables = None if metadata is None else _Tables(metadata)
    count = 0
    first_lsn = operations = 0
    try:
        frames = chain.from_iterable(found.batches(found.watermark_lsn, progress))
        for first_lsn, operations, payload in frames:
            _decode(first_lsn, operations, payload, found.watermark_lsn, tables)
            count += first_lsn + operations - 1 - max(first_lsn - 1, found.watermark_lsn)
    except LogCorruptionError as error:
        return count, _refusal(CheckVerdict.LOG_DAMAGE, found.log_dir, error)
    except ValueError as error:
        wrong = Finding(
            verdict=CheckVerdict.LOG_DAMAGE,
            path=found.log_dir,
            lsn=first_lsn,
            expected=f"a frame of {operations} operations, as its valid checksum promises",
            found=str(error),
            next_step=f"a faulty or foreign program wrote this frame: {RESTORE}",
            fatal=True,
        )
        return count, wrong
    return count, None


class _Tables:
    """The tables that a replay would know at each point of the log."""

    def __init__(self, metadata: Metadata) -> None:
        self._highest = metadata.highest_table_id

    def take(self, operation: Operation) -> None:
        """Take in an operation; PayloadError where it is on a table that never was.

        One that was dropped was known once, for ids only rise.
        """
        table_id = operation.table_id
        if operation.op == CREATE:
            self._highest = max(self._highest, table_id)
        elif table_id > self._highest and operation.op != DROP:
            raise PayloadError(
                f"LSN {operation.lsn}: an operation on table {table_id}, which is unknown"
            )


def _decode(
    first_lsn: int, count: int, payload: bytes, after_lsn: int, tables: _Tables | None
) -> None:
    """Raise ValueError where a payload is not what can be replayed onto `tables`."""
    commit_sizes(decode_items(payload, count), count)
    for operation in decode_operations(first_lsn, payload, count):
        if tables is not None and operation.lsn > after_lsn and operation.op != VOID:
            tables.take(operation)
