"""Paths that hold something else, or a store whose parts do not fit: refused, and left alone."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import strandline
from strandline import (
    Durability,
    ForeignStoreError,
    InvalidRequestError,
    LogGapError,
    StoreCorruptionError,
    StoreLockedError,
)
from strandline.wal.checksum import crc32c
from strandline.wal.format import decode_segment_header, segment_name
from tests.api.stores import TINY, Never, open_small
from tests.support import children

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def contents(path: Path) -> dict[str, Any]:
    """Return everything below a directory: bytes and modification times of files, names of dirs."""
    return {
        str(each.relative_to(path)): (
            None if each.is_dir() else (each.read_bytes(), each.stat().st_mtime_ns)
        )
        for each in sorted(path.rglob("*"))
    }


def refused_to_open(path: Path, error: type[Exception], *said: str) -> None:
    """Expect that opening raises `error`, that it says `said`, and that nothing is left locked."""
    with pytest.raises(error) as caught:
        strandline.open(path, disk_reserve_bytes=0)
    assert type(caught.value) is error
    for words in said:
        assert words in str(caught.value)


def fill(path: Path, count: int, start: int = 0) -> None:
    """Put `count` items of 1 kB into a log of small segments, without a checkpoint."""
    options = {**TINY, "max_log_bytes": 1 << 24, "max_dirty_bytes": 1 << 24}
    db = strandline.open(path, **options, flush_strategy=Never(), durability=Durability.ASYNC)
    for n in range(start, start + count):
        db[b"%04d" % n] = b"%04d" % n * 250
    db.close(drain=False)


def holds(path: Path, count: int) -> None:
    """Expect a store that opens and holds the first `count` items and nothing else."""
    with open_small(path) as db:
        assert [b"%04d" % n for n in range(count)] == list(db)
        assert all(key * 250 == value for key, value in db.items())


# ---- something else is there


def test_a_file_is_no_store(tmp_path: Path) -> None:
    """A path that is a file is refused, and so is a place below one."""
    file = tmp_path / "file"
    file.write_text("mine")
    refused_to_open(file, ForeignStoreError, str(file), "found a file", "another path")
    refused_to_open(file / "store", InvalidRequestError, "is a file")
    assert file.read_text() == "mine"


def test_a_link_that_leads_nowhere_is_no_store(tmp_path: Path) -> None:
    """Nothing is made at the other end of a symbolic link."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    refused_to_open(link, ForeignStoreError, "found a link")
    assert not (tmp_path / "nowhere").exists()


def test_the_directory_above_must_exist(tmp_path: Path) -> None:
    """Only the store's own directory is made."""
    refused_to_open(tmp_path / "a" / "b", InvalidRequestError, "does not exist", "create it")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["notes.txt"], [".git/HEAD", "src/a.py"], ["data.mdb"]])
def test_a_directory_of_something_else(tmp_path: Path, names: list[str]) -> None:
    """A directory that is no store is refused and nothing is written into it."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    refused_to_open(tmp_path, ForeignStoreError, names[0].split("/")[0], "nothing was changed")
    assert before == contents(tmp_path)


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    """What is empty may be used, and what a creation that was cut short left behind."""
    (tmp_path / "LOCK").touch()
    (tmp_path / "store.new").mkdir()
    (tmp_path / "store.new" / "data.mdb").write_bytes(b"half")
    fill(tmp_path, 3)
    holds(tmp_path, 3)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """What somebody put beside a store's own files does not disturb it and is not touched."""
    fill(tmp_path, 3)
    strangers = [".DS_Store", "log/README", "log/1.wal", "log/0000000000000001.wal.bak", "store/x"]
    for name in strangers:
        (tmp_path / name).write_text("mine")
    holds(tmp_path, 3)
    assert ["mine"] * len(strangers) == [(tmp_path / name).read_text() for name in strangers]


def test_identity_of_something_else(tmp_path: Path) -> None:
    """A file named IDENTITY that is not ours makes the directory foreign."""
    (tmp_path / "IDENTITY").write_text("somebody's private key, 1234567890")
    refused_to_open(tmp_path, ForeignStoreError, "IDENTITY", "offset 0", "expected magic")
    assert (tmp_path / "IDENTITY").read_text().startswith("somebody's")


# ---- newer formats


def with_crc(body: bytes) -> bytes:
    """Return a body with its CRC behind it."""
    return body + struct.pack("<I", crc32c(body))


def test_a_newer_identity(tmp_path: Path) -> None:
    """A valid IDENTITY of version 2 is a newer store, not a damaged one; it stays as it is."""
    fill(tmp_path, 3)
    file = tmp_path / "IDENTITY"
    old = file.read_bytes()
    newer = with_crc(old[:8] + struct.pack("<I", 2) + old[12:-4])
    file.write_bytes(newer)
    refused_to_open(
        tmp_path, ForeignStoreError, str(file), "version 1, found 2", "offset 8", "release"
    )
    assert newer == file.read_bytes()
    file.write_bytes(old)
    holds(tmp_path, 3)


