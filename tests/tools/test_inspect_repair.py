"""`wal-inspect repair`: what it says, what it keeps, and that the original is never lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import strandline
from strandline.errors import StoreLockedError
from strandline.recovery import opening
from strandline.tools.check import CheckVerdict, check_store
from strandline.tools.inspect import repair as repair_module
from strandline.tools.inspect.mending import originals as keeping
from strandline.tools.inspect.mending.originals import ORIGINALS_PREFIX, UNFINISHED_SUFFIX
from strandline.wal.lockfile import WriterLock
from strandline.wal.real_disk import RealDisk
from strandline.wal.runtime import SystemRuntime
from tests.api.stores import open_small
from tests.recovery.check_stores import VALUE, fill, flip, frames, segments, state_of
from tests.tools.command import environment
from tests.tools.histories import tear
from tests.tools.inspecting import document, inspect, inspected

Damage = Callable[[Path], None]

LAST: Final = 1200


def rot(store: Path) -> None:
    """Change a byte of a frame in the second segment."""
    second = segments(store)[1]
    flip(second, frames(second)[3] + 80)


def lose(store: Path) -> None:
    """Remove the second segment."""
    segments(store)[1].unlink()


def behead(store: Path) -> None:
    """Change a byte in the header of the second segment."""
    flip(segments(store)[1], 20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was killed, all of it in a log of some segments. Not to be changed."""
    path = tmp_path_factory.mktemp("whole")
    fill(path / "data", path / "crashed")
    return path / "crashed"


@pytest.fixture
def crashed(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "crashed"))


def kept_of(said: dict[str, Any]) -> set[int]:
    """Return the LSNs that a document says are kept."""
    return {n for each in said["kept"] for n in range(each["first_lsn"], each["last_lsn"] + 1)}


def lost_of(said: dict[str, Any]) -> set[int]:
    """Return the LSNs that a document says are given up."""
    return {n for each in said["given_up"] for n in range(each["first_lsn"], each["last_lsn"] + 1)}


def holds(store: Path, lsns: set[int]) -> None:
    """The store is sound, opens as it is, and holds what these LSNs wrote, and nothing else."""
    assert check_store(store).verdict is CheckVerdict.SOUND
    with strandline.open(store, recovery="strict") as db:
        assert {b"key%05d" % (lsn - 1): VALUE for lsn in lsns} == dict(db.items())


def originals(store: Path) -> list[Path]:
    """The copies of what there was before."""
    return sorted((store / "quarantine").glob(f"{ORIGINALS_PREFIX}*"))


def log_of(store: Path) -> dict[str, bytes]:
    """IDENTITY and the segments of a store, or of a copy of them."""
    files = [store / "IDENTITY", *sorted((store / "log").iterdir())]
    return {path.name: path.read_bytes() for path in files}


CASES: Final = [
    pytest.param(tear, "tail", 3, id="torn tail"),
    pytest.param(tear, "salvage", 3, id="torn tail, salvaged"),
    pytest.param(rot, "salvage", 4, id="flipped byte"),
    pytest.param(lose, "salvage", 5, id="missing segment"),
    pytest.param(behead, "salvage", 4, id="lost header"),
]


@pytest.mark.parametrize(("damage", "mode", "status"), CASES)
def test_a_dry_run_says_what_a_repair_then_does(
    damage: Damage, mode: str, status: int, crashed: Path
) -> None:
    """Kept and given up, LSN by LSN: together all that there was; the same twice; sound after."""
    damage(crashed)
    before = state_of(crashed)
    said = document("repair", crashed, "--mode", mode, status=status)
    assert before == state_of(crashed)
    assert said["repaired"] is None
    assert said["needed"]
    kept, lost = kept_of(said), lost_of(said)
    # Frames whose segment lost its header tell themselves where they belong.
    assert lost or damage is behead
    assert not kept & lost
    assert set(range(1, LAST + 1)) == kept | lost

    done = document("repair", crashed, "--mode", mode, "--output", crashed.parent / "new")
    assert before == state_of(crashed)
    assert (kept, lost) == (kept_of(done), lost_of(done))
    assert str(crashed) == done["repaired"]["originals"]
    holds(crashed.parent / "new", kept)

    log = log_of(crashed)
    done = document("repair", crashed, "--mode", mode, "--in-place", "--yes")
    assert (kept, lost) == (kept_of(done), lost_of(done))
    assert [Path(done["repaired"]["originals"])] == originals(crashed)
    assert originals(crashed)[0].suffix != UNFINISHED_SUFFIX
    assert log == log_of(originals(crashed)[0])
    holds(crashed, kept)
    assert {"crashed", "new"} == {each.name for each in crashed.parent.iterdir()}

    again = document("repair", crashed, "--mode", mode, "--in-place", "--yes")
    assert (False, None) == (again["needed"], again["repaired"])
    assert "nothing to repair" in inspected("repair", crashed, "--mode", mode)
    assert len(originals(crashed)) == 1


