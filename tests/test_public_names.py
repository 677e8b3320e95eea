"""The public surface: what can be imported, what raises what, and how the verbs are called.

Whoever changes anything here changes what programs rely on, and says so in CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import strandline
from strandline import Batch, Options, Snapshot, Store, Table, TableBatch, TableSnapshot

NAMES = """
    ABSENT BackpressureError Batch BatchTooLargeError Codec CorruptionError DiskFullError
    Durability FlushReport FlushStats FlushStrategy ForeignStoreError Health HealthState
    HistoryExpiredError HybridFlush InvalidRequestError InvalidTypeError KeyTooLargeError
    LogCorruptionError LogGapError Options Percentiles RecoveryProgress RecoveryReport Snapshot
    SnapshotExpiredError Stats Store StoreClosedError StoreCorruptionError StoreFailedError
    StoreLockedError StrandlineError Table TableBatch TableSnapshot TransactionConflictError
    UpstreamError ValueTooLargeError WriteOutcomeUnknownError open
""".split()

ERRORS: dict[str, tuple[type[BaseException] | str, ...]] = {
    "StrandlineError": (Exception,),
    "StoreClosedError": ("StrandlineError",),
    "StoreLockedError": ("StrandlineError",),
    "StoreFailedError": ("StrandlineError",),
    "WriteOutcomeUnknownError": ("StrandlineError",),
    "InvalidRequestError": ("StrandlineError", ValueError),
    "InvalidTypeError": ("InvalidRequestError", TypeError),
    "KeyTooLargeError": ("InvalidRequestError",),
    "ValueTooLargeError": ("InvalidRequestError",),
    "BatchTooLargeError": ("InvalidRequestError",),
    "CorruptionError": ("StrandlineError",),
    "LogCorruptionError": ("CorruptionError",),
    "LogGapError": ("CorruptionError",),
    "StoreCorruptionError": ("CorruptionError",),
    "HistoryExpiredError": ("StrandlineError",),
    "SnapshotExpiredError": ("StrandlineError",),
    "DiskFullError": ("StrandlineError", OSError),
    "BackpressureError": ("StrandlineError",),
    "TransactionConflictError": ("StrandlineError",),
    "ForeignStoreError": ("StrandlineError",),
    "UpstreamError": ("StrandlineError",),
}

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DEFAULTS: dict[str, Any] = {
    "durability": strandline.Durability.SYNC,
    "sync_interval": 1.0,
    "log_interval": 0.010,
    "segment_bytes": 64 * MIB,
    "group_bytes": 1 * MIB,
    "max_log_bytes": 1 * GIB,
    "max_dirty_bytes": 256 * MIB,
    "max_value_bytes": 64 * MIB,
    "max_tables": 256,
    "max_readers": 512,
    "map_bytes": 1024 * GIB,
    "stall_timeout": 30.0,
    "overload": "block",
    "flush_strategy": None,
    "recovery": "tolerate-torn-tail",
    "check": "auto",
    "quarantine_bytes": 1 * GIB,
    "disk_reserve_bytes": 16 * MIB,
    "lsn_block": 1 << 28,
    "progress": None,
    "disk": None,
    "runtime": None,
}

LEVEL = "*, durability=None"
READS = {
    "get": "(self, key, default=None)",
    "get_many": "(self, keys)",
    "scan": "(self, start=None, stop=None, *, prefix=None, reverse=False, limit=None)",
}
TABLE = {
    **READS,
    "put": f"(self, key, value, {LEVEL})",
    "delete": f"(self, key, {LEVEL})",
    "put_many": f"(self, items, {LEVEL})",
    "update": "(self, other=(), /, **kwargs)",
    "clear": "(self)",
    "incr": f"(self, key, delta=1, {LEVEL})",
    "compare_and_set": f"(self, key, expected, new, {LEVEL})",
    "setdefault": f"(self, key, default=None, {LEVEL})",
    "pop": f"(self, key, default=..., {LEVEL})",
    "popitem": "(self)",
    "append": f"(self, value, {LEVEL})",
    "keys": "(self)",
    "items": "(self)",
    "values": "(self)",
    "name": "property",
}
SIGNATURES: dict[type, dict[str, str]] = {
    Table: TABLE,
    Store: {
        **TABLE,
        "table": "(self, name, *, durability=None, codec=None, logged=None)",
        "tables": "(self)",
        "drop_table": "(self, name)",
        "batch": "(self, *, durability=None)",
        "snapshot": "(self)",
        "sync": "(self)",
        "flush": "(self, timeout=30.0)",
        "wait_stored": "(self, lsn, timeout=30.0)",
        "stats": "(self)",
        "health": "(self)",
        "close": "(self, drain=True, timeout=30.0)",
    },
    Snapshot: {**READS, "table": "(self, table)", "close": "(self)", "lsn": "property"},
    TableSnapshot: READS,
    Batch: {
        "put": "(self, key, value)",
        "delete": "(self, key)",
        "table": "(self, table)",
    },
    TableBatch: {"put": "(self, key, value)", "delete": "(self, key)"},
}


def shape(member: Any) -> str:
    """Return how something is called: names, kinds and defaults, without annotations."""
    if isinstance(member, property):
        return "property"
    signature = inspect.signature(member)
    bare = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default=... if type(parameter.default) is object else parameter.default,
        )
        for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return text.replace("Ellipsis", "...")


def test_names() -> None:
    """`__all__` is exactly this, sorted, and every name is there."""
    assert NAMES == sorted(NAMES)
    assert NAMES == strandline.__all__
    assert all(hasattr(strandline, name) for name in NAMES)


def test_nothing_else_looks_public() -> None:
    """What is not in `__all__` is a module of the package or begins with an underscore."""
    others = set(vars(strandline)) - set(NAMES)
    assert {
        name
        for name in others
        if not name.startswith("_") and not isinstance(getattr(strandline, name), ModuleType)
    } == set()


@pytest.mark.parametrize("name", ERRORS)
def test_bases_of_errors(name: str) -> None:
    """Programs catch by these classes, the built-in ones included."""
    error = getattr(strandline, name)
    expected = tuple(getattr(strandline, b) if isinstance(b, str) else b for b in ERRORS[name])
    assert expected == error.__bases__


def test_no_error_is_missing_from_the_tree() -> None:
    """Every exported exception is pinned above, and derives from StrandlineError."""
    exported = {
        name
        for name in NAMES
        if inspect.isclass(found := getattr(strandline, name)) and issubclass(found, BaseException)
    }
    assert set(ERRORS) == exported
    assert all(issubclass(getattr(strandline, n), strandline.StrandlineError) for n in exported)


def test_options() -> None:
    """Every option by name, in order, with its default."""
    found = {field.name: field.default for field in dataclasses.fields(Options)}
    assert list(DEFAULTS) == list(found)
    assert DEFAULTS == found
    assert dataclasses.astuple(Options()) == tuple(DEFAULTS.values())


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k, names in SIGNATURES.items() for n in names],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)  # fmt: skip
def test_signatures(kind: type, name: str) -> None:
    """How each verb is called."""
    assert SIGNATURES[kind][name] == shape(inspect.getattr_static(kind, name))


@pytest.mark.parametrize("kind", SIGNATURES, ids=lambda kind: kind.__name__)
def test_no_verb_is_missing(kind: type) -> None:
    """A public method or property is pinned above."""
    own = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("strandline")
        for name, member in vars(base).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }
    assert own <= set(SIGNATURES[kind])


def test_open() -> None:
    """A path and options by name."""
    assert shape(strandline.open) == "(path, **options)"


def test_levels_and_states() -> None:
    """The members of the enumerations."""
    assert ["SYNC", "BUFFERED", "ASYNC"] == [level.name for level in strandline.Durability]
    assert ["OK", "THROTTLED", "DEGRADED", "BLOCKED", "FAILED"] == [
        state.name for state in strandline.HealthState
    ]


def test_importing_brings_no_extra() -> None:
    """The store alone needs nothing of the command line's or the benchmarks' packages."""
    script = (
        "import sys, strandline; print(*sorted({name.split('.')[0] for name in sys.modules} & "
        "{'rich', 'typer', 'click', 'pytest', 'hypothesis', 'matplotlib', 'diskcache', 'pickle5'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == ""
