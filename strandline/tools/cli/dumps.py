"""The lines of a dump: a whole store, or one table, as JSON that loads again.

    {"dump":"strandline","version":1,"lsn":42}
    {"table":"","codec":"bytes/bytes","logged":true}
    {"key":"a","value":"1"}
    {"key":{"$base64":"/wA="},"value":"2"}
    {"end":true,"entries":2}

A table's entries follow its line, in key order; keys and values are as plain.py has them.
The last line says how many entries there were, so that a dump that was cut short shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from strandline.codecs import Codec, get_codec
from strandline.errors import InvalidRequestError
from strandline.tools.cli.plain import PlainError, from_json, from_plain, kinds, to_json, to_plain
from strandline.tools.cli.sources import Source

VERSION: Final = 1


class DumpTable(NamedTuple):
    """The beginning of a table in a dump."""

    line: int
    name: str
    codec: Codec
    logged: bool


class DumpEntry(NamedTuple):
    """A key and a value of the table that was named last."""

    line: int
    key: Any
    value: Any


def head_line(lsn: int) -> str:
    """Return the first line; `lsn` is the last one that the dump holds."""
    return to_json({"dump": "strandline", "version": VERSION, "lsn": lsn})


def table_line(name: str, codec: Codec, *, logged: bool) -> str:
    """Return the line that begins a table."""
    return to_json({"table": name, "codec": codec.name, "logged": logged})


def entry_line(key_kind: str, value_kind: str, key: Any, value: Any) -> str:
    """Return the line of one entry."""
    return to_json({"key": to_plain(key_kind, key), "value": to_plain(value_kind, value)})


def end_line(entries: int) -> str:
    """Return the last line."""
    return to_json({"end": True, "entries": entries})


def read_dump(source: Source) -> Iterator[DumpTable | DumpEntry]:
    """Yield tables and entries of a dump; raises InputError where it is none, or not whole."""
    lines = ((source.line, text) for text in source.lines() if not text.isspace())
    _read_head(source, next(lines, None))
    codec: Codec | None = None
    key_kind = value_kind = ""
    entries = 0
    for line, text in lines:
        try:
            match from_json(text):
                case {"key": key, "value": value} if codec is not None:
                    entries += 1
                    yield DumpEntry(line, from_plain(key_kind, key), from_plain(value_kind, value))
                case {"table": str(name), "codec": str(codec_name), "logged": bool(logged)}:
                    codec = get_codec(codec_name)
                    key_kind, value_kind = kinds(codec)
                    yield DumpTable(line, name, codec, logged)
                case {"end": True, "entries": int(stated)}:
                    _read_end(source, stated, entries, next(lines, None))
                    return
                case _:
                    raise source.error(
                        "expected a table, an entry or the end, found something else"
                    )
        except (PlainError, InvalidRequestError) as error:
            raise source.error(str(error), line) from error
    raise source.error(
        "expected the dump to go on to its last line, found its end: it is cut short"
    )


def _read_head(source: Source, first: tuple[int, str] | None) -> None:
    try:
        head = from_json(first[1]) if first else None
    except PlainError as error:
        raise source.error(str(error)) from error
    match head:
        case {"dump": "strandline", "version": int(version)} if version == VERSION:
            return
        case {"dump": "strandline", "version": version}:
            raise source.error(
                f"expected a dump of version {VERSION}, found version {version!r}; load it with "
                "the release that wrote it, or a later one"
            )
    raise source.error("expected the first line of a dump, found something else; see --format")


def _read_end(source: Source, stated: int, entries: int, following: tuple[int, str] | None) -> None:
    if stated != entries:
        raise source.error(
            f"expected {stated} entries, as the last line says, found {entries}: lines are missing "
            "or were added"
        )
    if following is not None:
        raise source.error("expected nothing behind the last line of a dump, found more")
