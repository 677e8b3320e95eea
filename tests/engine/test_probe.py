"""Looking at an environment before it is trusted: damage is found, and never ends the caller."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from strandline.engine import data_file
from strandline.engine import probe as probing
from strandline.engine.backing import Backing, TableRow, Watermark
from strandline.engine.probe import examine, look, probe
from strandline.engine.records import Entry, encode
from strandline.errors import ForeignStoreError, StoreCorruptionError, StrandlineError
from strandline.options import Options
from tests.engine.environments import put_slice

OPTIONS = Options(map_bytes=1 << 28)
UUID = bytes(range(16))
PAGE = 4096

State = dict[int, dict[bytes, bytes]]


def build(path: str) -> State:
    """Make a store with a table of short values and one of long ones, rewritten many times."""
    rng = random.Random(5)
    backing = Backing.create(path, UUID, 1, OPTIONS)
    state: State = {1: {}, 2: {}}
    for lsn in range(1, 12):
        with backing.checkpoint() as checkpoint:
            if lsn == 1:
                checkpoint.create_table(TableRow(2, "long", "bytes", True))
            for table_id, table in state.items():
                change: dict[bytes, bytes | None] = {}
                for _ in range(300 if table_id == 1 else 12):
                    length = rng.choice([10, 100]) if table_id == 1 else rng.choice([900, 20_000])
                    value = None if rng.random() < 0.2 else rng.randbytes(length)
                    change[b"%d-%d" % (table_id, rng.randrange(2000))] = value
                keys = sorted(change)
                entries: list[Entry] = [(lsn, change[key], None) for key in keys]
                put_slice(checkpoint, table_id, keys, entries)
                for key, value in change.items():
                    table.pop(key, None)
                    if value is not None:
                        table[key] = value
            checkpoint.commit(Watermark(UUID, 1, lsn))
    backing.close()
    return state


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, State]:
    """A sound store, not to be changed, and what it holds."""
    path = str(tmp_path_factory.mktemp("sound") / "store")
    return path, build(path)


@pytest.fixture
def copy(sound: tuple[str, State], tmp_path: Path) -> str:
    """A copy of the sound store, to be damaged."""
    path = str(tmp_path / "store")
    shutil.copytree(sound[0], path)
    return path


def change(path: str, edit: Callable[[bytearray], object]) -> None:
    """Change the bytes of a data file."""
    file = Path(path, "data.mdb")
    data = bytearray(file.read_bytes())
    edit(data)
    file.write_bytes(data)


def test_a_sound_store_is_found_sound(sound: tuple[str, State]) -> None:
    """Nothing is found, and what is there is counted, with and without values."""
    path, state = sound
    entries = sum(map(len, state.values()))
    for values in (False, True):
        result = probe(path, values)
        assert (result.tables, result.entries, result.findings) == (2, entries, ())
        assert result.file_bytes == os.path.getsize(os.path.join(path, "data.mdb"))
        assert result.values_checked == values


def test_looking_changes_nothing(sound: tuple[str, State]) -> None:
    """Neither the data file nor the lock file is written to, and none is made."""
    path = sound[0]

    def seen() -> dict[str, tuple[int, int, int]]:
        states = {name: os.stat(os.path.join(path, name)) for name in sorted(os.listdir(path))}
        return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in states.items()}

    before = seen()
    probe(path, values=True)
    assert seen() == before


def test_a_short_file_whose_missing_pages_are_free_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB leaves pages unwritten that one transaction took and freed: that is no damage."""
    path = str(tmp_path / "store")
    backing = Backing.create(path, UUID, 1, OPTIONS)
    keys = [b"%03d" % number for number in range(300)]
    with monkeypatch.context() as patch:
        # As if the process had died just behind the last commit.
        patch.setattr(data_file, "extend", lambda *_: None)
        for present in (200, 0, 1, 1, 300):
            with backing.checkpoint() as checkpoint:
                some = keys[:present]
                put_slice(checkpoint, 1, some, [(1, bytes(5000), None) for _ in some])
                if present != 200:
                    put_slice(checkpoint, 1, keys, [(1, None, None) for _ in keys])
                checkpoint.commit(Watermark(UUID, 1, 1))
        backing.close()
    seen = data_file.look(path)
    assert seen.file_bytes < seen.stated_bytes
    assert probe(path, values=False).findings == ()
    Backing.open(path, OPTIONS).close()
    assert data_file.look(path).file_bytes == seen.stated_bytes


