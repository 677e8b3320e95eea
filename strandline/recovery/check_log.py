"""Checking the log: judged as an opening would judge it, and then told in full.

An opening stops at the first damage. Here a damaged log is judged a second time as a
salvage would, so that everything that is wrong shows. What the frames above the watermark
say can be decoded too, for a replay would have to.

Beside a writer a log has a horizon: the end of its frames at the moment when the look
begins. All up to there was written before, so the writer cannot be in the middle of it;
what lies behind is not looked at. Segments can be given back during a look, but only such
as lie at or below a watermark that is read afterwards: what is missing there is not
missed. Anything else counts only where two looks in a row find the same.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from strandline.engine.catalog import Metadata
from strandline.errors import ForeignStoreError, LogCorruptionError, LogGapError, StrandlineError
from strandline.options import RecoveryMode
from strandline.recovery.check_operations import read_operations
from strandline.recovery.check_report import (
    RESTORE,
    CheckProgress,
    CheckVerdict,
    Finding,
    LogFacts,
    OnCheckProgress,
    Phase,
    refusal,
)
from strandline.recovery.report import RecoveryProgress, TornTail
from strandline.recovery.segment_scan import SegmentScan, scan_segment
from strandline.recovery.survey import Survey, conclude, list_segments, scan_log
from strandline.wal.damage import GAPS, Damage
from strandline.wal.disk import Disk, let_go
from strandline.wal.format import SEGMENT_HEADER_BYTES, SegmentHeader, segment_id_of
from strandline.wal.reader import read_segment_header

_ATTEMPTS: Final = 5
"""How often a log is surveyed while a writer changes it."""


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What was found in a log."""

    facts: LogFacts | None
    findings: list[Finding]
    survey: Survey | None
    scans: list[SegmentScan] = field(default_factory=list)
    """What lies in each segment, and the places of missing ones."""
    watermark_lsn: int = 0
    """What the log was judged by."""


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
            let_go(file)
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
    paths: dict[int, str] | None = None,
    operations: bool = True,
) -> LogCheck:
    """Check the log of the store `uuid`; raises OSError where it cannot be read.

    `read_metadata` gives what LMDB says at this moment, None where it cannot be read;
    then the log is judged by what its first segment says of LMDB. `paths` gives the
    segments where not those of the directory are meant. With `operations` it is decoded
    what a replay would have to.
    """
    before: list[Finding] = []
    for _ in range(_ATTEMPTS):
        metadata = read_metadata()
        live = has_writer()
        looking = _Look(disk, log_dir, uuid, paths, progress, live=live, operations=operations)
        try:
            result = looking.check(metadata)
        except FileNotFoundError:
            # Given back after its name had been read.
            if not has_writer():
                raise
            continue
        serious = [each for each in result.findings if each.verdict is not CheckVerdict.TORN_TAIL]
        if not serious or not has_writer():
            return result
        newest = read_metadata()
        watermark = newest.watermark.lsn if newest is not None else 0
        serious = [each for each in serious if not _given_back(disk, each, result, watermark)]
        again = [each for each in serious if each in before]
        if again or not serious:
            return replace(result, findings=again)
        before = serious
    return LogCheck(None, [restless(log_dir)], None)


def _given_back(disk: Disk, finding: Finding, result: LogCheck, watermark: int) -> bool:
    """Tell whether a finding is about a segment that was given back while it was read.

    Its file is gone then, or has another header, and all that it held is in LMDB.
    """
    scan = next((scan for scan in result.scans if scan.path == finding.path), None)
    if scan is None or scan.header is None:
        # A segment that was no longer there, or already named anew.
        return finding.lsn is not None and finding.lsn <= watermark
    if max(run.last_lsn for run in scan.runs) > watermark:
        return False
    if disk.kind(scan.path) != "file":
        return True
    try:
        return _header_of(disk, scan.path) != scan.header
    except FileNotFoundError:
        return True


def _header_of(disk: Disk, path: str) -> SegmentHeader | None:
    file = disk.open(path, "r")
    try:
        return read_segment_header(file)
    finally:
        let_go(file)


