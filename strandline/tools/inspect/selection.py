"""Which operations are wanted: the filters that `dump`, `follow` and `history` share."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from strandline.engine.operations import OPERATION_NAMES
from strandline.tools.inspect.fields import parse_key
from strandline.tools.inspect.frames import LogOperation, Tables
from strandline.tools.inspect.times import parse_time

FromLsn = Annotated[int | None, typer.Option("--from-lsn", min=0, help="The first LSN.")]
ToLsn = Annotated[int | None, typer.Option("--to-lsn", min=0, help="The last LSN.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Written at or after it: ISO 8601, or 15m ago."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Written before it, likewise.")
]
TableNames = Annotated[
    list[str] | None,
    typer.Option("--table", "-t", metavar="NAME", help='Of this table; "" or #ID too; repeatable.'),
]
KeyText = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help=r"Of this key, as it is shown: a\x00b.")
]
PrefixText = Annotated[
    str | None, typer.Option("--prefix", metavar="TEXT", help="Of keys that begin with this.")
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=0, help="At most so many.")]


class Op(enum.Enum):
    """The kinds of operations."""

    PUT = "put"
    DELETE = "delete"
    CLEAR = "clear"
    CREATE = "create"
    DROP = "drop"
    VOID = "void"


OpNames = Annotated[
    list[Op] | None, typer.Option("--op", help="Only operations of this kind; repeatable.")
]

_OPS: Final = {name: op for op, name in OPERATION_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which operations are wanted."""

    from_lsn: int = 0
    to_lsn: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    tables: Collection[str] | None = None
    """Names, or `#id`."""
    key: str | None = None
    """As it is shown; what bytes that is depends on the table."""
    prefix: bytes | None = None
    ops: Collection[int] | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing but LSNs is asked for."""
        asked = (self.since_ns, self.until_ns, self.tables, self.key, self.prefix, self.ops)
        return all(each is None for each in asked)

    def wants_time(self, time_ns: int) -> bool:
        """Tell whether frames of this time are wanted."""
        return (self.since_ns is None or time_ns >= self.since_ns) and (
            self.until_ns is None or time_ns < self.until_ns
        )

    def wants(self, operation: LogOperation, tables: Tables) -> bool:
        """Tell whether an operation is wanted."""
        if operation.lsn < self.from_lsn:
            return False
        if self.to_lsn is not None and operation.lsn > self.to_lsn:
            return False
        if self.ops is not None and operation.op not in self.ops:
            return False
        if not self.wants_time(operation.time_ns) or not self._of_table(operation, tables):
            return False
        key = operation.key
        if self.prefix is not None and (key is None or not key.startswith(self.prefix)):
            return False
        if self.key is None:
            return True
        return key is not None and key == self._key(tables.codec(operation.table_id))

    def _of_table(self, operation: LogOperation, tables: Tables) -> bool:
        if self.tables is None:
            return True
        table_id = operation.table_id
        return tables.name(table_id) in self.tables or f"#{table_id}" in self.tables

    def _key(self, codec: str) -> bytes | None:
        try:
            return parse_key(codec, self.key or "")
        except ValueError:
            return None


def selection_of(
    *,
    from_lsn: int | None = None,
    to_lsn: int | None = None,
    since: str | None = None,
    until: str | None = None,
    tables: list[str] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    ops: list[Op] | None = None,
) -> Selection:
    """Return what options ask for; a usage error where they contradict each other."""
    if key is not None and prefix is not None:
        raise typer.BadParameter("--key and --prefix exclude each other; give one of them")
    if to_lsn is not None and from_lsn is not None and from_lsn > to_lsn:
        raise typer.BadParameter(f"--from-lsn {from_lsn} lies behind --to-lsn {to_lsn}")
    try:
        parsed = None if prefix is None else parse_key("bytes", prefix)
        parse_key("bytes", key or "")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return Selection(
        from_lsn=from_lsn or 0,
        to_lsn=to_lsn,
        since_ns=None if since is None else parse_time(since),
        until_ns=None if until is None else parse_time(until),
        tables=None if not tables else frozenset(tables),
        key=key,
        prefix=parsed,
        ops=None if not ops else frozenset(_OPS[op.value] for op in ops),
    )
