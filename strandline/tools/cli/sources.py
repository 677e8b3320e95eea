"""A file to load from: decompressed where it is gzip or xz, and read line by line.

What it is compressed with shows in its first bytes, so stdin works like a file. How far
it has been read is counted before decompression, so that it can be held against the
file's length. A line has at most `MAX_LINE_BYTES`: nothing grows without bound.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import harmless

STDIN: Final = Path("-")
MAX_LINE_BYTES: Final = 512 << 20
"""A value of 64 MiB, every byte of which JSON escapes with six, fits."""

COMPRESSED_SUFFIXES: Final = (".gz", ".xz")

_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\x00"
_HEAD_BYTES: Final = len(_XZ)
_BUFFER_BYTES: Final = 1 << 18
_BROKEN: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


class InputError(CommandError):
    """The file to load does not hold what it should."""


class Source:
    """An open file to load from."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.line = 0
        """The number of the line that was read last; 1 is the first."""
        self._raw = _Counted(file)
        self.total = _length(file)
        """How many bytes there are before decompression; None where nobody knows."""
        head = self._raw.read_ahead(_HEAD_BYTES)
        buffered = io.BufferedReader(self._raw, _BUFFER_BYTES)
        self._stream: BinaryIO = buffered
        if head.startswith(_GZIP):
            self._stream = io.BufferedReader(gzip.GzipFile(fileobj=buffered), _BUFFER_BYTES)
        elif head == _XZ:
            self._stream = io.BufferedReader(lzma.LZMAFile(buffered), _BUFFER_BYTES)  # noqa: SIM115

    @property
    def position(self) -> int:
        """How many bytes have been read, before decompression."""
        return self._raw.count

    def lines(self) -> Iterator[str]:
        """Yield the lines, with their ends; raises InputError for what is no text."""
        while True:
            try:
                data = self._stream.readline(MAX_LINE_BYTES)
            except _BROKEN as error:
                why = harmless(str(error))
                raise self.error(
                    f"cannot decompress what follows ({why}): the file is damaged or cut short"
                ) from error
            if not data:
                return
            self.line += 1
            if len(data) == MAX_LINE_BYTES:
                raise self.error(
                    f"expected a line below {MAX_LINE_BYTES} bytes, found a longer one"
                )
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                byte = data[error.start]
                raise self.error(
                    f"expected UTF-8, found byte 0x{byte:02x} at column {error.start + 1}; convert "
                    "the file to UTF-8"
                ) from error
            yield text.removeprefix("\ufeff") if self.line == 1 else text

    def error(self, what: str, line: int | None = None) -> InputError:
        """Return an error about a line, the one that was read last without a number."""
        return InputError(f"{self.name}: line {self.line if line is None else line}: {what}")


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file, or stdin for "-"."""
    if path == STDIN:
        yield Source("stdin", sys.stdin.buffer)
        return
    with path.open("rb", buffering=0) as file:
        yield Source(str(path), file)


class _Counted(io.RawIOBase):
    """Counts what is read from a file, and can look at its first bytes beforehand."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead = b""
        self.count = 0

    def readable(self) -> bool:
        return True

    def read_ahead(self, length: int) -> bytes:
        while len(self._ahead) < length and (data := self._file.read(length - len(self._ahead))):
            self._ahead += data
        return self._ahead

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._ahead[: len(view)] or self._some(len(view))
        self._ahead = self._ahead[len(data) :]
        view[: len(data)] = data
        self.count += len(data)
        return len(data)

    def _some(self, length: int) -> bytes:
        # A pipe is read as it comes, not waited for until the buffer is full.
        read: Any = getattr(self._file, "read1", self._file.read)
        return bytes(read(length))


def _length(file: BinaryIO) -> int | None:
    try:
        status = os.fstat(file.fileno())
        return status.st_size - file.tell() if stat.S_ISREG(status.st_mode) else None
    except (OSError, io.UnsupportedOperation):
        return None
