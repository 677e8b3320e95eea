"""Every error that strandline raises, in one tree.

    StrandlineError
    ├── StoreClosedError            the handle is closed, or was inherited by a forked child
    ├── StoreLockedError            another process writes to this store
    ├── StoreFailedError            a sync failed earlier; open the store anew
    ├── WriteOutcomeUnknownError    this write may or may not be there after a reopen
    ├── InvalidRequestError         (ValueError) refused before anything was logged
    │   ├── InvalidTypeError        (TypeError)
    │   ├── KeyTooLargeError
    │   ├── ValueTooLargeError
    │   └── BatchTooLargeError
    ├── CorruptionError             what is on disk is not what was written
    │   ├── LogCorruptionError
    │   ├── LogGapError
    │   └── StoreCorruptionError
    ├── HistoryExpiredError         the log no longer reaches back that far
    ├── SnapshotExpiredError        the snapshot had to make way for the map to grow
    ├── DiskFullError               (OSError) no room; nothing was logged
    ├── BackpressureError           memory or log budget full for `stall_timeout`
    ├── TransactionConflictError    somebody else wrote what the transaction read
    ├── ForeignStoreError           not a strandline store, or a newer format
    └── UpstreamError               a database behind a table refused or failed

A message names the file, the offset or LSN, what was expected, what was found, and
what to do next.
"""

from __future__ import annotations

import errno


class StrandlineError(Exception):
    """Base of every error of this package."""


class StoreClosedError(StrandlineError):
    """The handle is closed, or it was inherited by a forked child process."""


class StoreLockedError(StrandlineError):
    """Another process holds the store for writing.

    `pid` is the writer's process id, or None where it could not be read.
    """

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreFailedError(StrandlineError):
    """A sync failed earlier, so nothing is acknowledged until the store is opened anew."""


class WriteOutcomeUnknownError(StrandlineError):
    """The write is there after a reopen or it is not, whole either way."""


class InvalidRequestError(StrandlineError, ValueError):
    """The request was refused; nothing was logged and nothing has changed."""


class InvalidTypeError(InvalidRequestError, TypeError):
    """An argument is of a type that the table does not take."""


class KeyTooLargeError(InvalidRequestError):
    """A key is longer than 511 bytes."""


class ValueTooLargeError(InvalidRequestError):
    """A value is longer than `max_value_bytes`."""


class BatchTooLargeError(InvalidRequestError):
    """A batch needs more than half of the memory or of the log budget."""


class CorruptionError(StrandlineError):
    """What is on disk is not what was written."""


class LogCorruptionError(CorruptionError):
    """A log frame fails its check although a later one claims that it was on disk."""


class LogGapError(CorruptionError):
    """A log segment is missing or out of order above the watermark."""


class StoreCorruptionError(CorruptionError):
    """IDENTITY or the LMDB environment is damaged, or does not fit the log."""


class HistoryExpiredError(StrandlineError):
    """The log no longer holds the changes that were asked for."""


class SnapshotExpiredError(StrandlineError):
    """The snapshot was ended so that the LMDB map could grow. Take a new one."""


class DiskFullError(StrandlineError, OSError):
    """The file system has no room. The write was not logged; reads go on.

    `errno` is ENOSPC or EDQUOT, as the system reported it.
    """

    def __init__(self, message: str, code: int = errno.ENOSPC) -> None:
        OSError.__init__(self, code, message)

    def __str__(self) -> str:
        return str(self.strerror)


class BackpressureError(StrandlineError):
    """The memory or log budget stayed full for `stall_timeout`, or `overload="reject"`."""


class TransactionConflictError(StrandlineError):
    """Something that the transaction read was written by somebody else."""


class ForeignStoreError(StrandlineError):
    """The path holds something that is not a store, or a store of a newer format."""


class UpstreamError(StrandlineError):
    """A database behind a table refused a batch or could not be reached."""
