"""`wal-inspect repair`: end a torn log well, or salvage a damaged one.

    without more   says what would be done; nothing is changed
    --output       a copy of the store is repaired and gets its name when it is found sound
    --in-place     under the writer's lock: the originals go into quarantine, durably, then
                   the store is opened in the recovery mode, closed and checked

The lock is held from the first look until the store is closed, so that no writer comes in
between. What is cut short leaves the original, or a store whose recovery the next opening
goes on with; the originals are in quarantine by then.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import strandline
from strandline import Store
from strandline.errors import StrandlineError
from strandline.recovery.check import check_store, find_writer
from strandline.recovery.check_report import CheckVerdict
from strandline.recovery.opening import open_locked
from strandline.recovery.report import RecoveryProgress, RecoveryReport
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import ProgressBar, fail, write_line
from strandline.tools.inspect.examine import Examination, examine
from strandline.tools.inspect.mending.originals import (
    bytes_below,
    copy_store,
    keep_originals,
    require_room,
)
from strandline.tools.inspect.mending.plan import Mode, Outcome, Plan, plan_repair, refuse_rest
from strandline.tools.inspect.mending.words import plain_repair, show_repair
from strandline.tools.inspect.params import AsJson, LogPath
from strandline.tools.inspect.state.outlets import PARTIAL_SUFFIX
from strandline.tools.inspect.target import Target, resolve
from strandline.wal.identity import IDENTITY_NAME
from strandline.wal.lockfile import WriterLock
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import SystemRuntime

EXAMPLES: Final = (
    "wal-inspect repair data --mode tail",
    "wal-inspect repair data --mode salvage --output repaired",
    "wal-inspect repair data --mode salvage --in-place --yes",
)

_NO_BUDGET: Final = 1 << 62
"""What recovery puts aside is a part of what was copied already; the room was looked at."""
_CLOSE_SECONDS: Final = 3600.0
_PATIENCE: Final = 0.5

RepairMode = Annotated[
    Mode,
    typer.Option("--mode", help="tail drops a torn tail; salvage keeps all that verifies."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Make a repaired copy of the store there."),
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Repair the store itself; with --yes.")]
Yes = Annotated[bool, typer.Option("--yes", help="Yes, change the store itself.")]


def repair(
    path: LogPath,
    *,
    mode: RepairMode,
    output: Output = None,
    in_place: InPlace = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Repair the log of a store that no longer opens, or say what a repair would do.

    Without --output and --in-place nothing is changed: it says what is wrong, which LSNs
    would be kept and which given up, and what would go to quarantine.

    --output makes a repaired copy and leaves the store as it is. --in-place keeps the
    original log in quarantine/before-repair-TIME, then repairs the store itself. Exit
    status 0 says that the result was checked and is sound, or that nothing was to be done.
    """
    if output is not None and in_place:
        raise typer.BadParameter("--output and --in-place exclude each other; give one of them")
    if in_place and not yes:
        raise typer.BadParameter(
            "--in-place changes the store itself: it drops what cannot be kept, after a copy of "
            "the log was put into quarantine. Look at what it would do, without --in-place; then "
            "add --yes, or take --output DIR, which leaves the store as it is"
        )
    if yes and not in_place:
        raise typer.BadParameter("--yes goes with --in-place")
    target = resolve(path)
    if in_place:
        _repair_in_place(target, mode, as_json=as_json)
        return
    if output is not None:
        _refuse_place(target, output)
        _refuse_writer(target)
    log = examine(target, operations=True)
    plan = plan_repair(log, mode)
    if output is None:
        _say(log, plan, as_json=as_json)
        raise typer.Exit(log.status)
    _require(log, plan, as_json=as_json)
    outcome = _repair_copy(target, output, mode) if plan.needed else None
    _say(log, plan, outcome, as_json=as_json)


def _say(log: Examination, plan: Plan, outcome: Outcome | None = None, *, as_json: bool) -> None:
    if as_json:
        write_line(to_json(plain_repair(log, plan, outcome)))
    else:
        show_repair(log, plan, outcome)
    if plan.refusal is not None:
        fail(plan.refusal)


def _require(log: Examination, plan: Plan, *, as_json: bool) -> None:
    """End the command where there is nothing that a repair could do."""
    if plan.refusal is not None:
        _say(log, plan, as_json=as_json)
        raise typer.Exit(log.status or 1)
    refusal = refuse_rest(log) if plan.needed or log.target.store is None else None
    if refusal is not None:
        raise CommandError(refusal)


