"""Looking at an LMDB environment from a child process, before this one trusts it.

LMDB takes its file's word for everything: some damage ends the process that reads it
(SIGBUS, SIGSEGV, SIGABRT), and no program can catch that. So a child reads it first, and
what ends the child is a `StoreCorruptionError` here.

The child looks at
    the meta pages, and the file's length against them;
    every invariant of the format, with py-lmdb's own verifier, which walks the bytes
        without LMDB, is exact, and takes about 1.5 us an entry: on files up to 64 MiB, on
        a file that is short, and on any when values are asked for;
    every tree, through LMDB: keys in order, as many as the last checkpoint committed;
    every value's checksum, when asked for.

So of a large file that is not short, the free list and the pages of long values are seen
only when values are asked for.

Nobody may write to the environment meanwhile. The child opens it read-only and without
its lock file, so it neither changes nor waits for anything. Where no child can be
started (a frozen or embedded interpreter) the verifier alone runs in this process: it
is plain Python and cannot crash.
"""

from __future__ import annotations

import json
import operator
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, Any, Final, Literal, NamedTuple

import lmdb

from strandline.engine import catalog, data_file
from strandline.engine.catalog import Metadata, TableRow, Watermark
from strandline.engine.records import Origin, value_of
from strandline.errors import CorruptionError, ForeignStoreError, StoreCorruptionError

Progress = Callable[[int, int], None]
"""Called with the entries looked at so far, and how many there should be."""

Report = dict[str, Any]

VERIFY_LIMIT: Final = 64 << 20
MAX_FINDINGS: Final = 100

_SLICE: Final = 20_000
_SILENCE_SECONDS: Final = 60.0
_SLOWEST_BYTES_PER_SECOND: Final = 2 << 20
_MOST_DATABASES: Final = 1 << 16
_MIN_MAP: Final = 1 << 20
_NOISE_LINES: Final = 5
_HARMLESS: Final = "neither reachable nor in the freeDB"
"""What the verifier says of pages that nobody will use again, and that harm nobody."""

# An empty package in the place of the public surface, whose imports would take longer than
# looking at a small store does.
_START: Final = """
import importlib, json, sys, types
(sys.path[:], package), module, *arguments = map(json.loads, sys.argv[1:])
sys.modules["strandline"] = types.ModuleType("strandline")
sys.modules["strandline"].__path__ = package
importlib.import_module(module).main(*arguments)
"""

Depth = Literal["metadata", "trees", "values"]
"""How much the child reads: what the store says of itself, all keys, or all values too."""


class ProbeResult(NamedTuple):
    """What was found in an environment."""

    path: str
    file_bytes: int
    tables: int
    entries: int
    values_checked: bool
    findings: tuple[str, ...]
    """What is damaged; empty if the environment is sound."""


def probe(path: str, values: bool, progress: Progress | None = None) -> ProbeResult:
    """Look at the environment in the directory `path`; return what a sound one holds.

    Raises:
        StoreCorruptionError: something is damaged, or reading it ended or stopped the child.
        ForeignStoreError: not a store of this program, or one of a newer format.
    """
    result = examine(path, values, progress)
    if result.findings:
        more = len(result.findings) - 1
        raise StoreCorruptionError(
            f"{os.path.join(path, data_file.DATA_NAME)}: {result.findings[0]}"
            f"{f' (and {more} more)' if more else ''}; run `strandline check` to see what is "
            "damaged, then restore a backup"
        )
    return result


def examine(path: str, values: bool, progress: Progress | None = None) -> ProbeResult:
    """Look at an environment and return the findings; raises only ForeignStoreError."""
    try:
        seen = data_file.look(path)
    except StoreCorruptionError as error:
        return ProbeResult(path, 0, 0, 0, values, (str(error),))
    tables, entries = 0, 0
    findings: list[str] = []
    child = _start(path, "values" if values else "trees")
    if child is None:
        return ProbeResult(path, seen.file_bytes, 0, 0, False, tuple(_verify(path)))
    for report in _reports(child, _SILENCE_SECONDS + seen.file_bytes / _SLOWEST_BYTES_PER_SECOND):
        if "foreign" in report:
            raise ForeignStoreError(report["foreign"])
        if "walked" in report and progress is not None:
            progress(report["walked"], report["of"])
        findings += report.get("findings", [])
        tables, entries = report.get("tables", tables), report.get("entries", entries)
    return ProbeResult(path, seen.file_bytes, tables, entries, values, tuple(findings))


