"""The power cut that the kernel itself offers: FS_IOC_SHUTDOWN, for ext4 and xfs.

The file system stops where it stands: what is in its caches stays there, and every call
from then on fails with EIO. Mounting it again recovers the journal as after a real cut.
btrfs has no such call; for it there is the block log.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from pathlib import Path

from strandline.tools.crash.blocks import kernel


class Journal(IntEnum):
    """What becomes of the part of the journal that is still in memory."""

    FLUSHED = 1
    """It is written first: metadata survives, data that was not synced does not."""
    LOST = 2
    """It is lost with the rest: the cut of a plug that is pulled."""


def cut_power(path: Path, journal: Journal) -> None:
    """Cut the power of the file system that is mounted at a path."""
    try:
        kernel.shut_down(path, journal)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        raise OSError(
            errno.ENOTTY,
            f"{path}: this file system cannot be shut down. ext4 and xfs can; for others there"
            " is BlockLog.",
        ) from error
