"""Up to where a state is wanted, and whether it can be had: the cut of an export.

    log      1 ------------------- W ------------- X ------- end
    LMDB     ......................|
    state at X  =  LMDB at its watermark W  +  the log's operations above W, up to X

X below W cannot be had from LMDB, which keeps no history; it can be from the log alone, if
that still begins at LSN 1. A time stands for an LSN: the one before the first frame that
was written later, however the clock went behind it.

Refuses to cut behind a hole: damage above W, or a gap, is the end of what can be had. A
torn tail is the end of the log and no hole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from strandline.engine.catalog import Metadata
from strandline.errors import CorruptionError, LogCorruptionError, LogGapError
from strandline.options import RecoveryMode
from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.survey import Survey, conclude
from strandline.tools.cli.failure import CommandError
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.tools.inspect.times import show_time
from strandline.wal.reader import SegmentReader


class RestlessError(Exception):
    """A writer changed the store while it was read; what was read is worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a state is cut, before it is known where the commit ends."""

    survey: Survey
    metadata: Metadata | None
    """What LMDB says of what lies below; None where the state is that of the log alone."""
    lsn: int
    """No operation above it is wanted."""
    torn: bool
    """More was wanted than there is, and the log ends in a torn tail."""

    @property
    def base_lsn(self) -> int:
        """Operations above it come from the log."""
        return self.metadata.watermark.lsn if self.metadata else 0


def plan_cut(
    log: Examination, metadata: Metadata | None, *, to_lsn: int | None, at_ns: int | None
) -> Cut:
    """Decide what a state is made of; `metadata` belongs to the rows that LMDB gives.

    Raises:
        CommandError: it cannot be had; the message says what can.
        RestlessError: a writer gave back a part of the log meanwhile.
    """
    if log.survey is None:
        _refuse_log(log)
    if at_ns is not None:
        to_lsn = _lsn_at(log.survey, at_ns)
    if metadata is not None and to_lsn is not None and to_lsn < metadata.watermark.lsn:
        metadata = None
    if metadata is None and log.first_lsn != 1:
        _refuse_early(log, to_lsn)
    base_lsn = metadata.watermark.lsn if metadata else 0
    survey = log.survey if base_lsn == log.watermark_lsn else _rejudged(log, base_lsn)
    hole = _hole_of(log, survey, base_lsn)
    if hole is not None and (to_lsn is None or to_lsn >= hole):
        if metadata is not None and hole <= log.watermark_lsn:
            raise RestlessError
        _refuse_hole(log, hole, to_lsn, base_lsn)
    end = survey.last_lsn
    beyond = to_lsn is None or to_lsn > end
    return Cut(
        survey=survey,
        metadata=metadata,
        lsn=end if to_lsn is None else to_lsn,
        torn=survey.torn is not None and beyond,
    )


def _hole_of(log: Examination, survey: Survey, base_lsn: int) -> int | None:
    """Return the first LSN that nobody can give although something follows it."""
    starts = [first for first, _ in survey.given_up]
    if survey is log.survey:
        # Also what gives up no LSN that is known, such as a successor that is missing.
        starts += [each.lsn for each in log.findings if each.fatal and each.lsn is not None]
        if not starts and any(each.fatal for each in log.findings):
            return base_lsn + 1
    elif survey.checkpoint_first:
        starts += [each.lsn for each in (*survey.damages, *survey.gaps)]
    return max(base_lsn + 1, min(starts)) if starts else None


def _rejudged(log: Examination, watermark_lsn: int) -> Survey:
    """Judge the log as if LMDB held all up to another LSN, 0 for nothing."""
    try:
        try:
            return _judged(log, "tolerate-torn-tail", watermark_lsn)
        except (LogCorruptionError, LogGapError):
            return _judged(log, "salvage", watermark_lsn)
    except CorruptionError as error:
        raise CommandError(str(error), log.status or 4) from error


def _judged(log: Examination, mode: RecoveryMode, watermark_lsn: int) -> Survey:
    target = log.target
    return conclude(
        target.disk,
        target.log_dir,
        log.scans,
        uuid=target.uuid,
        watermark_lsn=watermark_lsn,
        mode=mode,
    )


# ---- times


def _lsn_at(survey: Survey, at_ns: int) -> int | None:
    """Return the last LSN before the first frame later than a time; None for the log's end."""
    earliest: int | None = None
    for first_lsn, time_ns in _times(survey):
        if time_ns > at_ns:
            if earliest is None and first_lsn > 1:
                _refuse_time(at_ns, f"is of {show_time(time_ns)}, later than that")
            return first_lsn - 1
        earliest = time_ns
    if earliest is None and survey.last_lsn:
        _refuse_time(at_ns, "is in LMDB already: the log has none left")
    return None