def read_metadata_apart(path: str) -> Metadata:
    """Read the metadata of the environment in the directory `path`, in a child process.

    For whoever looks at a store without opening it: nothing in the environment was checked
    before. Beside a writer it is what one of its last commits said.

    Raises:
        StoreCorruptionError: it cannot be read, or no child process can be started.
        ForeignStoreError: not a store of this program, or one of a newer format.
    """
    seen = data_file.look(path)
    child = _start(path, "metadata")
    if child is None:
        raise StoreCorruptionError(f"{seen.path}: no process can be started here to read it in")
    said: Any = None
    for report in _reports(child, _SILENCE_SECONDS):
        if "foreign" in report:
            raise ForeignStoreError(report["foreign"])
        for finding in report.get("findings", ()):
            raise StoreCorruptionError(finding)
        said = report.get("metadata", said)
    return metadata_from(said)


def metadata_said(metadata: Metadata) -> list[Any]:
    """Return metadata as a child reports it."""
    uuid, epoch, lsn = metadata.watermark
    rows = list(map(list, metadata.tables.values()))
    entries = list(map(list, metadata.entries.items()))
    return [uuid.hex(), epoch, lsn, metadata.highest_table_id, rows, entries]


def metadata_from(said: Any) -> Metadata:
    """Return the metadata that a child reported."""
    uuid, epoch, lsn, highest, rows, entries = said
    return Metadata(
        Watermark(bytes.fromhex(uuid), epoch, lsn),
        highest,
        {row[0]: TableRow(*row) for row in rows},
        dict(entries),
    )


def _start(path: str, depth: Depth) -> subprocess.Popen[bytes] | None:
    """Start the child that looks; None where there can be none."""
    return start_child(__name__, path, depth, stderr=subprocess.STDOUT)


def start_child(module: str, *arguments: Any, stderr: int) -> subprocess.Popen[bytes] | None:
    """Start a child that calls `main` of a module of this package; its output is a pipe.

    The arguments go there as JSON. None where this interpreter's program is not Python.
    """
    program = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not program.startswith(("python", "pypy")):
        return None
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    said = [json.dumps(each) for each in ([sys.path, [package]], module, *arguments)]
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *said],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    except OSError:
        return None


def _reports(child: subprocess.Popen[bytes], silence: float) -> Iterator[Report]:
    """Yield what the child reports, and last a finding if it did not come to its end."""
    pipe = child.stdout
    if pipe is None:
        raise AssertionError("the child was started with a pipe")
    noise: list[str] = []
    done = False
    try:
        for line in _lines(pipe, silence):
            try:
                report: Report = json.loads(line)
            except ValueError:
                noise = [*noise, line.decode(errors="replace").strip()][-_NOISE_LINES:]
                continue
            done = done or "done" in report
            yield report
        code = child.wait(silence)
    except (TimeoutError, subprocess.TimeoutExpired):
        yield {"findings": [f"reading it made no progress for {silence:.0f} s"]}
        return
    finally:
        child.kill()
        child.wait()
        pipe.close()
    if code or not done:
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        said = f", after {' / '.join(noise)!r}" if noise else ""
        yield {"findings": [f"the process that read it ended {how}{said}"]}


def _lines(pipe: IO[bytes], silence: float) -> Iterator[bytes]:
    """Yield the lines that come out of a pipe; TimeoutError if none comes for too long."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(silence):
                raise TimeoutError
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
    if rest:
        yield rest


def main(path: str, depth: Depth) -> None:
    """Look at an environment and print what is found: what the child does."""
    no_core_dump()
    reports = _say(path) if depth == "metadata" else look(path, depth == "values")
    try:
        for report in reports:
            print(json.dumps(report), flush=True)  # noqa: T201 - the parent reads it
    except ForeignStoreError as error:
        print(json.dumps({"foreign": str(error), "done": True}), flush=True)  # noqa: T201


def look(path: str, values: bool) -> Iterator[Report]:
    """Look at an environment in this process, which damage can end."""
    try:
        seen = data_file.look(path)
        short = seen.file_bytes < seen.stated_bytes
        if values or short or seen.file_bytes <= VERIFY_LIMIT:
            findings = _verify(path)
            if findings:
                # LMDB itself is kept away from what is known to be damaged.
                yield {"findings": findings, "done": True}
                return
        yield from _walk(seen, path, values)
    except (StoreCorruptionError, lmdb.Error) as error:
        yield {"findings": [str(error)], "done": True}


def _verify(path: str) -> list[str]:
    """Return what py-lmdb's verifier finds in the bytes of the data file."""
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(path, subdir=True)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    return [problem for problem in problems if _HARMLESS not in problem][:MAX_FINDINGS]