@pytest.mark.parametrize(("damage", "mode", "status"), CASES)
def test_what_recovery_gave_up_is_what_was_said(
    damage: Damage, mode: str, status: int, crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening's own report names the same LSNs, and its quarantine files are there."""
    damage(crashed)
    reports = []
    real = repair_module._recovered

    def noting(*args: Any, **kwargs: Any) -> Any:
        reports.append(real(*args, **kwargs))
        return reports[-1]

    monkeypatch.setattr(repair_module, "_recovered", noting)
    said = document("repair", crashed, "--mode", mode, "--in-place", "--yes")
    damaged = [each for each in said["given_up"] if each["why"] == "damage"]
    assert [(each["first_lsn"], each["last_lsn"]) for each in damaged] == list(reports[0].given_up)
    assert list(reports[0].quarantined) == said["repaired"]["quarantined"]
    assert all(Path(path).is_file() for path in said["repaired"]["quarantined"])


@pytest.mark.parametrize("how", [[], ["--output", "new"], ["--in-place", "--yes"]])
@pytest.mark.parametrize(("damage", "status"), [(rot, 4), (lose, 5)])
def test_tail_refuses_what_gives_up_more_than_a_tail(
    how: list[str], damage: Damage, status: int, crashed: Path
) -> None:
    """The log's exit status, a word about salvage, and nothing is changed but LOCK."""
    damage(crashed)
    (crashed / "LOCK").unlink()
    before = state_of(crashed)
    how = [str(crashed.parent / each) if each == "new" else each for each in how]
    result = inspect("repair", crashed, "--mode", "tail", *how)
    assert status == result.exit_code
    assert "--mode salvage would keep" in result.stderr
    (crashed / "LOCK").unlink(missing_ok=True)
    assert {**before, str(crashed): None} == {**state_of(crashed), str(crashed): None}
    assert not (crashed.parent / "new").exists()
    said = document("repair", crashed, "--mode", "tail", *how, status=status)
    assert "more is wrong than a torn tail" in said["refused"]


@pytest.mark.parametrize("mode", ["tail", "salvage"])
def test_a_sound_log_is_left_alone(mode: str, crashed: Path) -> None:
    """Status 0 and nothing done, also where --output or --in-place asks for it."""
    before = state_of(crashed)
    for how in ([], ["--output", crashed.parent / "new"], ["--in-place", "--yes"]):
        assert "nothing to repair" in inspected("repair", crashed, "--mode", mode, *how)
    changed = {path for path in before if before[path] != state_of(crashed).get(path)}
    assert changed <= {str(crashed / "LOCK")}
    assert not (crashed.parent / "new").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--mode", "tail", "--in-place"],
        ["--mode", "tail", "--yes"],
        ["--mode", "tail", "--in-place", "--yes", "--output", "x"],
        ["--mode", "all"],
        [],
    ],
)
def test_wrong_use(args: list[str], crashed: Path) -> None:
    """--in-place alone is not enough, and says why; contradictions are refused: status 2."""
    tear(crashed)
    before = state_of(crashed)
    assert inspect("repair", crashed, *args).exit_code == 2
    assert before == state_of(crashed)


def test_a_log_without_its_store(crashed: Path) -> None:
    """It is said what a repair would do; done it is only together with the store."""
    tear(crashed)
    alone = Path(shutil.copytree(crashed / "log", crashed.parent / "alone"))
    segment = segments(crashed)[-1]
    for path in (alone, segment):
        said = document("repair", path, "--mode", "tail", status=3)
        assert [{"first_lsn": LAST, "last_lsn": LAST, "why": "torn-tail"}] == said["given_up"]
        assert said["stored_lsn"] is None
        for how in (["--output", crashed.parent / "new"], ["--in-place", "--yes"]):
            result = inspect("repair", path, "--mode", "tail", *how)
            assert result.exit_code == 1
            assert "repaired together with its store" in result.stderr
    document("repair", crashed / "log", "--mode", "tail", "--in-place", "--yes")
    holds(crashed, set(range(1, LAST)))


def test_places_that_are_refused(crashed: Path) -> None:
    """Nothing is written over, and nothing is made within the store."""
    tear(crashed)
    (crashed.parent / "taken").mkdir()
    before = state_of(crashed.parent)
    for place in ("taken", "crashed/new", "nowhere/new"):
        result = inspect("repair", crashed, "--mode", "tail", "--output", crashed.parent / place)
        assert result.exit_code == 1
    assert before == state_of(crashed.parent)


