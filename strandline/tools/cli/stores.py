"""Opening a store for a verb, and finding a table in it: never makes one by mistake.

Opening takes the writer's lock, recovers what a crash left, and closing flushes to LMDB;
what of that a person should know is said on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import strandline
from strandline import RecoveryProgress, Store, Table
from strandline.codecs import Codec
from strandline.errors import StoreLockedError
from strandline.recovery.opening import LOG_NAME, STORE_NAME
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import ProgressBar, note
from strandline.wal.identity import IDENTITY_NAME

_PATIENCE: Final = 0.5
"""Seconds that a recovery may take without a progress bar."""


@contextmanager
def opened(path: Path, *, create: bool = False) -> Iterator[Store]:
    """Open a store and close it; one that does not exist is made only with `create`."""
    if not create:
        _require_store(path)
    with ProgressBar("recovering", "operations", delay=_PATIENCE) as bar:

        def tell(seen: RecoveryProgress) -> None:
            bar.advance(seen.operations, seen.bytes_done, seen.bytes_total)

        try:
            store = strandline.open(path, progress=tell)
        except StoreLockedError as error:
            raise CommandError(
                f"{error}. This command needs the store to itself; `strandline check` does not"
            ) from error
    try:
        _tell_recovery(store)
        yield store
    finally:
        report = store.close()
    if report.remaining:
        note(
            f"{path}: {report.remaining} entries are not in LMDB yet; they are in the log, and the "
            "next opening goes on with them"
        )


def table_of(store: Store, name: str, *, create: bool = False, codec: str | None = None) -> Any:
    """Return a table by name; one that does not exist is made only with `create`."""
    require_table(store, name, create=create)
    table: Table[Any, Any] = store.table(name, codec=codec)
    return table


def require_table(store: Store, name: str, *, create: bool) -> None:
    """Refuse a name that no table has, unless it may be made."""
    if name and not create and store.definitions.find(name) is None:
        names = ", ".join(map(repr, store.tables())) or "none but the default one"
        raise CommandError(f"{store.path}: there is no table {name!r}; there is {names}")


def codec_of(store: Store, name: str) -> Codec:
    """Return the codec of a table that exists."""
    state = store.definitions.find(name)
    if state is None:
        raise CommandError(f"{store.path}: there is no table {name!r}")
    return state.codec


def _require_store(path: Path) -> None:
    if any(os.path.lexists(path / name) for name in (IDENTITY_NAME, LOG_NAME, STORE_NAME)):
        return
    found = "no store in this directory" if path.is_dir() else "nothing at this path"
    if os.path.lexists(path) and not path.is_dir():
        found = "something that is no directory"
    raise CommandError(
        f"{path}: expected a store, found {found}. Look at the path; `put` and `load` make a "
        "store with --create"
    )


def _tell_recovery(store: Store) -> None:
    report = store.recovery_report
    if report.torn_tail is not None:
        tail = report.torn_tail
        kept = tail.quarantined or "nowhere, for want of room"
        note(
            f"{tail.path}: the log ended in a write that was cut short, at offset {tail.offset}; "
            f"{tail.dropped_bytes} bytes were dropped and are kept in {kept}"
        )
    for damage in (*report.damages, *report.gaps):
        note(f"{damage}; no operation was lost by it. Run `strandline check {store.path}`")