class _Look:
    """One look at a log."""

    def __init__(
        self,
        disk: Disk,
        log_dir: str,
        uuid: bytes,
        paths: dict[int, str] | None,
        progress: OnCheckProgress | None,
        *,
        live: bool,
        operations: bool,
    ) -> None:
        self.disk = disk
        self.log_dir = log_dir
        self.uuid = uuid
        self.paths = paths
        self.progress = progress
        self.live = live
        self.operations = operations

    def check(self, metadata: Metadata | None) -> LogCheck:
        """Scan and judge."""
        try:
            paths = self.paths or list_segments(self.disk, self.log_dir)
        except StrandlineError as missing:
            return LogCheck(None, [refusal(CheckVerdict.STORE_DAMAGE, self.log_dir, missing)], None)
        ends: dict[int, int] = {}
        if self.live:
            paths, ends = self._horizon(paths)
        teller = _teller(self.progress, "log")
        scans = scan_log(self.disk, paths, uuid=self.uuid, ends=ends, progress=teller)
        watermark = metadata.watermark.lsn if metadata else _watermark_said(scans)
        return replace(
            self._judge(scans, watermark, metadata), scans=scans, watermark_lsn=watermark
        )

    def _horizon(self, paths: dict[int, str]) -> tuple[dict[int, str], dict[int, int]]:
        """Return the segments that a writer has begun, and up to where the last is written."""
        foreign: set[int] = set()
        for segment_id in reversed(paths):
            path = paths[segment_id]
            scan = scan_segment(self.disk, path, segment_id, uuid=self.uuid, next_lsn=1)
            if scan.foreign is not None:
                foreign.add(segment_id)
            if scan.header is None:
                continue
            ends = {segment_id: scan.end}
            begun = {i: path for i, path in paths.items() if i <= segment_id or i in foreign}
            if scan.seal is not None and segment_id + 1 in paths:
                # A sealed segment has a successor. Of that not even the first frame is read.
                begun[segment_id + 1] = paths[segment_id + 1]
                ends[segment_id + 1] = SEGMENT_HEADER_BYTES
            return begun, ends
        return paths, {}

    def _judge(
        self, scans: list[SegmentScan], watermark: int, metadata: Metadata | None
    ) -> LogCheck:
        def judged(mode: RecoveryMode) -> Survey:
            return conclude(
                self.disk,
                self.log_dir,
                scans,
                uuid=self.uuid,
                watermark_lsn=watermark,
                mode=mode,
            )

        log_dir = self.log_dir
        error: StrandlineError | None = None
        try:
            try:
                found = judged("tolerate-torn-tail")
            except (LogCorruptionError, LogGapError) as damage:
                error = damage
                found = judged("salvage")
        except ForeignStoreError as foreign:
            return LogCheck(None, _foreign(scans, foreign), None)
        except StrandlineError as misfit:
            findings = [refusal(CheckVerdict.STORE_DAMAGE, log_dir, misfit)]
            if error is not None:
                findings.insert(0, refusal(_verdict_of(error), log_dir, error))
            return LogCheck(None, findings, None)
        findings = _findings(found, error)
        to_replay = None
        if self.operations:
            teller = _teller(self.progress, "operations")
            to_replay, wrong = read_operations(found, metadata, teller)
            if wrong is not None:
                findings.append(wrong)
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
        return LogCheck(facts, findings, found)


def _foreign(scans: Sequence[SegmentScan], error: ForeignStoreError) -> list[Finding]:
    """Return a finding for every segment that is not one of this store and format."""
    said = [(scan.path, ForeignStoreError(scan.foreign)) for scan in scans if scan.foreign]
    if not said:
        # A frame of a newer format; the message begins with the segment's path.
        said = [(scan.path, error) for scan in scans if str(error).startswith(scan.path)]
    return [refusal(CheckVerdict.FOREIGN, path, each) for path, each in said]


def _watermark_said(scans: Sequence[SegmentScan]) -> int:
    """Return what the first segment says of LMDB: all that lies before it is there."""
    header = next((scan.header for scan in scans if scan.header is not None), None)
    return header.previous_last_lsn if header else 0


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
    fatal = _fatal_ones(damages, found, error)
    findings = [_damage(damage, found, fatal=damage in fatal) for damage in damages]
    if error is not None and not any(each.fatal for each in findings):
        findings.append(refusal(_verdict_of(error), found.log_dir, error))
    torn = found.torn
    if torn is not None and not any(_is_at(each, torn) for each in findings):
        findings.append(_torn(torn))
    return findings


def _fatal_ones(
    damages: Sequence[Damage], found: Survey, error: StrandlineError | None
) -> set[Damage]:
    """Return those that an opening would not pass over: LSNs above the watermark are lost."""
    if error is None:
        return set()
    ranges = sorted(found.given_up)
    starts = [first for first, _ in ranges]
    reach = list(accumulate((last for _, last in ranges), max))
    fatal = set()
    for damage in damages:
        before = bisect_right(starts, damage.lsn)
        if (before and damage.lsn <= reach[before - 1]) or str(error).startswith(str(damage)):
            fatal.add(damage)
    return fatal


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