def test_a_file_that_lost_its_end_is_refused_at_every_start(copy: str) -> None:
    """A truncated file is found by opening alone, also after a clean close."""
    change(copy, lambda data: data.__delitem__(slice(len(data) - 20 * PAGE, None)))
    with pytest.raises(StoreCorruptionError, match=r"data\.mdb.*strandline check"):
        Backing.open(copy, OPTIONS)


# ---- single findings


def test_a_changed_value_is_found_when_values_are_asked_for(
    copy: str, sound: tuple[str, State]
) -> None:
    """Checksums are looked at with values=True, and each bad one is a finding with its key."""
    bad = {key: value for key, value in list(sound[1][1].items())[:3] if len(value) >= 10}

    def edit(data: bytearray) -> None:
        for value in bad.values():
            # Pages that were written anew have left copies behind.
            at = data.find(value)
            while at >= 0:
                data[at + 5] ^= 0x10
                at = data.find(value, at)

    change(copy, edit)
    assert examine(copy, values=False).findings == ()
    findings = examine(copy, values=True).findings
    assert len(findings) == len(bad)
    assert all(any(repr(key) in finding for finding in findings) for key in bad)
    with pytest.raises(StoreCorruptionError, match=f"and {len(bad) - 1} more"):
        probe(copy, values=True)


