"""Keys and values as a person writes and sees them: text, hexadecimal or base64.

As text they follow the table's codec: bytes and utf-8 are the text itself, int64 is a
decimal number, json and msgpack are JSON (see plain.py). With --hex or --base64 they are
the stored bytes, whatever the codec.
"""

from __future__ import annotations

import base64
import enum
import os
from typing import Any

import typer

from strandline.codecs import Codec
from strandline.errors import StoreCorruptionError
from strandline.tools.cli.plain import (
    PlainError,
    decode_base64,
    decode_hex,
    from_json,
    from_plain,
    kinds,
    to_json,
    to_plain,
)
from strandline.tools.cli.terminal import escape


class Form(enum.Enum):
    """How keys and values are written."""

    TEXT = "text"
    HEX = "hex"
    BASE64 = "base64"


def form_of(*, as_hex: bool, as_base64: bool) -> Form:
    """Return the form that two options ask for."""
    if as_hex and as_base64:
        raise typer.BadParameter("--hex and --base64 exclude each other; give one of them")
    if as_hex:
        return Form.HEX
    return Form.BASE64 if as_base64 else Form.TEXT


class Writing:
    """How one table's keys and values are written in one form."""

    def __init__(self, codec: Codec, form: Form) -> None:
        self._codec = codec
        self._form = form
        self._key_kind, self._value_kind = kinds(codec)

    # ---- from what a person writes

    def key(self, text: str) -> Any:
        """Return the key that an argument means; a usage error where it is none."""
        try:
            data = os.fsencode(text) if self._form is Form.TEXT else text.encode()
            return self._read(data, self._key_kind, self._codec.decode_key)
        except (PlainError, UnicodeEncodeError) as error:
            raise typer.BadParameter(f"key {escape(text)!r}: {error}") from error

    def value(self, data: bytes) -> Any:
        """Return the value that an argument or a file means; a usage error where it is none."""
        try:
            return self._read(data, self._value_kind, self._codec.decode_value)
        except PlainError as error:
            raise typer.BadParameter(f"value: {error}") from error

    def _read(self, data: bytes, kind: str, decode: Any) -> Any:
        if self._form is not Form.TEXT:
            raw = decode_hex(data) if self._form is Form.HEX else decode_base64(data.strip())
            try:
                return decode(raw)
            except StoreCorruptionError as error:
                raise PlainError(
                    f"expected bytes of codec {self._codec.name!r}, found {raw[:16].hex()}"
                ) from error
        if kind == "bytes":
            return data
        if kind in ("json", "msgpack"):
            return from_plain(kind, from_json(data))
        try:
            text = data.decode()
            return int(text) if kind == "int64" else text
        except UnicodeDecodeError as error:
            raise PlainError(f"expected UTF-8, found other bytes: {error}") from error
        except ValueError as error:
            raise PlainError(
                "expected an integer, as the table's keys are, found other text"
            ) from error

    # ---- for a person or a program to read

    def raw_value(self, value: Any) -> bytes:
        """Return a value as a pipe gets it: the stored bytes, or the digits of another form."""
        data = self._codec.encode_value(value)
        return (
            data if self._form is Form.TEXT and self._is_text() else self.show_value(value).encode()
        )

    def show_key(self, key: Any) -> str:
        """Return a key as printable text."""
        return self._show(key, self._key_kind, self._codec.encode_key)

    def show_value(self, value: Any) -> str:
        """Return a value as printable text."""
        return self._show(value, self._value_kind, self._codec.encode_value)

    def plain_key(self, key: Any) -> Any:
        """Return a key as JSON has it."""
        return self._plain(key, self._key_kind, self._codec.encode_key)

    def plain_value(self, value: Any) -> Any:
        """Return a value as JSON has it."""
        return self._plain(value, self._value_kind, self._codec.encode_value)

    def _is_text(self) -> bool:
        return self._value_kind in ("bytes", "utf-8")

    def _show(self, value: Any, kind: str, encode: Any) -> str:
        if self._form is not Form.TEXT:
            return self._digits(encode(value))
        if kind in ("bytes", "utf-8"):
            return escape(value)
        return to_json(to_plain(kind, value))

    def _plain(self, value: Any, kind: str, encode: Any) -> Any:
        return to_plain(kind, value) if self._form is Form.TEXT else self._digits(encode(value))

    def _digits(self, data: bytes) -> str:
        return data.hex() if self._form is Form.HEX else base64.b64encode(data).decode()
