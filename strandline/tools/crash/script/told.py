"""What writers say while they run, and how it crosses a pipe or a file.

A message is one msgpack array, [kind, writer, step, answer], written in one piece, so that
what was said before a crash is whole. It is said only after the call came back: what counts
as acknowledged is what was told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack

OPENED: Final = "opened"
"""A store was opened; the answer is the last LSN that was issued before or skipped, and what
the unlogged table holds."""
DONE: Final = "done"
"""A step was acknowledged; the answer is what the call answered."""
UNKNOWN: Final = "unknown"
"""A step raised an error that leaves open whether it is there."""
REFUSED: Final = "refused"
"""A step raised an error that says it is not there; the answer is [tables that are there,
the last LSN that was issued]."""


class Told(NamedTuple):
    """One message."""

    kind: str
    writer: int
    step: int
    answer: Any
    at: float = 0.0
    """The clock when it was said, where there is one that matters."""

    def pack(self) -> bytes:
        """Return it as it is sent; the clock stays behind."""
        data: bytes = msgpack.packb(self[:4])
        return data


def unpack(data: bytes) -> Iterator[Told]:
    """Yield the messages of a stream; a last one that is cut short was never said."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data)
    for message in unpacker:
        yield Told(*message)


@dataclass(frozen=True)
class Account:
    """All that was told up to a crash, in the order in which it was said."""

    messages: tuple[Told, ...]

    @classmethod
    def of(cls, messages: Iterable[Told]) -> Account:
        """Return the account of what was told so far."""
        return cls(tuple(messages))

    @property
    def opened(self) -> bool:
        """Whether the store was open at all."""
        return any(told.kind == OPENED for told in self.messages)

    def of_writer(self, writer: int) -> list[Told]:
        """Return what one writer said, openings included."""
        return [told for told in self.messages if told.kind == OPENED or told.writer == writer]
