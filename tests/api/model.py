"""A store as plain dicts: what the state machine holds the real one against."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_births = itertools.count()

BYTES_KEYS: list[Any] = [
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"a\xff",
    b"a\xff\xff",
    b"b",
    b"counter",
    b"\xff",
    b"k" * 511,
]
TEXT_KEYS: list[Any] = [
    "\0", "a", "a\0", "aa", "ab", "b", "é", "\u20ac", "\uffff", "\U0001f30a", "z" * 511, "~",
]  # fmt: skip
INT_KEYS: list[Any] = [
    -(1 << 63), -257, -256, -2, -1, 0, 1, 2, 255, 256, 1 << 40, 1 << 62,
]  # fmt: skip
BYTES_VALUES: list[Any] = [
    b"", b"0", b"-7", b"41", b"x", b"9223372036854775807", b"y" * 100, b"z" * 3000, b"w" * 9000,
]  # fmt: skip
JSON_VALUES: list[Any] = [
    None, True, 0, -1.5, "", "é", [], {"a": [1, {"b": None}]}, ["p" * 5000],
]  # fmt: skip

KEYS: dict[str, list[Any]] = {"bytes": BYTES_KEYS, "utf-8": TEXT_KEYS, "int64": INT_KEYS}
VALUES: dict[str, list[Any]] = {
    "bytes": BYTES_VALUES,
    "json": JSON_VALUES,
    "msgpack": JSON_VALUES,
    "utf-8": ["", "0", "a", "é", "\0", "\U0001f30a", "q" * 100, "r" * 3000, "s" * 9000],
}


def order(key: Any) -> Any:
    """Sort keys as the store must: bytes and integers as they are, text by code point."""
    return [ord(char) for char in key] if isinstance(key, str) else key


@dataclass
class ModelTable:
    """One table: its definition and what it holds."""

    name: str
    codec: str = "bytes/bytes"
    logged: bool = True
    data: dict[Any, Any] = field(default_factory=dict)
    birth: int = field(default_factory=lambda: next(_births))
    """Tells a table from one of the same name that was dropped."""

    @property
    def key_codec(self) -> str:
        return self.codec.split("/")[0]

    @property
    def value_codec(self) -> str:
        return self.codec.split("/")[1]

    def key(self, index: int) -> Any:
        return KEYS[self.key_codec][index]

    def value(self, index: int) -> Any:
        return VALUES[self.value_codec][index]

    def first_key(self) -> Any:
        return min(self.data, key=order)

    def scan(
        self,
        accept: Callable[[Any], bool] = lambda _: True,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[Any, Any]]:
        keys = sorted(filter(accept, self.data), key=order, reverse=reverse)
        return [(key, self.data[key]) for key in keys[:limit]]


class Model:
    """All tables, and what a crash may do to those that are not logged."""

    def __init__(self) -> None:
        self.tables: dict[str, ModelTable] = {"": ModelTable("")}
        self.history: list[dict[int, dict[Any, Any]]] = []
        """States that unlogged tables had since the last flush that was waited for."""
        self.stored()

    def unlogged(self) -> dict[int, dict[Any, Any]]:
        return {t.birth: dict(t.data) for t in self.tables.values() if not t.logged}

    def touched(self, table: ModelTable) -> None:
        if not table.logged:
            self.history.append(self.unlogged())

    def stored(self) -> None:
        self.history = [self.unlogged()]

    def after_crash(self, found: dict[str, dict[Any, Any]]) -> None:
        """Take over what a crash left of the unlogged tables; it must be one of their states."""
        live = {t.birth: found[t.name] for t in self.tables.values() if not t.logged}
        candidates = [
            {birth: state.get(birth, {}) for birth in live} for state in reversed(self.history)
        ]
        assert live in candidates
        for table in self.tables.values():
            if not table.logged:
                table.data = dict(found[table.name])
        self.stored()

    def copy(self) -> dict[str, ModelTable]:
        return {
            t.name: ModelTable(t.name, t.codec, t.logged, dict(t.data), t.birth)
            for t in self.tables.values()
        }
