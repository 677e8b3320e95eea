"""A whole store, damaged in every place: each byte flipped, each file cut at each length.

Whatever is damaged, opening and reading the store gives a prefix of what was written, or an
error that says which file it is. Never a value that was not written for its key, never a
hang, never a signal. The default run takes samples, the one marked slow leaves nothing out.

What one read of LMDB cannot see is that a key is missing or an older value is in its place;
with check="always" that is an error too. Without it, and after a clean end, LMDB itself is
trusted as it is, so only the rest of a store that was closed is damaged here without it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

import strandline
from strandline import Durability, Store
from strandline.wal.format import SEGMENT_HEADER_BYTES, decode_segment_header, segment_name
from tests.api.stores import Never
from tests.support import children
from tests.support.children import Outcome

Content = dict[str, dict[Any, Any]]
Commit = list[tuple[str, Any, Any]]
T = TypeVar("T")

ERRORS = {
    "LogCorruptionError",
    "LogGapError",
    "StoreCorruptionError",
    "ForeignStoreError",
}
OPTIONS: dict[str, Any] = {
    "segment_bytes": 1 << 16,
    "group_bytes": 1 << 12,
    "max_log_bytes": 1 << 20,
    "disk_reserve_bytes": 0,
    "flush_strategy": Never(),
}
FLUSHED = 19
"""After this many commits everything was brought to LMDB."""


def commits() -> list[Commit]:
    """Return what is written: overwritten keys, deletes, batches over tables, a large value.

    A few keys are written once, before the flush: after a kill only LMDB can give those.
    """
    made: list[Commit] = []
    for n in range(28):
        key, value = b"key%d" % (n % 9), b"value %d " % n + b"." * (n * 5 % 40)
        made.append([("", key, value)])
        if n < 5:
            made.append([("", b"once%d" % n, value * 8)])
        if n % 5 == 2:
            made.append([("", b"key%d" % (n % 9 - 1), None)])
        if n % 4 == 1:
            made.append([("", b"pair", value), ("json", f"pair{n % 3}", [n]), ("", key, value)])
    made.insert(25, [("", b"large", b"L" * 6000)])
    return made


def states() -> list[tuple[int, Content]]:
    """Return the LSN and the content after each commit; the first LSN made the table."""
    lsn, content = 1, Content({"": {}, "json": {}})
    found = [(lsn, {name: dict(table) for name, table in content.items()})]
    for commit in [*commits(), [("", b"last", b"sync")], [("", b"last", None)]]:
        for table, key, value in commit:
            lsn += 1
            if value is None:
                content[table].pop(key, None)
            else:
                content[table][key] = value
        found.append((lsn, {name: dict(table) for name, table in content.items()}))
    return found


STATES = states()
EVERYTHING = STATES[-1][1]


def write(path: Path) -> Store:
    """Make all commits, at every level, with a flush half-way; leave the store open."""
    db = strandline.open(path, **OPTIONS)
    db.table("json", codec="json")
    for number, commit in enumerate(commits()):
        with db.batch(durability=list(Durability)[number % 3]) as batch:
            for name, key, value in commit:
                table = batch.table(db.table(name))
                table.delete(key) if value is None else table.put(key, value)
        if number == FLUSHED:
            db.flush()
    db.put(b"last", b"sync")
    db.delete(b"last")
    return db


class Variant(NamedTuple):
    """A store as it was left, and the place where damaged copies of it are looked at."""

    name: str
    path: Path
    scratch: Path


def make(directory: Path, name: str) -> Variant:
    """Let a child write a store, and end as the name says."""
    path = directory / name

    def work() -> None:
        db = write(path)
        if name == "closed":
            db.close()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    assert children.run(work).signal == (0 if name == "closed" else signal.SIGKILL)
    return Variant(name, path, directory / "scratch")


@pytest.fixture(scope="module", params=["closed", "killed"])
def variant(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Variant:
    """A store that was closed, and one whose process was killed."""
    return make(tmp_path_factory.mktemp("damage"), request.param)


# ---- what is damaged


class Damage(NamedTuple):
    """One thing done to one file."""

    file: str
    kind: str
    offset: int
    bit: int = 0

    def inflict(self, store: Path) -> None:
        path = store / self.file
        if self.kind == "cut":
            os.truncate(path, self.offset)
            return
        data = bytearray(path.read_bytes())
        data[self.offset] ^= 1 << self.bit
        path.write_bytes(data)


def used(path: Path) -> int:
    """Return how much of a file means anything: of a segment, what is not zeros at its end."""
    data = path.read_bytes()
    if path.suffix != ".wal":
        return len(data)
    header = decode_segment_header(data)
    if header is None or path.name != segment_name(header.segment_id):
        return min(len(data), 64)
    return min(len(data), len(data.rstrip(b"\0")) + 16)


def places(store: Path, pattern: str) -> list[tuple[str, int]]:
    """Return every byte that can be damaged, as file and offset.

    Of the gap in a segment's header, and of the zeros in LMDB's pages that have nothing but
    zeros around them, a few stand for all.
    """
    found = []
    for path in sorted(store.glob(pattern)):
        name = str(path.relative_to(store))
        data = path.read_bytes()
        for offset in range(used(path)):
            around = data[max(0, offset - 8) : offset + 9]
            if path.suffix == ".mdb" and not any(around) and offset % 512:
                continue
            if path.suffix == ".wal" and 120 < offset < SEGMENT_HEADER_BYTES - 8 and offset % 512:
                continue
            found.append((name, offset))
    return found


def damages(store: Path, pattern: str, kind: str, sample: int | None) -> list[Damage]:
    """Return flips or cuts of the files that match, all or a sample that is always the same."""
    choose = random.Random(f"{pattern}/{kind}")
    every = [Damage(name, kind, offset, choose.randrange(8)) for name, offset in
             places(store, pattern)]  # fmt: skip
    return every if sample is None else choose.sample(every, min(sample, len(every)))


# ---- what is left


class Left(NamedTuple):
    """What an opened store held and said of itself; of a read that failed, how it failed."""

    scanned: Content | Outcome
    got: Content | Outcome
    last_lsn: int
    summary: str
    works: bool | Outcome


def attempt(read: Callable[[], T]) -> T | Outcome:
    """Return what a read gives, or how it fails."""
    try:
        return read()
    except strandline.StrandlineError as error:
        return Outcome(error=type(error).__name__, message=str(error))


def look(variant: Variant, damage: Damage, options: dict[str, Any]) -> Callable[[], Left]:
    """Return what a child does: damage a copy, open it, read it, write to it, open it again."""

    def task() -> Left:
        shutil.rmtree(variant.scratch, ignore_errors=True)
        shutil.copytree(variant.path, variant.scratch)
        damage.inflict(variant.scratch)
        with strandline.open(variant.scratch, **OPTIONS, **options) as db:
            names = ["", *db.tables()]
            scanned = attempt(lambda: {name: dict(db.table(name).scan()) for name in names})
            got = attempt(
                lambda: {
                    name: {k: v for k in EVERYTHING[name] if (v := table.get(k)) is not None}
                    for name, table in ((name, db.table(name)) for name in names)
                }
            )
            report = db.recovery_report
            db[b"afterwards"] = b"goes on"
        works: bool | Outcome = False
        if not isinstance(scanned, Outcome):
            works = attempt(lambda: go_on(variant.scratch, scanned[""]))
        return Left(scanned, got, report.last_lsn, report.summary(), works)

    return task


def go_on(path: Path, content: dict[Any, Any]) -> bool:
    """Open a store once more; tell whether it has what it had, and what was written since."""
    with strandline.open(path, **OPTIONS) as again:
        return again.pop(b"afterwards") == b"goes on" and content == dict(again)


def outcomes(
    variant: Variant, every: list[Damage], **options: Any
) -> Iterator[tuple[Damage, Outcome]]:
    """Yield each damage with what came of it."""
    tasks = [look(variant, damage, options) for damage in every]
    yield from zip(every, children.run_all(tasks, 90), strict=True)


def check_error(damage: Damage, outcome: Outcome) -> None:
    """An error is one of corruption, and names a file of the store and what to do."""
    assert not outcome.signal, f"{damage}: the process was ended by signal {outcome.signal}"
    assert outcome.error in ERRORS, f"{damage}: {outcome.error}: {outcome.message}"
    assert "/scratch" in outcome.message, f"{damage}: {outcome.message}"
    next_step = ("restore", "Restore", "repair", "open ", "put this store's own")
    assert any(words in outcome.message for words in next_step), outcome.message


def check_prefix(damage: Damage, left: Left, at_least: int) -> None:
    """What is there is what the commits up to the recovered LSN made, and the store works on."""
    where = f"{damage}: {left.summary}"
    assert left.last_lsn >= at_least, where
    assert not isinstance(left.scanned, Outcome), where
    index = max(i for i, (lsn, _) in enumerate(STATES) if lsn <= max(left.last_lsn, 1))
    assert STATES[index][1] == left.scanned, where
    expected = {
        name: {k: table[k] for k in EVERYTHING[name] if k in table}
        for name, table in left.scanned.items()
    }
    assert expected == left.got, where
    assert left.works is True, f"{where}: {left.works}"


STORED_LSN = STATES[FLUSHED + 1][0]


def damage_log(variant: Variant, kind: str, sample: int | None) -> tuple[int, int]:
    """Damage the log everywhere; return how often it opened and how often it was refused."""
    # Closed in order, everything is in LMDB, and no damage to the log can take it away.
    least = STATES[-1][0] if variant.name == "closed" else STORED_LSN
    opened = refused = 0
    for damage, outcome in outcomes(variant, damages(variant.path, "log/*.wal", kind, sample)):
        if outcome.value is None:
            refused += 1
            check_error(damage, outcome)
        else:
            opened += 1
            check_prefix(damage, outcome.value, least)
    return opened, refused


def damage_lmdb(variant: Variant, kind: str, sample: int | None) -> tuple[int, int]:
    """Damage data.mdb everywhere, with the check that sees everything where there is no other."""
    options = {"check": "always"} if variant.name == "closed" else {}
    opened = refused = 0
    every = damages(variant.path, "store/data.mdb", kind, sample)
    for damage, outcome in outcomes(variant, every, **options):
        if outcome.value is None:
            refused += 1
            check_error(damage, outcome)
            continue
        opened += 1
        left: Left = outcome.value
        if isinstance(left.scanned, Outcome):
            check_error(damage, left.scanned)
        else:
            assert EVERYTHING == left.scanned, f"{damage}: {left.summary}"
            assert EVERYTHING == left.got, f"{damage}: {left.summary}"
            assert left.works is True, f"{damage}: {left.works}"
        if isinstance(left.got, Outcome):
            check_error(damage, left.got)
        else:
            # A key that is damaged is missing for a get; only a scan comes upon it.
            for name, table in left.got.items():
                assert table.items() <= EVERYTHING[name].items(), f"{damage}: a wrong value"
    return opened, refused


def damage_rest(variant: Variant, kind: str, sample: int | None) -> None:
    """IDENTITY is believed whole or not at all; of LOCK and lock.mdb nothing is believed."""
    for damage, outcome in outcomes(variant, damages(variant.path, "IDENTITY", kind, None)):
        check_error(damage, outcome)
        assert "IDENTITY" in outcome.message
        assert outcome.error in ("StoreCorruptionError", "ForeignStoreError")
    for pattern in ("LOCK", "store/lock.mdb"):
        every = damages(variant.path, pattern, kind, sample)
        for damage, outcome in outcomes(variant, every):
            assert EVERYTHING == outcome.unwrap().scanned, damage


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_samples_of_the_log(variant: Variant, kind: str) -> None:
    """A damaged log ends earlier or is refused; what is in LMDB stays."""
    opened, _ = damage_log(variant, kind, 60 if variant.name == "closed" else 35)
    assert opened


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_samples_of_lmdb(variant: Variant, kind: str) -> None:
    """Damage to LMDB's file is found, or met nothing that is in use."""
    damage_lmdb(variant, kind, 25)


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_the_small_files(variant: Variant, kind: str) -> None:
    """IDENTITY, LOCK and LMDB's lock file."""
    damage_rest(variant, kind, 6)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_everything(variant: Variant, kind: str) -> None:
    """Every byte of the log and of the small files, and every eighth of LMDB's."""
    opened, refused = damage_log(variant, kind, None)
    assert opened
    assert refused or variant.name == "closed"  # there LMDB has all that the log says
    damage_rest(variant, kind, None)
    damage_lmdb(variant, kind, len(places(variant.path, "store/data.mdb")) // 8)
