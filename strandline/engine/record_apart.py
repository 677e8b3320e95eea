"""One record of an LMDB environment, read by a child process.

For whoever looks at a store without opening it: nobody has checked the environment, and
reading what is damaged can end a process (see `strandline.engine.probe`).

    child -> parent, one msgpack value
        [RECORD, watermark's LSN, nil or [LSN, value]]
        [FINDING, what]  or  [FOREIGN, what]

Promises that the record is verified, and that the environment is neither changed nor waited
for. A writer does not see the child's transaction: what it read counts only if no commit
came meanwhile, and is read again where one did.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final, NamedTuple

import lmdb
import msgpack

from strandline.engine import catalog, data_file
from strandline.engine.probe import no_core_dump, open_seen, start_child
from strandline.engine.records import Origin, lsn_and_value_of
from strandline.errors import ForeignStoreError, StoreCorruptionError

RECORD: Final = 0
FINDING: Final = 1
FOREIGN: Final = 2

_SILENCE_SECONDS: Final = 60.0
_ATTEMPTS: Final = 20
"""How often it is read beside a writer that commits."""
_CHILDREN: Final = 3
"""How many children are started: beside a writer one can stumble over a page in motion."""


class StoredRecord(NamedTuple):
    """What an environment holds for a key."""

    watermark_lsn: int
    """Everything up to here was in the environment."""
    lsn: int | None
    """Of the operation that wrote it, None where there is none; a counter if it is not logged."""
    value: bytes | None


def read_record_apart(directory: str, table_id: int, key: bytes) -> StoredRecord:
    """Read what the environment in `directory` holds for a key of a table.

    Raises:
        StoreCorruptionError: it cannot be read, or no child process can be started.
        ForeignStoreError: not a store of this program, or one of a newer format.
    """
    path = data_file.look(directory).path
    for left in reversed(range(_CHILDREN)):
        before = data_file.look(directory).transaction_id
        try:
            return _ask(path, directory, table_id, key)
        except StoreCorruptionError:
            if not left or data_file.look(directory).transaction_id == before:
                raise
    raise AssertionError("the last child answers, or raises")


def _ask(path: str, directory: str, table_id: int, key: bytes) -> StoredRecord:
    child = start_child(__name__, directory, table_id, key.hex(), stderr=subprocess.PIPE)
    if child is None:
        raise StoreCorruptionError(f"{path}: no process can be started here to read it in")
    with child:
        try:
            said, noise = child.communicate(timeout=_SILENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise StoreCorruptionError(
                f"{path}: reading a record made no progress for {_SILENCE_SECONDS:.0f} s; "
                "run `strandline check`"
            ) from None
        finally:
            child.kill()  # nothing to one that has ended
    if child.returncode:
        code = child.returncode
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        raise StoreCorruptionError(
            f"{path}: the process that read a record ended {how}, after "
            f"{noise[-200:].decode(errors='replace')!r}; run `strandline check`"
        )
    kind, *rest = msgpack.unpackb(said, max_bin_len=len(said))
    if kind == FOREIGN:
        raise ForeignStoreError(rest[0])
    if kind == FINDING:
        raise StoreCorruptionError(rest[0])
    watermark, found = rest
    return StoredRecord(watermark, *(found or (None, None)))


# ---- what the child does


def main(directory: str, table_id: int, key: str) -> None:
    """Read the record and write it to stdout."""
    no_core_dump()
    sys.stdout.buffer.write(msgpack.packb(_read(directory, table_id, bytes.fromhex(key))))
    sys.stdout.buffer.flush()


def _read(directory: str, table_id: int, key: bytes) -> list[Any]:
    """Return what is to be said, as of a moment in which nothing was committed."""
    said: list[Any] = []
    for _ in range(_ATTEMPTS):
        seen = data_file.look(directory)
        try:
            said = _look(seen, directory, table_id, key)
        except (StoreCorruptionError, lmdb.Error) as error:
            said = [FINDING, str(error)]
        except ForeignStoreError as error:
            said = [FOREIGN, str(error)]
        if data_file.look(directory).transaction_id == seen.transaction_id:
            break
    return said


def _look(seen: data_file.DataFile, directory: str, table_id: int, key: bytes) -> list[Any]:
    with open_seen(seen, directory) as env:
        meta = catalog.open_metadata(env, seen.path)
        with env.begin() as txn:
            metadata = catalog.read_metadata(txn, meta, seen.path)
        if table_id not in metadata.tables:
            return [RECORD, metadata.watermark.lsn, None]
        database = env.open_db(catalog.database_name(table_id), create=False)
        with env.begin() as txn:
            record = txn.get(key, db=database)
        if record is None:
            return [RECORD, metadata.watermark.lsn, None]
        origin = Origin(seen.path, {row.id: row.name for row in metadata.tables.values()})
        return [RECORD, metadata.watermark.lsn, lsn_and_value_of(table_id, key, record, origin)]