def _say(path: str) -> Iterator[Report]:
    """Report the metadata and nothing else."""
    try:
        seen = data_file.look(path)
        with open_seen(seen, path) as env:
            metadata = _metadata(env, seen)
    except (StoreCorruptionError, lmdb.Error) as error:
        yield {"findings": [str(error)], "done": True}
        return
    yield {"metadata": metadata_said(metadata), "done": True}


def open_seen(seen: data_file.DataFile, path: str) -> lmdb.Environment:
    """Open an environment to read what was there when it was looked at, and touch nothing."""
    return lmdb.open(
        path,
        map_size=max(seen.file_bytes, _MIN_MAP),
        max_dbs=min(seen.databases, _MOST_DATABASES) + 1,
        readonly=True,
        lock=False,
        create=False,
        lib_version=0,
    )


def _metadata(env: lmdb.Environment, seen: data_file.DataFile) -> Metadata:
    meta = catalog.open_metadata(env, seen.path)
    with env.begin() as txn:
        return catalog.read_metadata(txn, meta, seen.path)


def _walk(seen: data_file.DataFile, path: str, values: bool) -> Iterator[Report]:
    """Walk every tree through LMDB."""
    with open_seen(seen, path) as env:
        metadata = _metadata(env, seen)
        databases = catalog.open_tables(env, metadata, seen.path)
        names = {row.id: row.name for row in metadata.tables.values()}
        origin = Origin(seen.path, names)
        expected = sum(metadata.entries.values())
        walked = 0
        told = time.monotonic()
        with env.begin() as txn:
            for table_id, database in databases.items():
                table = Tree(table_id, metadata.entries[table_id], origin)
                cursor = txn.cursor(database)
                rows: Iterator[Any] = (
                    cursor.iternext(values=True) if values else cursor.iternext(values=False)
                )
                # A tree with a loop in it has no end.
                while table.walked <= table.expected and (part := list(islice(rows, _SLICE))):
                    findings = table.take_items(part) if values else table.take_keys(part)
                    walked += len(part)
                    if findings or time.monotonic() - told > 1:
                        told = time.monotonic()
                        yield {"walked": walked, "of": expected, "findings": findings}
                yield {"findings": table.end()}
        yield {"tables": len(databases), "entries": walked, "done": True}


class Tree:
    """What has been seen of one table's tree."""

    def __init__(self, table_id: int, expected: int, origin: Origin) -> None:
        self.expected = expected
        self.walked = 0
        self._id = table_id
        self._origin = origin
        self._where = origin.describe(table_id)
        self._last: bytes | None = None

    def take_items(self, items: list[tuple[bytes, bytes]]) -> list[str]:
        """Look at the next keys and records; return what is wrong with them."""
        findings = self.take_keys([key for key, _ in items])
        for key, record in items:
            try:
                value_of(self._id, key, record, self._origin)
            except CorruptionError as error:
                findings.append(str(error))
        return findings[:MAX_FINDINGS]

    def take_keys(self, keys: list[bytes]) -> list[str]:
        """Look at the next keys; return what is wrong with them."""
        ordered = not any(map(operator.ge, keys, islice(keys, 1, None)))
        if self._last is not None and self._last >= keys[0]:
            ordered = False
        self._last = keys[-1]
        self.walked += len(keys)
        if ordered:
            return []
        span = f"among entries {self.walked - len(keys)} to {self.walked}"
        return [f"{self._where}: expected keys in order, found some out of order {span}"]

    def end(self) -> list[str]:
        """Return what is wrong with the tree as a whole."""
        if self.walked == self.expected:
            return []
        promised = f"{self.expected} entries, as the last checkpoint committed"
        return [f"{self._where}: expected {promised}, found {self.walked}"]


def no_core_dump() -> None:
    """Keep a signal, which here is an answer, from leaving a core file behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
