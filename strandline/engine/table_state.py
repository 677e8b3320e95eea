"""What the engine keeps for one table while the store is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from strandline.codecs import get_codec
from strandline.engine.layer import Entries, Layer, View
from strandline.engine.operations import DELETE, PUT, tag_of
from strandline.options import Durability
from strandline.wal.group import Group

DEFAULT_TABLE_ID: Final = 1
DEFAULT_TABLE_NAME: Final = ""


class Queued(NamedTuple):
    """The newest write of a key that is queued but not yet visible."""

    lsn: int
    value: bytes | None
    group: Group
    level: Durability


class TableState:
    """One table's layers, its queued writes and how it is defined.

    Everything here is guarded by the mutex, except that `view` may be read without it:
    it is replaced in one store and never changed.
    """

    __slots__ = (
        "append_at",
        "codec",
        "delete_tag",
        "entries",
        "frozen",
        "gate",
        "id",
        "layer",
        "logged",
        "name",
        "put_tag",
        "queued",
        "view",
    )

    view: View

    def __init__(self, table_id: int, name: str, codec: str, *, logged: bool, layer: Layer) -> None:
        self.id = table_id
        self.name = name
        self.codec = get_codec(codec)
        self.logged = logged
        self.put_tag = tag_of(table_id, PUT)
        self.delete_tag = tag_of(table_id, DELETE)
        self.layer = layer
        self.entries: Entries = layer.entries
        self.frozen: tuple[Layer, ...] = ()
        """Layers on their way to LMDB, newest first."""
        self.queued: dict[bytes, Queued] = {}
        self.gate: Callable[[], None] | None = None
        """Set where the table takes no writes any more; raises the reason."""
        self.append_at: int | None = None
        """The last key that `append` gave out in an unlogged table."""

    def __repr__(self) -> str:
        """Name the table as messages do."""
        return f"table {self.name!r}" if self.name else "the default table"
