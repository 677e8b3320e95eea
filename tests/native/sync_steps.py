"""What the tests of the short way of a SYNC write do to a store before they write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strandline import Durability
from strandline.tools.crash.simulation.rig import Rig

KEY, VALUE = b"x" * 30, b"y" * 40
DELETED = KEY + VALUE
NEED, FRAME = 86, 152
"""Bytes that a put of the one, or a delete of the other, counts for in the log, and takes there."""

FIRST = {b"first": b"1", b"second": b"2"}
Prepare = Callable[[Rig], Any]


def setting(path: str, value: Callable[[Any], Any]) -> Prepare:
    """Return a step: an attribute of the engine's or one below it gets another value."""

    def prepare(rig: Rig) -> None:
        *parents, name = path.split(".")
        owner: Any = rig.store.engine
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value(rig.store.engine))

    return prepare


def several(*steps: Prepare) -> Prepare:
    """Return a step that is several of them."""
    return lambda rig: [step(rig) for step in steps]


def sleeping(seconds: float) -> Prepare:
    """Return a step: time goes by."""
    return lambda rig: rig.clock.sleep(seconds)


def writing(level: Durability, key: bytes = b"other", value: bytes = b"o") -> Prepare:
    """Return a step: something is written."""
    return lambda rig: rig.store.put(key, value, durability=level)


EXPECTING = setting("log.crowd", lambda _: 2)
"""Others are expected, so that a leader gathers them: no frame alone."""
