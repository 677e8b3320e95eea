"""`wal-inspect follow` as a process beside a writer: what is followed is what was written.

The step-by-step tests are in `test_inspect_follow_steps`. Here the writer runs as fast as it
can: segments of 64 KiB and a log of four of them, checkpoints all the time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import strandline
from strandline import Durability, HybridFlush
from strandline.wal.format import segment_name
from tests.recovery.check_stores import NEVER, copy_open, flip, frames, segments
from tests.tools.command import environment
from tests.tools.inspecting import PROGRAM, inspect, inspected

DEADLINE: Final = 60.0
SMALL: Final[dict[str, Any]] = {"segment_bytes": 1 << 16, "max_log_bytes": 4 << 16}
OFTEN: Final = HybridFlush(
    max_count=100, max_bytes=1 << 15, max_age=0.02, max_log_bytes=1 << 16, min_interval=0.0
)
GONE: Final = re.compile(r"LSN (\d+)(?: to (\d+))? (?:was|were) given back")


class Follower:
    """The command as a process, and what it has printed so far."""

    def __init__(self, *args: object) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "follow", *(str(each) for each in args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(), "PYTHONUNBUFFERED": ""},
            text=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._take, args=(stream, into), daemon=True)
            for stream, into in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _take(stream: Any, into: list[str]) -> None:
        into += iter(stream.readline, "")  # a line at a time, as it comes

    def end(self) -> int:
        """Wait for the process to end; return its status."""
        status = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return status

    def wait(self, least: int) -> None:
        """Wait until so many lines were printed."""
        deadline = time.monotonic() + DEADLINE
        while len(self.lines) < least:
            assert time.monotonic() < deadline, (len(self.lines), self.errors)
            assert self.process.poll() is None or len(self.lines) >= least, self.errors
            time.sleep(0.01)

    @property
    def operations(self) -> list[dict[str, Any]]:
        """What was printed as JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def lsns(self) -> list[int]:
        return [each["lsn"] for each in self.operations]

    @property
    def missed(self) -> list[int]:
        """The LSNs that were said to be gone before they could be read."""
        found = [GONE.search(line) for line in self.errors]
        return [
            lsn
            for each in found
            if each
            for lsn in range(int(each[1]), int(each[2] or each[1]) + 1)
        ]


