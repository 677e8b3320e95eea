"""What the end of a child says without words."""

from __future__ import annotations

from strandline.tools.crash.forking.client import Ended
from strandline.tools.crash.layer import ViolationError


def check_ended(ended: Ended) -> None:
    """Take a child that had to be killed for hanging, or ended by a signal, for a violation.

    Raises:
        ViolationError: it did.
    """
    if ended.hung:
        raise ViolationError(13, f"a process hangs; its threads:\n{ended.stacks}")
    if ended.crashed:
        raise ViolationError(10, f"a process ended by {ended.crashed}:\n{ended.stacks}")
