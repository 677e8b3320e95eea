"""Checking what an opening would replay: every payload above the watermark, decoded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from strandline.engine.catalog import Metadata
from strandline.engine.operations import (
    CREATE,
    DROP,
    VOID,
    Operation,
    PayloadError,
    commit_sizes,
    decode_creation,
    decode_items,
    decode_operations,
)
from strandline.errors import LogCorruptionError
from strandline.recovery.check_report import RESTORE, CheckVerdict, Finding, refusal
from strandline.recovery.report import RecoveryProgress
from strandline.recovery.survey import Survey


def read_operations(
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
        return count, refusal(CheckVerdict.LOG_DAMAGE, found.log_dir, error)
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
        if operation.lsn <= after_lsn or operation.op == VOID:
            continue
        if operation.table_id < 1:
            raise PayloadError(f"LSN {operation.lsn}: an operation on table 0, which never is")
        if operation.op == CREATE:
            decode_creation(operation.key, operation.value)
        if tables is not None:
            tables.take(operation)
