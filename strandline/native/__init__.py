"""The hot functions in C, where they were built.

Each is the twin of a function in Python that says what it does, gives the same answers and
takes its place where there is no C: a test holds one against the other. What a twin does not
take it hands back, so that odd cases and error messages exist once, in Python. No state is
kept here, and no file or lock is touched.

`STRANDLINE_NATIVE=0` in the environment leaves the C aside.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

__all__ = ["native"]


def _load() -> ModuleType | None:
    if os.environ.get("STRANDLINE_NATIVE") == "0":
        return None
    try:
        from strandline.native import _native
    except ImportError:  # installed where no compiler was, and no wheel for the platform
        return None
    return _native


native: Final = _load()
"""The functions in C, None where there are none."""
