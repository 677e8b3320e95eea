"""The catalogue of damage: each kind gets the right verdict, place and exit status.

Logs are those of `tests.support.logs.sample`, three segments with LSN 1 to 5, 6 to 9 and 10
to 13, the last one open, laid into a folder without a store; what only a store can tell is
shown on one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strandline.wal.checksum import crc32c
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TYPE_DATA,
    encode_frame,
    encode_segment_header,
)
from tests.recovery.check_stores import fill, segments
from tests.support.logs import LogBuilder, sample
from tests.tools.inspecting import document, inspected, lay, segment

FIELDS = {
    "header CRC": 0,
    "payload CRC": 4,
    "length": 8,
    "count": 12,
    "first LSN": 16,
    "synced LSN": 24,
    "stored LSN": 32,
    "time": 40,
    "segment id": 48,
    "salt": 56,
    "epoch": 64,
    "type": 68,
    "flags": 69,
    "reserved": 70,
}


class Case:
    """A sound log in files, and what is done to it."""

    def __init__(self, directory: Path) -> None:
        self.log = sample()
        self.path = lay(self.log, directory / "log")

    def last(self) -> int:
        """The offset of the last frame of the last segment."""
        return self.log.segments[3].frames[-1].offset

    def patch(self, segment_id: int, offset: int, data: bytes) -> None:
        path = segment(self.path, segment_id)
        content = bytearray(path.read_bytes())
        content[offset : offset + len(data)] = data
        path.write_bytes(content)

    def flip(self, segment_id: int, offset: int, bit: int = 4) -> None:
        path = segment(self.path, segment_id)
        self.patch(segment_id, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))

    def header(self, segment_id: int, frame: int, **fields: int) -> None:
        """Change fields of a frame's header, and make its CRC right."""
        built = self.log.segments[segment_id].frames[frame]
        path = segment(self.path, segment_id)
        data = bytearray(path.read_bytes()[built.offset : built.offset + FRAME_HEADER_BYTES])
        for name, value in fields.items():
            at = FIELDS[name.replace("_", " ")]
            size = {"type": 1, "flags": 1, "length": 4}.get(name, 8)
            data[at : at + size] = value.to_bytes(size, "little")
        data[:4] = crc32c(bytes(data[4:])).to_bytes(4, "little")
        self.patch(segment_id, built.offset, bytes(data))

    def found(self, status: int) -> dict[str, Any]:
        """Verify; return the gravest finding."""
        report = document("verify", self.path, status=status)
        assert report["status"] == status
        same = [each for each in report["findings"] if each["verdict"] == report["verdict"]]
        return dict(same[0]) if same else {}

    def at(self, status: int, segment_id: int, offset: int | None = None) -> dict[str, Any]:
        """Verify; see that the gravest finding is at this place, and return it."""
        finding = self.found(status)
        assert finding["path"] == str(segment(self.path, segment_id)), finding
        if offset is not None:
            assert finding["offset"] == offset, finding
        return finding


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A sound log, to be damaged."""
    return Case(tmp_path)


def test_a_sound_log_is_sound(case: Case) -> None:
    """Status 0, and no finding."""
    assert case.found(0) == {}


# ---- how a log ends


def test_a_torn_header(case: Case) -> None:
    """A frame header of which the end is missing, at the end of the log: a torn tail."""
    half = encode_frame(TYPE_DATA, b"payload", 1, 14, 13, 0, 1, 3, 0, 1)[:40]
    end = case.log.segments[3].frames[-1].end
    case.patch(3, end, half)
    assert case.at(3, 3, end)["lsn"] == 14


def test_a_torn_payload(case: Case) -> None:
    """A payload that was not written to its end, in the last frame: a torn tail."""
    frame = case.log.segments[3].frames[-1]
    length = len(frame.payload)
    case.patch(3, frame.offset + FRAME_HEADER_BYTES + length // 2, bytes(length - length // 2))
    assert case.at(3, 3, frame.offset)["frames_behind"] == 0


def test_a_zero_tail(case: Case) -> None:
    """Zeros behind the last frame are how a segment ends that was made beforehand."""
    path = segment(case.path, 3)
    path.write_bytes(path.read_bytes() + bytes(1 << 16))
    assert case.found(0) == {}


def test_a_garbage_tail(case: Case) -> None:
    """Bytes that are no frame, behind the last one: a torn tail."""
    end = case.log.segments[3].frames[-1].end
    case.patch(3, end, b"\xa7garbage" * 12)
    case.at(3, 3, end)


def test_a_frame_of_an_older_epoch_after_a_recycled_tail(tmp_path: Path) -> None:
    """Stale frames of an earlier use of the file are how a recycled segment ends."""
    old = LogBuilder(epoch=1)
    old.open()
    for _ in range(8):
        old.data()
    log = LogBuilder(first_id=2, next_lsn=9, epoch=2)
    log.open(background=bytes(old.active.content), previous_id=1, previous_last_lsn=8)
    log.data()
    log.spare()
    path = lay(log, tmp_path / "log")
    assert b"operations from 8" in segment(path, 2).read_bytes()
    assert document("verify", path)["findings"] == []


# ---- one flipped bit


@pytest.mark.parametrize("name", FIELDS)
def test_a_flipped_bit_in_a_header_field(case: Case, name: str) -> None:
    """In mid-log: damage, with the frames that follow counted."""
    frame = case.log.segments[1].frames[1]
    case.flip(1, frame.offset + FIELDS[name])
    finding = case.at(4, 1, frame.offset)
    behind = [f for s in case.log.segments.values() for f in s.frames if f.kind != 2]
    assert finding["frames_behind"] == len(behind) - 2
    assert finding["lsn"] == frame.first_lsn


@pytest.mark.parametrize("name", FIELDS)
def test_a_flipped_bit_in_the_last_frame(case: Case, name: str) -> None:
    """Nothing says that the last frame was ever on disk: a torn tail."""
    case.flip(3, case.last() + FIELDS[name])
    case.at(3, 3, case.last())


def test_a_flipped_bit_in_a_payload(case: Case) -> None:
    """In mid-log: damage; expected and found are the two checksums."""
    frame = case.log.segments[2].frames[0]
    case.flip(2, frame.offset + FRAME_HEADER_BYTES + 3)
    finding = case.at(4, 2, frame.offset)
    assert f"{crc32c(frame.payload):#010x}" in finding["expected"]


def test_every_bit_of_a_segment_header(case: Case) -> None:
    """The header of a segment in the middle: damage, at offset 0."""
    for offset in [0, 8, 12, 16, 32, 40, 48, 52, 56, 64, 72, 80, 88, 96, 104, 4092]:
        case.flip(2, offset)
        case.at(4, 2, 0)
        case.flip(2, offset)
    assert case.found(0) == {}


# ---- lengths


def test_a_length_past_the_end(case: Case) -> None:
    """A header that is valid and states more than the file holds."""
    frame = case.log.segments[1].frames[1]
    case.header(1, 1, length=1 << 20)
    assert "1048576 bytes" in case.at(4, 1, frame.offset)["found"]


@pytest.mark.parametrize("length", [0xFFFF_FFF8, 0x8000_0000, 0xFFFF_FFFF])
def test_a_length_that_points_back(case: Case, length: int) -> None:
    """What is negative to whoever reads it as signed is a length like any other: too large."""
    frame = case.log.segments[1].frames[1]
    case.header(1, 1, length=length)
    assert str(length) in case.at(4, 1, frame.offset)["found"]


# ---- order


def frame_bytes(case: Case, segment_id: int, number: int) -> bytes:
    """Return a frame as it was written."""
    frame = case.log.segments[segment_id].frames[number]
    return bytes(case.log.segments[segment_id].content[frame.offset : frame.end])


def test_a_duplicate_frame(case: Case) -> None:
    """A frame that is there twice is out of order, whatever its checksums say."""
    second, last = case.log.segments[3].frames[0], case.log.segments[3].frames[-1]
    content = bytes(case.log.segments[3].content)
    case.patch(3, second.end, frame_bytes(case, 3, 0) + content[second.end : last.end])
    case.at(4, 3, second.end)


def test_two_swapped_frames(tmp_path: Path) -> None:
    """Frames of one length whose places were exchanged."""
    log = LogBuilder()
    log.open()
    for _ in range(5):
        log.data(payload=b"same length")
    log.spare()
    path = lay(log, tmp_path / "log")
    one, two = log.active.frames[1:3]
    content = bytes(log.active.content)
    data = bytearray(segment(path, 1).read_bytes())
    data[one.offset : two.end] = content[two.offset : two.end] + content[one.offset : one.end]
    segment(path, 1).write_bytes(data)
    report = document("verify", path, status=4)
    first = min(report["findings"], key=lambda each: int(each["offset"]))
    assert (first["offset"], first["found"][:5]) == (one.offset, "LSN 3")


def test_a_swapped_pair_of_segments(case: Case) -> None:
    """Two files that have each other's name: misplaced, and it says what they hold."""
    one, two = segment(case.path, 1), segment(case.path, 2)
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    finding = case.found(5)
    assert finding["path"] in (str(one), str(two))
    assert "the header of segment" in finding["found"]


