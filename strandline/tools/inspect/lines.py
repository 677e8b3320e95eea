"""Operations as lines: for a person, as JSON, as CSV. What `dump` and `follow` print.

    table   LSN, time, table, operation, key, value; a terminal cuts lines at its width
    jsonl   {"lsn":7,"time":"...","table":"","op":"put","key":"a","value":"1",
             "segment":1,"offset":4096}
    csv     the same columns, with a head line; keys and values as a person sees them

A line is made for every operation of a log, so what is the same for all operations of a
frame, or of a table, is made once.
"""

from __future__ import annotations

import csv
import enum
import io
import sys
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from strandline.engine.operations import OPERATION_MASK, OPERATION_NAMES, TAG_SHIFT
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import escape, out, out_is_terminal
from strandline.tools.inspect.fields import Values, plain_key, plain_value, show_key, show_value
from strandline.tools.inspect.frames import LogOperation, Tables
from strandline.tools.inspect.times import SECOND, show_time
from strandline.wal.reader import PlacedFrame

COLUMNS: Final = ("lsn", "time", "table", "op", "key", "value")
_LEAST_WIDTH: Final = 40


class Format(enum.Enum):
    """How operations are printed."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class Lines:
    """Makes lines of operations, and prints them many at a time."""

    def __init__(self, kind: Format, values: Values, tables: Tables) -> None:
        self._kind = kind
        self._values = values
        self._tables = tables
        self._width = max(_LEAST_WIDTH, out().width) if out_is_terminal() else None
        self._second = -1
        self._second_text = ""
        self.senseless = 0
        """Frames that were passed over because what they hold makes no sense."""
        self._heads: dict[int, tuple[str, bool]] = {}
        """By tag: the JSON of table and operation, and whether keys are numbers."""

    def begin(self) -> None:
        """Print what stands above the lines."""
        if self._kind is Format.CSV:
            self.print([",".join(COLUMNS)])
        elif self._kind is Format.TABLE:
            table = "table".ljust(12)
            self.print([f"{'LSN':>10}  {'time (UTC)':<26}  {table}  {'op':<6}  key  value"])

    def print(self, lines: Iterable[str]) -> None:
        """Write whole lines."""
        text = "\n".join(lines)
        if text:
            encoding = sys.stdout.encoding or "utf-8"
            if not text.isascii():
                text = text.encode(encoding, "backslashreplace").decode(encoding)
            sys.stdout.write(text + "\n")

    def of(self, operations: Iterable[LogOperation]) -> list[str]:
        """Return a line for each operation."""
        if self._kind is Format.JSONL:
            return [self._json(each) for each in operations]
        if self._kind is Format.CSV:
            return self._csv(operations)
        return [self._row(each) for each in operations]

    def of_frame(
        self,
        place: tuple[int, int, int],
        first_lsn: int,
        tags: list[int],
        keys: list[bytes | None],
        values: list[bytes | None],
    ) -> list[str]:
        """Return the lines of consecutive operations of one frame.

        `place` is segment id, offset, time. As `of`, but as JSON without a step for each
        operation that is the same for all of them.
        """
        segment, offset, time_ns = place
        if self._kind is not Format.JSONL or self._values is Values.MSGPACK:
            return self.of(
                LogOperation(
                    lsn,
                    tag >> TAG_SHIFT,
                    tag & OPERATION_MASK,
                    key,
                    value,
                    time_ns,
                    segment,
                    offset,
                )
                for lsn, (tag, key, value) in enumerate(
                    zip(tags, keys, values, strict=True), first_lsn
                )
            )
        moment = f',"time":"{self._time(time_ns)}"'
        tail = f',"segment":{segment},"offset":{offset}}}'
        heads = self._heads
        for tag in {*tags} - heads.keys():
            self._learn(tag)
        if self._values is Values.NONE:
            return [
                f'{{"lsn":{lsn}{moment}{heads[tag][0]}{self._key(tag, key)}{tail}'
                for lsn, (tag, key) in enumerate(zip(tags, keys, strict=True), first_lsn)
            ]
        return [
            f'{{"lsn":{lsn}{moment}{heads[tag][0]}{self._key(tag, key)}'
            f',"value":{self._value(value)}{tail}'
            for lsn, (tag, key, value) in enumerate(zip(tags, keys, values, strict=True), first_lsn)
        ]

    def of_singles(
        self,
        segment: int,
        frames: list[PlacedFrame],
        tags: list[int],
        keys: list[bytes | None],
        values: list[bytes | None],
    ) -> list[str]:
        """Return the lines of frames of one operation each, as `of_frame` would."""
        if self._kind is not Format.JSONL or self._values is Values.MSGPACK:
            return [
                line
                for frame, tag, key, value in zip(frames, tags, keys, values, strict=True)
                for line in self.of_frame(
                    (segment, frame[0], frame[3]), frame[1], [tag], [key], [value]
                )
            ]
        heads = self._heads
        for tag in {*tags} - heads.keys():
            self._learn(tag)
        shown = self._keys(tags, keys)
        if self._values is not Values.NONE:
            shown = [
                f'{key},"value":{self._value(value)}'
                for key, value in zip(shown, values, strict=True)
            ]
        start = ',"time":"'
        tail = f',"segment":{segment},"offset":'
        return [
            f'{{"lsn":{frame[1]}{start}{moment}"{heads[tag][0]}{text}{tail}{frame[0]}}}'
            for frame, moment, tag, text in zip(
                frames, self._times([frame[3] for frame in frames]), tags, shown, strict=True
            )
        ]

    def _times(self, times: list[int]) -> list[str]:
        """Return many times; most often all of one second."""
        second = times[0] // SECOND
        if second == times[-1] // SECOND == min(times) // SECOND == max(times) // SECOND:
            self._time(times[0])
            if second == self._second:
                text = self._second_text
                return [f"{text}{each % SECOND // 1000:06d}Z" for each in times]
        return [self._time(each) for each in times]

    def _json(self, operation: LogOperation) -> str:
        plain = operation_plain(operation, self._tables, self._values)
        return to_json(plain)

    def _learn(self, tag: int) -> None:
        table_id = tag >> TAG_SHIFT
        name = to_json(self._tables.name(table_id))
        head = f',"table":{name},"op":"{OPERATION_NAMES[tag & OPERATION_MASK]}","key":'
        self._heads[tag] = head, self._tables.codec(table_id).startswith("int64")

    def forget_tables(self) -> None:
        """Take names anew: a table was defined."""
        self._heads.clear()

    def _key(self, tag: int, key: bytes | None) -> str:
        if key is not None and not self._heads[tag][1]:
            try:
                return encode_basestring_ascii(key.decode())
            except UnicodeDecodeError:
                pass
        return to_json(plain_key(self._tables.codec(tag >> TAG_SHIFT), key))

    def _keys(self, tags: list[int], keys: list[bytes | None]) -> list[str]:
        """Return many keys; most often all are text."""
        if not any(self._heads[tag][1] for tag in {*tags}):
            try:
                return [encode_basestring_ascii(str(key, "utf-8")) for key in keys]  # type: ignore[arg-type]
            except (UnicodeDecodeError, TypeError):
                pass  # one of them is none, or is no text
        return [self._key(tag, key) for tag, key in zip(tags, keys, strict=True)]

    def _value(self, value: bytes | None) -> str:
        if value is None:
            return "null"
        if self._values is Values.HEX:
            return f'"{value.hex()}"'
        try:
            return encode_basestring_ascii(value.decode())
        except UnicodeDecodeError:
            return to_json(plain_value(self._values, value))

    def _time(self, time_ns: int) -> str:
        second, rest = divmod(time_ns, SECOND)
        if second != self._second:
            text = show_time(time_ns)
            if not text.endswith("Z"):
                return text
            self._second, self._second_text = second, text[:20]
        return f"{self._second_text}{rest // 1000:06d}Z"

    def _csv(self, operations: Iterable[LogOperation]) -> list[str]:
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        for each in operations:
            codec = self._tables.codec(each.table_id)
            writer.writerow(
                (
                    each.lsn,
                    self._time(each.time_ns),
                    escape(self._tables.name(each.table_id)),
                    OPERATION_NAMES[each.op],
                    show_key(codec, each.key),
                    show_value(self._values, each.value),
                )
            )
        return target.getvalue().split("\n")[:-1]

    def _row(self, operation: LogOperation) -> str:
        table = show_key("bytes", self._tables.name(operation.table_id).encode())
        key = show_key(self._tables.codec(operation.table_id), operation.key)
        value = operation.value
        if value is not None and self._width is not None:
            # What cannot be on the line anyway need not be decoded.
            value = value[: 4 * self._width] if self._values is not Values.MSGPACK else value
        shown = show_value(self._values, value)
        line = (
            f"{operation.lsn:>10}  {self._time(operation.time_ns):<26}  {table or '-':<12}  "
            f"{OPERATION_NAMES[operation.op]:<6}  {key}  {shown}"
        ).rstrip()
        if self._width is None or len(line) <= self._width:
            return line
        return line[: self._width - 1] + "…"


def operation_plain(operation: LogOperation, tables: Tables, values: Values) -> dict[str, Any]:
    """Return an operation as JSON has it."""
    plain = {
        "lsn": operation.lsn,
        "time": show_time(operation.time_ns),
        "table": tables.name(operation.table_id),
        "op": OPERATION_NAMES[operation.op],
        "key": plain_key(tables.codec(operation.table_id), operation.key),
    }
    if values is not Values.NONE:
        plain["value"] = plain_value(values, operation.value)
    return plain | {"segment": operation.segment_id, "offset": operation.offset}
