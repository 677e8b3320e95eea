"""What a recovered store must still be good for."""

from __future__ import annotations

from collections.abc import Callable

from strandline import Durability, Store
from strandline.errors import StoreLockedError, StrandlineError
from strandline.recovery.report import RecoveryReport
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.crash import Crash, CrashKind
from strandline.tools.crash.oracle.reading import difference, read_whole
from strandline.wal.lockfile import WriterLock
from strandline.wal.real_disk import RealDisk

_PROCESS = Crash(CrashKind.PROCESS)
_KEY = b"after the crash"


def check_report(report: RecoveryReport, crash: Crash) -> None:
    """A crash alone leaves nothing to give up; that of a process no damage and no gap either.

    After a power cut frames can be missing between others where nothing is lost by it, a sync
    mark, or what LMDB has already; and of segments that were given back an older one can be
    there and a newer one not. That is passed over and said. A gap above the watermark is not:
    the store does not open.

    Raises:
        ViolationError: the recovery found more than that.
    """
    found = (report.damages or report.gaps) and crash.kind is CrashKind.PROCESS
    if found or report.given_up:
        told = "; ".join(report.summary().splitlines())
        raise ViolationError(7, f"a crash is told as damage: {told}")


def check_lsns(db: Store, issued: int) -> None:
    """Every LSN that comes now is above all that were issued before the crash."""
    following = db.engine.log.next_lsn()
    if following <= issued:
        raise ViolationError(12, f"LSN {following} would be issued again, up to {issued} were")


def check_locked(db: Store) -> None:
    """A store that is open has no second writer, who would issue the same LSNs."""
    engine = db.engine
    try:
        lock = WriterLock.acquire(engine.options.disk or RealDisk(), engine.path, engine.runtime)
    except StoreLockedError:
        return
    lock.close()
    raise ViolationError(12, "a second writer can lock the store while it is open")


def check_released(db: Store) -> None:
    """When all is in LMDB no sealed segment is kept. For a store whose threads do not run."""
    engine = db.engine
    engine.checkpointer.run_or_raise()
    engine.log.housekeep()
    kept = [segment.path for segment in engine.log.segments.sealed]
    if kept:
        raise ViolationError(11, f"LMDB has all up to LSN {engine.log.stored_lsn}; kept are {kept}")


def check_writable(db: Store, issued: int) -> None:
    """A recovered store takes a SYNC write, and gives it an LSN of its own."""
    check_locked(db)
    try:
        lsn = db.put(_KEY, b"taken", durability=Durability.SYNC)
        found = db.get(_KEY)
        db.delete(_KEY, durability=Durability.SYNC)
    except (StrandlineError, OSError) as error:
        raise ViolationError(
            12, f"the recovered store takes no write: {type(error).__name__}: {error}"
        ) from error
    if lsn is None or lsn <= issued:
        raise ViolationError(12, f"LSN {lsn} was issued again, up to {issued} were before")
    if found != b"taken":
        raise ViolationError(12, f"the recovered store read {found!r} where b'taken' was put")


def check_again(db: Store, reopen: Callable[[], Store], crash: Crash = _PROCESS) -> Store:
    """A store that was recovered recovers to the same state; return it, open again.

    Also after a power cut: what a recovery shows is durable before it is shown.
    """
    before = read_whole(db)
    again = reopen()
    after = read_whole(again)
    if after != before:
        raise ViolationError(5, f"a second recovery differs: {difference(before, after)}")
    check_report(again.recovery_report, crash)
    return again
