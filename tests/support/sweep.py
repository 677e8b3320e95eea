"""`sweep`: a call interrupted at each of its steps in turn, and what must hold after each.

`tests.support.strikes` says what a step is. After each strike, on another thread:

- nobody hangs: reads, weak writes and a SYNC write return, and no lock is held;
- what was interrupted is there or it is not, whole either way, and stays as it is;
- what others wrote and got acknowledged is there;

and from time to time, and at the end, the power is cut: a strict recovery finds dense LSNs
and exactly what was visible.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from unittest import mock

from strandline import Durability
from strandline.engine.store import Store
from strandline.options import RecoveryMode
from strandline.tools.crash.simulation.rig import Rig
from tests.support.calls import Call
from tests.support.history import contents
from tests.support.strikes import strike

ASYNC, BUFFERED, SYNC = Durability.ASYNC, Durability.BUFFERED, Durability.SYNC
LEVELS: Final = [SYNC, BUFFERED, ASYNC]

Values = dict[tuple[str, bytes], bytes | None]
"""Values by table and key; None for no value."""

NEVER: Final = 1 << 30


class Attempt(NamedTuple):
    """One call that is to be interrupted."""

    call: Callable[[], Any]
    wanted: Values = {}  # noqa: RUF012
    """What it leaves behind if it is not interrupted."""
    handle: Callable[[], Any] | None = None
    """What the signal's handler does, where it does not interrupt."""


def sweep(
    rig: Rig,
    attempt: Callable[[int], Attempt],
    others: Callable[[int], Values] | None = None,
    *,
    reopen_every: int = 40,
    recovery: RecoveryMode = "strict",
) -> int:
    """Interrupt the n-th attempt at its n-th step until one has no such step; return n.

    `others` is what another thread does next; it returns what was acknowledged to it. A
    hook of the disk is taken away after each strike. `reopen_every=NEVER` leaves the
    reopening out. Where segments were recycled, their stale bytes look like a torn tail to a
    strict recovery.
    """
    # Who waits for a leader that was struck looks for itself at once.
    with mock.patch("strandline.wal.log.GATE_TIMEOUT", 0.001):
        for n in itertools.count():
            call, wanted, handle = attempt(n)
            before = {place: rig.store.table(place[0]).get(place[1]) for place in wanted}
            struck = strike(n, call, handle)
            rig.disk.faults = None
            where = f"step {n}, {struck.where}"
            check_free(rig.store, where)
            try:
                Call(_aftermath, rig.store, n, wanted, before, others).answer()
            except BaseException as error:
                error.add_note(f"after an interrupt at {where}: {struck.error!r}")
                raise
            if struck.error is not None and (handle is not None or not struck.hit):
                raise struck.error
            if not struck.hit:
                break
            if n % reopen_every == reopen_every - 1:
                compare_with_reopened(rig, where, recovery)
        if reopen_every != NEVER:
            compare_with_reopened(rig, "the last step", recovery)
    return n


def check_free(db: Store, where: str) -> None:
    """Assert that this thread was left with no lock."""
    engine = db.engine
    locks = {
        "mutex": engine.log.mutex,
        "append lock": engine.log.append_lock,
        "sync lock": engine.log.sync_lock,
        "close lock": engine.close_lock,
        "lock of the segments": engine.log.segments.lock,
    }
    held = [name for name, lock in locks.items() if lock._is_owned()]
    assert not held, f"after an interrupt at {where}: {held} still held"


def _aftermath(
    db: Store, n: int, wanted: Values, before: Values, others: Callable[[int], Values] | None
) -> None:
    """What another thread sees and does after the strike."""
    weak = {b"other%d" % (n % 7): b"a%d" % n, b"another%d" % (n % 5): b"a%d" % n}
    db.put_many(weak, durability=ASYNC)  # first, before anything makes good what is half done
    db.put(b"first", b"%d" % n, durability=ASYNC)
    assert b"%d" % n == db.get(b"first")
    acknowledged = others(n) if others is not None else {}
    seen = _peek(db, wanted)
    assert seen in (wanted, before), f"half done: {seen}"
    acknowledged |= {("", key): value for key, value in weak.items()}
    assert db.put(b"sync%d" % (n % 3), b"s%d" % n) is not None
    db.sync()
    for place, value in acknowledged.items():
        assert value == db.table(place[0]).get(place[1]), f"an acknowledged write is lost: {place}"
    last = _peek(db, wanted)
    assert last in (wanted, before), f"half done: {last}"
    if seen == wanted != before:
        assert last == wanted, "what was seen went away"
    db.engine.release_abandoned()
    assert 0 == db.stats().open_snapshots, "a snapshot that nobody holds stays open"


def _peek(db: Store, wanted: Values) -> Values:
    """Return the values of the places that were to be written, whole commits of them."""
    seen: Values = {}
    for name in {name for name, _ in wanted}:
        keys = [key for table, key in wanted if table == name]
        found = db.table(name).get_many(keys)
        seen |= {(name, key): found.get(key) for key in keys}
    return seen


def compare_with_reopened(rig: Rig, where: str, recovery: RecoveryMode = "strict") -> None:
    """Cut the power and compare: strict recovery passes over nothing."""
    db = rig.store
    db.sync()
    visible = contents(db)
    last = db.engine.log.next_lsn() - 1
    image = rig.power_cut("none")
    again = image.open(recovery=recovery)
    report = again.recovery_report
    assert last == report.last_lsn
    assert report.first_lsn is None or report.operations_scanned == last - report.first_lsn + 1
    found = contents(again)
    wrong = sorted(k for k in visible.keys() | found.keys() if visible.get(k) != found.get(k))
    assert not wrong, f"after {where}: " + ", ".join(
        f"{k}: visible {visible.get(k)!r:.20}, after a reopen {found.get(k)!r:.20}" for k in wrong
    )
    image.release()
