"""Whole segments that are missing, misplaced, swapped, foreign, newer, or no files at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from strandline.errors import ForeignStoreError, LogCorruptionError, LogGapError
from strandline.options import RecoveryMode
from strandline.recovery.survey import survey
from strandline.wal.damage import DamageKind
from strandline.wal.format import SEGMENT_HEADER_BYTES, encode_segment_header
from strandline.wal.real_disk import RealDisk
from tests.support.logs import (
    LOG,
    UUID,
    LogBuilder,
    LogDisk,
    look,
    lsns,
    refused,
    replay,
    sample,
)

EVERY_MODE: tuple[RecoveryMode, ...] = (
    "tolerate-torn-tail",
    "strict",
    "point-in-time",
    "salvage",
)


def swap(disk: LogDisk, one: str, two: str) -> None:
    """Let two files change names."""
    disk.rename(one, f"{LOG}/aside")
    disk.rename(two, one)
    disk.rename(f"{LOG}/aside", two)


# ---- missing


def test_a_missing_first_segment_is_a_gap_above_the_watermark() -> None:
    """The oldest segment that is there must connect to what is in LMDB."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(1))
    refused(disk, LogGapError, "expected a log that goes on with LSN 1", watermark=0)
    refused(disk, LogGapError, "expected a log that goes on with LSN 5", watermark=4)
    assert [*range(6, 14)] == lsns(replay(look(disk, watermark=5)))
    assert look(disk, watermark=5).gaps == ()


def test_a_missing_middle_segment_is_a_gap() -> None:
    """Its neighbours name it, and which LSNs it held."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(2))
    refused(disk, LogGapError, f"{log.path(2)}: offset 0, LSN 6: missing")
    found = look(disk, watermark=9)
    assert [*range(10, 14)] == lsns(replay(found))
    assert [(DamageKind.MISSING, 2)] == [(gap.kind, gap.segment_id) for gap in found.gaps]


def test_point_in_time_stops_at_a_gap_and_salvage_passes_over_it() -> None:
    """What is given up is named, and what lies behind is put aside or kept."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(2))
    stopped = look(disk, mode="point-in-time")
    assert [*range(1, 6)] == lsns(replay(stopped))
    assert ((6, 13),) == stopped.given_up
    assert [(3, True)] == [(aside.segment_id, aside.whole) for aside in stopped.asides]
    salvaged = look(disk, mode="salvage")
    assert [*range(1, 6), *range(10, 14)] == lsns(replay(salvaged))
    assert ((6, 9),) == salvaged.given_up
    assert salvaged.checkpoint_first


@pytest.mark.parametrize("clean", [False, True])
def test_a_missing_last_segment_is_a_gap(clean: bool) -> None:
    """The successor of a sealed segment has a name before the seal is written."""
    log = sample()
    log.seal(clean=clean)
    disk = log.on_disk()
    disk.unlink(log.path(4))
    refused(disk, LogGapError, f"{log.path(4)}: offset 0, LSN 14: missing")
    assert log.operations == replay(look(disk, mode="salvage"))
    assert log.operations == replay(look(disk, mode="point-in-time"))


