"""The error that a verb raises to end with one line on stderr and a status."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what it was asked to; the message says why and what to do."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
