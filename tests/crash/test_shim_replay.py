"""Replaying a recording into the media model: which cuts leave what.

The recordings here are made by hand, so that nothing of this needs the shim.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from strandline.tools.crash.shim.record import (
    Allocate,
    Event,
    Link,
    Mark,
    Mkdir,
    Open,
    Recording,
    Rename,
    Rmdir,
    Seen,
    SyncBegin,
    SyncEnd,
    Truncate,
    Unlink,
    Unsupported,
    Write,
)
from strandline.tools.crash.shim.replay import ReplayDisk, replay, write_image
from strandline.tools.crash.simulation.media import CrashPolicy
from tests.crash.shimmed import tree

T = 1
"""The thread of all events here."""
ROOT = 100


def created(file: int, path: str) -> Open:
    """Return the making of a file."""
    return Open(
        T, file, path, created=True, truncated=False, through=False, directory=False, flags=0
    )


def wrote(file: int, offset: int, data: bytes, *, through: bool = False) -> Write:
    """Return a write that was whole."""
    return Write(T, file, offset, data, len(data), through=through, injected=False)


def synced(file: int, token: int, *, error: int = 0, directory: bool = False) -> list[Event]:
    """Return a sync that nothing came between."""
    return [
        SyncBegin(T, file, token, directory=directory, data_only=False),
        SyncEnd(T, file, token, error, injected=bool(error)),
    ]


def named(file: int, path: str) -> list[Event]:
    """Return the making of a file whose name is durable."""
    seen = Seen(T, ROOT, ".", directory=True)
    return [seen, created(file, path), *synced(ROOT, 1000 + file, directory=True)]


def last(events: list[Event], base: Path | None = None) -> ReplayDisk:
    """Replay all, and return the disk."""
    return list(replay(Recording(events), base))[-1].disk


def left(disk: ReplayDisk, policy: CrashPolicy, folder: Path) -> dict[str, bytes | None]:
    """Return what a crash leaves, written to `folder`."""
    folder.mkdir()
    write_image(disk.crash(policy), folder)
    return tree(folder)


def test_without_a_sync_nothing_has_to_be_left(tmp_path: Path) -> None:
    """Neither the name nor the bytes; a policy that keeps all keeps both."""
    disk = last([created(1, "a"), wrote(1, 0, b"data")])
    assert left(disk, "none", tmp_path / "none") == {}
    assert left(disk, "all", tmp_path / "all") == {"a": b"data"}


def test_a_sync_covers_what_was_written_before_it_began(tmp_path: Path) -> None:
    """What another thread writes meanwhile is not covered; while it runs nothing is."""
    begin, end = synced(1, 1)
    events = [*named(1, "a"), wrote(1, 0, b"1" * 512), begin, wrote(1, 512, b"2" * 512)]
    assert left(last(events), "none", tmp_path / "begun") == {"a": b""}
    assert left(last([*events, end]), "none", tmp_path / "ended") == {"a": b"1" * 512}


def test_syncs_of_two_threads_are_told_apart(tmp_path: Path) -> None:
    """Each ends what it began itself, whichever ends first."""
    first, second = synced(1, 1), synced(1, 2)
    events = [
        *named(1, "a"), wrote(1, 0, b"1" * 512), first[0], wrote(1, 512, b"2" * 512), second[0],
    ]  # fmt: skip
    one = left(last([*events, first[1]]), "none", tmp_path / "1")
    two = left(last([*events, second[1]]), "none", tmp_path / "2")
    assert one == {"a": b"1" * 512}
    assert two == {"a": b"1" * 512 + b"2" * 512}


def test_pages_of_a_failed_sync_are_clean_from_then_on(tmp_path: Path) -> None:
    """A later sync that succeeds does not bring them back: only the length lands."""
    events = [*named(1, "a"), wrote(1, 0, b"lost"), *synced(1, 1, error=5), *synced(1, 2)]
    assert left(last(events), "none", tmp_path / "image") == {"a": b"\0\0\0\0"}


def test_a_directory_that_failed_to_sync_promises_nothing(tmp_path: Path) -> None:
    """The name can be lost, and can be there."""
    events: list[Event] = [Seen(T, ROOT, ".", directory=True), created(1, "a")]
    disk = last([*events, *synced(ROOT, 1, error=5, directory=True)])
    assert left(disk, "none", tmp_path / "none") == {}
    assert left(disk, "all", tmp_path / "all") == {"a": b""}


def test_a_write_through_is_durable_and_nothing_else(tmp_path: Path) -> None:
    """Its sectors are there, and the length that shows them; what was pending is still."""
    events = [
        *named(1, "a"),
        wrote(1, 0, b"p" * 512),
        wrote(1, 512, b"T" * 512, through=True),
        wrote(1, 1024, b"q" * 512),
    ]
    disk = last(events)
    assert left(disk, "none", tmp_path / "none") == {"a": b"\0" * 512 + b"T" * 512}
    all_of_it = b"p" * 512 + b"T" * 512 + b"q" * 512
    assert left(disk, "all", tmp_path / "all") == {"a": all_of_it}
    for seed in range(200):
        content = left(disk, random.Random(seed), tmp_path / str(seed))["a"]
        assert content is not None
        assert content[512:1024] == b"T" * 512


def test_a_write_through_carries_its_sector_and_no_older_one_comes_back(tmp_path: Path) -> None:
    """What was written to the same sector before goes with it, and cannot land after it."""
    events = [
        *named(1, "a"),
        wrote(1, 0, b"a" * 1536),
        wrote(1, 600, b"NOW", through=True),
    ]
    disk = last(events)
    sector = b"a" * 88 + b"NOW" + b"a" * 421
    content = left(disk, "none", tmp_path / "none")["a"]
    assert content is not None
    assert content[512:1024] == sector
    assert content[:512] == content[1024:] == b"\0" * 512
    assert left(disk, "all", tmp_path / "all") == {"a": b"a" * 512 + sector + b"a" * 512}


def test_a_write_through_lands_only_the_lengths_that_it_needs(tmp_path: Path) -> None:
    """A longer length that is pending stays so if the bytes can be seen without it."""
    events = [
        *named(1, "a"),
        wrote(1, 0, b"x" * 1024),
        *synced(1, 1),
        Allocate(T, 1, 0, 4096),
        wrote(1, 0, b"y" * 512, through=True),
    ]
    assert left(last(events), "none", tmp_path / "image") == {"a": b"y" * 512 + b"x" * 512}


def test_a_write_through_after_a_cut_does_not_bring_back_what_was_cut(tmp_path: Path) -> None:
    """A file is emptied and written far behind: no crash shows the old bytes before the new."""
    events = [
        *named(1, "a"),
        wrote(1, 0, b"old" * 1000),
        Truncate(T, 1, 0),
        wrote(1, 2048, b"new", through=True),
    ]
    disk = last(events)
    for seed in range(50):
        content = left(disk, random.Random(seed), tmp_path / str(seed))["a"]
        assert content == bytes(2048) + b"new"


def test_names_move_land_and_go(tmp_path: Path) -> None:
    """A rename takes the file along, a directory too; between names of one file it is nothing."""
    events = [
        Seen(T, ROOT, ".", directory=True),
        Mkdir(T, 2, "new"),
        created(1, "new/f"),
        wrote(1, 0, b"1"),
        Rename(T, 2, "new", "old"),
        wrote(1, 1, b"2"),
        Link(T, 1, "old/f", "g"),
        Rename(T, 1, "g", "old/f"),
        created(4, "gone"),
        Unlink(T, 4, "gone"),
        Mkdir(T, 3, "none"),
        Rmdir(T, 3, "none"),
    ]
    disk = last(events)
    there = {"old": None, "old/f": b"12", "g": b"12"}
    assert left(disk, "all", tmp_path / "all") == there
    assert left(disk, "none", tmp_path / "none") == {}
    syncs = [*synced(1, 1), *synced(2, 2, directory=True), *synced(ROOT, 3, directory=True)]
    landed = last([*events, *syncs])
    assert left(landed, "none", tmp_path / "landed") == there


def test_what_was_there_before_is_durable(tmp_path: Path) -> None:
    """A base is taken over with its directories, and changed by what was recorded."""
    base = tmp_path / "base"
    (base / "d").mkdir(parents=True)
    (base / "d" / "f").write_bytes(b"before")
    (base / "gone").write_bytes(b"x")
    events = [
        Seen(T, 1, "d/f", directory=False),
        wrote(1, 0, b"AFTER!"),
        Unlink(T, 2, "gone"),
    ]
    disk = last(events, base)
    before = {"d": None, "d/f": b"before", "gone": b"x"}
    assert left(disk, "none", tmp_path / "none") == before
    assert left(disk, "all", tmp_path / "all") == {"d": None, "d/f": b"AFTER!"}


def test_every_point_is_a_cut_and_knows_what_was_said(tmp_path: Path) -> None:
    """One before each event and one after the last, with the marks up to there."""
    recording = Recording([created(1, "a"), Mark(T, b"1"), wrote(1, 0, b"x"), Mark(T, b"2")])
    found = [
        (cut.position, recording.marks[: cut.said], left(cut.disk, "all", tmp_path / str(n)))
        for n, cut in enumerate(replay(recording))
    ]
    assert found == [
        (0, [], {}),
        (1, [], {"a": b""}),
        (2, [b"1"], {"a": b""}),
        (3, [b"1"], {"a": b"x"}),
        (4, [b"1", b"2"], {"a": b"x"}),
    ]


def test_a_recording_with_a_hole_is_refused() -> None:
    """What changed files and was not recorded makes every image a guess."""
    events: list[Event] = [created(1, "a"), Unsupported(T, "mmap", "a", child=False)]
    with pytest.raises(ValueError, match="1 calls of this recording cannot be replayed: mmap on a"):
        next(replay(Recording(events)))


def test_what_was_there_before_has_to_be_told() -> None:
    """A file that the replay cannot know is an error that says where to get it from."""
    with pytest.raises(ValueError, match="old was there before the recording began"):
        last([Seen(T, 1, "old", directory=False)])


def test_an_image_has_holes_where_there_are_zeros(tmp_path: Path) -> None:
    """A segment set aside and hardly used takes little room, and reads the same."""
    events = [created(1, "a"), Allocate(T, 1, 0, 1 << 22), wrote(1, 70_000, b"x")]
    content = left(last(events), "all", tmp_path / "image")["a"]
    assert content == bytes(70_000) + b"x" + bytes((1 << 22) - 70_001)
    assert (tmp_path / "image" / "a").stat().st_blocks * 512 < 1 << 18
