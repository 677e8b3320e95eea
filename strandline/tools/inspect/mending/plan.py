"""What a repair of a log comes to, before anything is done: kept, given up, put aside.

    tail      what a torn tail left is dropped; refuses where more than that is wrong
    salvage   all that verifies is kept; what damage and gaps took is given up

A repair is an opening of the store in one of two recovery modes, so the plan is what that
opening would decide. Nothing is written here.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import NamedTuple

from strandline.engine import probe
from strandline.errors import CorruptionError, StrandlineError
from strandline.options import RecoveryMode
from strandline.recovery.aside import Aside
from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.opening import STORE_NAME
from strandline.recovery.report import RecoveryReport
from strandline.recovery.survey import Survey, conclude
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.wal.identity import IDENTITY_NAME, read_identity


class Mode(enum.Enum):
    """How a log is repaired."""

    TAIL = "tail"
    SALVAGE = "salvage"

    @property
    def recovery(self) -> RecoveryMode:
        """The mode in which the store is opened."""
        return "tolerate-torn-tail" if self is Mode.TAIL else "salvage"


class Lsns(NamedTuple):
    """LSNs, both ends included."""

    first: int
    last: int | None
    """None where nothing tells how far they went."""

    def __str__(self) -> str:
        if self.last is None:
            return f"LSN {self.first} and up"
        return f"LSN {self.first}" + (f" to {self.last}" if self.last != self.first else "")


class Loss(NamedTuple):
    """LSNs that are given up, and why."""

    lsns: Lsns
    why: str
    """`damage`: something said that they were on disk; `torn-tail`: nothing did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a repair would do."""

    mode: Mode
    needed: bool
    """Something is wrong with the log."""
    refusal: str | None = None
    """Why this mode cannot repair it."""
    stored_lsn: int | None
    """All up to here is in LMDB and stays; None without LMDB."""
    kept: tuple[Lsns, ...] = ()
    """What of the log is kept."""
    given_up: tuple[Loss, ...] = ()
    asides: tuple[Aside, ...] = ()
    """What goes to quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a repair did."""

    path: str
    """Where the repaired store is."""
    originals: str
    """Where what there was before is."""
    report: RecoveryReport
    """What the opening found and did, with paths as they are now."""


def plan_repair(log: Examination, mode: Mode) -> Plan:
    """Return what a repair of an examined log in this mode would do."""
    stored = log.watermark_lsn if log.metadata else None
    needed = log.verdict is not CheckVerdict.SOUND
    refusal = _refusal(log, mode) if needed else None
    if refusal is None:
        try:
            survey = _judged(log, mode)
        except StrandlineError as error:
            refusal = str(error)
    if refusal is not None:
        return Plan(mode=mode, needed=True, refusal=refusal, stored_lsn=stored)
    return Plan(
        mode=mode,
        needed=needed,
        stored_lsn=stored,
        kept=_kept(survey),
        given_up=_given_up(log, survey),
        asides=survey.asides if needed else (),
    )


def _refusal(log: Examination, mode: Mode) -> str | None:
    """Return why a log cannot be repaired in this mode, None if it can."""
    path = log.target.path
    if log.survey is None:
        words = "; ".join(f"{WORDS[each.verdict]}: {each.found}" for each in log.findings)
        return (
            f"{path}: no repair can mend it ({words}): what is wrong is not damage within this "
            "store's log. Restore a backup; `wal-inspect verify` says more"
        )
    if mode is Mode.TAIL and log.survey.mode != mode.recovery:
        return (
            f"{path}: more is wrong than a torn tail, and to pass over it gives up what was on "
            "disk. Restore a backup, or see what --mode salvage would keep and give up"
        )
    return None


def refuse_rest(log: Examination) -> str | None:
    """Return what beside the log keeps a store from being opened, None if nothing does."""
    store = log.target.store
    if store is None:
        return (
            f"{log.target.path}: a log is repaired together with its store, which is not here: "
            "what is missing of one may be in the other. Give the path of the store; without "
            "--output and --in-place it is said what a repair would do"
        )
    try:
        read_identity(log.target.disk, store)
        found = probe.examine(os.path.join(store, STORE_NAME), values=False)
    except FileNotFoundError:
        return f"{os.path.join(store, IDENTITY_NAME)}: expected a file, found nothing; restore it"
    except CorruptionError as error:
        return str(error)
    if found.findings:
        return (
            f"{found.path}: LMDB is damaged, which no repair of the log mends: "
            f"{found.findings[0]}. Restore a backup; `strandline check` says more"
        )
    return None


def _judged(log: Examination, mode: Mode) -> Survey:
    target = log.target
    return conclude(
        target.disk,
        target.log_dir,
        log.scans,
        uuid=target.uuid,
        watermark_lsn=log.watermark_lsn,
        mode=mode.recovery,
    )


def _kept(survey: Survey) -> tuple[Lsns, ...]:
    """Return the LSNs of the frames that are kept, joined where they follow one another."""
    found: list[Lsns] = []
    for kept in survey.segments:
        for run in kept.runs:
            if not run.operations:
                continue
            if found and found[-1].last == run.first_lsn - 1:
                found[-1] = Lsns(found[-1].first, run.last_lsn)
            else:
                found.append(Lsns(run.first_lsn, run.last_lsn))
    return tuple(found)


def _given_up(log: Examination, survey: Survey) -> tuple[Loss, ...]:
    """Return what is not kept: what damage took, and the torn tail."""
    lost = [Loss(Lsns(*lsns), "damage") for lsns in survey.given_up]
    torn = survey.torn
    if torn is not None and torn.lsn > survey.watermark_lsn:
        behind = [run.last_lsn for scan in log.scans for run in scan.runs]
        last = max([*behind, torn.reason.last_lsn or 0])
        lost.append(Loss(Lsns(torn.lsn, last if last >= torn.lsn else None), "torn-tail"))
    return tuple(lost)