def test_an_unsealed_last_segment_needs_no_successor() -> None:
    """Names are made before the seal, not before the frames."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(4))
    assert log.operations == replay(look(disk))


def test_a_missing_segment_without_operations_is_reported() -> None:
    """The header behind it says that nothing was lost."""
    log = LogBuilder()
    log.open()
    log.data(2)
    log.seal()
    log.open()
    log.seal()
    log.open()
    log.data(1)
    disk = log.on_disk()
    disk.unlink(log.path(2))
    found = look(disk)
    assert log.operations == replay(found)
    assert [2] == [gap.segment_id for gap in found.gaps]


def test_many_missing_segments_are_one_gap() -> None:
    """A file with a name far ahead costs neither time nor memory."""
    log = sample()
    disk = log.on_disk()
    swap(disk, log.path(3), log.path(4))
    disk.rename(log.path(4), log.path(9_999_999_999_999_999))
    with pytest.raises(LogGapError, match="misplaced"):
        look(disk)
    disk.unlink(log.path(9_999_999_999_999_999))
    disk.put(log.path(8_888_888_888_888_888), b"")
    assert [*range(1, 10)] == lsns(replay(look(disk, watermark=0)))


# ---- misplaced


@pytest.mark.parametrize("pair", [(1, 2), (2, 3), (1, 3)])
def test_swapped_segments_are_a_gap(pair: tuple[int, int]) -> None:
    """A file that holds another segment than its name says is named as such."""
    log = sample()
    disk = log.on_disk()
    swap(disk, log.path(pair[0]), log.path(pair[1]))
    refused(disk, LogGapError, "misplaced.*give each the name of the segment that it holds")


def test_swapped_segments_are_a_gap_without_any_other() -> None:
    """Also where no third segment tells which ids are in use."""
    log = LogBuilder()
    for _ in range(2):
        log.open()
        log.data(2)
        log.seal()
    disk = log.on_disk()
    swap(disk, log.path(1), log.path(2))
    refused(disk, LogGapError, "misplaced")


def test_a_last_segment_that_was_written_over_by_another_is_a_gap() -> None:
    """A copy of an older segment is not a recycled file: its own place is not empty."""
    log = sample()
    disk = log.on_disk()
    disk.put(log.path(3), disk.content(log.path(2)))
    refused(disk, LogGapError, f"{log.path(3)}.*misplaced")


def test_a_copy_of_a_segment_is_never_a_recycled_file() -> None:
    """Also where all that the copied segment holds is in LMDB."""
    log = sample()
    disk = log.on_disk()
    disk.put(log.path(3), disk.content(log.path(1)))
    refused(disk, LogGapError, f"{log.path(3)}.*misplaced", watermark=9)


def test_a_segment_that_was_renamed_before_it_was_stored_is_put_aside() -> None:
    """A later name does not make it a recycled file: salvage keeps the bytes."""
    log = sample()
    disk = log.on_disk()
    disk.rename(log.path(2), log.path(4))
    found = look(disk, watermark=8, mode="salvage")
    assert [(4, True)] == [(aside.segment_id, aside.whole) for aside in found.asides]
    assert ((9, 9),) == found.given_up


def test_a_recycled_file_is_an_empty_successor() -> None:
    """A segment that was given back carries its old header under the new name."""
    log = sample()
    disk = log.on_disk()
    recycled = disk.content(log.path(1))
    disk.unlink(log.path(1))
    disk.put(log.path(4), recycled)
    found = look(disk, watermark=5)
    assert [*range(6, 14)] == lsns(replay(found))
    assert (found.gaps, found.damages, found.asides) == ((), (), ())
    assert 4 == found.next_segment_id


def test_a_recycled_file_is_told_also_while_an_older_name_is_still_there() -> None:
    """Names are removed one by one, and a crash can keep the older one."""
    log = sample()
    disk = log.on_disk()
    disk.rename(log.path(2), log.path(4))
    found = look(disk, watermark=9)
    assert [*range(10, 14)] == lsns(replay(found))
    assert 4 == found.next_segment_id
    refused(disk, LogGapError, f"{log.path(2)}.*missing", watermark=8)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_id": 1, "segment_id": 3},
        {"previous_last_lsn": 8},
        {"previous_last_lsn": 10, "first_lsn": 11},
        {"previous_bytes": 4096},
        {"epoch": 0},
        {"first_lsn": 9},
    ],
)
def test_a_header_that_contradicts_its_predecessor_is_a_gap(fields: dict[str, Any]) -> None:
    """Id, last LSN, length and epoch of the predecessor must be what is really there."""
    log = sample()
    disk = log.on_disk()
    header = log.segments[3].header._replace(**fields)
    disk.poke(log.path(3), 0, encode_segment_header(header))
    refused(disk, LogGapError, f"{log.path(3)}: offset 0, LSN 10: (link|missing)")


def test_a_predecessor_that_has_grown_is_a_gap() -> None:
    """A segment from another history of the same store does not pass for the right one."""
    log = sample()
    disk = log.on_disk()
    other = LogBuilder()
    other.open()
    for _ in range(7):
        other.data()
    other.seal()
    disk.put(log.path(1), other.image(1))
    refused(disk, LogGapError, f"{log.path(2)}: offset 0, LSN 8: link")


def test_frames_that_a_successor_does_not_know_are_a_gap() -> None:
    """An earlier recovery went on without them; now they would come back from the dead."""
    log = sample()
    log.spares.clear()
    log.epoch = 2
    log.open(jump=1000, previous_last_lsn=12)
    log.data()
    refused(log.on_disk(), LogGapError, f"{log.path(4)}: offset 0, LSN 14: link")


def test_a_contradiction_below_the_watermark_is_reported() -> None:
    """Nothing of it is replayed, so it does no harm."""
    log = sample()
    disk = log.on_disk()
    header = log.segments[2].header._replace(previous_bytes=4096)
    content = disk.content(log.path(2))
    disk.put(log.path(2), encode_segment_header(header) + content[SEGMENT_HEADER_BYTES:])
    refused(disk, LogGapError, "link", watermark=8)
    found = look(disk, watermark=9)
    assert [DamageKind.LINK] == [gap.kind for gap in found.gaps]
    assert [*range(10, 14)] == lsns(replay(found))


# ---- foreign and newer


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_a_segment_of_another_store_is_refused_in_every_mode(mode: RecoveryMode) -> None:
    """Its frames are valid, and another store's."""
    log = sample()
    disk = log.on_disk()
    header = log.segments[2].header._replace(uuid=b"another store..!")
    disk.poke(log.path(2), 0, encode_segment_header(header))
    with pytest.raises(
        ForeignStoreError, match=r"expected a segment of store 0001.*, found one of store 616e"
    ):
        look(disk, mode=mode)


