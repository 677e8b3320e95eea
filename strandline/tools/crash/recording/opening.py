"""Opening a store in a child of a fork server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import strandline
from strandline import Store
from strandline.errors import StrandlineError
from strandline.tools.crash.layer import ViolationError


def open_store(path: Path, options: Mapping[str, Any]) -> Store:
    """Open a store; that it cannot be opened breaks a promise.

    Raises:
        ViolationError: it cannot.
    """
    try:
        return strandline.open(path, **options)
    except (StrandlineError, OSError) as error:
        raise ViolationError(1, f"opening fails: {type(error).__name__}: {error}") from error


def verify_here(*, here: bool = True) -> None:
    """Have LMDB's file verified in this process, as in a frozen program, or in one of its own.

    The first takes milliseconds, the second a start of Python.
    """
    setattr(sys, "frozen", here)  # noqa: B010