def _times(survey: Survey) -> Iterator[tuple[int, int]]:
    """Yield the first LSN of every frame that is kept, and when it was written."""
    for kept in survey.segments:
        try:
            file = survey.disk.open(kept.scan.path, "r")
        except FileNotFoundError:
            raise RestlessError from None
        try:
            for run in kept.runs:
                reader = SegmentReader(
                    file, kept.scan.stamp, lsn=run.first_lsn, offset=run.offset, end=run.end
                )
                for frames in reader.placed():
                    yield from [(frame[1], frame[3]) for frame in frames]
                if reader.offset < run.end:
                    raise RestlessError
        finally:
            file.close()


def _refuse_time(at_ns: int, found: str) -> NoReturn:
    raise CommandError(
        f"--at {show_time(at_ns)}: expected a frame written at or before it, found that the first "
        f"frame of the log {found}; what was written before is in LMDB, which knows no times. "
        "Give a later time, or --to-lsn"
    )


# ---- refusals


def _refuse_log(log: Examination) -> NoReturn:
    said = "; ".join(f"{each.path}: {WORDS[each.verdict]}: {each.found}" for each in log.findings)
    raise CommandError(
        f"{log.target.path}: expected a log that can be read, found {said or 'none'}. "
        "`wal-inspect verify` says more",
        log.status or 1,
    )


def _refuse_early(log: Examination, to_lsn: int | None) -> NoReturn:
    first = log.first_lsn
    begins = "holds no operation" if first is None else f"begins at LSN {first}"
    if log.metadata is None:
        raise CommandError(
            f"{log.target.path}: expected a store, or a log that begins at LSN 1, found one "
            f"without LMDB that {begins}: what lies before is not there. Give the path of the "
            "store, or restore a backup"
        )
    watermark = log.watermark_lsn
    raise CommandError(
        f"{log.target.path}: the state at LSN {to_lsn} can no longer be had: LMDB holds everything "
        f"up to LSN {watermark}, and the log {begins}. The earliest is LSN {watermark}: give "
        f"--to-lsn {watermark} or later, or restore an older backup"
    )


def _refuse_hole(log: Examination, hole: int, to_lsn: int | None, base_lsn: int) -> NoReturn:
    wanted = "the last LSN" if to_lsn is None else f"LSN {to_lsn}"
    grave = [each for each in log.findings if each.verdict is not CheckVerdict.TORN_TAIL]
    grave.sort(key=lambda each: (not each.fatal, each.lsn or 0))
    what = f"{log.target.path}: LSN {hole} is missing"
    if grave:
        worst = grave[0]
        at = "" if worst.offset is None else f", offset {worst.offset}"
        what = (
            f"{worst.path}{at}: {WORDS[worst.verdict]} at LSN {hole}: expected {worst.expected}, "
            f"found {worst.found}"
        )
    raise CommandError(
        f"{what}. So the state at {wanted} cannot be had without a hole in it. Give --to-lsn "
        f"{hole - 1} ({base_lsn} is the earliest), or `wal-inspect repair --mode salvage` first",
        log.status or 5,
    )