@pytest.mark.parametrize("fields", [{"version": 2}, {"checksum_id": 2}])
@pytest.mark.parametrize("mode", EVERY_MODE)
def test_a_segment_of_a_newer_format_is_refused_in_every_mode(
    mode: RecoveryMode, fields: dict[str, Any]
) -> None:
    """What this release does not know it does not read."""
    log = sample()
    disk = log.on_disk()
    disk.poke(log.path(3), 0, encode_segment_header(log.segments[3].header._replace(**fields)))
    with pytest.raises(ForeignStoreError, match="format version 1"):
        look(disk, mode=mode)


# ---- no segment at all


def test_an_empty_file_in_the_middle_is_damage() -> None:
    """A segment of no bytes between two others has lost what it held."""
    log = sample()
    disk = log.on_disk()
    disk.cut(log.path(2), 0)
    refused(disk, LogCorruptionError, f"{log.path(2)}: offset 0, LSN 6: segment-header")
    assert [*range(10, 14)] == lsns(replay(look(disk, watermark=9)))


def test_an_empty_last_file_is_an_empty_successor() -> None:
    """A name without a header, and without frames that claim anything."""
    log = sample()
    log.seal()
    disk = log.on_disk()
    disk.cut(log.path(4), 0)
    found = look(disk)
    assert log.operations == replay(found)
    assert 4 == found.next_segment_id


@pytest.mark.parametrize("segment_id", [1, 2, 3])
def test_a_directory_in_a_segments_place_is_a_gap(segment_id: int) -> None:
    """It is never opened, and named for what it is."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(segment_id))
    disk.mkdir(log.path(segment_id))
    refused(disk, LogGapError, f"{log.path(segment_id)}.*not-a-file.*found a directory")


def test_a_directory_in_the_successors_place_is_a_gap() -> None:
    """Nothing says that it was empty."""
    log = sample()
    disk = log.on_disk()
    disk.unlink(log.path(4))
    disk.mkdir(log.path(4))
    refused(disk, LogGapError, f"{log.path(4)}.*not-a-file")
    assert log.operations == replay(look(disk, mode="salvage"))


def test_a_link_in_a_segments_place_is_never_followed(tmp_path: Path) -> None:
    """Also not to a file that is the segment itself."""
    log = sample()
    for segment_id in (1, 2, 3, 4):
        name = os.path.basename(log.path(segment_id))
        (tmp_path / name).write_bytes(log.image(segment_id))
    name = os.path.basename(log.path(2))
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(LogGapError, match=r"not-a-file.*found a link or special file"):
        survey(RealDisk(), str(tmp_path), uuid=UUID, watermark_lsn=0)


def test_other_names_in_the_log_directory_are_left_alone() -> None:
    """Leftovers of a writer or of a recovery are no segments."""
    log = sample()
    disk = log.on_disk()
    for name in ("prepared.tmp", "0000000000000004.wal.tmp", "0000000000000003.wal.recovered"):
        disk.put(f"{LOG}/{name}", log.image(2))
    disk.put(f"{LOG}/0000000000000000.wal", log.image(2))
    assert log.operations == replay(look(disk))