def test_a_newer_segment(tmp_path: Path) -> None:
    """A valid segment header of version 2 is a newer log, in every mode of recovery."""
    fill(tmp_path, 3)
    file = tmp_path / "log" / "0000000000000001.wal"
    old = file.read_bytes()
    file.write_bytes(with_crc(old[:8] + struct.pack("<I", 2) + old[12:4092]) + old[4096:])
    for mode in ("tolerate-torn-tail", "strict", "point-in-time", "salvage"):
        with pytest.raises(ForeignStoreError) as caught:
            strandline.open(tmp_path, recovery=mode, disk_reserve_bytes=0)
        for words in (str(file), "offset 0", "found version 2", "release"):
            assert words in str(caught.value)
    file.write_bytes(old)
    holds(tmp_path, 3)


# ---- parts that do not fit


@pytest.fixture
def two_copies(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An early and a late copy of one store; between them the log was given back."""
    path = tmp_path / "live"
    fill(path, 200)
    shutil.copytree(path, tmp_path / "early")
    with strandline.open(path, **TINY) as db:
        for n in range(200, 400):
            db[b"%04d" % n] = b"%04d" % n * 250
        db.flush()
    shutil.copytree(path, tmp_path / "late")
    yield tmp_path / "early", tmp_path / "late"
    holds(path, 400)


def replace(part: str, source: Path, target: Path) -> None:
    """Put a part of one store into another."""
    shutil.rmtree(target / part)
    shutil.copytree(source / part, target / part)


def test_a_new_store_with_an_old_log(two_copies: tuple[Path, Path]) -> None:
    """LMDB that is ahead of the log is refused: LSNs would be issued twice."""
    early, late = two_copies
    replace("store", late, early)
    refused_to_open(early, StoreCorruptionError, "watermark", "400", "do not fit", "same backup")


def test_an_old_store_with_a_new_log(two_copies: tuple[Path, Path]) -> None:
    """A log whose beginning was given back does not continue an old LMDB."""
    early, late = two_copies
    replace("store", early, late)
    refused_to_open(late, LogGapError, "log", "expected", "LSN 1", "Restore a backup")


def test_parts_of_two_stores(tmp_path: Path) -> None:
    """LMDB or a log of another store is refused by its uuid."""
    fill(tmp_path / "one", 3)
    fill(tmp_path / "two", 3)
    shutil.copytree(tmp_path / "one", tmp_path / "mixed")
    replace("store", tmp_path / "two", tmp_path / "mixed")
    refused_to_open(tmp_path / "mixed", StoreCorruptionError, "two stores were mixed")
    shutil.rmtree(tmp_path / "mixed")
    shutil.copytree(tmp_path / "one", tmp_path / "mixed")
    replace("log", tmp_path / "two", tmp_path / "mixed")
    refused_to_open(tmp_path / "mixed", ForeignStoreError, "found one of store", "0001.wal")


def test_identity_is_missing(tmp_path: Path) -> None:
    """Without IDENTITY a store that holds something is not made anew over it."""
    fill(tmp_path, 3)
    (tmp_path / "IDENTITY").unlink()
    refused_to_open(tmp_path, StoreCorruptionError, "IDENTITY", "found nothing", "Restore")
    shutil.rmtree(tmp_path / "log")
    with_data = tmp_path / "store" / "data.mdb"
    before = with_data.read_bytes()
    db = None
    try:
        db = strandline.open(tmp_path, disk_reserve_bytes=0)
        assert len(db) == 0  # nothing had reached LMDB
    finally:
        if db is not None:
            db.close()
    assert before  # what LMDB held was an empty store


@pytest.mark.parametrize("part", ["log", "store", "store/data.mdb"])
def test_a_part_is_missing(tmp_path: Path, part: str) -> None:
    """A store without its log or its LMDB is damaged and not empty."""
    with open_small(tmp_path) as db:
        db[b"k"] = b"v"
    target = tmp_path / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    before = contents(tmp_path)
    refused_to_open(tmp_path, StoreCorruptionError, part, "expected", "restore")
    after = contents(tmp_path)
    for locks in ("LOCK", "store/lock.mdb"):
        before.pop(locks, None), after.pop(locks, None)
    assert before == after


@pytest.mark.parametrize("which", ["first", "middle", "last", "successor", "all"])
@pytest.mark.parametrize("stored", [False, True], ids=["above", "below"])
def test_a_segment_is_missing(tmp_path: Path, which: str, stored: bool) -> None:
    """A missing segment is a gap above the watermark, and below it costs nothing."""
    path = tmp_path / "store"
    fill(path, 300)
    if stored:
        _checkpoint_in_place(path)
    names = sorted((path / "log").iterdir())
    with_content = [name for name in names if name.stat().st_size]
    assert len(with_content) >= 5
    gone: list[Path] = {
        "first": with_content[:1],
        "middle": with_content[2:3],
        "last": with_content[-1:],
        "successor": names[-1:],
        "all": names,
    }[which]
    for name in gone:
        name.unlink()
    if which == "all":
        refused_to_open(path, LogGapError, "at least one segment", "point-in-time")
    elif stored and which != "successor":
        _refused_or_whole(path, 300)
    else:
        # Without the first there is nothing before the second that could say its name.
        where = names[1].name if which == "first" else gone[0].name
        refused_to_open(path, LogGapError, where, "LSN", "expected", "found", "salvage")


def _checkpoint_in_place(path: Path) -> None:
    """Bring all of the log into LMDB and keep the log, as a crash after the commit would."""
    shutil.copytree(path / "log", path.parent / "kept")
    identity = (path / "IDENTITY").read_bytes()
    with open_small(path) as db:
        db.flush()
    shutil.rmtree(path / "log")
    shutil.copytree(path.parent / "kept", path / "log")
    (path / "IDENTITY").write_bytes(identity)


def _refused_or_whole(path: Path, count: int) -> None:
    """Expect that opening either says what is missing or has everything."""
    try:
        holds(path, count)
    except (LogGapError, StoreCorruptionError) as error:
        assert "expected" in str(error)  # noqa: PT017 - both answers are right


# ---- others at work


def test_a_second_writer_in_this_process(tmp_path: Path) -> None:
    """The same process cannot open a store twice; the first handle does not notice."""
    with open_small(tmp_path / "s") as db:
        with pytest.raises(StoreLockedError, match="this very process") as caught:
            strandline.open(tmp_path / "s")
        assert os.getpid() == caught.value.pid
        db[b"k"] = b"v"
        assert db[b"k"] == b"v"
    open_small(tmp_path / "s").close()


def test_a_second_writer_in_another_process(tmp_path: Path) -> None:
    """Another process is refused with the writer's pid, and can open once that has closed."""
    script = (
        "import sys, strandline\n"
        "try: strandline.open(sys.argv[1]).close()\n"
        "except strandline.StoreLockedError as error: print(error.pid, error)\n"
    )

    def attempt() -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "s")]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
        ).stdout

    with open_small(tmp_path / "s"):
        said = attempt()
        assert said.startswith(f"{os.getpid()} ")
        assert f"by process {os.getpid()}" in said
        assert str(tmp_path / "s" / "LOCK") in said
    assert attempt() == ""


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    """SIGKILL leaves nothing locked."""
    reader, writer = os.pipe()

    def hold() -> None:
        db = open_small(tmp_path / "s")
        db[b"k"] = b"v"
        os.write(writer, b"x")
        signal.pause()

    child = children.start(hold)
    os.read(reader, 1)
    children.kill(child)
    os.close(reader)
    os.close(writer)
    with open_small(tmp_path / "s") as db:
        assert db[b"k"] == b"v"


