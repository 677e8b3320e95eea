"""The bench's side of the works: how a writer's end is read, and how a judge is asked."""

from __future__ import annotations

import random
from typing import Final

import msgpack

from strandline.tools.crash.forking.client import ForkServer
from strandline.tools.crash.forking.ending import check_ended
from strandline.tools.crash.killing.case import Case, pack_model, unpack_model
from strandline.tools.crash.killing.works import BROKEN
from strandline.tools.crash.layer import Tally, ViolationError
from strandline.tools.crash.oracle.crash import CrashKind
from strandline.tools.crash.script.model import Model
from strandline.tools.crash.script.told import unpack

WORKS: Final = "strandline.tools.crash.killing.works"
MODULES: Final = (WORKS, "lmdb.verify")
"""What a fork server imports for them."""
AGAIN: Final = 0.2
"""How often a store is written to, and recovered once more, after it was judged."""
_APART: Final = 0.1
"""How often LMDB's file is looked at as `open` does it after an unclean end, by a process of
its own. Else the judge itself may end by it, and no time is lost."""


def check_told(said: bytes) -> None:
    """Raise the violation that a writer told of itself."""
    for told in unpack(said):
        if told.kind == BROKEN:
            raise ViolationError(told.step, told.answer)


def judge(
    server: ForkServer,
    choose: random.Random,
    tally: Tally,
    case: Case,
    base: Model,
    *,
    kind: CrashKind,
    said: bytes,
    late: bytes = b"",
    again: float = AGAIN,
) -> Model:
    """Let a child hold a store against what was said; return the base of the next cycle.

    `late` is what was said, or may have been, when the crash had come. `again`: how often
    the store is written to, and recovered once more, after it was judged.

    Raises:
        ViolationError: A promise is broken.
    """
    argument = {
        "case": case.judged(apart=choose.random() < _APART).pack(),
        "base": pack_model(base),
        "kind": kind.value,
        "said": said,
        "late": late,
        "ending": choose.choice(["left", "closed", "drained"]),
        "again": choose.random() < again,
    }
    ended = server.run(f"{WORKS}:judge", argument)
    check_ended(ended)
    verdict = msgpack.unpackb(ended.said)
    if verdict[0] == BROKEN:
        raise ViolationError(verdict[2], verdict[3])
    acknowledged, model = verdict
    tally.acknowledged += acknowledged
    return case.history.begun(unpack_model(model))
