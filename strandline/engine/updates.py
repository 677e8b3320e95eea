"""Read, modify, write: deciding on the newest queued state of a key, in one step.

The answer is given only when the state that it was computed from is durable at its own
level; if that fails, so does the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from strandline.engine.joining import ASYNC, BUFFERED, SYNC, Joining
from strandline.engine.layer import View
from strandline.engine.table_state import Queued, TableState
from strandline.options import Durability
from strandline.wal.group import OPERATION_OVERHEAD, Group, Wake

KEEP: Final = object()
"""What the decision of a read-modify-write gives to leave the key as it is."""

Decide = Callable[[bytes | None], tuple[Any, Any]]
"""From the newest value to (answer, new value, None to delete, or KEEP)."""


class _Decided(NamedTuple):
    """The answer of a read-modify-write, and what has to be durable before it is given."""

    answer: Any
    level: Durability = ASYNC
    group: Group | None = None
    lsn: int = 0
    gate: Wake | None = None


class Updates(Joining):
    """Updates of one store. Every method may be called by any thread."""

    def update(self, state: TableState, key: bytes, decide: Decide, level: Durability) -> Any:
        """Decide on the newest queued state of `key` and write what was decided, in one step.

        The answer is given only when the state that it was computed from is durable at
        its own level; if that fails, so does this.
        """
        engine, log = self._engine, self._log
        self._guard(SYNC)  # the level can turn out stronger than the one asked for
        if engine.attention:
            engine.admit(OPERATION_OVERHEAD + len(key))
        if level is not SYNC and self._now() > log.stall_at:
            log.relieve()
        fetched: tuple[Any, bytes | None] | None = None
        while True:
            with self._mutex:
                step = self._decide(state, key, decide, level, fetched)
            if isinstance(step, _Decided):
                break
            if isinstance(step, View):
                fetched = (step.below, step.below(key))  # LMDB may read from disk: no lock is held
                del step
            else:
                log.make_room(step)
        if step.level is SYNC and step.group is not None:
            log.wait_synced(step.group, step.gate)
        elif step.level is BUFFERED and step.group is not None:
            log.wait_written(step.group, step.lsn)
        return step.answer

    def _decide(
        self,
        state: TableState,
        key: bytes,
        decide: Decide,
        level: Durability,
        fetched: tuple[Any, bytes | None] | None,
    ) -> _Decided | View | int:
        """Decide and join, under the mutex; or say what has to be done first.

        A view: read the key from below it. A number: make room for so many bytes.
        """
        log = self._log
        log.settle()
        if state.gate is not None:
            state.gate()
        found, base, queued = self._newest(state, key)
        view = state.view
        if not found and view.reads_store:
            if fetched is None or fetched[0] is not view.below:
                return view
            base = fetched[1]
        del view  # an error that is kept would keep its layers with the traceback
        answer, value = decide(base)
        if value is KEEP:
            if queued is None:
                return _Decided(answer)
            gate = log.elect(queued.group) if queued.level is SYNC else None
            return _Decided(answer, queued.level, queued.group, queued.lsn, gate)
        if not state.logged:
            self._write_unlogged(state, key, value)
            return _Decided(answer)
        if queued is not None:
            level = _stronger(level, queued.level)
        group = log.group
        need = len(key) + OPERATION_OVERHEAD + len(value or b"")
        if group.size + need > group.limit:
            return need
        lsn = self._join(state, key, value, level, group, need)
        gate = log.elect(group) if level is SYNC else None
        return _Decided(answer, level, group, lsn, gate)

    def _newest(self, state: TableState, key: bytes) -> tuple[bool, bytes | None, Queued | None]:
        """Return whether memory knows the key, its newest value, and where that is queued."""
        queued = state.queued.get(key)
        for layer in state.view.layers:
            entry = layer.entries.get(key)
            if entry is not None:
                if queued is None or queued.lsn < entry[0]:
                    return True, entry[1], None
                break
        if queued is not None:
            return True, queued.value, queued
        return False, None, None


def _stronger(one: Durability, other: Durability) -> Durability:
    if SYNC in (one, other):
        return SYNC
    return BUFFERED if BUFFERED in (one, other) else ASYNC
