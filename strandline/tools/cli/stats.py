"""`strandline stats`: how a store is, and what opening it found."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from strandline import RecoveryReport, Store
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.recovery.quarantine import QUARANTINE_NAME
from strandline.tools.cli.params import AsJson, StorePath
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.stores import opened
from strandline.tools.cli.tables import table_rows
from strandline.tools.cli.terminal import harmless, out, write_line

EXAMPLES: Final = ("strandline stats data", "strandline stats data --json")

_LABEL_WIDTH: Final = 12


def stats(store: StorePath, *, as_json: AsJson = False) -> None:
    """Show how a store is: tables and keys, LSNs, sizes on disk, what opening it found.

    Counters are those since this command opened the store; a program that keeps it open
    has its own in Store.stats().
    """
    with opened(store) as db:
        found = _gather(db, store)
    if as_json:
        write_line(to_json(found))
        return
    recovery, sizes, counters = found["recovery"], found["disk"], found["stats"]
    keys = sum(row["entries"] for row in found["tables"])
    replayed = recovery["operations_replayed"]
    lines = {
        "store": found["path"],
        "health": f"{found['health']['state']} {found['health']['reason']}".strip(),
        "tables": f"{len(found['tables'])}, with {keys:,} keys",
        "last LSN": f"{counters['last_lsn']:,}",
        "stored LSN": f"{counters['stored_lsn']:,} (up to here all is in LMDB)",
        "epoch": f"{recovery['epoch']}",
        "log": f"{sizes['log']:,} bytes on disk, {counters['log_bytes']:,} in use",
        "LMDB": f"{sizes['store']:,} bytes on disk",
        "quarantine": f"{sizes['quarantine']:,} bytes on disk",
        "last end": "orderly" if recovery["clean"] else "unclean, or the first opening",
        "replayed": f"{replayed:,} operations in {recovery['replay_seconds']:.3f} s",
    }
    console = out()
    for label, text in lines.items():
        console.print(Text.assemble((label.ljust(_LABEL_WIDTH), "dim"), harmless(text)))


def _gather(db: Store, path: Path) -> dict[str, Any]:
    """Return everything, as JSON has it."""
    health = db.health()
    return {
        "path": db.path,
        "health": {"state": health.state.value, "reason": health.reason},
        "tables": table_rows(db),
        "disk": {
            "log": _bytes_on_disk(path / LOG_NAME),
            "store": _bytes_on_disk(path / STORE_NAME),
            "quarantine": _bytes_on_disk(path / QUARANTINE_NAME),
        },
        "stats": dataclasses.asdict(db.stats()),
        "recovery": _recovery(db.recovery_report),
    }


def _recovery(report: RecoveryReport) -> dict[str, Any]:
    """Return a recovery report, with damage in words."""
    found = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    tail = report.torn_tail
    if tail is not None:
        found["torn_tail"] = {**dataclasses.asdict(tail), "reason": str(tail.reason)}
    found["damages"] = [str(damage) for damage in report.damages]
    found["gaps"] = [str(damage) for damage in report.gaps]
    return found


def _bytes_on_disk(path: Path) -> int:
    """Return what the files in a directory take; sparse files take less than their length."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return 0
    total = 0
    for entry in entries:
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue
    return total
