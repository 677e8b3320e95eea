"""The verbs of a script: one class each, what it does to a store and to a model.

`do` calls the store, `apply` changes the model; both return what the call must answer, or
LSN where it answers one. Every value begins with the number of its step and is written by
no other, so that a value says which write it comes from. A step makes the tables that it
needs, so that a script can be shortened anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import xxhash

from strandline import Durability, Store
from strandline.engine.batch import Batch
from strandline.tools.crash.script.model import UNLOGGED, Model

SYNC, BUFFERED, ASYNC = Durability.SYNC, Durability.BUFFERED, Durability.ASYNC
_SHORT = 16
CODECS = {"json": "json"}
"""Of the tables that do not hold bytes."""


def table_of(db: Store, name: str) -> Any:
    """Return a table by its name in scripts, made if it is not there; "" is the store itself."""
    return db.table(name, codec=CODECS.get(name, "bytes")) if name else db


@dataclass(frozen=True)
class Step:
    """One call of one writer."""

    level: Durability
    """At which it is acknowledged."""

    answers_lsn: ClassVar[bool] = False
    """Whether `do` returns the LSN of its last operation."""
    covers_all: ClassVar[bool] = False
    """Whether it promises all that was acknowledged before it, though it writes nothing."""

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it makes if they are not there, each a commit of its own."""
        return ()

    def do(self, db: Store) -> Any:
        """Call the store; return what it answered."""
        raise NotImplementedError

    def apply(self, model: Model) -> Any:
        """Change the model as the call changes the store; return what it must answer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Put(Step):
    """`put`, or `delete` where the value is None."""

    table: str
    key: Any
    value: Any
    answers_lsn: ClassVar[bool] = True

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (self.table,)

    def do(self, db: Store) -> Any:
        """Call `put` or `delete`."""
        table = table_of(db, self.table)
        if self.value is None:
            return table.delete(self.key, durability=self.level)
        return table.put(self.key, self.value, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Set or remove one key."""
        model.ensure(self.table)
        model.write(self.table, {self.key: self.value})
        model.lsn += 1
        return model.lsn


