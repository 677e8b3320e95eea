"""The fuzz targets hold for their corpus, and for a few thousand inputs made from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import catalog, codecs, frames, headers, identity, logs, payloads, records

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus"
TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames.target,
    "payloads": payloads.target,
    "records": records.target,
    "identity": identity.target,
    "headers": headers.target,
    "logs": logs.target,
    "codecs": codecs.target,
    "catalog": catalog.target,
}


def changed(choose: random.Random, seed: bytes) -> bytes:
    """Return an input with some bytes replaced, cut out or put in."""
    data = bytearray(seed)
    for _ in range(choose.randrange(1, 5)):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(3):
            case 0:
                data[at : at + 1] = choose.randbytes(1)
            case 1:
                del data[at : at + choose.randrange(1, 9)]
            case _:
                data[at:at] = choose.randbytes(choose.randrange(1, 9))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_hold_around_their_corpus(name: str) -> None:
    """What a store writes, and what is close to it, is read rightly or refused."""
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert seeds
    choose = random.Random(name)
    for seed in (*seeds, b"", b"\0" * 100):
        TARGETS[name](seed)
        for _ in range(2000):
            TARGETS[name](changed(choose, seed))
