"""`check_store`: what it finds in each part of a store, and that it agrees with opening."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

import strandline
from strandline.engine.operations import PUT, tag_of
from strandline.recovery.check import check_store
from strandline.recovery.check_report import CheckVerdict
from strandline.wal.format import FRAME_HEADER_BYTES
from strandline.wal.identity import Identity, encode_identity, read_identity, write_identity
from strandline.wal.real_disk import RealDisk
from tests.recovery.check_stores import (
    NEVER,
    RECORDS,
    copy_open,
    fill,
    flip,
    frames,
    only,
    rewrite_frame,
    segments,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store that was closed in order, and one that was not."""
    directory = tmp_path_factory.mktemp("stores")
    fill(directory / "closed", directory / "crashed")
    return directory / "closed", directory / "crashed"


@pytest.fixture
def closed(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    """Everything is in LMDB and in the log."""
    return Path(shutil.copytree(originals[0], tmp_path / "closed"))


@pytest.fixture
def crashed(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    """Everything is in the log alone, which has no seal."""
    return Path(shutil.copytree(originals[1], tmp_path / "crashed"))


# ---- sound


def test_a_store_that_was_closed_in_order_is_sound(closed: Path) -> None:
    """Nothing is found, and the facts are those of the store."""
    report = check_store(closed)
    assert report.verdict is CheckVerdict.SOUND
    assert report.findings == ()
    assert report.writer is None
    assert not report.approximate
    assert report.log is not None
    assert report.store is not None
    assert report.log.clean
    assert (report.log.last_lsn, report.log.to_replay) == (RECORDS, 0)
    assert (report.store.tables, report.store.entries) == (1, RECORDS)
    assert report.store.watermark_lsn == RECORDS
    assert report.store.values_checked
    assert report.uuid == read_identity(RealDisk(), str(closed)).uuid.hex()


def test_a_store_that_was_killed_is_sound(crashed: Path) -> None:
    """That there is something to replay is no fault."""
    report = check_store(crashed)
    assert report.verdict is CheckVerdict.SOUND
    assert report.log is not None
    assert not report.log.clean
    assert report.log.to_replay == RECORDS


def test_a_store_that_holds_nothing_is_sound(tmp_path: Path) -> None:
    """Neither an empty store nor one that was opened again and again has findings."""
    for _ in range(3):
        strandline.open(tmp_path / "data").close()
        assert check_store(tmp_path / "data").verdict is CheckVerdict.SOUND


def test_tables_that_came_and_went_are_sound(tmp_path: Path) -> None:
    """Operations on tables that the log itself creates and drops are no damage."""
    with strandline.open(tmp_path / "data", flush_strategy=NEVER) as db:
        db.table("kept", codec="json").put("k", [1])
        db.table("gone").put(b"k", b"v")
        db.drop_table("gone")
        db.table("bare", logged=False).put(b"k", b"v")
        db.sync()
        copy_open(tmp_path / "data", tmp_path / "copy")
    for name in ("data", "copy"):
        report = check_store(tmp_path / name)
        assert report.findings == (), name


# ---- the log


def test_a_torn_tail_is_found_and_is_not_fatal(crashed: Path) -> None:
    """A last frame that is cut short is a torn tail at its place; the store opens."""
    last = segments(crashed)[-1]
    offset = frames(last)[-1]
    os.truncate(last, offset + 50)
    report = check_store(crashed)
    only(report, CheckVerdict.TORN_TAIL)
    (finding,) = report.findings
    assert (finding.path, finding.offset, finding.fatal) == (str(last), offset, False)
    assert finding.lsn == RECORDS
    with strandline.open(crashed) as db:
        assert len(db) == RECORDS - 1


def test_damage_above_the_watermark_is_fatal(crashed: Path) -> None:
    """A frame that was on disk and fails its check keeps the store from opening."""
    first = segments(crashed)[0]
    offset = frames(first)[20]
    flip(first, offset + FRAME_HEADER_BYTES + 10)
    report = check_store(crashed)
    only(report, CheckVerdict.LOG_DAMAGE)
    (finding,) = report.findings
    assert (finding.path, finding.offset, finding.lsn) == (str(first), offset, 21)
    assert finding.fatal
    assert "CRC-32C" in finding.expected
    with pytest.raises(strandline.LogCorruptionError):
        strandline.open(crashed)


def test_all_damage_is_listed(crashed: Path) -> None:
    """Where opening stops at the first damage, a check goes on."""
    first, second = segments(crashed)[:2]
    places = [(first, frames(first)[20]), (first, frames(first)[60]), (second, frames(second)[5])]
    for path, offset in places:
        flip(path, offset)
    report = check_store(crashed)
    only(report, CheckVerdict.LOG_DAMAGE)
    assert [(Path(f.path), f.offset) for f in report.findings] == places
    assert all(finding.fatal for finding in report.findings)


def test_damage_below_the_watermark_is_found_and_is_not_fatal(closed: Path) -> None:
    """What LMDB holds as well is not lost, but the media are not to be trusted."""
    first = segments(closed)[0]
    flip(first, frames(first)[0] + FRAME_HEADER_BYTES + 10)
    report = check_store(closed)
    only(report, CheckVerdict.LOG_DAMAGE)
    assert not any(finding.fatal for finding in report.findings)
    with strandline.open(closed) as db:
        assert len(db) == RECORDS


def test_a_missing_segment_is_a_gap(crashed: Path) -> None:
    """The gap is at the segment that is not there."""
    gone = segments(crashed)[1]
    gone.unlink()
    report = check_store(crashed)
    only(report, CheckVerdict.GAP)
    assert report.findings[0].path == str(gone)
    with pytest.raises(strandline.LogGapError):
        strandline.open(crashed)


def test_a_segment_of_another_store_is_foreign(crashed: Path, tmp_path: Path) -> None:
    """It is named, and the verdict is not that the log is damaged."""
    fill(tmp_path / "other")
    victim = segments(crashed)[1]
    shutil.copy(segments(tmp_path / "other")[-1], victim)
    report = check_store(crashed)
    only(report, CheckVerdict.FOREIGN)
    assert "store" in report.findings[0].expected


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda fill: fill, "expected a list"),
        (lambda fill: [None, tag_of(99, PUT), b"k", fill], "table 99"),
        (lambda fill: [None, tag_of(1, 7), b"k", fill], "tag"),
    ],
    ids=["no list", "unknown table", "unknown operation"],
)
def test_frames_that_make_no_sense_are_found(
    crashed: Path, make: Callable[[bytes], object], why: str
) -> None:
    """A checksum that holds is not enough above the watermark: opening would refuse it too."""
    last = segments(crashed)[-1]
    rewrite_frame(last, frames(last)[-1], make)
    report = check_store(crashed)
    only(report, CheckVerdict.LOG_DAMAGE)
    (finding,) = report.findings
    assert finding.lsn == RECORDS
    assert why in finding.found
    with pytest.raises(strandline.LogCorruptionError):
        strandline.open(crashed)