# ---- writers


@pytest.mark.parametrize("how", [["--output", "new"], ["--in-place", "--yes"]])
def test_beside_a_writer_it_is_refused(how: list[str], tmp_path: Path) -> None:
    """Status 1, the writer is named, and its store goes on."""
    with open_small(tmp_path / "data") as db:
        db[b"k"] = b"v"
        how = [str(tmp_path / each) if each == "new" else each for each in how]
        result = inspect("repair", tmp_path / "data", "--mode", "salvage", *how)
        assert result.exit_code == 1
        assert f"pid {threading.get_native_id()}" in result.stderr or "this very" in result.stderr
        db[b"l"] = b"w"
    assert ["data"] == [each.name for each in tmp_path.iterdir()]


def test_no_writer_comes_between_the_look_and_the_repair(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tries at any step of it is refused, for the lock is held throughout."""
    rot(crashed)
    refused = []

    def trying(real: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any, **kwargs: Any) -> Any:
            with pytest.raises(StoreLockedError):
                WriterLock.acquire(RealDisk(), str(crashed), SystemRuntime())
            refused.append(real)
            return real(*args, **kwargs)

        return tried

    for module, name in (
        (repair_module, "examine"),
        (repair_module, "plan_repair"),
        (repair_module, "keep_originals"),
        (repair_module, "open_locked"),
        (opening, "survey"),
        (opening, "settle"),
        (opening, "sweep_damaged"),
    ):
        monkeypatch.setattr(module, name, trying(getattr(module, name)))
    inspected("repair", crashed, "--mode", "salvage", "--in-place", "--yes")
    assert len(refused) == 7


def test_a_repair_that_fails_lets_go_of_the_lock(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fails, and whatever is wrong with the options of the opening."""
    tear(crashed)
    for name in ("keep_originals", "open_locked"):
        with monkeypatch.context() as patch:
            patch.setattr(repair_module, name, lambda *_, **__: 1 / 0)
            assert inspect("repair", crashed, "--mode", "tail", "--in-place", "--yes").exit_code
        WriterLock.acquire(RealDisk(), str(crashed), SystemRuntime()).close()
    lock = WriterLock.acquire(RealDisk(), str(crashed), SystemRuntime())
    with pytest.raises(strandline.InvalidRequestError):
        opening.open_locked(crashed, lock, no_such_option=1)
    WriterLock.acquire(RealDisk(), str(crashed), SystemRuntime()).close()


def test_a_store_that_is_opened_while_it_is_copied(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is thrown away, also where the writer has gone again by then."""
    tear(crashed)
    real = keeping.copy_store

    def opened(*args: str) -> None:
        real(*args)
        strandline.open(crashed).close()

    monkeypatch.setattr(repair_module, "copy_store", opened)
    result = inspect("repair", crashed, "--mode", "tail", "--output", crashed.parent / "new")
    assert result.exit_code == 1
    assert "opened meanwhile" in result.stderr
    assert ["crashed"] == [each.name for each in crashed.parent.iterdir()]


# ---- what else can be wrong


def test_damage_in_lmdb_is_not_mended(crashed: Path) -> None:
    """Said before anything is touched: a repair of the log is none of LMDB."""
    tear(crashed)
    data = crashed / "store" / "data.mdb"
    with data.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 8192)
    before = state_of(crashed)
    for how in (["--output", crashed.parent / "new"], ["--in-place", "--yes"]):
        result = inspect("repair", crashed, "--mode", "tail", *how)
        assert result.exit_code
        assert "LMDB" in result.stderr or "data.mdb" in result.stderr
    changed = {path for path in before if before[path] != state_of(crashed).get(path)}
    assert changed <= {str(crashed / "LOCK")}
    assert not originals(crashed)


def test_without_identity_nothing_is_done(crashed: Path) -> None:
    """IDENTITY is not made up."""
    tear(crashed)
    (crashed / "IDENTITY").unlink()
    result = inspect("repair", crashed, "--mode", "tail", "--in-place", "--yes")
    assert result.exit_code == 1
    assert "IDENTITY: expected a file, found nothing" in result.stderr
    assert not originals(crashed)


def test_a_segment_of_another_store_is_not_repaired(crashed: Path, tmp_path: Path) -> None:
    """Foreign: status 6, in either mode."""
    fill(tmp_path / "other", tmp_path / "other-crashed")
    shutil.copy(segments(tmp_path / "other-crashed")[1], segments(crashed)[1])
    for mode in ("tail", "salvage"):
        assert inspect("repair", crashed, "--mode", mode).exit_code == 6
        result = inspect("repair", crashed, "--mode", mode, "--in-place", "--yes")
        assert result.exit_code == 6
    assert not originals(crashed)


def test_a_full_disk_is_noticed_before_anything_is_done(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the log and room for a segment must fit; if not, nothing has changed."""
    tear(crashed)
    monkeypatch.setattr(RealDisk, "free_bytes", lambda *_: 1 << 20)
    for how in (["--output", crashed.parent / "new"], ["--in-place", "--yes"]):
        result = inspect("repair", crashed, "--mode", "tail", *how)
        assert result.exit_code == 1
        assert "nothing was changed" in result.stderr
    assert not originals(crashed)
    assert not (crashed.parent / "new").exists()


def test_copies_are_copies(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files than the originals, which recovery writes over; by hand where need be."""
    tear(crashed)
    inodes = {path.stat().st_ino for path in crashed.rglob("*")}
    log = log_of(crashed)
    inspected("repair", crashed, "--mode", "tail", "--output", crashed.parent / "new")
    assert not inodes & {path.stat().st_ino for path in (crashed.parent / "new").rglob("*")}

    def unable(*_: object) -> int:
        raise OSError(95, "not supported")

    monkeypatch.setattr("os.copy_file_range", unable)
    inspected("repair", crashed, "--mode", "tail", "--in-place", "--yes")
    assert log == log_of(originals(crashed)[0])
    assert not inodes & {path.stat().st_ino for path in originals(crashed)[0].rglob("*")}


def test_the_originals_are_in_nobodys_way(crashed: Path) -> None:
    """Openings leave them alone, `check` counts them, and `wal-inspect` reads them."""
    rot(crashed)
    inspected("repair", crashed, "--mode", "salvage", "--in-place", "--yes")
    kept = log_of(originals(crashed)[0])
    with strandline.open(crashed) as db:
        db[b"more"] = b"v"
    assert kept == log_of(originals(crashed)[0])
    notes = check_store(crashed).notes
    assert any(f"{len(kept) + 1} files" in note for note in notes), notes
    said = document("verify", originals(crashed)[0], status=4)
    assert "log-damage" == said["verdict"]


# ---- cut short


_KILLED: Final = """
import os, signal, sys
steps = int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global steps
        steps -= 1
        if not steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("fsync", "rename", "replace", "unlink", "mkdir", "fdatasync", "copy_file_range"):
    setattr(os, name, counted(getattr(os, name)))
from strandline.wal import real_disk
real_disk._sync_data = counted(real_disk._sync_data)
sys.argv = ["wal-inspect", "repair", sys.argv[1], "--mode", "salvage", "--in-place", "--yes"]
from strandline.tools.inspect.main import run
run()
"""


def killed_at(step: int, store: Path) -> bool:
    """Repair a store in a process that is killed at a step; tell whether it got that far."""
    result = subprocess.run(
        [sys.executable, "-c", _KILLED, str(store), str(step)],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert result.returncode in (0, -9), result.stderr
    return result.returncode == -9


def cut_short(step: int, crashed: Path) -> bool:
    """Kill a repair at a step, look at what is left, and repair that; False behind the last."""
    log = log_of(crashed)
    status = inspect("ls", crashed).exit_code
    kept = kept_of(document("repair", crashed, "--mode", "salvage", status=status))
    if not killed_at(step, crashed):
        holds(crashed, kept)
        return False
    copies = [path for path in originals(crashed) if path.suffix != UNFINISHED_SUFFIX]
    assert log in [log_of(crashed), *map(log_of, copies)]
    said = document("repair", crashed, "--mode", "salvage", "--in-place", "--yes")
    assert said["status"] == 0
    assert not list((crashed / "quarantine").glob(f"*{UNFINISHED_SUFFIX}"))
    holds(crashed, kept)
    return True


@pytest.mark.parametrize("step", [3, 10, 17, 24, 31, 38, 45])
def test_a_repair_that_is_killed_can_be_done_again(step: int, crashed: Path) -> None:
    """At whatever step: the original is whole, and what was to be kept is there after another."""
    rot(crashed)
    assert cut_short(step, crashed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", [rot, lose, behead])
def test_a_repair_that_is_killed_anywhere(damage: Damage, whole: Path, tmp_path: Path) -> None:
    """The same at every step of it."""
    for step in range(1, 1000):
        store = Path(shutil.copytree(whole, tmp_path / f"at-{step}"))
        damage(store)
        if not cut_short(step, store):
            break
        shutil.rmtree(store)
    assert step > 40
