"""CSV rows and JSON objects as keys and values.

A record's key is one of its fields, or several joined by a separator; none of them may
hold the separator, for then two records could have one key. Its value is the whole record
as a JSON object, or one field. Fields of CSV are text and stay text.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from strandline.codecs import Codec
from strandline.tools.cli.plain import PlainError, from_json, kinds
from strandline.tools.cli.sources import MAX_LINE_BYTES, Source

Record = dict[str, Any]

_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def csv_records(source: Source, delimiter: str) -> Iterator[tuple[int, Record]]:
    """Yield (line, record) for each row below the header; raises InputError."""
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(source.lines(), delimiter=delimiter, strict=True)
    try:
        names = next(rows, None)
        if names is None:
            raise source.error("expected a header with the names of the columns, found nothing", 1)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise source.error(f"expected each column once, found {twice[0]!r} twice", 1)
        for row in rows:
            if len(row) != len(names):
                if not row:
                    continue
                raise source.error(
                    f"expected {len(names)} fields, as the header has, found {len(row)}"
                )
            yield rows.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise source.error(f"expected CSV, found something else: {error}") from error


def json_records(source: Source) -> Iterator[tuple[int, Record]]:
    """Yield (line, record) for each JSON object; raises InputError."""
    for text in source.lines():
        if text.isspace():
            continue
        try:
            record = from_json(text)
        except PlainError as error:
            raise source.error(str(error)) from error
        if not isinstance(record, dict):
            raise source.error(f"expected a JSON object, found {type(record).__name__}")
        yield source.line, record


@dataclass(frozen=True, slots=True)
class Picker:
    """What of a record is the key, and what the value."""

    source: Source
    codec: Codec
    key_fields: tuple[str, ...]
    separator: str
    value_field: str | None

    def pick(self, line: int, record: Record) -> tuple[Any, Any]:
        """Return key and value of a record, as the table takes them; raises InputError."""
        key_kind, value_kind = kinds(self.codec)
        parts = [self._part(line, record, name) for name in self.key_fields]
        key: Any = self.separator.join(parts)
        if key_kind == "int64":
            try:
                key = int(key)
            except ValueError:
                raise self.source.error(
                    f"expected an integer as the key, found {key!r}", line
                ) from None
        value = record if self.value_field is None else self._field(line, record, self.value_field)
        try:
            if key_kind == "bytes":
                key = key.encode()
            if value_kind in ("bytes", "utf-8"):
                value = value if isinstance(value, str) else _COMPACT.encode(value)
                value = value.encode() if value_kind == "bytes" else value
        except UnicodeEncodeError as error:
            raise self.source.error(f"expected valid Unicode: {error}", line) from error
        return key, value

    def _part(self, line: int, record: Record, name: str) -> str:
        """Return a field as a part of the key."""
        field = self._field(line, record, name)
        if isinstance(field, bool) or not isinstance(field, (str, int)):
            raise self.source.error(
                f"field {name!r}: expected text or an integer as a part of the key, found "
                f"{type(field).__name__}",
                line,
            )
        part = str(field)
        if len(self.key_fields) > 1 and self.separator in part:
            raise self.source.error(
                f"field {name!r}: expected no {self.separator!r} in a part of the key, found "
                f"{part[:40]!r}; choose another --separator",
                line,
            )
        return part

    def _field(self, line: int, record: Record, name: str) -> Any:
        try:
            return record[name]
        except KeyError:
            names = ", ".join(map(repr, record)) or "none"
            raise self.source.error(
                f"expected a field {name!r}, found none; there is {names[:200]}", line
            ) from None
