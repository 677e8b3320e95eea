"""Every byte of a segment belongs to one region, and regions are what they say."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from strandline.recovery.segment_scan import SegmentScan
from strandline.recovery.survey import list_segments, scan_log
from strandline.tools.inspect.regions import Region, RegionKind, regions_of
from strandline.wal.format import SEGMENT_HEADER_BYTES
from tests.support.logs import LOG, UUID, LogBuilder, LogDisk, sample, torn

HEADER, VALID, SEAL, DAMAGED, TORN, STALE, UNUSED, FOREIGN = RegionKind


def scanned(disk: LogDisk, ends: dict[int, int] | None = None) -> list[SegmentScan]:
    """Scan all segments, in order."""
    return scan_log(disk, list_segments(disk, LOG), uuid=UUID, ends=ends)


def kinds(regions: list[Region]) -> list[RegionKind]:
    """What some regions are."""
    return [region.kind for region in regions]


def assert_whole(scan: SegmentScan, regions: list[Region]) -> None:
    """The regions cover the file from its first byte to its last, once."""
    assert (0 if scan.size else None) == (regions[0].offset if regions else None)
    assert scan.size == (regions[-1].end if regions else 0)
    for left, right in pairwise(regions):
        assert left.end == right.offset
    assert all(region.length > 0 for region in regions)


# ---- all bytes, whatever was done to them

PIECES = st.integers(1, 4096 + 1024)


MOVES = ["flip", "zeros", "noise", "copy", "cut", "shift"]


@st.composite
def damages(draw: st.DrawFn, kinds: list[str] = MOVES) -> LogDisk:
    """A log of three segments and a spare, with some bytes changed, moved or cut off."""
    log = sample()
    disk = log.on_disk()
    for _ in range(draw(st.integers(0, 6))):
        path = log.path(draw(st.integers(1, 4)))
        size = len(disk.content(path))
        if not size:
            continue
        at = draw(st.integers(0, size - 1) | st.integers(min(4096, size - 1), size - 1))
        match draw(st.sampled_from(kinds)):
            case "flip":
                disk.flip(path, at, 1 << draw(st.integers(0, 7)))
            case "zeros":
                disk.poke(path, at, bytes(min(draw(PIECES), size - at)))
            case "noise":
                disk.poke(path, at, draw(st.binary(max_size=300))[: size - at])
            case "copy":
                other = disk.content(log.path(draw(st.integers(1, 4))))
                disk.poke(path, at // 8 * 8, other[at // 8 * 8 :][: draw(PIECES)])
            case "cut":
                disk.cut(path, at)
            case "shift":
                start = draw(st.integers(0, size - 1)) // 8 * 8
                disk.poke(path, at // 8 * 8, disk.content(path)[start:][: draw(PIECES)])
    return disk


@given(damages(), st.none() | st.integers(0, 6000), st.booleans())
def test_every_byte_belongs_to_one_region(disk: LogDisk, torn_from: int | None, live: bool) -> None:
    """From the first byte to the last, without a hole and without an overlap."""
    for scan in scanned(disk):
        regions = regions_of(scan, torn_from=torn_from, live=live)
        assert_whole(scan, regions)
        valid = [region for region in regions if region.kind is VALID]
        assert scan.frames == sum(region.frames for region in valid)
        assert scan.operations == sum(region.operations for region in valid)
        assert bool(scan.seal) == (SEAL in kinds(regions))


@given(damages(MOVES[:3]), st.data())
def test_what_is_looked_at_only_in_part_is_covered_too(disk: LogDisk, data: st.DataObject) -> None:
    """A horizon, which is the end of a frame, leaves no byte without a region."""
    log = sample()
    ends = {
        i: data.draw(st.sampled_from([SEGMENT_HEADER_BYTES, *(f.end for f in each.frames)]))
        for i, each in log.segments.items()
    }
    for scan in scanned(disk, ends):
        assert_whole(scan, regions_of(scan, live=True))


# ---- each kind where it belongs


def test_a_sound_log_has_no_fault() -> None:
    """Header, frames, seal and the zeros behind it; the spare is unused."""
    first, second, third, spare = (regions_of(scan) for scan in scanned(sample().on_disk()))
    assert [HEADER, VALID, SEAL, UNUSED] == kinds(first) == kinds(second)
    assert [HEADER, VALID, UNUSED] == kinds(third)
    assert {UNUSED} == {*kinds(spare)}
    assert (1, 5, 3, 5) == (
        first[1].first_lsn,
        first[1].last_lsn,
        first[1].frames,
        first[1].operations,
    )


def test_a_damaged_frame_lies_between_valid_ones() -> None:
    """Its region is exactly the frame, and says which LSNs should be there, and what is."""
    log = sample()
    disk = log.on_disk()
    frame = log.segments[1].data[1]
    disk.flip(log.path(1), frame.offset + 80)
    regions = regions_of(scanned(disk)[0])
    assert [HEADER, VALID, DAMAGED, VALID, SEAL, UNUSED] == kinds(regions)
    damaged = regions[2]
    assert (frame.offset, frame.end) == (damaged.offset, damaged.end)
    assert (2, 4) == (damaged.first_lsn, damaged.last_lsn)
    assert damaged.damage is not None
    assert frame.offset == damaged.damage.offset


def test_a_torn_tail_is_torn_where_the_judgement_put_it_and_damaged_without() -> None:
    """The same bytes, named by what the rest of the log says of them."""
    log, half = torn()
    scan = scanned(log.on_disk())[2]
    at = scan.end
    for torn_from, kind in ((at, TORN), (None, DAMAGED)):
        regions = regions_of(scan, torn_from=torn_from)
        assert [HEADER, VALID, kind, UNUSED] == kinds(regions)
        assert at == regions[2].offset
        assert half.rstrip(b"\0") == half[: regions[2].length].rstrip(b"\0")


def test_a_recycled_tail_is_stale() -> None:
    """Frames of the file's earlier use are neither valid nor damaged."""
    log = LogBuilder()
    log.open()
    for _ in range(5):
        log.data(1)
    log.seal()
    log.open(background=bytes(log.active.content))
    log.data(1)
    regions = regions_of(scanned(log.on_disk())[1])
    assert [HEADER, VALID, STALE, UNUSED] == kinds(regions)


