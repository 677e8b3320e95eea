"""L2 on a real store: what the witness sees, and that planted bugs are found by real calls."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from strandline.tools.crash.failing.case import FailingCase, Fault
from strandline.tools.crash.failing.witness import Witness
from strandline.tools.crash.layer import Tally, ViolationError
from strandline.tools.crash.layers.errors import ErrorsLayer
from strandline.tools.crash.layers.errors_real import RealErrors
from strandline.tools.crash.layers.errors_simulated import SLICES
from strandline.tools.crash.script.steps import SYNC, Put, Step
from strandline.tools.crash.script.told import DONE, OPENED, Told
from strandline.tools.crash.shim.control import Board, Kind
from strandline.tools.crash.shim.record import (
    Event,
    Failed,
    Mark,
    Open,
    Recording,
    SyncBegin,
    SyncEnd,
)
from tests.crash.planted import BUGS
from tests.crash.shimmed import needs_shim, run_shimmed

_LOG = "data/log/0000000000000001.wal"


def _real(place: Path, seed: int, bug: str | None = None) -> Tally:
    """Run the `seed`-th of the real rounds."""
    prelude = () if bug is None else (f"{BUGS[bug].plant.__module__}:{bug}",)
    with ErrorsLayer(prelude=prelude).bench(place) as bench:
        return bench.round(2 * seed + 1)


@needs_shim
@pytest.mark.slow
def test_nothing_is_found_in_a_sound_store(place: Path) -> None:
    """Of a slice that has a sync of the log and a write of LMDB in it."""
    tally = _real(place, 0)
    assert tally.finding is None
    assert tally.cases >= 12
    assert tally.acknowledged


_TRIED: Final = 12


@needs_shim
@pytest.mark.parametrize(
    ("bug", "kind", "code", "invariants"),
    [
        ("failed_sync_ignored", Kind.FDATASYNC, errno.EIO, {1, 8}),
        pytest.param("failed_sync_retried", Kind.FDATASYNC, errno.EIO, {8}, marks=pytest.mark.slow),
        pytest.param(
            "full_disk_acknowledged", Kind.WRITE, errno.ENOSPC, {1, 2, 9}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_planted_bug_is_found(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
    kind: Kind,
    code: int,
    invariants: set[int],
) -> None:
    """Planted in the process that writes; that which judges is sound.

    Which call is the n-th depends on the threads of the store: several are tried, from where
    the script writes on.
    """

    def faults(_self: RealErrors, board: Board) -> Iterator[Fault]:
        first = board.counts[kind] // 6
        for nth in range(first, first + _TRIED):
            yield Fault(kind, nth, code, lasting=False)
            yield Fault(kind, nth, code, lasting=True)

    monkeypatch.setenv("STRANDLINE_NATIVE", "0")
    monkeypatch.setattr(RealErrors, "_faults", faults)
    finding = _real(place, 0, bug).finding
    assert finding is not None
    assert finding.invariant in invariants, finding
    assert " at " in finding.where


@pytest.mark.slow
@needs_shim
def test_rounds_are_simulated_and_real_in_turn(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round with an odd seed is of a real store."""
    real: list[int] = []

    def run(self: RealErrors) -> Tally:
        real.append(self._seed * SLICES + self._slice)
        return Tally(rounds=1)

    monkeypatch.setattr(RealErrors, "run", run)
    with ErrorsLayer().bench(place) as bench:
        assert bench.round(10, frozenset()).cases > 0
        assert bench.round(11, frozenset()).cases == 0
    assert real == [5]


def test_without_the_shim_rounds_are_simulated(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the layer says what it leaves out."""
    monkeypatch.setenv("CC", "no such compiler")
    layer = ErrorsLayer()
    assert layer.obstacle() is None
    assert any("LMDB" in part and "C compiler" in part for part in layer.left_out())
    with layer.bench(place) as bench:
        tally = bench.round(11, frozenset({0}))
    assert tally.finding is None
    assert tally.cases


_META_FAILS = """
import errno, strandline, threading
db = strandline.open(root / "data", map_bytes=16 << 20, disk_reserve_bytes=0)
for number in range(50):
    db.put(b"%d" % number, b"stored")
db.flush()
db.put(b"new", b"1")
start()
found, ended = [], threading.Event()
def read():
    while not ended.is_set():
        found.append(len(list(db.scan())))
reader = threading.Thread(target=read)
reader.start()
plan(Plan(Action.FAIL_ON, frozenset({Kind.WRITE}), 2, errno.EIO))
db.flush(5.0)
plan(Plan(Action.FAIL_ONCE, nth=1 << 60))
assert db.engine.log.failure is not None
ended.set()
reader.join()
assert set(found) == {51}, set(found)
assert db[b"new"] == b"1" and db[b"7"] == b"stored" and len(db) == 51
with db.snapshot() as snapshot:
    assert snapshot.get(b"8") == b"stored"
disarm()
"""


@needs_shim
def test_reads_go_on_when_the_meta_page_of_lmdb_cannot_be_written(tmp_path: Path) -> None:
    """LMDB panics then: it began no transaction any more, and every scan failed with that.

    Reads go on in a store that has failed, from the first moment on and on every thread.
    """
    run = run_shimmed(tmp_path, _META_FAILS)
    assert run.code == 0
    failed = [event.call for event in run.of(Failed) if event.injected]
    assert failed[0] == "write"
    assert run.of(SyncEnd)[0].error == 0, "it was the sync that failed, not the meta page"


# ---- the witness


def _recording(*messages: Told, again: bool = False, path: str = _LOG) -> Recording:
    """Return a recording in which the sync of a file fails, and then this is told."""
    opened = Open(
        1, 7, path, created=True, truncated=False, through=False, directory=False, flags=0
    )
    begin = SyncBegin(1, 7, 3, directory=False, data_only=True)
    failed = SyncEnd(1, 7, 3, errno.EIO, injected=True)
    events: list[Event] = [opened, Mark(1, Told(OPENED, 0, 0, [0, {}]).pack()), begin, failed]
    events += [Mark(1, message.pack()) for message in messages]
    return Recording([*events, begin] if again else events)


_SCRIPT: dict[int, Step] = {number: Put(SYNC, "", b"k", b"v") for number in range(4)}


def test_what_is_acknowledged_after_a_failed_sync_is_found() -> None:
    """Two steps can have been under way or begun; the third cannot."""
    told = [Told(DONE, 0, number, number + 1) for number in range(3)]
    Witness(_recording(*told[:2])).check(_SCRIPT)
    with pytest.raises(ViolationError, match=r"step 2, .* after a failed sync"):
        Witness(_recording(*told)).check(_SCRIPT)


@pytest.mark.parametrize("path", [_LOG, "data/store/data.mdb"])
def test_a_sync_that_is_repeated_is_found(path: str) -> None:
    """Of the log and of LMDB."""
    Witness(_recording(path=path)).check(_SCRIPT)
    with pytest.raises(ViolationError, match="repeated"):
        Witness(_recording(again=True, path=path)).check(_SCRIPT)


def test_the_sync_of_another_file_may_be_repeated() -> None:
    """What is not the log or LMDB can be made anew."""
    Witness(_recording(again=True, path="data/LOCK")).check(_SCRIPT)


def test_a_case_crosses_to_a_child(tmp_path: Path) -> None:
    """Packed and unpacked it is the same."""
    for fault in (None, Fault(Kind.WRITE, 3, None, lasting=False)):
        case = FailingCase(tmp_path, 5, (1, 2), fault, "closed")
        assert FailingCase.unpack(case.pack()) == case