@contextmanager
def following(*args: object) -> Iterator[Follower]:
    """Run the command until the block ends."""
    follower = Follower(*args)
    try:
        yield follower
    finally:
        follower.process.kill()
        follower.end()
        for stream in (follower.process.stdout, follower.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with LSN 1 to 3, closed."""
    path = tmp_path / "data"
    with strandline.open(path, **SMALL) as db:
        for number in range(3):
            db[b"first%d" % number] = b"1"
    return path


def test_operations_come_as_they_are_written(store: Path) -> None:
    """Whatever is written is printed while the writer has the store open: no close is needed."""
    with (
        strandline.open(store, **SMALL, flush_strategy=NEVER) as db,
        following(store, "--from-lsn", 4, "--json", "--to-lsn", 8) as follower,
    ):
        db[b"a"] = b"1"
        follower.wait(1)
        db.put(b"b", b"2", durability=Durability.BUFFERED)
        follower.wait(2)
        db.table("views", codec="utf-8/json")["x"] = [1]
        follower.wait(4)
        db.delete(b"a")
        assert follower.end() == 0
    assert [
        (each["lsn"], each["table"], each["op"], each["key"], each["value"])
        for each in follower.operations
    ] == [
        (4, "", "put", "a", "1"),
        (5, "", "put", "b", "2"),
        (6, "views", "create", "views", follower.operations[2]["value"]),
        (7, "views", "put", "x", "[1]"),
        (8, "", "delete", "a", None),
    ]
    assert follower.errors == []


def test_rotation(store: Path) -> None:
    """A log that turns to many segments and gives none back is followed without a hole."""
    count = 3000
    big = HybridFlush(
        max_count=1 << 40, max_bytes=1 << 50, max_age=1e9, max_log_bytes=1 << 50, min_interval=1e9
    )
    with (
        strandline.open(store, segment_bytes=1 << 16, flush_strategy=big) as db,
        following(store, "--from-lsn", 4, "--json", "--to-lsn", 3 + count) as follower,
    ):
        for number in range(count):
            db.put(b"key%d" % number, b"v" * 100, durability=Durability.BUFFERED)
        assert follower.end() == 0
    assert follower.lsns == list(range(4, 4 + count))
    assert [each["key"] for each in follower.operations] == [f"key{n}" for n in range(count)]
    assert len({each["segment"] for each in follower.operations}) > 5
    assert follower.errors == []


def test_recycling_at_full_speed(store: Path) -> None:
    """Each operation is printed, in order and once, or said to be gone; never anything else."""
    count = 20_000
    with strandline.open(store, **SMALL, flush_strategy=OFTEN) as db:
        last = 3 + count
        with following(
            store, "--from-lsn", 4, "--json", "--to-lsn", last, "--interval", 0.001
        ) as follower:
            for number in range(count):
                db.put(
                    b"key%d" % (number + 4), b"v%d " % number * 20, durability=Durability.BUFFERED
                )
            assert follower.end() == 0, follower.errors
    lsns = follower.lsns
    assert lsns == sorted(set(lsns))
    assert sorted(lsns + follower.missed) == list(range(4, last + 1))
    for each in follower.operations:
        assert each["key"] == f"key{each['lsn']}"
        assert each["value"] == f"v{each['lsn'] - 4} " * 20
    assert lsns, "something was read"


def test_recycling_with_a_follower_that_keeps_up(store: Path) -> None:
    """Nothing is missed of a log that is given back again and again if the follower is as fast."""
    with (
        strandline.open(store, **SMALL, flush_strategy=OFTEN) as db,
        following(store, "--from-lsn", 4, "--json", "--interval", 0.001) as follower,
    ):
        for number in range(40):
            for part in range(100):
                db.put(b"key%d" % part, b"v" * 100, durability=Durability.BUFFERED)
            follower.wait((number + 1) * 100)
            db.flush()
        ids = {each["segment"] for each in follower.operations}
        assert not (store / "log" / segment_name(min(ids))).exists()
    assert follower.lsns == list(range(4, 4004))
    assert follower.missed == []


def test_closed_and_opened_again(store: Path) -> None:
    """New openings by new writers are followed on."""
    with following(store, "--from-lsn", 4, "--json", "--to-lsn", 23) as follower:
        for number in range(20):
            with strandline.open(store, **SMALL) as db:
                db[b"again"] = b"%d" % number
                follower.wait(number + 1)
        assert follower.end() == 0
    assert follower.lsns == list(range(4, 24))
    assert follower.errors == []


def test_only_what_is_new(store: Path) -> None:
    """Without --from-lsn or --last nothing is printed that was there before."""
    with (
        strandline.open(store, **SMALL, flush_strategy=NEVER) as db,
        following(store, "--json", "--limit", 3) as follower,
    ):
        last = 0
        while follower.process.poll() is None:
            last = db.put(b"again", b"1") or 0
            time.sleep(0.01)
        assert follower.end() == 0
    first = follower.lsns[0]
    assert first > 4
    assert follower.lsns == [first, first + 1, first + 2]
    assert last >= first + 2


WRITER: Final = """
import os, sys
import strandline
from strandline import Durability
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = strandline.open(path, segment_bytes=1 << 16, recovery="tolerate-torn-tail")
for number in range(first, first + count):
    db.put(b"key%d" % number, b"v" * 50, durability=Durability.BUFFERED)
os.kill(os.getpid(), 9)
"""


def test_killed_and_recovered(store: Path) -> None:
    """After unclean ends the rewritten segment and the jump of LSNs are followed."""
    with following(store, "--from-lsn", 4, "--json") as follower:
        for number in range(4):
            child = subprocess.run(
                [PROGRAM[0], "-c", WRITER, str(store), str(number * 100), "100"],
                env=environment(),
                check=False,
            )
            assert child.returncode == -signal.SIGKILL
            tail = sorted((store / "log").glob("*.wal"))
            last = [path for path in tail if frames(path)][-1]
            content = last.read_bytes().rstrip(b"\0")
            with last.open("r+b") as file:
                # A write that was cut short.
                file.seek(-(-len(content) // 8) * 8)
                file.write(b"torn" * 30)
        with strandline.open(store) as db:
            db[b"end"] = b"1"
        follower.wait(401)
    keys = [each["key"] for each in follower.operations]
    assert keys == [*(f"key{number}" for number in range(400)), "end"]
    assert follower.lsns == sorted(set(follower.lsns))
    assert follower.errors == []


def test_damage_beside_a_writer(store: Path) -> None:
    """What rots before it is read is told, skipped, and is the exit status at the end."""
    with strandline.open(store, **SMALL, flush_strategy=NEVER) as db:
        for number in range(6):
            db[b"key%d" % number] = b"v"
        path = store / "log" / segment_name(2)
        flip(path, frames(path)[2] + 80)
        result = inspect("follow", store, "--from-lsn", 4, "--json", "--to-lsn", 9)
    assert [json.loads(line)["lsn"] for line in result.stdout.splitlines()] == [4, 5, 7, 8, 9]
    assert result.exit_code == 4
    assert "damage in mid-log" in result.stderr
    assert "LSN 6 passed over" in result.stderr


def test_a_torn_end_is_no_damage(store: Path, tmp_path: Path) -> None:
    """Half a frame at the end of a log that nobody writes to is waited for until --idle."""
    copy = tmp_path / "copy"
    with strandline.open(store, **SMALL, flush_strategy=NEVER) as db:
        db[b"a"] = b"1"
        db[b"b"] = b"2"
        copy_open(store, copy)
    path = copy / "log" / segment_name(2)
    last = frames(path)[-1]
    content = bytearray(path.read_bytes())
    content[last + 40 :] = bytes(len(content) - last - 40)
    path.write_bytes(content)
    result = inspect("follow", copy, "--from-lsn", 4, "--json", "--idle", 0.3, "--interval", 0.01)
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["lsn"] for line in result.stdout.splitlines()] == [4]
    assert result.stderr == ""


def test_the_filters_and_formats_are_those_of_dump(store: Path) -> None:
    """Where nothing more comes, `follow` prints what `dump` does with the same options."""
    with strandline.open(store, **SMALL) as db:
        users = db.table("users", codec="int64/msgpack")
        for number in range(5):
            users[number] = {"n": number}
        db[b"k\x00\n"] = b"\xff"
        del db[b"first1"]
        db.clear()
        log = store.parent / "log-copy"
        shutil.copytree(store / "log", log)
    for options in (
        [],
        ["--json"],
        ["--format", "csv"],
        ["--values", "hex", "--format", "jsonl"],
        ["--values", "msgpack", "--table", "users", "--json"],
        ["--op", "delete", "--op", "clear"],
        ["--key", r"k\x00\n"],
        ["--prefix", "first", "--limit", "2"],
        ["--from-lsn", "5", "--to-lsn", "8", "--json"],
        ["--values", "none", "--since", "1h"],
    ):
        begin = [] if "--from-lsn" in options else ["--from-lsn", "0"]
        followed = inspected("follow", log, *begin, *options, "--idle", 0)
        assert followed == inspected("dump", log, *options), options


def test_the_last_operations_first(store: Path) -> None:
    """--last counts operations that are wanted, over segments, and takes what there is."""
    with strandline.open(store, segment_bytes=1 << 16, flush_strategy=NEVER) as db:
        for number in range(1500):
            db.put(b"%s%d" % (b"rare" if number % 500 == 0 else b"key", number), b"v" * 100)
        db.put_many({b"one": b"1", b"two": b"2", b"three": b"3"})

        def keys(*options: object) -> list[str]:
            text = inspected("follow", store, "--json", "--idle", 0, *options)
            return [json.loads(line)["key"] for line in text.splitlines()]

        assert len(segments(store)) > 2
        assert keys() == []
        assert keys("--last", 0) == []
        assert keys("--last", 2) == ["two", "three"]
        assert keys("--last", 4) == ["key1499", "one", "two", "three"]
        assert keys("--last", 2, "--prefix", "rare") == ["rare500", "rare1000"]
        assert keys("--last", 9, "--prefix", "rare") == ["rare0", "rare500", "rare1000"]
        assert keys("--last", 3, "--prefix", "no such") == []
        assert keys("--last", 5000) == keys("--from-lsn", 4)
        assert len(keys("--last", 5000)) == 1503
        assert keys("--last", 2, "--limit", 1) == ["two"]


def test_ctrl_c(store: Path) -> None:
    """An interrupt ends it with status 130, nothing on stderr, and all lines whole."""
    with following(store, "--from-lsn", 1, "--json") as follower:
        follower.wait(3)
        follower.process.send_signal(signal.SIGINT)
        assert follower.end() == 130
    assert follower.lsns == [1, 2, 3]
    assert follower.errors == []


def test_a_pipe_that_nobody_reads(store: Path) -> None:
    """When the reader has gone, it ends without a word, whether or not anything new comes."""
    process = subprocess.Popen(
        [*PROGRAM, "follow", str(store), "--from-lsn", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    try:
        process.wait(DEADLINE)
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_what_is_no_log_to_follow(store: Path) -> None:
    """One segment, two beginnings, and what is no store are refused."""
    assert inspect("follow", segments(store)[0]).exit_code == 2
    assert inspect("follow", store, "--last", 3, "--from-lsn", 3).exit_code == 2
    assert inspect("follow", store / "nothing").exit_code == 1


def test_nothing_is_written(store: Path) -> None:
    """Following leaves every file as it was."""
    before = {path: os.stat(path).st_mtime_ns for path in store.rglob("*")}
    inspected("follow", store, "--last", 2, "--idle", 0.1)
    assert before == {path: os.stat(path).st_mtime_ns for path in store.rglob("*")}
