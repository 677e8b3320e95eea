"""`Table`: the verbs of a table, and a full `MutableMapping`."""

from __future__ import annotations

from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from strandline.codecs import ABSENT, Codec
from strandline.engine.layer import ENTRY_BYTES
from strandline.engine.reading import count_entries, decoded, get_many, iterate, scan_at_once
from strandline.engine.scan import bounds_of
from strandline.engine.snapshots import SnapshotState
from strandline.engine.table_state import TableState
from strandline.engine.updates import KEEP
from strandline.engine.validation import (
    check_bound,
    check_count,
    check_counter,
    check_key,
    check_level,
    check_value,
    parse_counter,
)
from strandline.engine.write_path import WritePath
from strandline.errors import InvalidRequestError, InvalidTypeError
from strandline.native import native
from strandline.options import Durability

if TYPE_CHECKING:
    from strandline.engine.store import Store

K = TypeVar("K")
V = TypeVar("V")

_CHUNK_BYTES = 1 << 20
_MISSING: Any = object()


class Table(MutableMapping[K, V], Generic[K, V]):
    """The keys and values of one table. Made by `Store.table`; safe to share by threads.

    Writes are acknowledged at the level given in the call, else at the table's, else at
    the store's. Every read sees what was acknowledged before it began.
    """

    __slots__ = (
        "__weakref__",
        "_codec",
        "_fast",
        "_level",
        "_max_value",
        "_state",
        "_store",
        "_write",
        "_writes",
    )

    def __init__(
        self, store: Store, state: TableState, writes: WritePath, level: Durability
    ) -> None:
        self._store = store
        self._state = state
        self._writes = writes
        self._write: Callable[[TableState, Any, Any, Durability], int | None] = writes.write
        self._max_value = store.engine.options.max_value_bytes
        self._level = level
        self._codec: Codec | None = None if state.codec.name == "bytes/bytes" else state.codec
        self._fast = writes.fast if self._codec is None else None

    @property
    def name(self) -> str:
        """The table's name; empty for the default table."""
        return self._state.name

    def __repr__(self) -> str:
        """Show path and table; reads nothing."""
        return f"<strandline {self._state!r} of {self._store.path!r}>"

    # ---- one key

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of `key`, or `default` where it is absent."""
        raw: Any = key
        codec = self._codec
        if codec is not None:
            raw = check_key(codec.encode_key(key))
        active, frozen, below, _, _ = self._state.view
        try:
            entry = active.get(raw)
            if entry is None:
                entry = frozen.get(raw)
        except (TypeError, ValueError):  # a mutable key cannot be hashed
            entry = None
        if entry is not None:
            value = entry[1]
        else:
            if type(raw) is not bytes or not 0 < len(raw) < 512:
                del active, frozen  # an error that is kept would keep them with its traceback
                checked = check_key(raw)
                if checked is not raw:
                    return self.get(cast(K, checked), default)
            value = below(raw)
        if value is None:
            return default
        return value if codec is None else codec.decode_value(value)

    def __getitem__(self, key: K) -> V:
        """Return the value of `key`; raises KeyError."""
        value = self.get(key, ABSENT)
        if value is ABSENT:
            raise KeyError(key)
        return cast(V, value)

    def __contains__(self, key: object) -> bool:
        """Tell whether `key` is there."""
        return self.get(cast(K, key), ABSENT) is not ABSENT

    def put(self, key: K, value: V, *, durability: Durability | None = None) -> int | None:
        """Store a value; return its LSN (None in an unlogged table).

        Raises:
            InvalidRequestError: key or value is not acceptable; nothing was logged.
            DiskFullError, BackpressureError: no room; nothing was logged.
            WriteOutcomeUnknownError: a sync failed; reopen to see.
        """
        level = self._level if durability is None else durability
        if self._fast is not None:
            done = self._fast(self._state, key, value, level)
            if done is not None:
                return done if type(done) is int else self._writes.wait(done)
        if type(level) is not Durability:
            check_level(level)
        raw: Any = key
        data: Any = value
        if (
            type(raw) is bytes
            and type(data) is bytes
            and 0 < len(raw) < 512
            and len(data) <= self._max_value
            and self._codec is None
        ):
            return self._write(self._state, raw, data, level)
        return self._write(self._state, self._raw_key(key), self._raw_value(value), level)

    def __setitem__(self, key: K, value: V) -> None:
        """Store a value at the table's level."""
        self.put(key, value)

    def delete(self, key: K, *, durability: Durability | None = None) -> int | None:
        """Delete `key`, present or not; return the LSN (None in an unlogged table)."""
        return self._writes.write(self._state, self._raw_key(key), None, self._at(durability))

    def __delitem__(self, key: K) -> None:
        """Delete `key`; raises KeyError where it is absent."""
        if self.pop(key, ABSENT) is ABSENT:
            raise KeyError(key)

    # ---- many keys

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that are present, all as of one moment."""
        wanted = dict.fromkeys(map(self._raw_key, keys))
        found = get_many(self._store.engine, self._state, list(wanted))
        return {self._key(raw): self._value(found[raw]) for raw in wanted if raw in found}

    def put_many(
        self,
        items: Mapping[K, V] | Iterable[tuple[K, V]],
        *,
        durability: Durability | None = None,
    ) -> int | None:
        """Store all items as one atomic commit; return its last LSN.

        None without any item, and in an unlogged table. A key that comes twice keeps
        its last value. Raises BatchTooLargeError above half of a budget.
        """
        keys, values, size = self._raw_items(items)
        return self._writes.write_batch([(self._state, keys, values)], self._at(durability), size)

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Store many items, as `put_many` in chunks: each chunk is atomic, the whole is not."""
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(other, Mapping):
            pairs = other.items()
        elif hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in other.keys())  # noqa: SIM118
        else:
            pairs = other
        options = self._store.engine.options
        most = min(_CHUNK_BYTES, options.max_dirty_bytes // 4, options.max_log_bytes // 4)
        keys: list[bytes] = []
        values: list[bytes | None] = []
        size = 0
        for key, value in (*pairs, *kwargs.items()) if kwargs else pairs:
            raw, data = self._raw_key(key), self._raw_value(value)
            need = ENTRY_BYTES + len(raw) + len(data)
            if keys and size + need > most:
                self._write_chunk(keys, values)
                keys, values, size = [], [], 0
            keys.append(raw)
            values.append(data)
            size += need
        if keys:
            self._write_chunk(keys, values)

    def _write_chunk(self, keys: list[bytes], values: list[bytes | None]) -> None:
        if len(keys) == 1:
            self._write(self._state, keys[0], values[0], self._level)
        else:
            self._writes.write_batch([(self._state, keys, values)], self._level)

    def clear(self) -> None:
        """Delete every key, as one operation, always on disk when this returns."""
        self._store.definitions.clear(self._state)

    # ---- read, modify, write

    def incr(self, key: K, delta: int = 1, *, durability: Durability | None = None) -> int:
        """Add to a counter kept as an ASCII decimal; return the new value. Absent counts as 0.

        Raises InvalidRequestError where the value is no integer or 64 bits do not hold
        the result.
        """
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise InvalidTypeError(f"incr: expected an int to add, found {type(delta).__name__}")
        if self._codec is not None and not self._codec.name.endswith("/bytes"):
            raise InvalidRequestError(
                f"incr: {self._state!r} has codec {self._codec.name!r}; counters need a table "
                "whose values are bytes"
            )
        raw = self._raw_key(key)

        def add(old: bytes | None) -> tuple[int, bytes]:
            number = parse_counter(old, raw) + delta
            return number, check_counter(number, raw)

        return cast(int, self._writes.update(self._state, raw, add, self._at(durability)))

    def compare_and_set(
        self, key: K, expected: Any, new: Any, *, durability: Durability | None = None
    ) -> bool:
        """Store `new` if the value is `expected`; tell whether it was.

        `ABSENT` stands for no value, as `expected` and as `new`; so does None in a
        table whose values are bytes.
        """
        raw = self._raw_key(key)
        wanted, data = self._raw_or_absent(expected), self._raw_or_absent(new)

        def swap(old: bytes | None) -> tuple[bool, Any]:
            return (True, data) if old == wanted else (False, KEEP)

        return cast(bool, self._writes.update(self._state, raw, swap, self._at(durability)))

    def setdefault(self, key: K, default: Any = None, *, durability: Durability | None = None) -> V:
        """Return the value of `key`, storing `default` first where it is absent."""
        raw, data = self._raw_key(key), self._raw_value(default)

        def keep(old: bytes | None) -> tuple[bytes, Any]:
            return (data, data) if old is None else (old, KEEP)

        return self._value(self._writes.update(self._state, raw, keep, self._at(durability)))

    def pop(self, key: K, default: Any = _MISSING, *, durability: Durability | None = None) -> Any:
        """Delete `key` and return its value, or `default` where it is absent.

        Raises KeyError where it is absent and no default is given.
        """
        raw = self._raw_key(key)

        def take(old: bytes | None) -> tuple[bytes | None, Any]:
            return old, KEEP if old is None else None

        old = self._writes.update(self._state, raw, take, self._at(durability))
        if old is not None:
            return self._value(old)
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Delete the first key and return it with its value; raises KeyError when empty."""
        while True:
            first = next(iter(self.scan(limit=1)), None)
            if first is None:
                raise KeyError(f"popitem(): {self._state!r} is empty")
            value = self.pop(first[0], ABSENT)
            if value is not ABSENT:
                return first[0], value

    def append(self, value: V, *, durability: Durability | None = None) -> K:
        """Store a value under a new key, greater than all that `append` gave before; return it.

        Needs a table whose keys are bytes (the key is 8 bytes, big-endian) or int64.
        Keys follow the order of the log.
        """
        data = self._raw_value(value)
        kind = self._state.codec.name.split("/")[0]
        if kind not in ("bytes", "int64"):
            raise InvalidRequestError(
                f"append: {self._state!r} has keys of codec {kind!r}; they must be bytes or int64"
            )
        encode = self._state.codec.encode_key if kind == "int64" else _eight_bytes
        if not self._state.logged and self._state.append_at is None:
            self._find_last_key()
        number = self._writes.append(self._state, encode, data, self._at(durability))
        return cast(K, encode(number) if kind == "bytes" else number)

    def _find_last_key(self) -> None:
        """Let an unlogged table go on above the greatest key that it holds."""
        last: Any = next(iter(self.scan(reverse=True, limit=1)), (0,))[0]
        number = last
        if isinstance(last, bytes):
            number = int.from_bytes(last[:8].ljust(8, b"\0"), "big")
        with self._store.engine.log.mutex:
            if self._state.append_at is None:
                self._state.append_at = max(0, number)

    # ---- order

    def scan(
        self,
        start: K | None = None,
        stop: K | None = None,
        *,
        prefix: K | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[K, V]]:
        """Iterate over (key, value) with start <= key < stop, or all that begin with `prefix`.

        In key order, the greatest first with `reverse`; as of the moment of the call.
        Exhaust or drop the iterator: until then it pins memory as a snapshot does.
        """
        bounds = self._bounds(start, stop, prefix)
        if limit is not None:
            check_count("limit", limit)
        engine = self._store.engine
        rows = scan_at_once(engine, self._state, *bounds, reverse, limit)
        if rows is not None:
            return cast(Any, iter(rows)) if self._codec is None else decoded(rows, self._codec)
        return iterate(self, SnapshotState(engine), bounds, reverse, limit, owned=True)

    def _bounds(self, start: Any, stop: Any, prefix: Any) -> tuple[bytes | None, bytes | None]:
        return bounds_of(
            None if start is None else self._bound("start", start),
            None if stop is None else self._bound("stop", stop),
            None if prefix is None else self._bound("prefix", prefix),
        )

    def _bound(self, name: str, bound: Any) -> bytes:
        if self._codec is None:
            return bound if type(bound) is bytes else check_bound(bound)
        if name == "prefix" and self._codec.name.startswith("int64/"):
            raise InvalidRequestError("scan: integers have no prefix; give start and stop")
        return self._codec.encode_key(bound)

    # ---- the mapping as a whole

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys in order, as of the moment of the call."""
        return map(_first, self.scan())

    def __reversed__(self) -> Iterator[K]:
        """Iterate over the keys from the greatest down."""
        return map(_first, self.scan(reverse=True))

    def __len__(self) -> int:
        """Return the number of keys; costs the dirty entries, not the whole table."""
        return count_entries(self._store.engine, self._state)

    def __bool__(self) -> bool:
        """Tell whether there is any key; stops at the first."""
        return next(iter(self.scan(limit=1)), None) is not None

    def __eq__(self, other: object) -> bool:
        """Compare with any mapping, as of one moment of this one."""
        if not isinstance(other, Mapping):
            return NotImplemented
        count = 0
        for key, value in self.items():
            count += 1
            if key not in other or other[key] != value:
                return False
        return count == len(other)

    __hash__ = None  # type: ignore[assignment]

    def keys(self) -> KeysView[K]:
        """Return a view of the keys; each iteration is as of its own beginning."""
        return KeysView(self)

    def items(self) -> ItemsView[K, V]:
        """Return a view of the items; each iteration is as of its own beginning."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values in key order; each iteration is as of its own beginning."""
        return _Values(self)

    # ---- conversions

    def _at(self, durability: Durability | None) -> Durability:
        return self._level if durability is None else check_level(durability)

    def _raw_key(self, key: Any) -> bytes:
        if self._codec is not None:
            key = self._codec.encode_key(key)
        if type(key) is bytes and 0 < len(key) < 512:
            return key
        return check_key(key)

    def _raw_value(self, value: Any) -> bytes:
        if self._codec is not None:
            value = self._codec.encode_value(value)
        return check_value(value, self._max_value)

    def _raw_or_absent(self, value: Any) -> bytes | None:
        if value is ABSENT or (value is None and self._state.codec.name.endswith("/bytes")):
            return None
        return self._raw_value(value)

    def _raw_items(self, items: Any) -> tuple[list[bytes], list[bytes | None], int]:
        """Return keys, values, and how many bytes they are together."""
        if self._codec is None and native is not None:
            raw: tuple[list[bytes], list[bytes | None], int] | None
            raw = native.raw_items(items, self._max_value)
            if raw is not None:
                return raw
        pairs = items.items() if isinstance(items, Mapping) else items
        keys: list[bytes] = []
        values: list[bytes | None] = []
        size = 0
        for key, value in pairs:
            raw_key, raw_value = self._raw_key(key), self._raw_value(value)
            keys.append(raw_key)
            values.append(raw_value)
            size += len(raw_key) + len(raw_value)
        return keys, values, size

    def _key(self, raw: bytes) -> K:
        return cast(K, raw if self._codec is None else self._codec.decode_key(raw))

    def _value(self, raw: bytes) -> V:
        return cast(V, raw if self._codec is None else self._codec.decode_value(raw))


_first = itemgetter(0)
_second = itemgetter(1)


def _eight_bytes(number: int) -> bytes:
    if number >= 1 << 64:
        raise InvalidRequestError(
            "append: the greatest key of the table leaves no room above it in 8 bytes; "
            "give keys of your own with put, or append to another table"
        )
    return number.to_bytes(8, "big")


class _Items(ItemsView[Any, Any]):
    """Items read with their values in one pass."""

    _mapping: Table[Any, Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping.scan()


class _Values(ValuesView[Any]):
    """Values read in one pass."""

    _mapping: Table[Any, Any]

    def __iter__(self) -> Iterator[Any]:
        return map(_second, self._mapping.scan())

    def __contains__(self, value: object) -> bool:
        return any(found == value for found in self)