# ---- what the system allows


@needs_root
def test_a_read_only_file_system(tmp_path: Path) -> None:
    """A store on a read-only mount is refused with the reason, and opens once it is writable."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        fill(tmp_path / "s", 3)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        refused_to_open(tmp_path / "s", InvalidRequestError, str(tmp_path / "s"), "read-only")
        refused_to_open(tmp_path / "new", InvalidRequestError, "read-only", "another path")
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path)], check=True)
        holds(tmp_path / "s", 3)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@needs_root
@pytest.mark.parametrize("part", ["", "LOCK", "IDENTITY", "log", "store/data.mdb"])
def test_another_users_files(tmp_path: Path, part: str) -> None:
    """Files that this user may not use are named in the refusal."""
    for directory in (tmp_path, *tmp_path.parents[:3]):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    path = tmp_path / "s"
    fill(path, 3)
    nobody = 65534
    for each in [path, *path.rglob("*")]:
        os.chown(each, nobody, nobody)
    os.chown(path / part, 0, 0)

    def attempt() -> None:
        os.setgid(nobody)
        os.setuid(nobody)
        strandline.open(path, disk_reserve_bytes=0)

    outcome = children.run(attempt)
    assert outcome.error == "InvalidRequestError"
    assert "may not" in outcome.message
    assert str(path / part).rstrip("/") in outcome.message


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, also under a umask that hides nothing."""
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        fill(path, 200)
        with strandline.open(path, **TINY) as db:
            db.table("t")[b"k"] = b"v"
            db.flush()
        fill(path, 3)
        _tear(path)
        strandline.open(path).close()
        assert list((path / "quarantine").iterdir())
    finally:
        os.umask(before)
    for each in [path, *path.rglob("*")]:
        expected = 0o700 if each.is_dir() else 0o600
        assert oct(expected) == oct(stat.S_IMODE(each.stat().st_mode)), each


def _tear(path: Path) -> None:
    """Spoil the last frame and the seal of the last segment in use."""
    headers = {n: decode_segment_header(n.read_bytes()) for n in (path / "log").iterdir()}
    used = [n for n, found in headers.items() if found and n.name == segment_name(found.segment_id)]
    data = max(used).read_bytes()
    end = len(data.rstrip(b"\0"))
    max(used).write_bytes(data[: end - 400] + b"?" * 400 + data[end:])
