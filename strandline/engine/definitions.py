"""Creating, clearing and dropping tables.

Rare, and therefore simple: a definition holds all three locks of the log, so that nothing
is in flight while it is logged, synced and applied, and nothing joins meanwhile. It is
always on disk when the call returns, whatever the table's own level.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from strandline.codecs import get_codec
from strandline.engine.catalog import TableRow
from strandline.engine.engine import Engine
from strandline.engine.layer import Layer
from strandline.engine.operations import CLEAR, CREATE, DROP, encode_table_options, tag_of
from strandline.engine.table_state import DEFAULT_TABLE_NAME, TableState
from strandline.errors import (
    InvalidRequestError,
    InvalidTypeError,
    StoreFailedError,
    WriteOutcomeUnknownError,
)
from strandline.wal.group import OPERATION_OVERHEAD

MAX_NAME_BYTES = 200


class Definitions:
    """Defines the tables of one store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, name: str) -> TableState | None:
        """Return a table by name, None if there is none."""
        for state in tuple(self._engine.index.states.values()):
            if state.name == name:
                return state
        return None

    def open(self, name: str, codec: str | None, logged: bool | None) -> TableState:
        """Return a table; create it if it is not there. A definition that differs is refused."""
        check_name(name)
        wanted = None if codec is None else get_codec(codec).name
        if logged is not None and not isinstance(logged, bool):
            raise InvalidTypeError(
                f"table {name!r}: option logged: expected bool, found {type(logged).__name__}"
            )
        found = self.find(name)
        if found is None:
            found = self._create(name, wanted or "bytes", logged is not False)
        if wanted is not None and wanted != found.codec.name:
            raise InvalidRequestError(
                f"table {name!r}: expected codec {found.codec.name!r}, with which it was created, "
                f"found {wanted!r}. Open it with its own codec, or leave the option out"
            )
        if logged is not None and logged != found.logged:
            raise InvalidRequestError(
                f"table {name!r}: expected logged={found.logged}, with which it was created, "
                f"found logged={logged}. Leave the option out, or use another table"
            )
        return found

    def _create(self, name: str, codec: str, logged: bool) -> TableState:
        engine = self._engine
        codec = get_codec(codec).name

        made: list[TableRow] = []

        def apply() -> None:
            # After an interrupt this runs again, and goes on where it was cut short.
            row = made[-1]
            if row not in engine.definitions:
                engine.definitions.append(row)
            state = engine.index.states.get(row.id)
            if state is None:
                engine.add_table(row)
            else:
                engine.index.refresh(state)

        def items() -> tuple[int, bytes, bytes] | None:
            if self.find(name) is not None:
                return None
            if len(engine.index.states) > engine.options.max_tables:
                raise InvalidRequestError(
                    f"table {name!r}: the store has {engine.options.max_tables} tables, all that "
                    "max_tables allows. Open it with a larger max_tables, or drop a table"
                )
            options = encode_table_options(codec, logged=logged)
            made.append(TableRow(engine.highest_table_id + 1, name, codec, logged))
            return tag_of(made[-1].id, CREATE), name.encode(), options

        self._define(items, apply)
        found = self.find(name)
        assert found is not None, "a table that was just created"
        return found

    def clear(self, state: TableState) -> int | None:
        """Delete every key of a table, in one operation; return its LSN."""
        engine = self._engine
        full: list[tuple[Layer, int]] = []

        def items() -> tuple[int, None, None]:
            if state.gate is not None:
                state.gate()
            full.append((state.layer, engine.log.next_lsn()))
            return tag_of(state.id, CLEAR), None, None

        def apply() -> None:
            # After an interrupt this can run late or again, when newer writes are there already.
            layer, lsn = full[-1]
            if state.layer is not layer:
                engine.index.refresh(state)
            elif state.logged and engine.log.next_lsn() > lsn + 1:
                engine.index.clear(state, lsn)
            else:
                engine.index.clear(state)
            if engine.dirty_since is None:
                engine.note_dirty()

        if not state.logged:
            refuse_inside(engine)
            with engine.log.mutex:
                engine.check_open()
                items()
                apply()
            return None
        return self._define(items, apply)

    def drop(self, name: str) -> None:
        """Remove a table and its keys; its id is never used again."""
        engine = self._engine
        check_name(name)
        if name == DEFAULT_TABLE_NAME:
            raise InvalidRequestError("the default table cannot be dropped; clear() empties it")
        state = self.find(name)
        if state is None:
            known = ", ".join(repr(s.name) for s in engine.index.states.values() if s.name)
            raise InvalidRequestError(f"there is no table {name!r}; there is {known or 'none'}")

        def items() -> tuple[int, bytes, None] | None:
            gone = engine.index.states.get(state.id) is not state
            return None if gone else (tag_of(state.id, DROP), name.encode(), None)

        def apply() -> None:
            if engine.index.states.get(state.id) is state:
                forget_table(engine, state)

        self._define(items, apply)

    def _define(self, items: Any, apply: Any) -> int | None:
        """Log one definition with nothing in flight, sync it, and apply it."""
        engine, log = self._engine, self._engine.log
        refuse_inside(engine)
        if engine.attention:
            engine.admit(OPERATION_OVERHEAD)
        log.make_room(MAX_NAME_BYTES + 100)
        with log.sync_lock, log.append_lock:
            log.sync()
            with log.mutex:
                engine.check_open()
                log.sync()
                operation = items()
                if operation is None:
                    return None
                group = log.group
                lsn = log.next_lsn()
                log.note_first(group)
                engine.definition_lsn = lsn
                group.items += operation
                # Published when the sync lands, by whoever gets that far.
                group.sync += ((apply, b"", (lsn, None, None)),)
                try:
                    log.sync()
                except StoreFailedError as error:
                    # The store may have failed elsewhere behind this frame's write.
                    raise WriteOutcomeUnknownError(
                        f"{engine.path}: {log.failure}. The definition is there after a reopen or "
                        "it is not. Close the store and open it anew"
                    ) from error
                return lsn


def forget_table(engine: Engine, state: TableState) -> None:
    """Take a dropped table out of the index. Under the mutex."""
    state.gate = partial(_dropped, state.name)
    if state.id not in engine.definitions:
        engine.definitions.append(state.id)
    engine.index.drop(state)
    if engine.dirty_since is None:
        engine.note_dirty()


def check_name(name: Any) -> None:
    """Refuse what cannot be a table's name."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"a table's name: expected str, found {type(name).__name__}")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidRequestError(
            f"a table's name: expected at most {MAX_NAME_BYTES} bytes of UTF-8, "
            f"found {len(name.encode('utf-8', 'surrogatepass'))}"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"a table's name: expected valid Unicode, found {name!r}"
        ) from error


def refuse_inside(engine: Engine) -> None:
    """Refuse a call from inside another one on the same thread."""
    log = engine.log
    for lock in (log.mutex, log.append_lock, log.sync_lock):
        if lock._is_owned():
            raise InvalidRequestError(
                f"{engine.path}: the store was called from a signal handler, a finalizer or a "
                "garbage-collector callback while the same thread was inside it. Let the handler "
                "set a flag, or hand the call to another thread"
            )


def _dropped(name: str) -> None:
    raise InvalidRequestError(f"table {name!r} was dropped; open it again with db.table()")