@dataclass(frozen=True)
class PutMany(Step):
    """`put_many` on the default table; a key can come twice."""

    items: tuple[tuple[bytes, bytes], ...]
    answers_lsn: ClassVar[bool] = True

    def do(self, db: Store) -> Any:
        """Call `put_many`."""
        return db.put_many(self.items, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Set all keys; each item takes an LSN."""
        model.write("", dict(self.items))
        model.lsn += len(self.items)
        return model.lsn


@dataclass(frozen=True)
class WriteBatch(Step):
    """A batch over tables: (table, key, value or None) in order."""

    parts: tuple[tuple[str, Any, Any], ...]
    answers_lsn: ClassVar[bool] = True

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return tuple(name for name, _, _ in self.parts)

    def do(self, db: Store) -> Any:
        """Fill a batch and let it be written."""
        with db.batch(durability=self.level) as batch:
            for name, key, value in self.parts:
                _into(batch, db, name, key, value)
        return batch.lsn

    def apply(self, model: Model) -> Any:
        """Apply every part; the tables are made before, one by one."""
        for name, _, _ in self.parts:
            model.ensure(name)
        for name, key, value in self.parts:
            model.write(name, {key: value})
        model.lsn += len(self.parts)
        return model.lsn


@dataclass(frozen=True)
class Incr(Step):
    """`incr`; answers the counter's new value."""

    table: str
    key: bytes
    delta: int = 1

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (self.table,)

    def do(self, db: Store) -> Any:
        """Call `incr`."""
        return table_of(db, self.table).incr(self.key, self.delta, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Count on."""
        model.ensure(self.table)
        value = int(model.tables[self.table].get(self.key, b"0")) + self.delta
        model.write(self.table, {self.key: b"%d" % value})
        model.lsn += 1
        return value


@dataclass(frozen=True)
class CompareAndSet(Step):
    """A `compare_and_set` that finds what it expects, after one that does not."""

    key: bytes
    value: bytes

    def do(self, db: Store) -> Any:
        """Call it twice."""
        refused = db.compare_and_set(self.key, b"never", self.value, durability=self.level)
        old = db.get(self.key)
        return [refused, db.compare_and_set(self.key, old, self.value, durability=self.level)]

    def apply(self, model: Model) -> Any:
        """Set the key."""
        model.write("", {self.key: self.value})
        model.lsn += 1
        return [False, True]


@dataclass(frozen=True)
class SetDefault(Step):
    """`setdefault`; answers what is there in the end."""

    table: str
    key: Any
    value: Any

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (self.table,)

    def do(self, db: Store) -> Any:
        """Call `setdefault`."""
        return table_of(db, self.table).setdefault(self.key, self.value, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Set the key if it is absent."""
        model.ensure(self.table)
        if self.key not in model.tables[self.table]:
            model.write(self.table, {self.key: self.value})
            model.lsn += 1
        return model.tables[self.table][self.key]


@dataclass(frozen=True)
class Pop(Step):
    """`pop` with a default; answers what was there."""

    table: str
    key: Any

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (self.table,)

    def do(self, db: Store) -> Any:
        """Call `pop`."""
        return table_of(db, self.table).pop(self.key, None, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Remove the key if it is there."""
        model.ensure(self.table)
        old = model.tables[self.table].get(self.key)
        if old is not None:
            model.write(self.table, {self.key: None})
            model.lsn += 1
        return old


@dataclass(frozen=True)
class Append(Step):
    """`append` to a table of events; answers the key, which is the LSN."""

    value: bytes

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return ("events",)

    def do(self, db: Store) -> Any:
        """Call `append`."""
        return table_of(db, "events").append(self.value, durability=self.level)

    def apply(self, model: Model) -> Any:
        """Set the next key."""
        model.ensure("events")
        model.lsn += 1
        key = model.lsn.to_bytes(8, "big")
        model.write("events", {key: self.value})
        return key


@dataclass(frozen=True)
class Clear(Step):
    """`clear` of a table, one operation."""

    table: str

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (self.table,)

    def do(self, db: Store) -> Any:
        """Call `clear`."""
        table_of(db, self.table).clear()

    def apply(self, model: Model) -> Any:
        """Empty the table."""
        model.ensure(self.table)
        model.tables[self.table] = {}
        model.lsn += 1


@dataclass(frozen=True)
class Drop(Step):
    """`drop_table`, if it is there; a later use makes it anew, and empty."""

    table: str

    def do(self, db: Store) -> Any:
        """Call `drop_table`."""
        if self.table in db.tables():
            db.drop_table(self.table)

    def apply(self, model: Model) -> Any:
        """Forget the table."""
        if self.table in model.tables:
            del model.tables[self.table]
            model.lsn += 1


@dataclass(frozen=True)
class PutUnlogged(Step):
    """A `put` to the table that is not logged. What makes the table is logged."""

    key: bytes
    value: bytes

    @property
    def tables(self) -> tuple[str, ...]:
        """What it writes to."""
        return (UNLOGGED,)

    def do(self, db: Store) -> Any:
        """Call `put`."""
        db.table(UNLOGGED, logged=False).put(self.key, self.value)

    def apply(self, model: Model) -> Any:
        """Set the key, beside the log."""
        model.ensure(UNLOGGED)
        model.unlogged = {**model.unlogged, self.key: self.value}


@dataclass(frozen=True)
class Get(Step):
    """`get`; answers the value. What it saw must not be undone by a crash that respects it."""

    key: bytes

    def do(self, db: Store) -> Any:
        """Call `get`."""
        return db.get(self.key)

    def apply(self, model: Model) -> Any:
        """Look at the key."""
        return model.tables[""].get(self.key)


def seen(value: bytes) -> bytes:
    """Return a value as looks tell it: whole if it is short, else its digest."""
    return value if len(value) <= _SHORT else xxhash.xxh3_64_digest(value)


@dataclass(frozen=True)
class Look(Step):
    """A snapshot that is held open; answers its LSN, and twice what was seen in its tables.

    Seen is a list of [table, key, `seen` value]: in the order of a scan with a pause before and
    in it, and that of a scan backwards, turned round, after another one.
    """

    names: tuple[str, ...]
    pause: float
    """In seconds."""

    def do(self, db: Store) -> Any:
        """Take a snapshot, and let others go on while it is read."""
        sleep = db.engine.runtime.sleep
        with db.snapshot() as snapshot:
            sleep(self.pause)
            first: list[list[Any]] = []
            for name in self.names:
                for key, value in snapshot.table(name).scan():
                    first.append([name, key, seen(value)])
                    if len(first) == 1:
                        sleep(self.pause)
            sleep(self.pause)
            second = [
                [name, key, seen(value)]
                for name in reversed(self.names)
                for key, value in snapshot.table(name).scan(reverse=True)
            ]
            return [snapshot.lsn, first, second[::-1]]

    def apply(self, model: Model) -> Any:
        """Nothing changes; only the oracle of several writers knows what it must have seen."""


@dataclass(frozen=True)
class Flush(Step):
    """`flush`: all that was acknowledged is in LMDB."""

    timeout: float = 30.0
    """Seconds that it waits for LMDB to take what it refuses."""
    covers_all: ClassVar[bool] = True

    def do(self, db: Store) -> Any:
        """Call `flush`; how many keys it says remain."""
        return db.flush(self.timeout).remaining

    def apply(self, model: Model) -> Any:
        """Nothing changes, and nothing remains."""
        return 0


@dataclass(frozen=True)
class Sync(Step):
    """`sync`: all that was acknowledged is on disk."""

    covers_all: ClassVar[bool] = True

    def do(self, db: Store) -> Any:
        """Call `sync`."""
        db.sync()

    def apply(self, model: Model) -> Any:
        """Nothing changes."""


@dataclass(frozen=True)
class Reopen(Step):
    """A close in order, and a new opening, which whoever runs the script does."""

    drain: bool
    covers_all: ClassVar[bool] = True

    def do(self, db: Store) -> Any:
        """Close the store."""
        db.close(drain=self.drain)

    def apply(self, model: Model) -> Any:
        """Nothing changes."""


def _into(batch: Batch, db: Store, name: str, key: Any, value: Any) -> None:
    part = batch.table(table_of(db, name)) if name else batch
    if value is None:
        part.delete(key)
    else:
        part.put(key, value)