def test_a_spare_that_was_recycled_is_stale_throughout() -> None:
    """Its header is another segment's, and so is whatever lies behind it."""
    log = sample()
    log.spares.clear()
    log.spare(log.image(1))
    spare = regions_of(scanned(log.on_disk())[3])
    assert {STALE} == {*kinds(spare)}
    assert "segment 1" in spare[0].detail


def test_a_lost_header_is_damaged_and_the_frames_behind_it_are_valid() -> None:
    """What can be placed without a header is shown as what it is."""
    log = sample()
    disk = log.on_disk()
    disk.flip(log.path(2), 20)
    regions = regions_of(scanned(disk)[1])
    assert [DAMAGED, VALID, SEAL, UNUSED] == kinds(regions)
    assert regions[0].damage is not None


def test_a_header_in_the_torn_tail_is_torn() -> None:
    """A segment that was being begun goes with the tail."""
    log = sample()
    disk = log.on_disk()
    disk.poke(log.path(4), 0, b"half a header")
    regions = regions_of(scanned(disk)[3], torn_from=0)
    assert TORN is regions[0].kind
    assert "no frame of this segment was found here" == regions[-1].detail


def test_a_foreign_segment_is_one_region() -> None:
    """Nothing of it was read but its header."""
    log = sample()
    log.spares.clear()
    log.open(uuid=bytes(16))
    log.data(1)
    regions = regions_of(scanned(log.on_disk())[-1])
    assert [FOREIGN] == kinds(regions)
    assert "found one of store" in regions[0].detail


def test_a_frame_of_a_newer_format_is_foreign() -> None:
    """It is not damaged: this program cannot read it."""
    log = sample()
    log.frame(0x11, b"", count=0)
    regions = regions_of(scanned(log.on_disk())[2])
    assert [HEADER, VALID, FOREIGN, UNUSED] == kinds(regions)


def test_what_a_writer_may_be_writing_is_said_to_be_unseen() -> None:
    """Behind the horizon nothing is claimed."""
    log = sample()
    scan = scanned(log.on_disk(), {3: log.segments[3].data[-1].end})[2]
    assert "not looked at" in regions_of(scan, live=True)[-1].detail


def test_an_empty_file_has_no_region() -> None:
    """Neither has a missing one."""
    log = sample()
    disk = log.on_disk()
    disk.cut(log.path(2), 0)
    disk.unlink(log.path(3))
    scans = scanned(disk)
    assert [] == regions_of(scans[1]) == regions_of(scans[2])
