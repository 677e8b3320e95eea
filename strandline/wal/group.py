"""A commit group: the operations that one frame will hold, and who waits for them.

A group is *open* while writers join it, *closed* when it waits to be written, then
written, then synced. `items` is the payload as msgpack will see it:

    [commits, tag, key, value, tag, key, value, ...]

The log does not look into the operations. It relies on three elements an operation, so
that the LSNs in a group follow from the length of the list alone: joining is one
`list` extension, which no interrupt can cut in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

ITEMS_PER_OPERATION: Final = 3
OPERATION_OVERHEAD: Final = 16
"""Upper bound of what an operation adds to its key and value in a payload, in bytes."""

VOID: Final = (0, None, None)
"""An operation without effect; it fills the LSN of a write that was refused."""

Wake = Callable[[], object]
"""Called once when a group is done: a thread's gate, or an event loop's one wake-up."""


class Group:
    """Operations with consecutive LSNs that go into one frame."""

    __slots__ = (
        "buffered",
        "closed_lsn",
        "done",
        "error",
        "first_lsn",
        "items",
        "limit",
        "opened_at",
        "size",
        "sync",
        "waiters",
    )

    def __init__(self, first_lsn: int, limit: int) -> None:
        """Open a group whose first operation will have `first_lsn`.

        `limit` is how many bytes may join: the group size, or less where the log has
        less room left.
        """
        self.first_lsn = first_lsn
        self.limit = limit
        self.items: list[Any] = [None]
        self.size = 0
        self.opened_at = 0.0
        self.closed_lsn = 0
        """The last LSN, once the group is closed."""
        self.sync: list[Any] = []
        """What to publish when the group is synced."""
        self.buffered: list[Any] = []
        """What to publish when the group is written."""
        self.waiters: list[Wake] = []
        self.done = False
        """Synced and published, or failed. Set before the waiters are woken."""
        self.error: Callable[[], BaseException] | None = None
        """Makes the exception that everybody who waits for this group gets."""

    def next_lsn(self) -> int:
        """Return the LSN that the next operation to join gets."""
        return self.first_lsn + len(self.items) // ITEMS_PER_OPERATION

    def is_empty(self) -> bool:
        """Tell whether nothing has joined."""
        return len(self.items) == 1

    def without(self, lsns: Iterable[int]) -> list[Any]:
        """Return the items with no effect in the operations at `lsns`, which keep their places."""
        items, gone = self.items.copy(), set(lsns)
        for lsn in gone:
            at = 1 + ITEMS_PER_OPERATION * (lsn - self.first_lsn)
            items[at : at + ITEMS_PER_OPERATION] = VOID
        if items[0]:
            pairs = zip(items[0][::2], items[0][1::2], strict=True)
            kept = [(at, n) for at, n in pairs if at + self.first_lsn not in gone]
            items[0] = [number for pair in kept for number in pair] or None
        return items

    def wake_next(self) -> None:
        """Wake one who waits, and who wakes the next one when he has woken.

        All at once would only queue for the interpreter, each waking twice (64 threads, 17 %
        more writes this way). One who is struck down instead of waking the next costs the
        others their time-out.
        """
        try:
            wake = self.waiters.pop(0)
        except IndexError:
            return
        wake()

    def wake_all(self) -> None:
        """Wake whoever waits. Can be cut short by an interrupt and called again."""
        waiters = self.waiters
        while waiters:
            waiters.pop()()
