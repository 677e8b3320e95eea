"""Stored keys and values of every codec: `python -m fuzz.codecs`."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from fuzz.harness import run
from strandline.codecs import get_codec
from strandline.engine.operations import PayloadError, decode_creation, encode_table_options
from strandline.errors import InvalidRequestError, StoreCorruptionError

CODECS: Final = [get_codec(name) for name in ("bytes", "utf-8", "msgpack", "json", "int64/json")]


def target(data: bytes) -> None:
    """Decode with every codec: a value that encodes again, or an error that says what it is."""
    for codec in CODECS:
        for decode, encode in (
            (codec.decode_key, codec.encode_key),
            (codec.decode_value, codec.encode_value),
        ):
            try:
                value = decode(data)
            except StoreCorruptionError:
                continue
            check_again(value, decode, encode)
    check_creation(data)


def check_again(value: Any, decode: Any, encode: Any) -> None:
    """What was decoded is a value like any other, unless no encoder would have written it."""
    try:
        data = encode(value)
    except InvalidRequestError:
        return  # a timestamp of msgpack, a number that JSON has and Python's floats have not
    assert repr(decode(data)) == repr(value)


def check_creation(data: bytes) -> None:
    """The description of a table is one, or is refused."""
    head = data[:1]
    length = head[0] if head else 0
    name, options = data[1 : 1 + length], data[1 + length :]
    try:
        found = decode_creation(name, options)
    except PayloadError:
        return
    assert decode_creation(found[0].encode(), encode_table_options(found[1], logged=found[2]))
    assert msgpack.unpackb(options)["codec"] == found[1]


if __name__ == "__main__":
    run(target)
