"""Looking at a whole log: what lies in every segment, what of it is wrong, how grave it is.

Judged as an opening of the store would judge it (`strandline.recovery.check_log`), by the
watermark that LMDB states. That is read in a child process, for nobody has checked the
environment; where there is none the log's first segment says what came before it. Nothing
is written, and no lock is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from strandline.engine.catalog import Metadata
from strandline.engine.probe import read_metadata_apart
from strandline.errors import CorruptionError, ForeignStoreError
from strandline.recovery.check import find_writer
from strandline.recovery.check_log import check_log
from strandline.recovery.check_report import CheckProgress, CheckVerdict, Finding, Writer
from strandline.recovery.opening import STORE_NAME
from strandline.recovery.segment_scan import SegmentScan
from strandline.recovery.survey import Survey
from strandline.tools.cli.terminal import ProgressBar
from strandline.tools.inspect.target import Target

STATUS: Final = {
    CheckVerdict.SOUND: 0,
    CheckVerdict.UNREADABLE: 1,
    CheckVerdict.TORN_TAIL: 3,
    CheckVerdict.LOG_DAMAGE: 4,
    CheckVerdict.GAP: 5,
    CheckVerdict.STORE_DAMAGE: 5,
    CheckVerdict.FOREIGN: 6,
}
"""The exit status of each verdict. Of what does not fit LMDB the log is missing a part."""

WORDS: Final = {
    CheckVerdict.SOUND: "sound",
    CheckVerdict.UNREADABLE: "cannot be read",
    CheckVerdict.TORN_TAIL: "torn tail",
    CheckVerdict.LOG_DAMAGE: "damage in mid-log",
    CheckVerdict.GAP: "gap",
    CheckVerdict.STORE_DAMAGE: "does not fit LMDB",
    CheckVerdict.FOREIGN: "foreign or unsupported",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a log holds and what is wrong with it."""

    target: Target
    metadata: Metadata | None
    """What LMDB said, None where there is none or it cannot be read."""
    writer: Writer | None
    """Who has the store open for writing."""
    scans: list[SegmentScan]
    """Every segment, in order, with a place for missing ones."""
    findings: list[Finding]
    given_up: tuple[tuple[int, int], ...]
    """LSNs that a salvage would have to do without; both ends included."""
    notes: list[str]
    """What is worth knowing and no fault."""
    watermark_lsn: int
    """All up to here is in LMDB, or else lies before the first segment."""
    last_lsn: int
    """The last LSN in a valid frame, or in LMDB."""
    survey: Survey | None = None
    """What an opening would keep of it, a salvage where no other would open it; None where
    none would."""

    @property
    def verdict(self) -> CheckVerdict:
        """The gravest verdict of all findings."""
        found = [finding.verdict for finding in self.findings]
        return max(found, key=lambda each: each.gravity, default=CheckVerdict.SOUND)

    @property
    def status(self) -> int:
        """The exit status."""
        return STATUS[self.verdict]

    @property
    def first_lsn(self) -> int | None:
        """The first LSN in a valid frame."""
        runs = [run for scan in self.scans for run in scan.runs if run.operations]
        return min((run.first_lsn for run in runs), default=None)

    @property
    def frames(self) -> int:
        """Valid frames, seals left out."""
        return sum(scan.frames for scan in self.scans)

    @property
    def operations(self) -> int:
        """Operations in valid frames."""
        return sum(scan.operations for scan in self.scans)

    @property
    def file_bytes(self) -> int:
        """Length of all segment files."""
        return sum(scan.size for scan in self.scans)

    def frames_behind(self, finding: Finding) -> int:
        """Return how many valid frames follow the place of a finding."""
        found = 0
        seen = False
        for scan in self.scans:
            if scan.path == finding.path:
                seen = True
                at = finding.offset or 0
                found += sum(run.frames for run in scan.runs if run.offset >= at)
            elif seen:
                found += scan.frames
        return found


def examine(target: Target, *, operations: bool = False, locked: bool = False) -> Examination:
    """Scan and judge a log, with a progress bar when a person watches.

    With `operations` it is decoded, too, what an opening would replay. `locked` says that
    the caller itself holds the writer's lock, so that nobody writes. Raises
    ForeignStoreError if LMDB is of a newer format, OSError if a file cannot be read.
    """
    notes: list[str] = []
    metadata = _metadata(target, notes)

    def look_for_writer() -> Writer | None:
        return find_writer(target.store) if target.store and not locked else None

    writer = look_for_writer()
    with ProgressBar("reading the log", "bytes", delay=0.3) as bar:

        def tell(seen: CheckProgress) -> None:
            if seen.phase == "operations":
                bar.begin("decoding operations", "bytes")
            bar.advance(seen.done, seen.done, seen.total or None)

        result = check_log(
            target.disk,
            target.log_dir,
            uuid=target.uuid,
            read_metadata=_newest(target, metadata, notes, look_for_writer),
            has_writer=lambda: look_for_writer() is not None,
            progress=tell,
            paths=target.segments() if target.segment else None,
            operations=operations,
        )
    survey = result.survey
    last = max((run.last_lsn for scan in result.scans for run in scan.runs), default=0)
    return Examination(
        target=target,
        metadata=metadata,
        writer=writer,
        scans=result.scans,
        findings=[
            # A lone segment has no neighbours that could be missing.
            each
            for each in result.findings
            if target.segment is None or each.path == target.segment[1]
        ],
        given_up=survey.given_up if survey else (),
        notes=notes,
        watermark_lsn=result.watermark_lsn,
        last_lsn=max(last, result.watermark_lsn if metadata else 0),
        survey=survey,
    )


def _metadata(target: Target, notes: list[str]) -> Metadata | None:
    if target.store is None:
        return None
    directory = os.path.join(target.store, STORE_NAME)
    try:
        return read_metadata_apart(directory)
    except ForeignStoreError:
        raise
    except (CorruptionError, OSError) as error:
        notes.append(
            f"what LMDB holds is not known ({error}); the log is judged by what its first segment "
            "says of it"
        )
        return None


def _newest(
    target: Target,
    metadata: Metadata | None,
    notes: list[str],
    look_for_writer: Callable[[], Writer | None],
) -> Callable[[], Metadata | None]:
    """Return what reads the metadata anew where a writer may have moved the watermark."""
    first = True

    def read() -> Metadata | None:
        nonlocal first
        if first or metadata is None or look_for_writer() is None:
            first = False
            return metadata
        return _metadata(target, notes) or metadata

    return read
