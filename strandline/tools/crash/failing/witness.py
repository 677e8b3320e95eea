"""What a recording says of a run with a fault: which calls it struck, and what came after.

After a failed sync, of the log, its directory or LMDB, nothing is acknowledged, and no sync of
the same is tried again. One step can have been under way, and a second one can have begun before
the thread that saw the failure came to say so.
"""

from __future__ import annotations

from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.script.running import Script
from strandline.tools.crash.script.steps import Step, Sync
from strandline.tools.crash.script.told import DONE, OPENED, unpack
from strandline.tools.crash.shim.record import (
    Event,
    Failed,
    Link,
    Mark,
    Mkdir,
    Open,
    Recording,
    Rename,
    Seen,
    SyncBegin,
    SyncEnd,
    Write,
)

DATABASE = "/data.mdb"
LOG = ".wal"
NAMES = "/log"
_UNDER_WAY = 2


class Witness:
    """A recording read once."""

    def __init__(self, recording: Recording) -> None:
        self.struck: list[tuple[int, str, str]] = []
        """Position, call and path of every call that the fault struck."""
        self.synced_again: str | None = None
        """A file whose sync was tried again after it had failed."""
        self._failed_sync: int | None = None
        self._marks: list[tuple[int, bytes]] = []
        self._names: dict[int, str] = {}
        self._lost: set[int] = set()
        for position, event in enumerate(recording.events):
            self._take(position, event)

    def check(self, script: Script) -> None:
        """Hold what was told after a failed sync against the promise.

        Raises:
            ViolationError: something was acknowledged, or the sync repeated.
        """
        if self.synced_again is not None:
            raise ViolationError(8, f"{self.synced_again}: a failed sync was repeated")
        if self._failed_sync is None:
            return
        opened, after = False, 0
        for position, data in self._marks:
            for told in unpack(data):
                opened = opened or told.kind == OPENED
                if told.kind == OPENED or position < self._failed_sync:
                    continue
                after += 1
                step = script[told.step]
                if after > _UNDER_WAY and told.kind == DONE and _acknowledges(step):
                    raise ViolationError(
                        8, f"step {told.step}, {step!r:.160}, was acknowledged after a failed sync"
                    )

    def _take(self, position: int, event: Event) -> None:
        match event:
            case Seen() | Open() | Mkdir():
                self._names[event.file] = event.path
            case Rename() | Link():
                self._names[event.file] = event.target
            case Mark():
                self._marks.append((position, event.data))
            case Failed(injected=True):
                path = event.path or self._names.get(event.file, "?")
                self.struck.append((position, event.call, path))
            case Write(injected=True):
                self.struck.append((position, "write", self._names[event.file]))
            case SyncBegin() if event.file in self._lost:
                self.synced_again = self._names[event.file]
            case SyncEnd(injected=True):
                self._lose(position, event)

    def _lose(self, position: int, event: SyncEnd) -> None:
        path = self._names[event.file]
        self.struck.append((position, "sync", path))
        if path.endswith((LOG, DATABASE, NAMES)):
            self._lost.add(event.file)
            if self._failed_sync is None:
                self._failed_sync = position


def _acknowledges(step: Step) -> bool:
    return step.answers_lsn or isinstance(step, Sync)