def _refuse_place(target: Target, output: Path) -> None:
    if os.path.lexists(output):
        raise CommandError(
            f"{output}: expected nothing here, found something; nothing was changed. Give "
            "another place, or move it away"
        )
    real = os.path.realpath(output)
    inspected = target.store or target.log_dir
    if os.path.commonpath([real, inspected]) == inspected:
        raise CommandError(
            f"{output}: lies within {inspected}, to which nothing is written. Give another place"
        )
    if not os.path.isdir(os.path.dirname(real)):
        raise CommandError(f"{output}: the directory above it does not exist; create it first")


def _refuse_writer(target: Target) -> None:
    writer = find_writer(target.store) if target.store else None
    if writer is not None:
        pid = "a process that LOCK does not name" if writer.pid is None else f"pid {writer.pid}"
        raise CommandError(
            f"{target.path}: expected no writer, found that {pid} has the store open; nothing was "
            "changed. Close it there, then repair again"
        )


# ---- a copy


def _repair_copy(target: Target, output: Path, mode: Mode) -> Outcome:
    """Copy the store, repair the copy, and give it its name."""
    assert target.store is not None, "what is no store was refused"
    parent = os.path.dirname(os.path.realpath(output))
    require_room(parent, 2 * bytes_below(target.log_dir) + bytes_below(target.store))
    identity = Path(target.store, IDENTITY_NAME)
    before = identity.read_bytes()
    partial = tempfile.mkdtemp(PARTIAL_SUFFIX, f".{output.name}.", parent)
    try:
        copy_store(target.store, partial)
        _refuse_writer(target)
        if identity.read_bytes() != before:
            # Every opening writes it before anything else.
            raise CommandError(
                f"{target.path}: expected a store that stays as it is while it is copied, found "
                "that it was opened meanwhile; nothing was made. Repair again when nobody opens it"
            )
        report = _recovered(strandline.open, partial, mode)
        _refuse_place(target, output)
        os.rename(partial, output)
        RealDisk().sync_directory(parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Outcome(
        path=str(output),
        originals=target.store,
        report=_moved(report, partial, str(output)),
    )


def _recovered(opening: Any, path: str, mode: Mode, **options: Any) -> RecoveryReport:
    """Open a store in the recovery mode, close and check it; return what opening found."""
    with ProgressBar("recovering", "operations", delay=_PATIENCE) as bar:

        def tell(seen: RecoveryProgress) -> None:
            bar.advance(seen.operations, seen.bytes_done, seen.bytes_total)

        store: Store = opening(
            path, recovery=mode.recovery, quarantine_bytes=_NO_BUDGET, progress=tell, **options
        )
    report: RecoveryReport = store.recovery_report
    left = store.close(timeout=_CLOSE_SECONDS).remaining
    if left:
        raise CommandError(f"{path}: {left} entries could not be flushed to LMDB; repair again")
    checked = check_store(path)
    if checked.verdict is not CheckVerdict.SOUND and checked.writer is None:
        found = checked.findings[0]
        raise CommandError(
            f"{path}: expected a sound store after its repair, found {found.path}: expected "
            f"{found.expected}, found {found.found}. Restore a backup; `strandline check` says more"
        )
    return report


def _moved(report: RecoveryReport, old: str, new: str) -> RecoveryReport:
    """Return a report with the paths of a directory that was renamed."""

    def path(text: str) -> str:
        return new + text.removeprefix(old) if text.startswith(old) else text

    torn = report.torn_tail
    if torn is not None:
        kept = None if torn.quarantined is None else path(torn.quarantined)
        torn = replace(torn, path=path(torn.path), quarantined=kept)
    return replace(report, torn_tail=torn, quarantined=tuple(map(path, report.quarantined)))


# ---- in place


def _repair_in_place(target: Target, mode: Mode, *, as_json: bool) -> None:
    """Repair the store itself, under its writer's lock from the first look to the last write."""
    store = target.store
    if store is None:
        refusal = refuse_rest(examine(target))
        raise CommandError(refusal or f"{target.path}: no store")
    lock = WriterLock.acquire(RealDisk(), store, SystemRuntime())
    try:
        log = examine(target, operations=True, locked=True)
        plan = plan_repair(log, mode)
        _require(log, plan, as_json=as_json)
        outcome = None
        if plan.needed:
            originals = keep_originals(store)
            try:
                report = _recovered(open_locked, store, mode, lock=lock)
            except (StrandlineError, CommandError) as error:
                kept = f"What there was before is in {originals}"
                raise CommandError(f"{error}. {kept}", log.status) from error
            outcome = Outcome(path=store, originals=originals, report=report)
    finally:
        # It was the store's, if that was opened; a second close does nothing.
        lock.close()
    _say(log, plan, outcome, as_json=as_json)
