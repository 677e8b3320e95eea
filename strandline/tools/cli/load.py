"""`strandline load`: many records from a file or a pipe."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from strandline import Store
from strandline.codecs import Codec
from strandline.engine.validation import check_key, check_value
from strandline.errors import InvalidRequestError, StrandlineError
from strandline.options import Durability
from strandline.tools.cli.dumps import DumpTable, read_dump
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.params import AsJson, CodecName, Create, Level, StorePath, TableName
from strandline.tools.cli.plain import kinds, to_json
from strandline.tools.cli.rows import Picker, csv_records, json_records
from strandline.tools.cli.sources import COMPRESSED_SUFFIXES, STDIN, Source, open_source
from strandline.tools.cli.stores import codec_of, opened, require_table, table_of
from strandline.tools.cli.terminal import ProgressBar, note, write_line

EXAMPLES: Final = (
    "strandline load data flights.csv.xz --key year --key month --key day --key flight --create",
    "zcat events.jsonl.gz | strandline load data - --format jsonl --key id --table events",
    "strandline load copy data.jsonl --format dump --create",
)

INTERRUPTED_STATUS: Final = 130

_CHUNK_RECORDS: Final = 1000
_CHUNK_BYTES: Final = 4 << 20
_RECORD_BYTES: Final = 64


class Format(enum.Enum):
    """What a file holds."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    DUMP = "dump"


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}

InputFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file, gzip and xz too; - is stdin.")
]
KeyFields = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="NAME", help="The column or field that is the key; repeatable."),
]
Separator = Annotated[
    str, typer.Option("--separator", metavar="TEXT", help="Joins the fields of a key.")
]
ValueField = Annotated[
    str | None,
    typer.Option(
        "--value", metavar="NAME", help="The field that is the value; without, the whole record."
    ),
]
FormatName = Annotated[
    Format | None, typer.Option("--format", help="What FILE holds; its name tells without.")
]
Delimiter = Annotated[
    str | None, typer.Option("--delimiter", metavar="CHAR", help="Between the fields of CSV.")
]


def load(
    store: StorePath,
    file: InputFile,
    *,
    key: KeyFields = None,
    value: ValueField = None,
    separator: Separator = ":",
    table: TableName = "",
    format_name: FormatName = None,
    delimiter: Delimiter = None,
    durability: Level = Durability.SYNC,
    create: Create = False,
    codec: CodecName = None,
    as_json: AsJson = False,
) -> None:
    """Load records from CSV with a header, from lines of JSON objects, or from a dump.

    They are written in chunks of 1000, each of which is there whole or not at all. A record that
    is not as it should be ends the load: what was written before stays, and loading the
    file again writes it once more with the same result.
    """
    kind = format_name or _format_of(file)
    if kind is Format.DUMP:
        if key or value or table or codec or delimiter:
            raise typer.BadParameter("a dump names its tables, keys and values itself: give none")
    elif not key:
        raise typer.BadParameter("expected --key, the field that is the key, found none")
    started = time.monotonic()
    with open_source(file) as source, opened(store, create=create) as db:
        with ProgressBar(f"loading {source.name}", "records") as bar:
            job = _Load(db, source, durability, bar)
            if kind is Format.DUMP:
                job.run(_dumped(job, create=create))
            else:
                target = job.take(table_of(db, table, create=create, codec=codec), table)
                picker = Picker(source, target.codec, tuple(key or ()), separator, value)
                if len(picker.key_fields) > 1 and kinds(target.codec)[0] == "int64":
                    raise typer.BadParameter("a table with integer keys takes one --key")
                job.run(_picked(target, picker, kind, delimiter))
        seconds = time.monotonic() - started
        result = job.result(seconds)
    if as_json:
        write_line(to_json(result))
    else:
        write_line(
            f"{result['records']:,} records loaded, {result['new_keys']:,} new keys, "
            f"{seconds:.1f} s, {result['records'] / max(seconds, 1e-9):,.0f} records/s"
        )


def _format_of(file: Path) -> Format:
    suffixes = file.suffixes
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes = suffixes[:-1]
    found = _SUFFIXES.get(suffixes[-1]) if suffixes and file != STDIN else None
    if found is None:
        raise typer.BadParameter(
            f"expected a name that ends in {', '.join(_SUFFIXES)}, found {str(file)!r}; say what "
            "it holds with --format"
        )
    return found


