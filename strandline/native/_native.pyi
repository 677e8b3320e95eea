from collections.abc import Callable
from typing import Any

def encode_group(
    items: list[Any],
    count: int,
    first_lsn: int,
    synced_lsn: int,
    stored_lsn: int,
    time_ns: int,
    segment_id: int,
    salt: int,
    epoch: int,
    /,
) -> bytes | None: ...
def skim(
    data: bytes, at: int, segment_id: int, salt: int, epoch: int, lsn: int, /
) -> tuple[int, int, int, int]: ...
def split(
    data: bytes, at: int, segment_id: int, salt: int, epoch: int, lsn: int, /
) -> tuple[int, int, list[tuple[int, int, bytes]]]: ...
def split_placed(
    data: bytes, at: int, segment_id: int, salt: int, epoch: int, lsn: int, offset: int, /
) -> tuple[int, int, list[tuple[int, int, int, int, int, bytes]]]: ...
def encode_slice(
    table_id: int, keys: list[bytes], entries: list[Any], /
) -> list[tuple[bytes, bytes]]: ...
def verified(table_id: int, key: bytes, record: bytes, /) -> bytes | None: ...
def verify_items(table_id: int, items: list[tuple[bytes, bytes]], /) -> int: ...
def replay(
    frames: list[tuple[int, int, bytes]],
    at: int,
    after_lsn: int,
    tables: dict[int, dict[bytes, Any]],
    most: int,
    /,
) -> tuple[int, int, int, int]: ...
def raw_items(
    items: Any, max_value_bytes: int, /
) -> tuple[list[bytes], list[bytes | None], int] | None: ...
def make_batch(
    keys: list[bytes],
    values: list[bytes | None],
    first_lsn: int,
    put_tag: int,
    delete_tag: int,
    /,
) -> tuple[list[Any], dict[bytes, Any]]: ...
def install(
    entries: dict[bytes, Any], fresh: dict[bytes, Any], entry_bytes: int, /
) -> int | None: ...
def sort_keys(keys: list[bytes], /) -> None: ...
def merge_chunk(
    stored: list[tuple[bytes, bytes]],
    bound: bytes | None,
    layers: list[tuple[dict[bytes, Any], tuple[list[bytes], ...]]],
    version: int,
    start: bytes | None,
    stop: bytes | None,
    limit: int,
    reverse: bool,
    /,
) -> tuple[list[tuple[bytes, bytes]], bytes | None]: ...

class StoredGet:
    def __new__(
        cls,
        table_id: int,
        database: Any,
        pool: list[Any],
        retired: list[bool],
        slow: Callable[[bytes], bytes | None],
        rescue: Callable[[BaseException, Any, bytes], bytes | None],
        drain: Callable[[], None],
        refuse: Callable[[bytes, bytes], bytes],
    ) -> StoredGet: ...
    def __call__(self, key: bytes, /) -> bytes | None: ...

class Sorter:
    def gather(self, entries: dict[bytes, Any], most: int, /) -> bool: ...
    def sort(self) -> None: ...
    def encode(
        self, table_id: int, most: int, /
    ) -> tuple[list[tuple[bytes, bytes]], list[bytes]]: ...

class OwnedLock:
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...
    def _is_owned(self) -> bool: ...
    def _at_fork_reinit(self) -> None: ...

class FastPut:
    def __new__(
        cls,
        *,
        engine: Any,
        state_type: type,
        group_type: type,
        segment_type: type,
        file_type: type,
        monotonic: Callable[[], float] | None,
        time_ns: Callable[[], int] | None,
        finish: Callable[[bytes, int, int], None],
        refused: Callable[[OSError], None],
        failed: Callable[[], None],
        async_level: Any,
        buffered_level: Any,
        sync_level: Any,
        gone: object,
        make_lock: Callable[[], Any],
        queued_type: type,
        window: float,
        sync_window: float,
        patience: float,
        epoch: int,
        entry_cost: int,
        slack: int,
        pressure_bytes: int,
        lsn_margin: int,
        max_value_bytes: int,
    ) -> FastPut: ...
    def __call__(self, state: Any, key: Any, value: Any, level: Any, /) -> Any: ...
    def publish(self, queued: list[Any], cut_lsn: int, /) -> int: ...