# ---- what is not there


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that a killed process left behind, all of it in the log."""
    directory = tmp_path_factory.mktemp("stores")
    fill(directory / "closed", directory / "crashed")
    return directory / "crashed"


def test_a_missing_first_segment(crashed: Path, tmp_path: Path) -> None:
    """LMDB's watermark says that what it held is needed: a gap."""
    store = Path(shutil.copytree(crashed, tmp_path / "data"))
    first, second = segments(store)[:2]
    first.unlink()
    report = document("verify", store, status=5)
    finding = report["findings"][0]
    assert (finding["path"], finding["lsn"], finding["verdict"]) == (str(second), 1, "gap")


def test_a_missing_middle_segment(case: Case) -> None:
    """The segment behind it says where it follows: a gap."""
    segment(case.path, 2).unlink()
    finding = case.at(5, 2)
    assert (finding["lsn"], finding["found"]) == (6, "nothing (missing)")


def test_a_missing_last_segment(case: Case) -> None:
    """A sealed segment has a successor: a gap."""
    segment(case.path, 3).unlink()
    segment(case.path, 4).unlink()
    assert case.at(5, 3)["lsn"] == 10


def test_an_empty_file_in_the_middle(case: Case) -> None:
    """A segment without a byte, with the log going on behind it: damage."""
    segment(case.path, 2).write_bytes(b"")
    assert "0 bytes" in case.at(4, 2, 0)["found"]


