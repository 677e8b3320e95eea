"""Operations of a disk as a trace, and a hook that decides which of them fail.

A hook is called before each operation with its name and path. It returns None to let it
be, an exception to raise in its stead, or ("short", n) for a `pwrite` or `pread` that
stops after n bytes. It may also wait, and so hold an operation up: no lock is held
around it. Names are those of the methods of `Disk` and `DiskFile`; the `open` that makes
a file is "create", and the path of a `rename` is its target.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

Fault = BaseException | tuple[Literal["short"], int] | None
FaultHook = Callable[[str, str], Fault]


class Operation(NamedTuple):
    """One call, as it was asked for."""

    op: str
    path: str
    offset: int = 0
    length: int = 0


class FaultPoint:
    """The trace of one disk, and its hook."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        """Every call so far, those that failed included."""
        self.faults: FaultHook | None = None
        self.before: Callable[[str], object] | None = None
        """Called with its name before every operation and the hook, where tasks take turns."""

    def enter(self, op: str, path: str, offset: int = 0, length: int = 0) -> int:
        """Record a call and ask the hook; return the length that the call may have."""
        if self.before is not None:
            self.before(op)
        self.operations.append(Operation(op, path, offset, length))
        fault = self.faults(op, path) if self.faults is not None else None
        if fault is None:
            return length
        if isinstance(fault, BaseException):
            raise fault
        if op not in ("pwrite", "pread"):
            raise AssertionError(f"a short {op} means nothing; only pwrite and pread can be short")
        return min(length, fault[1])


def fail(op: str, fault: Fault, *, path: str = "", skip: int = 0, times: int = 1) -> FaultHook:
    """Return a hook that makes calls of `op` on paths ending in `path` fail.

    The first `skip` of them pass, the next `times` fail, and the rest pass.
    """
    lock = threading.Lock()
    calls = 0

    def hook(called: str, on: str) -> Fault:
        nonlocal calls
        if called != op or not on.endswith(path):
            return None
        with lock:
            calls += 1
            return fault if skip < calls <= skip + times else None

    return hook


class Gate:
    """A hook that holds up calls of `op` on paths ending in `path` until it is opened."""

    def __init__(self, op: str, *, path: str = "") -> None:
        self.op = op
        self.path = path
        self.reached = threading.Event()
        """Set when a call waits at the gate."""
        self.opened = threading.Event()

    def __call__(self, called: str, on: str) -> Fault:
        if called == self.op and on.endswith(self.path):
            self.reached.set()
            assert self.opened.wait(30), f"nobody opened the gate before {called} of {on}"
        return None
