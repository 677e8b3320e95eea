"""What a check of a store found: the shapes that `strandline.recovery.check` fills.

Verdicts are ordered by gravity. A finding names one of them, and a report's verdict is
the gravest of its findings.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from strandline.errors import StrandlineError

Phase = Literal["log", "operations", "store"]


class CheckVerdict(enum.Enum):
    """How a store is, from best to worst."""

    SOUND = "sound"
    TORN_TAIL = "torn-tail"
    """The log ends in a write that was cut short; opening the store drops it."""
    LOG_DAMAGE = "log-damage"
    GAP = "gap"
    """A segment of the log is missing or out of order."""
    STORE_DAMAGE = "store-damage"
    """LMDB or IDENTITY is damaged, or does not fit the log."""
    FOREIGN = "foreign"
    """Not a store, a part of another store, or a format that this release does not know."""
    UNREADABLE = "unreadable"
    """Something could not be read, so that nothing can be said about it."""

    @property
    def gravity(self) -> int:
        """Return its place in the order, 0 for SOUND."""
        return list(CheckVerdict).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    verdict: CheckVerdict
    path: str
    """The file or directory that it is about."""
    offset: int | None = None
    lsn: int | None = None
    """The LSN that was expected at this place."""
    expected: str
    found: str
    next_step: str
    """What to do about it."""
    fatal: bool
    """Keeps the store from opening as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A process that has the store open for writing, as LOCK names it."""

    pid: int | None
    started: str | None
    """When it took the lock, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """What lies in the log. LSN ranges include both ends."""

    segments: int
    """Those that are part of the recovered log."""
    frames: int
    operations: int
    byte_count: int
    """Length of all segment files."""
    first_lsn: int | None
    last_lsn: int
    to_replay: int | None
    """Operations above the watermark, which the next opening replays; None if it is unknown."""
    clean: bool
    """The last writer closed the store in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What lies in LMDB."""

    tables: int
    entries: int
    byte_count: int
    values_checked: bool
    """Every value's checksum was computed; not so where no child process can be started."""
    watermark_lsn: int | None
    """Everything up to here is in LMDB; None where it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found."""

    path: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What is worth knowing and no fault."""
    writer: Writer | None
    """Whoever held the store when the check began or ended."""
    uuid: str | None
    epoch: int | None
    log: LogFacts | None
    """None where the log could not be judged at all."""
    store: StoreFacts | None
    seconds: float

    @property
    def verdict(self) -> CheckVerdict:
        """Return the gravest verdict of all findings."""
        found = [finding.verdict for finding in self.findings]
        return max(found, key=lambda each: each.gravity, default=CheckVerdict.SOUND)

    @property
    def approximate(self) -> bool:
        """Whether a writer was at work, so that nothing is said about the log's live end."""
        return self.writer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckProgress:
    """How far a check has come."""

    phase: Phase
    """`log` and `operations` count bytes, `store` counts entries."""
    done: int
    total: int


OnCheckProgress = Callable[[CheckProgress], None]


RESTORE: Final = "restore the store from a backup"

_STATEMENT: Final = re.compile(
    r"expected (?P<expected>.+?), found (?P<found>.+?)(?:(?:; |\. |: (?=[a-z ]+$))(?P<next>.+))?$",
    re.DOTALL,
)
_OFFSET: Final = re.compile(r"\boffset (\d+)")
_COMMAND: Final = "`strandline "


def finding_from(
    verdict: CheckVerdict, path: str, message: str, *, expected: str, next_step: str
) -> Finding:
    """Return a fatal finding that says what an error's message says.

    Messages of this program read "PLACE: expected X, found Y; NEXT STEP". `expected` and
    `next_step` stand in where one does not, or where it says what command to run.
    """
    stated = _STATEMENT.search(message)
    offset = _OFFSET.search(message)
    following = stated["next"] if stated else None
    if following is None or _COMMAND in following:
        following = next_step
    return Finding(
        verdict=verdict,
        path=path,
        offset=int(offset[1]) if offset else None,
        expected=stated["expected"] if stated else expected,
        found=stated["found"] if stated else message,
        next_step=following,
        fatal=True,
    )


def refusal(verdict: CheckVerdict, path: str, error: StrandlineError) -> Finding:
    """Return the fatal finding that an error about a log is."""
    return finding_from(
        verdict, path, str(error), expected="the log of this store", next_step=RESTORE
    )
