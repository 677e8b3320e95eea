"""Beside a live writer at full speed nothing that is healthy is called damaged.

The writer turns segments and gives them back as fast as it can, and is closed and opened
again now and then. The default run ends after some turns, the one marked slow after minutes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import Durability, HybridFlush
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.inspect.examine import examine
from strandline.tools.inspect.frames import LogFrames
from strandline.tools.inspect.target import resolve
from strandline.wal.format import FRAME_HEADER_BYTES, segment_id_of
from tests.recovery.check_stores import flip
from tests.tools.inspecting import piped

OPTIONS: dict[str, Any] = {
    "segment_bytes": 1 << 16,
    "max_log_bytes": 1 << 20,
    "sync_interval": 0.02,
    "disk_reserve_bytes": 0,
}


OFTEN = HybridFlush(max_count=500, min_interval=0.0)


def write(path: str, opened: Any) -> None:
    """Write for ever, at all levels, in batches too; close and open now and then."""
    chooser = random.Random(1)
    while True:
        with strandline.open(path, flush_strategy=OFTEN, **OPTIONS) as db:
            opened.set()
            for number in range(20_000):
                level = chooser.choice(list(Durability)[1:])
                key = b"key%05d" % chooser.randrange(3000)
                if number % 50 == 7:
                    with db.batch(durability=level) as batch:
                        for each in range(20):
                            batch.put(b"%s/%d" % (key, each), b"v" * chooser.randrange(200))
                elif number % 500 == 3:
                    db.put(key, b"on disk")
                else:
                    db.put(key, b"v" * chooser.randrange(300), durability=level)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store with a writer at work."""
    context = multiprocessing.get_context("spawn")
    opened = context.Event()
    writer = context.Process(target=write, args=(str(tmp_path / "data"), opened), daemon=True)
    writer.start()
    try:
        assert opened.wait(60)
        yield tmp_path / "data"
        assert writer.is_alive(), "the writer came to an end"
    finally:
        writer.kill()
        writer.join(60)


def newest(store: Path) -> int:
    """The highest segment id that is there."""
    return max((segment_id_of(name) or 0 for name in os.listdir(store / "log")), default=0)


def look(store: Path) -> int:
    """Examine the log and read it; return how many operations were read."""
    log = examine(resolve(store))
    assert log.findings == [], log.findings
    assert log.status == 0
    frames = LogFrames(log)
    last, operations = 0, 0
    for _, some in frames:
        for _, first_lsn, count, *_ in some:
            assert first_lsn > last
            last = first_lsn + count - 1
            operations += count
    for gone in frames.gone:
        # A segment is given back only when LMDB has it; that can be asked for afterwards.
        after = examine(resolve(store))
        assert after.watermark_lsn >= gone.last_lsn
    return operations


@pytest.mark.timeout(300)
def test_a_writer_at_full_speed(store: Path) -> None:
    """Over the time in which a hundred segments are filled, and most of them given back."""
    first = newest(store)
    operations = looks = 0
    while newest(store) < first + 100 or looks < 3 or not operations:
        operations += look(store)
        looks += 1
    assert looks >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_writer_at_full_speed_for_minutes(store: Path) -> None:
    """The same for three minutes, with the command itself in between."""
    until = time.monotonic() + 180
    looks = 0
    while time.monotonic() < until:
        for _ in range(20):
            look(store)
            looks += 1
        for command in ("verify", "ls"):
            result = piped(command, store, "--json")
            assert result.returncode == 0, result
            assert json.loads(result.stdout)["verdict"] == "sound"
    assert looks > 20


def test_damage_is_seen_beside_the_writer(store: Path) -> None:
    """It is no excuse that a writer is there: a flipped byte in a segment that stays is found.

    The writer is stopped for the moment, so that the segment is not given back.
    """
    with stopped_with_frames(store) as scan:
        offset = scan.runs[0].offset + FRAME_HEADER_BYTES
        flip(Path(scan.path), offset)
        found = examine(resolve(store))
        assert found.status == 4
        assert found.findings[0].path == scan.path
        flip(Path(scan.path), offset)
        assert examine(resolve(store)).status == 0


@contextmanager
def stopped_with_frames(store: Path) -> Iterator[SegmentScan]:
    """Stop the writer where a segment has some frames, and let it go on afterwards."""
    for _ in range(200):
        pid = writer_of(store)
        os.kill(pid, signal.SIGSTOP)
        try:
            scans = [scan for scan in examine(resolve(store)).scans if scan.frames > 3]
            if scans:
                yield scans[0]
                return
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("no segment ever had frames")


def writer_of(store: Path) -> int:
    """The process that LOCK names."""
    return int(json.loads((store / "LOCK").read_bytes().split(b"\n", 1)[0])["pid"])
