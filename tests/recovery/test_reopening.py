"""Opening a store again and again must cost nothing that stays.

Each opening begins a segment of its own. When nothing but reads came between, nobody asked
for a checkpoint, and so nobody gave the old segments back: a job that only reads made the
log longer at every run.
"""

from __future__ import annotations

import os
from pathlib import Path

import strandline
from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig
from tests.recovery.check_stores import copy_open


def test_openings_without_a_write_leave_no_segments_behind(tmp_path: Path) -> None:
    """Segments at or below the watermark go, though no checkpoint comes along."""
    for _ in range(8):
        with strandline.open(tmp_path / "store") as db:
            db.setdefault(b"k", b"v")
    assert len(os.listdir(tmp_path / "store" / "log")) <= 3


def test_what_is_only_in_the_log_is_kept_through_openings(tmp_path: Path) -> None:
    """Segments above the watermark stay, and what is in them, however often it is opened."""
    path = tmp_path / "store"
    for number in range(5):
        db = strandline.open(path)
        db.put(b"%d" % number, b"v")
        db.close(drain=False)
    with strandline.open(path) as db:
        assert [b"0", b"1", b"2", b"3", b"4"] == list(db)


def test_a_link_to_a_store_opens_the_store(tmp_path: Path) -> None:
    """A data directory that was moved to another disk and linked is an ordinary thing."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    with strandline.open(tmp_path / "data") as db:
        db[b"k"] = b"v"
    with strandline.open(tmp_path / "elsewhere") as db:
        assert b"v" == db[b"k"]


def test_the_end_of_a_recycled_segment_is_no_torn_tail(tmp_path: Path) -> None:
    """A process that dies between two writes tears nothing, whatever the file held before.

    In a segment that is used again the log ends in the middle of some older frame. Taken
    for torn, it would put up to a megabyte into quarantine at every crash.
    """
    path, copy = tmp_path / "store", tmp_path / "copy"
    with strandline.open(path, segment_bytes=1 << 16, max_log_bytes=1 << 20) as db:
        for number in range(3000):
            db.put(b"%d" % number, b"v" * (60 + number % 50), durability=Durability.BUFFERED)
            if number % 500 == 499:
                db.flush()
        segment, offset, _, _ = db.engine.log.tail
        stale = segment.file.pread(4096, offset)
        assert stale.strip(b"\0"), "the file was not used before: the test proves nothing"
        copy_open(path, copy)
    with strandline.open(copy) as db:
        assert 3000 == len(db)
        assert db.recovery_report.torn_tail is None
        assert () == db.recovery_report.quarantined


def test_an_identity_from_a_backup_does_not_turn_the_epoch_back(tmp_path: Path) -> None:
    """The segments say how far the epochs went; one that fell would be refused as a gap."""
    with Rig(tmp_path) as rig:
        rig.open()
        path = f"{rig.directory}/IDENTITY"
        file = rig.disk.open(path, "r")
        old = file.pread(file.size(), 0)
        file.close()
        for number in range(3):
            rig.store.put(b"%d" % number, b"v")
            rig.close()
            rig.open()
        rig.close()
        file = rig.disk.open(path, "rw")
        file.pwrite(old, 0)
        file.fdatasync()
        file.close()
        epoch = rig.open().recovery_report.epoch
        rig.store.put(b"3", b"v")
        again = rig.power_cut("none").open()
        assert [b"0", b"1", b"2", b"3"] == list(again)
        assert epoch < again.recovery_report.epoch
