"""`Model`: what a store must hold after some of a script's steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

UNLOGGED: Final = "unlogged"
"""The name of the one table that is not logged, and so stands outside all prefixes."""

Content = dict[Any, Any]


@dataclass
class Model:
    """Tables as dicts, the default one under "". Contents are never changed, but replaced."""

    tables: dict[str, Content] = field(default_factory=lambda: {"": {}})
    lsn: int = 0
    """The last LSN that the steps so far took."""
    unlogged: Content = field(default_factory=dict)

    def copy(self) -> Model:
        """Return a model that goes its own way from here."""
        return Model(dict(self.tables), self.lsn, self.unlogged)

    def ensure(self, name: str) -> None:
        """Make a table as its first use does, which takes an LSN."""
        if name and name not in self.tables:
            self.tables[name] = {}
            self.lsn += 1

    def write(self, name: str, changes: Content) -> None:
        """Set keys of a table; None removes one."""
        content = dict(self.tables[name])
        for key, value in changes.items():
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        self.tables[name] = content
