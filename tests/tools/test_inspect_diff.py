"""`wal-inspect diff`: what both logs hold is the same, or where it first is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

import strandline
from strandline.engine.operations import DELETE, PUT, tag_of
from strandline.wal.format import LSN_LIMIT
from tests.recovery.check_stores import (
    NEVER,
    copy_open,
    fill,
    flip,
    frames,
    rewrite_frame,
    segments,
)
from tests.support.logs import LogBuilder
from tests.tools.inspecting import document, inspect, inspected, lay, segment

Row = tuple[int, bytes, bytes | None]
"""An operation of the default table."""


def put(number: int, value: bytes = b"v") -> Row:
    """A put of a key by number."""
    return PUT, b"key%d" % number, value


def payload(rows: Sequence[Row], table_id: int = 1) -> bytes:
    """What a frame of these operations holds."""
    flat = [part for op, key, value in rows for part in (tag_of(table_id, op), key, value)]
    packed: bytes = msgpack.packb([None, *flat])
    return packed


def add(log: LogBuilder, *rows: Row, **fields: Any) -> None:
    """Append one frame."""
    log.data(len(rows), payload(rows), **fields)


def simple(*groups: Sequence[int], changed: dict[int, Row] | None = None) -> LogBuilder:
    """A log of one segment that puts keys by number, grouped into frames."""
    log = LogBuilder()
    log.open()
    for group in groups:
        add(log, *((changed or {}).get(number, put(number)) for number in group))
    return log


def both(tmp_path: Path, a: LogBuilder, b: LogBuilder) -> tuple[Path, Path]:
    """Lay two logs into folders."""
    return lay(a, tmp_path / "a"), lay(b, tmp_path / "b")


def test_a_store_and_its_copy(tmp_path: Path) -> None:
    """Two equal logs are the same, and all their operations were compared."""
    fill(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    found = document("diff", tmp_path / "a", tmp_path / "b")
    assert found["relation"] == "same"
    assert (found["compared"], found["differing"], found["whole"]) == (1200, 0, True)
    assert found["common"] == {"first_lsn": 1, "last_lsn": 1200}
    assert found["same_store"] is True
    text = inspected("diff", tmp_path / "a", tmp_path / "b")
    assert "All that both hold is the same: 1,200 operations" in text


def test_a_backup_is_behind(tmp_path: Path) -> None:
    """A log that is a prefix of the other is the same, and it is said where it ends."""
    store, copy = tmp_path / "a", tmp_path / "b"
    with strandline.open(store, flush_strategy=NEVER) as db:
        for number in range(5):
            db[b"key%d" % number] = b"v"
        copy_open(store, copy)
        for number in range(3):
            db[b"more%d" % number] = b"v"
        text = inspected("diff", store, copy)
        found = document("diff", store, copy)
    assert "Both hold LSN 1 to 5." in text
    assert "B ends at LSN 5; A goes on to 8." in text
    assert found["relation"] == "same-in-common"
    assert found["compared"] == 5
    assert found["a"]["holds"] == {"first_lsn": 1, "last_lsn": 8}
    assert found["b"]["holds"] == {"first_lsn": 1, "last_lsn": 5}


def test_one_begins_later(tmp_path: Path) -> None:
    """Where segments were given back, only what both still hold is compared."""
    store, copy = tmp_path / "a", tmp_path / "b"
    fill(tmp_path / "data", tmp_path / "open")
    for log in (store, copy):
        shutil.copytree(tmp_path / "open" / "log", log)
    (copy / "0000000000000001.wal").unlink()
    found = document("diff", store, copy)
    first = found["b"]["holds"]["first_lsn"]
    assert first > 1
    assert found["common"] == {"first_lsn": first, "last_lsn": 1200}
    assert found["relation"] == "same-in-common"
    assert f"B begins at LSN {first}; A begins earlier, at 1." in inspected("diff", store, copy)


def test_one_value_is_another(tmp_path: Path) -> None:
    """One byte of a value, under right checksums: told with LSN, both values, and the place."""
    store, copy = tmp_path / "a", tmp_path / "b"
    fill(store, copy)
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    path = segments(copy)[1]
    offset = frames(path)[7]
    row = json.loads(inspected("dump", path, "--json", "--limit", 8).splitlines()[-1])
    key, value = row["key"].encode(), b"v" * 60 + b"\x1b" + b"v" * 39
    rewrite_frame(path, offset, lambda rest: [None, 9, key, value if rest else b""])
    found = document("diff", store, copy, status=8)
    first = found["first_difference"]
    assert (first["lsn"], first["how"]) == (row["lsn"], ["value"])
    assert first["a"]["value"] == "v" * 100
    assert first["b"]["value"] == value.decode()
    assert first["a"]["offset"] == first["b"]["offset"] == offset
    assert (found["whole"], found["differing"], found["relation"]) == (False, None, "different")
    result = inspect("diff", store, copy)
    assert result.exit_code == 8
    assert f"They differ first at LSN {row['lsn']}: value differs" in result.stdout
    assert "The values, of 100 and 100 bytes, differ from byte 60 on." in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        ((PUT, b"key3", b"w"), ["value"]),
        ((PUT, b"other", b"v"), ["key"]),
        ((DELETE, b"key3", None), ["op", "value"]),
    ],
)
def test_what_differs(tmp_path: Path, changed: Row, how: list[str]) -> None:
    """The first difference names what of the operation is not the same."""
    a = simple([1, 2], [3, 4], [5])
    b = simple([1, 2], [3, 4], [5], changed={3: changed, 5: put(5, b"x")})
    found = document("diff", *both(tmp_path, a, b), status=8)
    assert found["first_difference"]["lsn"] == 3
    assert found["first_difference"]["how"] == how
    assert found["differing"] is None


def test_all_differences_are_counted(tmp_path: Path) -> None:
    """--all goes on to the end and says how many differ; the first is still the first."""
    a = simple([1, 2], [3, 4], [5], range(6, 20))
    b = simple([1, 2], [3, 4], [5], range(6, 20), changed={n: put(n, b"x") for n in (4, 7, 9)})
    found = document("diff", *both(tmp_path, a, b), "--all", status=8)
    assert (found["first_difference"]["lsn"], found["differing"]) == (4, 3)
    assert (found["whole"], found["compared"]) == (True, 19)
    assert "3 LSNs differ, of 19 compared." in inspected(
        "diff", tmp_path / "a", tmp_path / "b", "--all", status=8
    )


def test_grouped_into_other_frames(tmp_path: Path) -> None:
    """How operations are grouped into frames and segments is no difference."""
    a = simple([1, 2, 3], [4], [5, 6], [7, 8])
    b = simple([1], [2, 3, 4, 5], [6])
    b.seal()
    b.open()
    add(b, put(7))
    add(b, put(8))
    found = document("diff", *both(tmp_path, a, b))
    assert (found["relation"], found["compared"]) == ("same", 8)
    c = lay(simple([1], [2, 3, 4, 5], [6], [7, 8], changed={6: put(6, b"x")}), tmp_path / "c")
    found = document("diff", tmp_path / "a", c, "--all", status=8)
    assert (found["first_difference"]["lsn"], found["differing"]) == (6, 1)


def test_ranges_that_end_within_frames(tmp_path: Path) -> None:
    """Of frames that reach beyond what both hold only that is compared."""
    a, b = simple(range(1, 7)), LogBuilder(next_lsn=3)
    b.open()
    add(b, put(3), put(4))
    add(b, *(put(number) for number in range(5, 9)))
    paths = both(tmp_path, a, b)
    for each in (paths, tuple(reversed(paths))):
        found = document("diff", *each, "--all")
        assert found["common"] == {"first_lsn": 3, "last_lsn": 6}
        assert (found["relation"], found["compared"]) == ("same-in-common", 4)
        assert (found["only_in_a"], found["only_in_b"]) == (0, 0)


def test_times_are_no_difference(tmp_path: Path) -> None:
    """When frames were written is not compared."""
    a, b = simple([1, 2]), LogBuilder()
    b.open()
    add(b, put(1), put(2), time_ns=77)
    assert document("diff", *both(tmp_path, a, b))["relation"] == "same"


def test_operations_that_one_never_issued(tmp_path: Path) -> None:
    """LSNs that one log holds and the other jumps over are a difference, whichever side it is."""
    a, b = simple([1, 2], [3, 4], [5, 6]), simple([1, 2])
    b.seal()
    b.open(jump=2)
    add(b, put(5), put(6))
    paths = both(tmp_path, a, b)
    found = document("diff", *paths, "--all", status=8)
    first = found["first_difference"]
    assert (first["lsn"], first["last_lsn"], first["how"]) == (3, 4, ["missing"])
    assert first["a"]["key"] == "key3"
    assert first["b"] is None
    assert (found["differing"], found["compared"]) == (2, 4)
    assert (found["only_in_a"], found["only_in_b"]) == (0, 0)
    one = lay(simple(range(1, 7)), tmp_path / "one frame")
    found = document("diff", one, paths[1], "--all", status=8)
    assert (found["differing"], found["compared"], found["only_in_a"]) == (2, 4, 0)
    result = inspect("diff", *reversed(paths))
    assert "LSN 3 to 4: B holds it, A says that it was never issued" in result.stdout


def test_jumps_in_both(tmp_path: Path) -> None:
    """LSNs that neither log has are no difference."""
    logs = []
    for _ in range(2):
        log = simple([1, 2])
        log.seal()
        log.open(jump=100)
        add(log, put(3))
        logs.append(log)
    assert document("diff", *both(tmp_path, *logs))["relation"] == "same"


def test_damage_in_one(tmp_path: Path) -> None:
    """What one has lost is not compared; the rest is, and the status is that of the damage."""
    a, b = simple([1, 2], [3], [4], [5]), simple([1, 2], [3], [4], [5])
    paths = both(tmp_path, a, b)
    flip(segment(paths[1], 1), b.active.frames[1].offset + 75)
    result = inspect("diff", *paths)
    assert result.exit_code == 4
    assert "damage in mid-log" in result.stderr
    assert "Not compared: 1 LSNs that A holds and B has lost." in result.stdout
    found = document("diff", *paths, status=4)
    assert (found["only_in_a"], found["only_in_b"], found["compared"]) == (1, 0, 4)
    assert found["b"]["findings"][0]["lsn"] == 3
    found = document("diff", *reversed(paths), status=4)
    assert (found["only_in_a"], found["only_in_b"]) == (0, 1)


def test_a_missing_segment(tmp_path: Path) -> None:
    """A gap in one is its status; what both hold is the same."""
    log = LogBuilder()
    for number in range(3):
        log.open()
        add(log, put(number), put(number))
        log.seal()
    log.spare()
    paths = both(tmp_path, log, log)
    segment(paths[0], 2).unlink()
    found = document("diff", *paths, status=5)
    assert (found["only_in_b"], found["compared"]) == (2, 4)
    assert found["relation"] == "same"


def test_a_difference_is_graver_than_damage(tmp_path: Path) -> None:
    """Where the logs differ, the status says so, whatever else is wrong with them."""
    a, b = simple([1], [2], [3], [4]), simple([1], [2], [3], [4], changed={1: put(1, b"x")})
    paths = both(tmp_path, a, b)
    flip(segment(paths[1], 1), b.active.frames[1].offset + 75)
    found = document("diff", *paths, status=8)
    assert found["b"]["status"] == 4


def test_another_store(tmp_path: Path) -> None:
    """Logs of different stores are compared all the same, and that is said."""
    a, b = simple([1, 2]), LogBuilder()
    b.open(uuid=bytes(15) + b"\1")
    add(b, put(1), put(2))
    paths = both(tmp_path, a, b)
    found = document("diff", *paths)
    assert found["same_store"] is False
    assert found["relation"] == "same"
    assert "They are logs of different stores" in inspected("diff", *paths)


def built(first: int, count: int, **fields: Any) -> LogBuilder:
    """A log that begins with an LSN and holds so many operations."""
    log = LogBuilder(next_lsn=first, first_id=3)
    log.open(**fields)
    if count:
        add(log, *(put(number) for number in range(count)))
    return log


@pytest.mark.parametrize(
    ("a", "b", "status", "relation"),
    [
        ((1, 5), (6, 5), 0, "continued"),
        ((6, 5), (1, 5), 0, "continued"),
        ((1, 5), (7, 5), 5, "nothing-common"),
        ((100, 5), (1, 5), 5, "nothing-common"),
        ((1, 5), (6, 0), 0, "continued"),
        ((1, 5), (3, 0), 0, "continued"),
        ((1, 0), (1, 0), 0, "continued"),
        ((1, 5), (9, 0), 5, "nothing-common"),
        ((1, 5), (5, 5), 8, "different"),
    ],
)
def test_ranges(
    tmp_path: Path, a: tuple[int, int], b: tuple[int, int], status: int, relation: str
) -> None:
    """Without an LSN in common it matters whether one continues the other."""
    paths = both(tmp_path, built(*a), built(*b))
    found = document("diff", *paths, status=status)
    assert found["relation"] == relation
    assert (found["common"] is None) == (status != 8)
    text = inspected("diff", *paths, status=status)
    assert ("neither continues the other" in text) == (status == 5)


def test_one_that_continues_behind_a_jump(tmp_path: Path) -> None:
    """A log that says that it follows the other's end continues it, whatever it skipped."""
    paths = both(tmp_path, built(1, 5), built(1000, 5, previous_last_lsn=5))
    assert document("diff", *paths)["relation"] == "continued"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Of a log without a valid header nothing is compared; its own status says why."""
    paths = both(tmp_path, simple([1]), simple([1]))
    segment(paths[1], 1).write_bytes(b"no segment" * 1000)
    found = document("diff", *paths, status=5)
    assert found["b"]["holds"] is None
    assert inspect("diff", paths[0], tmp_path / "nowhere").exit_code == 1


def test_frames_that_hold_no_operations(tmp_path: Path) -> None:
    """Payloads that are no operations are compared as bytes."""
    logs = []
    for content in (b"\xc1 not msgpack", b"\xc1 not msgpack", b"\xc1 something else"):
        log = simple([1])
        log.data(2, content)
        add(log, put(4))
        logs.append(log)
    paths = both(tmp_path, *logs[:2])
    assert document("diff", *paths)["compared"] == 4
    other = lay(logs[2], tmp_path / "c")
    found = document("diff", paths[0], other, "--all", status=8)
    first = found["first_difference"]
    assert (first["lsn"], first["last_lsn"], first["how"]) == (2, 3, ["payload"])
    assert (found["differing"], found["compared"]) == (2, 4)


def test_names_of_tables(tmp_path: Path) -> None:
    """A table id that stands for different names is a difference, and both are told."""
    for side, name in (("a", "users"), ("b", "orders")):
        with strandline.open(tmp_path / side) as db:
            db.table(name)[b"k"] = b"1"
        with strandline.open(tmp_path / side, flush_strategy=NEVER) as db:
            db.table(name)[b"k"] = b"2"
            copy_open(tmp_path / side, tmp_path / f"{side}2")
    found = document("diff", tmp_path / "a2", tmp_path / "b2", status=8)
    assert found["tables"] == [{"table_id": 2, "a": "users", "b": "orders"}]
    assert found["first_difference"] is None
    text = inspected("diff", tmp_path / "a2", tmp_path / "b2", status=8)
    assert "Table 2 has different names: users in A, orders in B." in text


def test_lsns_at_the_limit(tmp_path: Path) -> None:
    """The highest LSNs are compared as all others are."""
    paths = both(tmp_path, built(LSN_LIMIT - 5, 5), built(LSN_LIMIT - 5, 5))
    assert document("diff", *paths)["compared"] == 5


def test_beside_a_writer(tmp_path: Path) -> None:
    """A live log can be compared with a copy of it."""
    with strandline.open(tmp_path / "a", flush_strategy=NEVER) as db:
        db[b"k"] = b"1"
        copy_open(tmp_path / "a", tmp_path / "b")
        db[b"k"] = b"2"
        found = document("diff", tmp_path / "a", tmp_path / "b")
    assert found["relation"] == "same-in-common"
    assert found["a"]["writer"] is not None
