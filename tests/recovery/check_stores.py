"""Small stores to be checked, and ways of damaging them.

A *crashed* store is a copy of the files of an open one: what a killed process leaves
behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgpack

import strandline
from strandline import Durability, HybridFlush
from strandline.recovery.check_report import CheckReport, CheckVerdict
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TYPE_DATA,
    decode_frame_header,
    encode_frame,
)

RECORDS: Final = 1200
VALUE: Final = b"v" * 100
NEVER: Final = HybridFlush(
    max_count=1 << 40, max_bytes=1 << 50, max_age=1e9, max_log_bytes=1 << 50, min_interval=1e9
)
ROOT: Final = Path(strandline.__file__).parents[1]


def fill(path: Path, crash_to: Path | None = None) -> None:
    """Make a store of some segments; copy it as it is before it is closed."""
    with strandline.open(path, segment_bytes=1 << 16, flush_strategy=NEVER) as db:
        for number in range(RECORDS):
            db.put(b"key%05d" % number, VALUE, durability=Durability.BUFFERED)
        db.sync()
        if crash_to is not None:
            copy_open(path, crash_to)


def copy_open(store: Path, target: Path) -> None:
    """Copy the files of an open store; again where one got another name meanwhile."""
    for _ in range(100):
        try:
            shutil.copytree(store, target, ignore=shutil.ignore_patterns("*.tmp"))
        except shutil.Error:
            shutil.rmtree(target)
        else:
            return
    raise AssertionError(f"{store} never holds still")


def segments(store: Path) -> list[Path]:
    """The segments that hold frames."""
    return [path for path in sorted((store / "log").glob("*.wal")) if frames(path)]


def frames(path: Path) -> list[int]:
    """Where the frames with operations of a sound segment begin; a sync mark has none."""
    data, at, found = path.read_bytes(), SEGMENT_HEADER_BYTES, []
    while header := decode_frame_header(data[at : at + FRAME_HEADER_BYTES]):
        found += [at] if header.type == TYPE_DATA else []
        at += -(-(FRAME_HEADER_BYTES + header.payload_length) // 8) * 8
    return found


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def rewrite_frame(path: Path, offset: int, make: Callable[[bytes], object]) -> None:
    """Replace a frame's payload by one of the same length, and make its checksums right.

    `make` is given as many bytes as make up the length.
    """
    data = path.read_bytes()
    header = decode_frame_header(data[offset : offset + FRAME_HEADER_BYTES])
    assert header is not None
    spare = header.payload_length - len(msgpack.packb(make(b"")))
    payload = next(
        packed
        for length in range(spare, 0, -1)
        if len(packed := msgpack.packb(make(b"x" * length))) == header.payload_length
    )
    frame = encode_frame(
        header.type,
        payload,
        count=header.count,
        first_lsn=header.first_lsn,
        synced_lsn=header.synced_lsn,
        stored_lsn=header.stored_lsn,
        time_ns=header.time_ns,
        segment_id=header.segment_id,
        salt=header.salt,
        epoch=header.epoch,
    )
    path.write_bytes(data[:offset] + frame + data[offset + len(frame) :])


def state_of(store: Path) -> dict[str, object]:
    """Everything about a store's files that a write would change."""
    found: dict[str, object] = {}
    for path in (store, *sorted(store.rglob("*"))) if store.exists() else ():
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


def only(report: CheckReport, verdict: CheckVerdict) -> None:
    """The report has this verdict and findings of no other."""
    assert report.verdict is verdict, report.findings
    assert {finding.verdict for finding in report.findings} == {verdict}
