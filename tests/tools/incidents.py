"""The stores of docs/incidents.md, made anew, and the commands that are run on them.

    python -m tests.tools.incidents      writes the outputs in the document anew

Everything is deterministic: the wall clock goes on only when the story says so, random bytes
come from a seed, and nothing is written but by the story. Paths are shown as /srv/shop/...
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import strandline
from strandline import Durability, Store
from strandline.wal.runtime import SystemRuntime, Worker
from tests.recovery.check_stores import NEVER, copy_open, flip, frames, segments
from tests.tools.inspecting import inspect

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "incidents.md"
SHOWN_DIRECTORY: Final = "/srv/shop"
_PUT_ASIDE: Final = re.compile(r"-\d{8}T\d{6}\.\d{6}Z\.")
"""The time in the name of a file in quarantine, which is that of the repair."""
_BLOCK: Final = re.compile(
    r"(<!-- story: (?P<story>[a-z-]+) -->\n\n```console\n)(?P<body>.*?)(\n```\n)", re.DOTALL
)


class Nobody:
    """A thread that has ended."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing to wait for."""

    def is_alive(self) -> bool:
        """It is not."""
        return False


class StoryRuntime(SystemRuntime):
    """A runtime whose wall clock stands still until it is told to go on."""

    def __init__(self, start: str, seed: int) -> None:
        super().__init__()
        self._now = datetime.fromisoformat(start).replace(tzinfo=UTC)
        self._random = random.Random(seed)
        self.time_ns = lambda: int(self._now.timestamp()) * 1_000_000_000
        self.random_bytes = self._random.randbytes

    def spawn(self, name: str, target: Callable[..., None], *args: Any) -> Worker:
        """Start a thread, but none that writes a sync mark when it has the time."""
        return Nobody() if name == "strandline-sync" else super().spawn(name, target, *args)

    def go_on(self, seconds: int) -> None:
        """Let time pass."""
        self._now = datetime.fromtimestamp(self._now.timestamp() + seconds, UTC)


@contextmanager
def opened(path: Path, start: str, seed: int = 1) -> Any:
    """Open a store of the story; it writes nothing by itself."""
    runtime = StoryRuntime(start, seed)
    options: dict[str, Any] = {
        "segment_bytes": 1 << 16,
        "flush_strategy": NEVER,
        "sync_interval": 3600.0,
        "disk_reserve_bytes": 0,
        "runtime": runtime,
    }
    with strandline.open(path, **options) as db:
        yield db, runtime


def shop(db: Store, runtime: StoryRuntime, hours: int) -> None:
    """A shop's day: users log in, carts fill, some are ordered."""
    chooser = random.Random(7)
    sessions: Any = db.table("sessions")
    carts: Any = db.table("carts", codec="utf-8/json")
    orders: Any = db.table("orders", codec="int64/json")
    number = 1000
    for hour in range(hours):
        for minute in range(0, 60, 5):
            runtime.go_on(300)
            user = b"user:%d" % chooser.randrange(8)
            sessions.put(user, b"seen %02d:%02d" % (hour, minute))
            name = user.decode()
            cart = {"items": chooser.randrange(1, 5), "cents": chooser.randrange(500, 9000)}
            carts.put(name, cart)
            if chooser.random() < 0.3:
                number += 1
                with db.batch() as batch:
                    batch.table(orders).put(number, {"user": name, **cart})
                    batch.table(carts).delete(name)
                    batch.put(b"last order", b"%d" % number)


def damaged(directory: Path) -> None:
    """A bit of a segment in mid-log has flipped on the disk."""
    with opened(directory / "work", "2026-03-02T08:00:00") as (db, runtime):
        shop(db, runtime, 30)
        copy_open(directory / "work", directory / "data")
    shutil.rmtree(directory / "work")
    path = segments(directory / "data")[0]
    flip(path, frames(path)[210] + 90)


def history(directory: Path) -> None:
    """Somebody's cart is empty and nobody knows why."""
    with opened(directory / "work", "2026-03-02T08:00:00") as (db, runtime):
        shop(db, runtime, 6)
        db.flush()
        shop(db, runtime, 4)
        copy_open(directory / "work", directory / "data")
    shutil.rmtree(directory / "work")


def torn(directory: Path) -> None:
    """The machine lost its power in the middle of a write."""
    with opened(directory / "work", "2026-03-02T08:00:00") as (db, runtime):
        shop(db, runtime, 6)
        db.flush()
        shop(db, runtime, 2)
        for number in range(5):
            db.put(b"visits", b"%d" % number, durability=Durability.BUFFERED)
        copy_open(directory / "work", directory / "data")
    shutil.rmtree(directory / "work")
    path = segments(directory / "data")[-1]
    end = frames(path)[-1] + 60
    data = bytearray(path.read_bytes())
    data[end : end + 200] = bytes(200)
    path.write_bytes(data)


def large(directory: Path) -> None:
    """A log of many segments that nobody gives back."""
    with opened(directory / "work", "2026-03-02T08:00:00") as (db, runtime):
        shop(db, runtime, 10)
        for number in range(2500):
            runtime.go_on(2)
            db.put(b"heartbeat:worker-%d" % (number % 3), b"alive " * 20)
        copy_open(directory / "work", directory / "data")
    shutil.rmtree(directory / "work")


def backups(directory: Path) -> None:
    """A backup that is behind, and one that was changed."""
    with opened(directory / "work", "2026-03-02T08:00:00") as (db, runtime):
        shop(db, runtime, 10)
        copy_open(directory / "work", directory / "monday")
        shop(db, runtime, 6)
        copy_open(directory / "work", directory / "data")
    shutil.rmtree(directory / "work")
    shutil.copytree(directory / "monday", directory / "tuesday")
    path = segments(directory / "tuesday")[0]
    flip(path, frames(path)[33] + 90)


STORIES: Final[dict[str, Callable[[Path], None]]] = {
    "damaged": damaged,
    "history": history,
    "torn": torn,
    "large": large,
    "backups": backups,
}


def retold(story: str, body: str, directory: Path) -> str:
    """Return a block with the output of its commands as it is now."""
    lines: list[str] = []
    for line in body.splitlines():
        if not line.startswith("$ "):
            continue
        lines.append(line)
        command = line[2:].split(" || ")[0]
        if command.startswith("wal-inspect "):
            lines += run(command, directory)
    return "\n".join(lines)


def run(command: str, directory: Path) -> list[str]:
    """Run a command of the document where its store lies; return what it prints."""
    there = os.getcwd()
    os.chdir(directory)
    try:
        result = inspect(*command.split()[1:])
    finally:
        os.chdir(there)
    output = result.stdout + result.stderr
    shown = output.replace(os.path.realpath(directory), SHOWN_DIRECTORY).rstrip("\n")
    shown = _PUT_ASIDE.sub("-20260303T030000.000000Z.", shown)
    return [*shown.split("\n"), f"(exit status {result.exit_code})"]


def retell(text: str, directory: Path) -> str:
    """Return the document with every output as it is now."""
    for name, make in STORIES.items():
        (directory / name).mkdir()
        make(directory / name)

    def block(found: re.Match[str]) -> str:
        story = found["story"]
        return found[1] + retold(story, found["body"], directory / story) + found[4]

    return _BLOCK.sub(block, text)


def main() -> None:
    """Write the document's outputs anew."""
    with tempfile.TemporaryDirectory() as directory:
        DOCUMENT.write_text(retell(DOCUMENT.read_text(), Path(directory)))


if __name__ == "__main__":
    main()
