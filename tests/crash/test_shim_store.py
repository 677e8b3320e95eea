"""A real store under the shim: its log, its files and LMDB, seen whole and replayed."""

from __future__ import annotations

from pathlib import Path

import strandline
from strandline.tools.crash.shim.record import Mark, Open, Recording, SyncBegin, SyncEnd, Write
from strandline.tools.crash.shim.replay import replay, write_image
from tests.crash.shimmed import Run, needs_shim, run_shimmed, tree

pytestmark = needs_shim

_OPTIONS = "segment_bytes=1 << 16, max_log_bytes=1 << 22, map_bytes=1 << 24, disk_reserve_bytes=0"

_STORE = f"""
import strandline
from strandline import Durability
start()
db = strandline.open(root / "data", {_OPTIONS})
for turn in range(12):
    db.put(b"sync %d" % turn, b"v" * 4000)
    os.write(1, b"sync %d\\n" % turn)
    db.put(b"buffered %d" % turn, b"v", durability=Durability.BUFFERED)
    db.put(b"async %d" % turn, b"v", durability=Durability.ASYNC)
    if turn == 6:
        db.delete(b"sync 0")
        os.write(1, b"deleted\\n")
        db.flush()
db.close()
disarm()
"""


def _data_file(run: Run) -> int:
    (number,) = {event.file for event in run.of(Open) if event.path.endswith("/data.mdb")}
    return number


def test_a_store_is_seen_whole(tmp_path: Path) -> None:
    """No call was missed: replayed without a loss, it is the real directory, byte for byte."""
    run = run_shimmed(tmp_path, _STORE)
    assert run.code == 0
    assert run.recording.unsupported == []
    there = tree(run.root)
    assert {"data/IDENTITY", "data/store/data.mdb", "data/log"} <= set(there)
    assert tree(run.survivors(tmp_path / "image")) == there


def test_lmdb_is_seen(tmp_path: Path) -> None:
    """Its pages, the fdatasync that makes them durable, and its meta page written through."""
    run = run_shimmed(tmp_path, _STORE)
    number = _data_file(run)
    steps = [
        "meta" if isinstance(event, Write) and event.through else type(event).__name__
        for event in run.recording.events
        if isinstance(event, Write | SyncBegin | SyncEnd) and event.file == number
    ]
    commits = " ".join(steps).count("SyncBegin SyncEnd meta")
    assert commits >= 3, "the environment's making, the flush, the close"
    assert steps.count("meta") == commits
    assert steps.count("Write") >= commits


def test_what_was_said_survives_every_cut(tmp_path: Path) -> None:
    """At cuts all over the run, of a disk that keeps only what it must, nothing said is gone."""
    run = run_shimmed(tmp_path, _STORE)
    cuts = 0
    for cut in replay(run.recording):
        if cut.position % 17 == 0 and cut.said:
            image = tmp_path / str(cut.position)
            image.mkdir()
            write_image(cut.disk.crash("none"), image)
            assert _lost(image, run.recording.marks[: cut.said]) == []
            cuts += 1
    assert cuts >= 5


def test_a_sync_that_is_left_out_loses_what_was_said(tmp_path: Path) -> None:
    """The check can fail: without the log's syncs the same replay loses keys."""
    run = run_shimmed(tmp_path, _STORE)
    events = run.recording.events
    marks = [number for number, event in enumerate(events) if isinstance(event, Mark)]
    logs = {event.file for event in run.of(Open) if event.path.endswith(".wal.tmp")}
    kept = [
        event
        for number, event in enumerate(events[: marks[3] + 1])
        if not (number > marks[0] and isinstance(event, SyncEnd) and event.file in logs)
    ]
    *_, cut = replay(Recording(kept))
    image = tmp_path / "image"
    image.mkdir()
    write_image(cut.disk.crash("none"), image)
    assert _lost(image, run.recording.marks[: cut.said]) != []


def _lost(image: Path, said: list[bytes]) -> list[bytes]:
    """Open an image and return which of the keys that were said to be there are not."""
    names = b"".join(said).split(b"\n")[:-1]
    deleted = {b"sync 0"} if b"deleted" in names else set()
    with strandline.open(
        image / "data", segment_bytes=1 << 16, map_bytes=1 << 24, disk_reserve_bytes=0
    ) as db:
        return [name for name in names if name != b"deleted" and (name in db) == (name in deleted)]