# ---- IDENTITY


def test_a_damaged_identity_is_found(crashed: Path) -> None:
    """The log is judged all the same, by the uuid that LMDB has."""
    flip(crashed / "IDENTITY", 20)
    report = check_store(crashed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert report.findings[0].path == str(crashed / "IDENTITY")
    assert report.log is not None
    assert report.log.operations == RECORDS


def test_a_missing_identity_is_found(crashed: Path) -> None:
    """With neither IDENTITY nor LMDB the uuid is that of the first segment."""
    (crashed / "IDENTITY").unlink()
    shutil.rmtree(crashed / "store")
    report = check_store(crashed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert len(report.findings) == 2
    assert report.log is not None
    assert report.log.operations == RECORDS


def test_an_identity_of_a_newer_format_is_foreign(closed: Path) -> None:
    """It is whole, so it is not called damaged."""
    identity = read_identity(RealDisk(), str(closed))
    newer = identity._replace(version=2)
    (closed / "IDENTITY").write_bytes(encode_identity(newer))
    report = check_store(closed)
    assert report.verdict is CheckVerdict.FOREIGN
    assert "version" in report.findings[0].expected


@pytest.mark.parametrize("field", ["epoch", "lsn_ceiling"])
def test_an_older_identity_is_found(closed: Path, field: str) -> None:
    """IDENTITY is written before what it promises, so it is never behind the log."""
    identity = read_identity(RealDisk(), str(closed))
    values = {**identity._asdict(), field: 0}
    write_identity(RealDisk(), str(closed), Identity(**values))
    report = check_store(closed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert not report.findings[0].fatal
    strandline.open(closed).close()


# ---- LMDB


def test_a_value_that_rotted_is_found(closed: Path) -> None:
    """One byte of one value is enough, and the key is named."""
    data = closed / "store" / "data.mdb"
    for place in re.finditer(b"key00007", data.read_bytes()):
        flip(data, place.end() + 3)
    report = check_store(closed)
    only(report, CheckVerdict.STORE_DAMAGE)
    (finding,) = report.findings
    assert finding.path == str(data)
    assert "xxh3-64" in finding.expected


def test_entries_that_are_gone_are_found(closed: Path) -> None:
    """The count that the last checkpoint committed is held against the tree."""
    with lmdb.open(str(closed / "store"), max_dbs=4) as env:
        database = env.open_db(b"t1", create=False)
        with env.begin(write=True) as txn:
            assert txn.delete(b"key00007", db=database)
    report = check_store(closed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert any(f"{RECORDS - 1}" in finding.found for finding in report.findings)


def test_a_damaged_page_is_found(closed: Path) -> None:
    """LMDB itself never gets to see it."""
    flip(closed / "store" / "data.mdb", 16)
    only(check_store(closed), CheckVerdict.STORE_DAMAGE)


def test_the_lmdb_of_another_store_is_found(closed: Path, tmp_path: Path) -> None:
    """Each part is sound, and they do not belong together."""
    fill(tmp_path / "other")
    shutil.rmtree(closed / "store")
    shutil.copytree(tmp_path / "other" / "store", closed / "store")
    report = check_store(closed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert "store" in report.findings[0].found


def test_a_log_that_ends_below_the_watermark_is_found(closed: Path, crashed: Path) -> None:
    """LMDB is newer than the log: they are not from one moment."""
    first = segments(crashed)[0]
    os.truncate(first, frames(first)[20])
    for path in (crashed / "log").iterdir():
        if path != first:
            path.unlink()
    shutil.rmtree(crashed / "store")
    shutil.copytree(closed / "store", crashed / "store")
    report = check_store(crashed)
    only(report, CheckVerdict.STORE_DAMAGE)
    assert f"LSN {RECORDS}" in report.findings[0].expected
    with pytest.raises(strandline.StoreCorruptionError):
        strandline.open(crashed)


# ---- what is no store, or cannot be read


def test_a_path_that_does_not_exist_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is made there."""
    report = check_store(tmp_path / "nothing")
    only(report, CheckVerdict.UNREADABLE)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_foreign(tmp_path: Path) -> None:
    """A file, an empty directory, somebody else's directory."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("text")
    for name in ("file", "empty", "other"):
        only(check_store(tmp_path / name), CheckVerdict.FOREIGN)


def test_a_file_that_cannot_be_read_is_a_finding(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for damage, and the rest is looked at all the same."""
    victim = str(segments(crashed)[1])
    real = RealDisk.open

    def fails(disk: RealDisk, path: str, mode: str) -> object:
        if path == victim:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(disk, path, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(RealDisk, "open", fails)
    report = check_store(crashed)
    only(report, CheckVerdict.UNREADABLE)
    assert report.findings[0].path == victim
    assert report.store is not None


@pytest.mark.parametrize("part", ["log", "store"])
def test_a_part_that_is_missing_is_found(closed: Path, part: str) -> None:
    """The other parts are judged all the same."""
    shutil.rmtree(closed / part)
    report = check_store(closed)
    assert report.verdict is CheckVerdict.STORE_DAMAGE
    assert any(str(closed / part) in finding.path for finding in report.findings)
