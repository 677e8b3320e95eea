"""Runs a target under atheris."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(target: Callable[[bytes], None]) -> None:
    """Fuzz `target` with the arguments of the command line, which are libFuzzer's."""
    import atheris

    atheris.instrument_func(target)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
