"""What `flush` reports while others write."""

from __future__ import annotations

import threading
from pathlib import Path

import strandline
from strandline import Durability


def test_what_is_written_during_a_flush_does_not_remain_of_it(tmp_path: Path) -> None:
    """A flush that did what it was asked for reports nothing as remaining.

    What is dirty when it returns was written meanwhile. It used to be counted, so that beside
    a busy writer every flush looked as if it had not been finished.
    """
    ended = threading.Event()
    with strandline.open(tmp_path / "store", disk_reserve_bytes=0) as db:

        def write() -> None:
            number = 0
            while not ended.is_set():
                db.put(b"%d" % number, b"v", durability=Durability.ASYNC)
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            reports: list[strandline.FlushReport] = []
            while db.stats().dirty_entries == 0 or len(reports) < 5:
                reports.append(db.flush())
        finally:
            ended.set()
            writer.join()
        assert [report.remaining for report in reports] == [0] * len(reports)
        assert sum(report.stored for report in reports) > 0
