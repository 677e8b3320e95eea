"""What a block log says, and what of it survives a cut: everything that needs no device."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from strandline.tools.crash.blocks import daemon
from strandline.tools.crash.blocks.image import blank_image, copy_image
from strandline.tools.crash.blocks.kernel import SECTOR
from strandline.tools.crash.blocks.kinds import KINDS
from strandline.tools.crash.blocks.recording import (
    Bound,
    Flush,
    Mark,
    Record,
    Recording,
    RecordingError,
    read_log,
)
from strandline.tools.crash.blocks.survivors import Write, at_random, everything, nothing


def record(kind: int, offset: int, data: bytes) -> bytes:
    """Return a record as the daemon writes it."""
    return daemon.RECORD.pack(kind, offset, len(data)) + data


def sector(number: int, fill: bytes) -> Write:
    """Return a write of one sector."""
    return Write(number * SECTOR, fill * SECTOR)


BEFORE = sector(0, b"0")
FIRST = sector(1, b"1")
SECOND = sector(2, b"2")
THIRD = sector(3, b"3")
RECORDS: list[Record] = [
    BEFORE,
    Flush(),
    Bound(),
    FIRST,
    Mark(b"one"),
    Flush(),
    SECOND,
    Mark(b"two"),
    THIRD,
    Bound(),
]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    """Yield a recording of `RECORDS`."""
    base = blank_image(tmp_path, 1 << 20)
    with Recording(KINDS["ext4"], tmp_path, base, RECORDS) as made:
        yield made


def test_the_log_is_read_as_it_was_written() -> None:
    """Every kind of record comes back, with offset and data."""
    log = (
        record(daemon.WRITE, 4096, b"data")
        + record(daemon.FLUSH, 0, b"")
        + record(daemon.MARK, 77, b"said")
        + record(daemon.BOUND, 0, b"|")
    )
    assert [Write(4096, b"data"), Flush(), Mark(b"said"), Bound()] == read_log(log)


def test_a_last_record_that_is_not_whole_is_left_out() -> None:
    """Wherever the log is cut, what comes back are the records before."""
    whole = record(daemon.WRITE, 0, b"first")
    log = whole + record(daemon.WRITE, 8, b"second")
    for length in range(len(whole), len(log)):
        assert [Write(0, b"first")] == read_log(log[:length])


def test_a_record_of_no_known_kind_is_refused() -> None:
    """Whatever wrote such a log was not our device."""
    with pytest.raises(RecordingError, match="kind 9"):
        read_log(record(9, 0, b""))


@pytest.mark.parametrize("bounds", [0, 1])
def test_a_recording_that_did_not_end_is_refused(tmp_path: Path, bounds: int) -> None:
    """A device that was gone early must not look like one that took nothing more."""
    base = blank_image(tmp_path, SECTOR)
    with pytest.raises(RecordingError, match=f"has {bounds} bounds"):
        Recording(KINDS["ext4"], tmp_path, base, [Bound()] * bounds)
    os.close(base)


@pytest.mark.parametrize(
    ("cut", "pending"),
    [
        (2, []),
        (3, []),
        (4, [FIRST]),
        (5, [FIRST]),
        (6, []),
        (7, [SECOND]),
        (9, [SECOND, THIRD]),
    ],
)
def test_pending_is_what_no_flush_had_covered(
    recording: Recording, cut: int, pending: list[Write]
) -> None:
    """A flush counts if it came before the cut, and covers what came before it."""
    assert pending == recording.pending(cut)


def test_a_mark_counts_only_before_the_cut(recording: Recording) -> None:
    """An acknowledgement that nobody had received yet promises nothing."""
    assert [] == recording.marks(4)
    assert [b"one"] == recording.marks(5)
    assert [b"one"] == recording.marks(7)
    assert [b"one", b"two"] == recording.marks(9)


def test_cuts_lie_within_the_recording_and_look_behind_marks(recording: Recording) -> None:
    """All positions are drawn, in order, those right behind a mark most often."""
    cuts = recording.cuts(random.Random(1), 400)
    assert cuts == sorted(cuts)
    assert set(range(2, 10)) == set(cuts)
    assert cuts.count(5) + cuts.count(8) > 200


def test_a_cut_outside_the_recording_is_refused(recording: Recording) -> None:
    """Before its begin the file system was still being mounted."""
    for cut in (1, 10):
        with (
            pytest.raises(RecordingError, match="not within 2 to 9"),
            recording.image(cut, everything),
        ):
            pass


def test_a_copy_of_an_image_is_equal_and_leaves_zeros_out(tmp_path: Path) -> None:
    """Data, holes and written zeros read the same; only data takes room."""
    size = 3 << 20
    image = blank_image(tmp_path, size)
    os.pwrite(image, bytes(1 << 20), 0)
    os.pwrite(image, b"x" * 5000, (1 << 20) + 123)
    os.pwrite(image, b"end", size - 3)
    copy = copy_image(image, tmp_path)
    assert os.pread(image, size, 0) == os.pread(copy, size, 0)
    assert os.fstat(copy).st_blocks * 512 <= 3 * (64 << 10)
    os.close(image)
    os.close(copy)


def test_everything_and_nothing() -> None:
    """The two ends of what a cut can leave."""
    assert [FIRST, SECOND] == list(everything([FIRST, SECOND]))
    assert [] == list(nothing([FIRST, SECOND]))


LONG = Write(8 * SECTOR, bytes(range(1, 9)) * SECTOR)
PENDING = [FIRST, LONG, SECOND, THIRD]


def shapes(count: int) -> Iterator[list[Write]]:
    """Yield what random cuts leave of `PENDING`."""
    survive = at_random(random.Random(7))
    for _ in range(count):
        yield list(survive(PENDING))


def test_what_survives_are_sectors_of_the_pending_writes_in_their_order() -> None:
    """Nothing is invented, moved, doubled or brought out of order."""
    for kept in shapes(2000):
        written = [
            (at + start, write.data[start : start + SECTOR])
            for write in PENDING
            for at in (write.offset,)
            for start in range(0, len(write.data), SECTOR)
        ]
        for write in kept:
            for start in range(0, len(write.data), SECTOR):
                one = (write.offset + start, write.data[start : start + SECTOR])
                assert one in written
                del written[: written.index(one) + 1]


def test_every_shape_of_loss_is_drawn() -> None:
    """Nothing, everything, each write alone lost, a beginning, and a write that is torn."""
    seen = list(shapes(2000))
    for lost in range(len(PENDING)):
        assert seen.count([*PENDING[:lost], *PENDING[lost + 1 :]]) > 70
    beginnings = [kept for kept in seen if kept[:1] == PENDING[:1] and len(kept) == 2]
    assert sum(1 for kept in beginnings if LONG != kept[1] and kept[1].offset == LONG.offset) > 15
    for expected in (
        [],
        PENDING,
        PENDING[:1],
        PENDING[:2],
        [THIRD],
    ):
        assert expected in seen
    parts = {write for kept in seen for write in kept} - set(PENDING)
    assert Write(LONG.offset, LONG.data[: 3 * SECTOR]) in parts
    assert Write(LONG.offset + 5 * SECTOR, LONG.data[5 * SECTOR : 6 * SECTOR]) in parts


def test_what_survives_follows_from_the_seed() -> None:
    """The same random numbers leave the same file system."""
    assert list(shapes(50)) == list(shapes(50))