def test_an_empty_file_at_the_end(case: Case) -> None:
    """A name that was made beforehand is no damage."""
    segment(case.path, 4).write_bytes(b"")
    assert case.found(0) == {}


def test_a_directory_in_the_place_of_a_segment(case: Case) -> None:
    """Not a file: the segment is missing."""
    segment(case.path, 2).unlink()
    segment(case.path, 2).mkdir()
    assert "a directory" in case.at(5, 2)["found"]


def test_a_link_in_the_place_of_a_segment(case: Case, tmp_path: Path) -> None:
    """It is not followed, even to the very bytes."""
    outside = tmp_path / "elsewhere"
    segment(case.path, 2).rename(outside)
    segment(case.path, 2).symlink_to(outside)
    assert "a link" in case.at(5, 2)["found"]


# ---- foreign and newer


def replaced(case: Case, **fields: Any) -> None:
    """Give the second segment another header."""
    case.patch(2, 0, encode_segment_header(case.log.segments[2].header._replace(**fields)))


def test_a_foreign_segment(case: Case) -> None:
    """A segment of another store."""
    replaced(case, uuid=b"another store!!!")
    assert b"another store!!!".hex() in case.at(6, 2, 0)["found"]


def test_a_newer_version(case: Case) -> None:
    """A segment of a format that this release does not know."""
    replaced(case, version=2)
    assert "version 2" in case.at(6, 2, 0)["found"]


def test_an_unknown_skippable_type(tmp_path: Path) -> None:
    """A frame without operations that older readers may pass over is passed over."""
    log = LogBuilder()
    log.open()
    log.data()
    log.frame(0x9A, b"\xc0", count=0)
    log.data()
    log.spare()
    report = document("verify", lay(log, tmp_path / "log"))
    assert (report["findings"], report["frames"]) == ([], 3)


def test_an_unknown_required_type(tmp_path: Path) -> None:
    """A frame that may not be passed over: a newer release wrote it."""
    log = LogBuilder()
    log.open()
    log.data()
    frame = log.frame(0x1A, b"\xc0", count=0)
    log.data()
    log.spare()
    report = document("verify", lay(log, tmp_path / "log"), status=6)
    assert report["findings"][0]["offset"] == frame.offset


# ---- paths


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda path: None, 1),
        (lambda path: path.mkdir(), 6),
        (lambda path: path.write_bytes(b"no segment"), 6),
        (lambda path: (path.mkdir(), (path / "IDENTITY").write_bytes(b"something else")), 6),
    ],
    ids=["nothing", "an empty directory", "a file", "another program's"],
)
def test_paths_that_name_no_log(
    tmp_path: Path, make: Callable[[Path], object], status: int
) -> None:
    """Nothing at the path is status 1, and what is no part of a store status 6."""
    make(tmp_path / "it")
    for command in ("ls", "verify", "dump", "stats"):
        assert inspected(command, tmp_path / "it", status=status) == ""


def test_what_may_not_be_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that cannot be opened is status 1, and named."""
    from strandline.wal.real_disk import RealDisk

    opened = RealDisk.open

    def refuse(disk: RealDisk, path: str, mode: Any) -> Any:
        if path.endswith("02.wal"):
            raise PermissionError(13, "Permission denied", path)
        return opened(disk, path, mode)

    monkeypatch.setattr(RealDisk, "open", refuse)
    assert inspected("verify", case.path, status=1) == ""


def test_a_wrong_use_is_status_2(case: Case) -> None:
    """An unknown option, an unknown command, a bad value."""
    inspected("verify", case.path, "--nothing", status=2)
    inspected("nothing", case.path, status=2)
    inspected("dump", case.path, "--since", "yesterday", status=2)
    inspected("dump", case.path, "--key", "a", "--prefix", "b", status=2)


def test_headers_are_where_the_cases_put_them() -> None:
    """The offsets of fields here are those of the format."""
    assert (FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES) == (72, 4096)
    frame = encode_frame(TYPE_DATA, b"p", 2, 3, 4, 5, 6, 7, 8, 9)
    read = {name: int.from_bytes(frame[at : at + 4], "little") for name, at in FIELDS.items()}
    assert [read[n] for n in ("count", "first LSN", "synced LSN", "stored LSN")] == [2, 3, 4, 5]
    assert [read[n] for n in ("time", "segment id", "salt", "epoch")] == [6, 7, 8, 9]