def test_keys_out_of_order_are_found(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged key that breaks the order of its tree is found by both ways of walking it."""
    backing = Backing.open(copy, OPTIONS)
    with backing.checkpoint() as checkpoint:
        keys = [b"order-%d" % number for number in range(9)]
        put_slice(checkpoint, 1, keys, [(1, b"v", None) for _ in keys])
        checkpoint.commit(Watermark(UUID, 1, 99))
    backing.close()

    def edit(data: bytearray) -> None:
        at = data.index(b"order-4")
        while at >= 0:
            data[at : at + 1] = b"\xff"
            at = data.find(b"order-4", at)

    change(copy, edit)
    assert "out of order" in examine(copy, values=False).findings[0]
    monkeypatch.setattr(probing, "VERIFY_LIMIT", 0)
    findings = [item for report in look(copy, values=False) for item in report.get("findings", [])]
    assert "expected keys in order" in findings[0]


def tamper(path: str, key: bytes, record: bytes | None) -> None:
    """Change one record of the default table as no checkpoint would."""
    with lmdb.open(path, max_dbs=20) as env:
        handle = env.open_db(b"t1", create=False)
        with env.begin(write=True) as txn:
            if record is None:
                txn.delete(key, db=handle)
            else:
                txn.put(key, record, db=handle)


def test_a_count_that_does_not_fit_is_found(copy: str, sound: tuple[str, State]) -> None:
    """A tree that is sound and holds fewer keys than were committed is damage."""
    tamper(copy, next(iter(sound[1][1])), None)
    expected = len(sound[1][1])
    with pytest.raises(StoreCorruptionError, match=f"expected {expected} entries"):
        probe(copy, values=False)


def test_a_newer_format_is_foreign_and_not_damaged(copy: str) -> None:
    """What a newer version wrote is reported as that."""
    with lmdb.open(copy, max_dbs=20) as env:
        handle = env.open_db(b"meta", create=False)
        with env.begin(write=True) as txn:
            txn.put(b"format", encode(0, b"format", 0, b"\x09\0\0\0"), db=handle)
    with pytest.raises(ForeignStoreError, match="expected store format 1, found 9"):
        probe(copy, values=False)


def test_no_environment_at_all_is_a_finding(tmp_path: Path) -> None:
    """A missing data file is an error of the same kind."""
    with pytest.raises(StoreCorruptionError, match="found nothing"):
        probe(str(tmp_path), values=False)


# ---- the child


def test_progress_is_reported(sound: tuple[str, State], monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback gets the numbers that the child sends, in order."""
    monkeypatch.setattr(
        probing,
        "_START",
        'print(\'{"walked": 1, "of": 3}\\n{"walked": 3, "of": 3}\\n\'\n'
        '\'{"tables": 1, "entries": 3, "done": true}\')',
    )
    told: list[tuple[int, int]] = []
    result = probe(sound[0], values=False, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (3, 3)]
    assert (result.tables, result.entries) == (1, 3)


@pytest.mark.parametrize(
    ("program", "finding"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGBUS)", f"by signal {signal.SIGBUS:d}"),
        ("import os; os.write(2, b'assertion failed'); os.abort()", "assertion failed"),
        ("raise SystemExit(3)", "with status 3"),
        ("print('{}')", "with status 0"),
        ("import time; time.sleep(60)", "no progress for 0 s"),
        ("while True: pass", "no progress for 0 s"),
    ],
)
def test_a_child_that_does_not_come_to_its_end_is_a_finding(
    sound: tuple[str, State], monkeypatch: pytest.MonkeyPatch, program: str, finding: str
) -> None:
    """Signals, failures, silence and hanging all become a StoreCorruptionError, in time."""
    monkeypatch.setattr(probing, "_START", program)
    monkeypatch.setattr(probing, "_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(probing, "_SLOWEST_BYTES_PER_SECOND", 1 << 40)
    if finding.startswith("with") or "signal" in program or "abort" in program:
        monkeypatch.setattr(probing, "_SILENCE_SECONDS", 30.0)
    with pytest.raises(StoreCorruptionError, match=finding):
        probe(sound[0], values=False)


@pytest.mark.parametrize("reason", ["frozen", "embedded", "no processes"])
def test_without_a_child_the_verifier_looks_alone(
    sound: tuple[str, State], copy: str, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Where no interpreter can be started, structural damage is found all the same."""
    if reason == "frozen":
        monkeypatch.setattr(probing.sys, "frozen", True, raising=False)  # type: ignore[attr-defined]
    elif reason == "embedded":
        monkeypatch.setattr(probing.sys, "executable", "/usr/bin/uwsgi")  # type: ignore[attr-defined]
    else:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(11, "resource temporarily unavailable")

        monkeypatch.setattr(probing.subprocess, "Popen", refuse)  # type: ignore[attr-defined]
    result = probe(sound[0], values=True)
    assert (result.findings, result.values_checked) == ((), False)
    change(copy, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    with pytest.raises(StoreCorruptionError):
        probe(copy, values=True)


# ---- damage of every kind


def flip(rng: random.Random, data: bytearray) -> None:
    """Change one bit."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero(rng: random.Random, data: bytearray) -> None:
    """Fill a page with zeros."""
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def cut(rng: random.Random, data: bytearray) -> None:
    """Cut the end off."""
    del data[rng.randrange(len(data)) :]


def header_noise(rng: random.Random, data: bytearray) -> None:
    """Change four bytes in a page's header."""
    at = rng.randrange(len(data) // PAGE) * PAGE + rng.choice([0, 8, 10, 12, 16])
    data[at : at + 4] = rng.randbytes(4)


def misdirect(rng: random.Random, data: bytearray) -> None:
    """Write a page in another one's place."""
    source, target = (rng.randrange(len(data) // PAGE) * PAGE for _ in range(2))
    data[target : target + PAGE] = data[source : source + PAGE]


KINDS = [flip, zero, cut, header_noise, misdirect]


def use(path: str, state: State) -> int:
    """Open a store, read and rewrite all of it; return 1 if anything came back wrong."""
    try:
        backing = Backing.open(path, OPTIONS)
        snapshot = backing.begin_snapshot()
    except StrandlineError:
        return 0
    for table_id, table in state.items():
        for key, value in table.items():
            try:
                if backing.view.get(table_id, key) not in (value, None):
                    return 1
            except StrandlineError:
                pass
        try:
            for key, value in snapshot.chunk(table_id, None, None, reverse=False, limit=1 << 20):
                if table.get(key) != value:
                    return 1
        except StrandlineError:
            pass
    snapshot.close()
    try:
        for table_id, table in state.items():
            with backing.checkpoint() as checkpoint:
                keys = sorted(table)
                put_slice(checkpoint, table_id, keys, [(50, b"new", None) for _ in keys])
                put_slice(checkpoint, table_id, keys[::2], [(51, None, None) for _ in keys[::2]])
                checkpoint.commit(Watermark(UUID, 1, 51))
    except (StrandlineError, OSError):
        pass
    backing.close()
    return 0


def in_child(action: Callable[[], int]) -> int:
    """Run something that may end the process in a fork; return the exit code or -signal."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = action()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def damages(count: int) -> Iterator[tuple[Callable[[random.Random, bytearray], None], int]]:
    """Yield `count` damages of each kind: how, and with which seed."""
    for kind in KINDS:
        for seed in range(count):
            yield kind, seed


@pytest.mark.parametrize(
    "count", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_damage_is_found_or_harmless(count: int, sound: tuple[str, State], tmp_path: Path) -> None:
    """Damage is found, or a process that trusts the store lives and reads no wrong value."""
    path, state = sound
    copy = str(tmp_path / "store")
    found = 0
    for kind, seed in damages(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        change(copy, lambda data, k=kind, s=seed: k(random.Random(s), data))  # type: ignore[misc]
        if examine(copy, values=False).findings:
            found += 1
            continue
        status = in_child(lambda: use(copy, state))
        assert status == 0, f"{kind.__name__} with seed {seed} ended with {status}"
    assert found >= count