@dataclass(slots=True)
class _Target:
    """A table that is loaded into."""

    table: Any
    codec: Codec
    before: int
    """How many keys it held."""


Item = tuple[_Target, int, Any, Any]
"""Where to, from which line, key and value."""


def _picked(target: _Target, picker: Picker, kind: Format, delimiter: str | None) -> Iterator[Item]:
    if kind is Format.JSONL:
        records = json_records(picker.source)
    else:
        default = "\t" if kind is Format.TSV else ","
        if delimiter is not None and len(delimiter) != 1:
            raise typer.BadParameter(f"--delimiter: expected one character, found {delimiter!r}")
        records = csv_records(picker.source, delimiter or default)
    for line, record in records:
        yield target, line, *picker.pick(line, record)


def _dumped(job: _Load, *, create: bool) -> Iterator[Item]:
    target: _Target | None = None
    for each in read_dump(job.source):
        if isinstance(each, DumpTable):
            job.flush()
            require_table(job.db, each.name, create=create)
            found = job.db.table(each.name, codec=each.codec.name, logged=each.logged)
            target = job.take(found, each.name)
        elif target is not None:
            yield target, each.line, each.key, each.value


@dataclass(slots=True)
class _Load:
    """The state of one load."""

    db: Store
    source: Source
    durability: Durability
    bar: ProgressBar
    records: int = 0
    """Records that were written."""
    lsn: int | None = None
    _targets: dict[str, _Target] = field(default_factory=dict)
    _items: list[Item] = field(default_factory=list)
    _size: int = 0

    def take(self, table: Any, name: str) -> _Target:
        """Return a table as a target, its keys counted before anything is written."""
        target = self._targets.get(name)
        if target is None:
            target = _Target(table, codec_of(self.db, name), len(table))
            self._targets[name] = target
        return target

    def run(self, items: Iterator[Item]) -> None:
        """Write all items; what ends it early says how many were written."""
        try:
            for item in items:
                self._items.append(item)
                self._size += _RECORD_BYTES + _size(item[3])
                if len(self._items) >= _CHUNK_RECORDS or self._size >= _CHUNK_BYTES:
                    self.flush()
            self.flush()
        except KeyboardInterrupt:
            note(f"interrupted: {self.records:,} records were loaded")
            raise typer.Exit(INTERRUPTED_STATUS) from None
        except (CommandError, StrandlineError) as error:
            raise CommandError(f"{error}. {self.records:,} records were loaded before") from error

    def flush(self) -> None:
        """Write the chunk, all of it to one table."""
        if not self._items:
            return
        pairs = [(key, value) for _, _, key, value in self._items]
        try:
            lsn = self._items[0][0].table.put_many(pairs, durability=self.durability)
        except InvalidRequestError as error:
            raise self._blame(error) from error
        self.lsn = lsn if lsn is not None else self.lsn
        self.records += len(pairs)
        self._items.clear()
        self._size = 0
        self.bar.advance(self.records, self.source.position, self.source.total)

    def _blame(self, error: InvalidRequestError) -> StrandlineError | CommandError:
        """Return an error that names the line that the store did not take."""
        most = self.db.engine.options.max_value_bytes
        for target, line, key, value in self._items:
            try:
                check_key(target.codec.encode_key(key))
                check_value(target.codec.encode_value(value), most)
            except InvalidRequestError as refusal:
                return self.source.error(str(refusal), line)
        return error

    def result(self, seconds: float) -> dict[str, Any]:
        """Return what came of it."""
        targets = self._targets.values()
        return {
            "records": self.records,
            "new_keys": sum(len(target.table) - target.before for target in targets),
            "tables": sorted(self._targets),
            "lsn": self.lsn,
            "bytes_read": self.source.position,
            "seconds": round(seconds, 3),
        }


def _size(value: Any) -> int:
    """Return roughly how large a value is; a record counts its fields."""
    if isinstance(value, dict):
        return sum(_size(each) for each in value.values())
    return len(value) if isinstance(value, (bytes, str, list)) else 8
