"""A log that grows while it is looked at: nothing that the writer is in the middle of counts."""

from __future__ import annotations

from collections.abc import Callable

from strandline.recovery.check_log import LogCheck, check_log
from strandline.recovery.check_report import CheckVerdict
from strandline.wal.disk import DiskFile, OpenMode
from tests.support.logs import LOG, UUID, LogBuilder, LogDisk, sample


class MovingDisk:
    """A disk on which something happens when a file is opened for the n-th time."""

    def __init__(self, disk: LogDisk, happens: dict[tuple[str, int], Callable[[], None]]) -> None:
        self._disk = disk
        self._happens = happens
        self._opened: dict[str, int] = {}
        self.listed = 0
        self.kind = disk.kind

    def listdir(self, path: str) -> list[str]:
        self.listed += 1
        return self._disk.listdir(path)

    def open(self, path: str, mode: OpenMode) -> DiskFile:
        self._opened[path] = self._opened.get(path, 0) + 1
        self._happens.pop((path, self._opened[path]), lambda: None)()
        return self._disk.open(path, mode)


def checked(disk: MovingDisk) -> LogCheck:
    """Check as `check_store` does beside a writer; LMDB holds nothing."""
    return check_log(
        disk,  # type: ignore[arg-type]  # what writes is not asked for
        LOG,
        uuid=UUID,
        read_metadata=lambda: None,
        has_writer=lambda: True,
        progress=None,
        operations=False,
    )


def grown() -> tuple[LogDisk, LogBuilder]:
    """Return the disk of a log whose last frame is half there, and the log as it goes on."""
    log = sample()
    log.spares.clear()
    whole = log.data(3)
    log.spare()
    disk = log.on_disk()
    disk.poke(log.path(3), whole.offset + 40, bytes(whole.end - whole.offset - 40))
    log.data(2)
    log.seal()
    log.spares.clear()
    log.open()
    log.data(1)
    log.spare()
    return disk, log


def go_on(disk: LogDisk, log: LogBuilder) -> None:
    """Let the writer finish its frame and turn to the next segment."""
    for segment_id in (3, 4, 5):
        disk.put(log.path(segment_id), log.image(segment_id))


def test_a_frame_that_is_finished_meanwhile() -> None:
    """Half a frame, and then a segment that says it was on disk: sound, and seen in one look."""
    disk, log = grown()
    # Segment 4 is looked at for the horizon, and not for its frames.
    moving = MovingDisk(disk, {(log.path(1), 1): lambda: go_on(disk, log)})
    result = checked(moving)
    assert (result.findings, moving.listed) == ([], 1)
    assert [1, 2, 3] == [scan.segment_id for scan in result.scans]


def test_a_turn_while_the_horizon_is_looked_for() -> None:
    """The writer begins the next segment after it was found empty."""
    disk, log = grown()
    moving = MovingDisk(disk, {(log.path(3), 1): lambda: go_on(disk, log)})
    result = checked(moving)
    assert (result.findings, moving.listed) == ([], 1)
    assert 4 == result.scans[-1].segment_id
    assert 0 == result.scans[-1].operations


def test_damage_before_the_horizon_counts() -> None:
    """It is there in every look."""
    disk, log = grown()
    frame = log.segments[2].frames[0]
    disk.flip(log.path(2), frame.offset + 80)
    moving = MovingDisk(disk, {(log.path(3), 2): lambda: go_on(disk, log)})
    result = checked(moving)
    (finding,) = result.findings
    assert finding.verdict is CheckVerdict.LOG_DAMAGE
    assert (finding.path, finding.offset) == (log.path(2), frame.offset)
    assert 2 == moving.listed
