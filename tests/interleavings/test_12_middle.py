"""Damage in the middle of the log, stale frames behind its end, and an end that has moved.

A torn tail may be dropped, for nobody was told that it was on disk. What a later frame
claims to be synced may not: that is damage, and opening refuses it until told what to do
without it. And the end of the log must stay where recovery found it.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from strandline import Durability
from strandline.errors import LogCorruptionError
from strandline.options import RecoveryMode
from strandline.tools.crash.simulation.media import SECTOR, CrashPolicy
from strandline.tools.crash.simulation.rig import Rig
from strandline.tools.crash.simulation.runtime import HandRuntime
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TYPE_DATA,
    aligned,
    decode_frame_header,
    decode_segment_header,
)
from tests.support.history import History, contents

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC


class Place(NamedTuple):
    """Where a frame is."""

    offset: int
    end: int
    type: int


def read(rig: Rig, path: str) -> bytes:
    """Return what a file of the log holds."""
    file = rig.disk.open(path, "r")
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def segments(rig: Rig) -> list[str]:
    """Return the paths of all segments, oldest first."""
    log = f"{rig.directory}/log"
    return [f"{log}/{name}" for name in rig.disk.listdir(log) if name.endswith(".wal")]


def frames(content: bytes, start: int = SEGMENT_HEADER_BYTES) -> list[Place]:
    """Return the frames that stand one behind the other, of whatever use of the file."""
    found: list[Place] = []
    while header := decode_frame_header(content[start : start + FRAME_HEADER_BYTES]):
        end = start + aligned(FRAME_HEADER_BYTES + header.payload_length)
        found.append(Place(start, end, header.type))
        start = end
    return found


def test_zeroed_sector_in_the_middle(tmp_path: Path) -> None:
    """A sector of zeros below synced frames is refused, with the file and the frame's offset.

    The refusal changes nothing on disk: point-in-time then opens with all before it, and
    salvage with all but what it lay in. Guard: `synced_lsn` of later frames, which tells
    damage from a torn tail (`recovery.verdict`).
    """
    rng = random.Random(12)
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(10):
            value = rng.randbytes(700)
            history.note({("", b"k%d" % number): value})
            db.put(b"k%d" % number, value, durability=SYNC)
        path = segments(rig)[0]
        content = read(rig, path)
        places = frames(content)
        assert [TYPE_DATA] * 10 == [place.type for place in places]
        sectors = range(SEGMENT_HEADER_BYTES, places[8].offset, SECTOR)
        assert 10 < len(sectors)
        for sector in sectors:
            damaged = bytearray(content)
            damaged[sector : sector + SECTOR] = bytes(SECTOR)
            hit = [n for n, (at, end, _) in enumerate(places) if damaged[at:end] != content[at:end]]
            for mode, expected in (
                ("point-in-time", {b"k%d" % n for n in range(hit[0])}),
                ("salvage", {b"k%d" % n for n in range(10) if n not in hit}),
            ):
                image = rig.power_cut("none")
                place = segments(image)[0]
                zero(image, place, sector)
                message = f"{place}: offset {places[hit[0]].offset}, LSN {hit[0] + 1}:"
                for _ in range(2):
                    with pytest.raises(LogCorruptionError, match=re.escape(message)):
                        image.open()
                    assert bytes(damaged) == read(image, place)
                store = image.open(recovery=mode)
                assert expected == set(store)
                assert contents(store).items() <= history.states[-1].items()
                again = image.power_cut("none")
                assert expected == set(again.open())
                again.release()
                image.release()


@pytest.mark.parametrize("end", ["idle", "closed"])
def test_zeroed_sector_in_the_last_frame(tmp_path: Path, end: str) -> None:
    """No frame follows, and yet the log says that the last one was on disk: it is no torn tail.

    Guard: the sync mark that an idle log writes, once, and the seal of an orderly close.
    """
    rng = random.Random(7)
    with Rig(tmp_path) as rig:
        db = rig.open()
        for number in range(3):
            db.put(b"k%d" % number, rng.randbytes(2000), durability=SYNC)
        if end == "idle":
            assert rig.housekeep()
            marked = db.engine.log.tail
            assert rig.housekeep()
            assert marked == db.engine.log.tail, "there is nothing new to be claimed"
        else:
            rig.close()
        path = segments(rig)[0]
        last = [place for place in frames(read(rig, path)) if place.type == TYPE_DATA][-1]
        sectors = range(-(-last.offset // SECTOR) * SECTOR, last.end - SECTOR + 1, SECTOR)
        assert 2 < len(sectors)
        for sector in sectors:
            image = rig.kill()
            place = segments(image)[0]
            zero(image, place, sector)
            message = f"{place}: offset {last.offset}, LSN 3:"
            with pytest.raises(LogCorruptionError, match=re.escape(message)):
                image.open()
            image.release()


def zero(rig: Rig, path: str, offset: int) -> None:
    """Write a sector of zeros, durably."""
    file = rig.disk.open(path, "rw")
    file.pwrite(bytes(SECTOR), offset)
    file.fdatasync()
    file.close()


def torn(rig: Rig) -> Rig:
    """Return an image of which the first sectors of an unsynced frame survived, and no more."""
    for survivors in range(20):
        image = rig.power_cut(survivors)
        tail = image.open().recovery_report.torn_tail
        image.release()
        if tail is not None:
            return rig.power_cut(survivors)
    raise AssertionError("no power cut at this moment leaves a torn tail")


@pytest.mark.parametrize("mode", ["tolerate-torn-tail", "point-in-time", "salvage"])
def test_stale_frames_behind_a_torn_tail(tmp_path: Path, mode: RecoveryMode) -> None:
    """A segment that came round again holds whole old frames right behind the torn one.

    All frames have one length, so the old ones stand where the next new ones would; none
    of them is replayed or reported as damage. Guard: the salt of each use of a file, in
    every frame's header, and the LSN that is expected next.
    """
    rng = random.Random(21)
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()

        def put(number: int, level: Durability) -> None:
            key, value = b"k%02d" % (number % 5), rng.randbytes(2000)
            commit = history.note({("", key): value})
            db.put(key, value, durability=level)
            if level is SYNC:
                history.acknowledged = commit

        first, number = segments(rig)[0], 0
        old = read(rig, first)
        while first in segments(rig):  # until its file has another name
            put(number, SYNC)
            number += 1
            if number % 40 == 0:
                old = read(rig, first)
                rig.housekeep()
                assert rig.checkpoint()
                rig.housekeep()
            assert number < 400
        stale = frames(old)
        assert 20 < len(stale)
        active = next(p for p in segments(rig) if old[8192:12288] in read(rig, p))
        while read(rig, active)[:SEGMENT_HEADER_BYTES] == old[:SEGMENT_HEADER_BYTES]:
            put(number, SYNC)
            number += 1
            assert number < 800
        for _ in range(5):
            put(number, SYNC)
            number += 1
        put(number, BUFFERED)
        torn = history.states[-1][("", b"k%02d" % (number % 5))]
        content = read(rig, active)
        offset = content.index(torn)
        behind = frames(content)
        assert offset < behind[-1].offset, "old frames follow the new ones"
        assert history.acknowledged == len(history.states) - 2
        policies: list[CrashPolicy] = ["none", *range(1, 12), *[rng] * 40, "all"]
        tails = 0
        for policy in policies:
            image = rig.power_cut(policy)
            length = history.check(image.open(recovery=mode))
            tails += image.store.recovery_report.torn_tail is not None
            assert () == image.store.recovery_report.damages
            again = image.power_cut("none")
            assert length == history.check(again.open())
            again.release()
            image.release()
        assert 5 < tails


def test_every_use_of_a_file_has_a_salt_of_its_own(tmp_path: Path) -> None:
    """Segment ids and epochs can be guessed: only a salt keeps a value from holding a frame.

    Guard: `_activate` draws a salt whenever a segment becomes the active one.
    """
    rng = random.Random(3)
    salts: dict[int, int] = {}
    names: dict[int, set[str]] = {}
    with Rig(tmp_path) as rig:
        for seed in range(3):
            db = rig.open(runtime=HandRuntime(seed))
            for number in range(120):
                db.put(b"k", rng.randbytes(2000), durability=BUFFERED)
                if number % 10 == 0:
                    for path in segments(rig):
                        header = decode_segment_header(read(rig, path))
                        if header is not None:
                            assert header.salt == salts.setdefault(header.segment_id, header.salt)
                            names.setdefault(header.segment_id, set()).add(path)
                if number % 40 == 39:
                    assert rig.checkpoint()
                    rig.housekeep()
            rig.close()
    assert 6 < len(salts)
    assert any(1 < len(paths) for paths in names.values()), "no file was used again"
    assert len(salts) == len({*salts.values()})


@pytest.mark.parametrize("mode", ["tolerate-torn-tail", "strict"])
@pytest.mark.parametrize("write", [None, ASYNC, BUFFERED, SYNC])
def test_crash_after_crash(tmp_path: Path, mode: RecoveryMode, write: Durability | None) -> None:
    """Recovery makes a new segment, and is cut short; the old torn tail is no longer last.

    It was settled before there was anything behind it, so the next opening, and the one
    after that, finds whole segments. Guard: `settle` comes before `Segments.first`.
    """
    rng = random.Random(5)
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()

        def put(level: Durability, size: int = 1500) -> None:
            value = rng.randbytes(size)
            commit = history.note({("", b"k"): value})
            db.put(b"k", value, durability=level)
            if level is SYNC:
                history.acknowledged = commit

        for _ in range(3):
            put(SYNC)
        put(BUFFERED)
        image = torn(rig)
        db = image.open()
        assert db.recovery_report.torn_tail is not None
        assert history.acknowledged == history.resume(db)
        for _ in range(6):
            if write is not None:
                put(write)
            following = image.power_cut("none")
            image.release()
            image = following
            db = image.open(recovery=mode)
            assert () == db.recovery_report.damages + db.recovery_report.gaps
            history.resume(db)


def test_crash_anywhere_in_the_second_recovery(tmp_path: Path) -> None:
    """A torn tail, a recovery, a write, a crash, a recovery that is cut short anywhere.

    Each time the next opening goes through and shows the same commits. Guard: the last
    segment is written anew beside itself and renamed (`recovery.rewrite`).
    """
    rng = random.Random(9)
    history = History()
    with Rig(tmp_path) as rig:
        db = rig.open()

        def put(level: Durability) -> None:
            value = rng.randbytes(1500)
            commit = history.note({("", b"k"): value})
            db.put(b"k", value, durability=level)
            if level is SYNC:
                history.acknowledged = commit

        put(SYNC)
        put(BUFFERED)
        image = torn(rig)
        db = image.open()
        history.resume(db)
        put(SYNC)
        put(BUFFERED)
        crashed = torn(image)

        def look(cut: Rig) -> None:
            assert history.acknowledged == history.check(cut.open())
            again = cut.power_cut("none")
            assert history.acknowledged == history.check(again.open(recovery="strict"))
            again.release()

        assert 10 < crashed.sweep(crashed.open, look, "none", "all", rng, "kill")


@pytest.mark.parametrize("written", [False, True])
def test_checkpoint_right_after_recovery(tmp_path: Path, written: bool) -> None:
    """A checkpoint before the first write after a recovery, then a power cut: it opens.

    The LSNs begin above the ceiling by then, and no frame on disk has come so far. Guard:
    the watermark never gets ahead of what the durable log can tell.
    """
    with Rig(tmp_path) as rig:
        rig.open()
        if written:
            rig.store.put(b"k", b"v", durability=SYNC)
        image = rig
        for _ in range(3):
            image = image.power_cut("none")
            image.open()
            assert image.checkpoint()
        assert [b"k"] * written == list(image.store)
