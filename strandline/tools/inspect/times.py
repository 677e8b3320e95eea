"""Wall-clock times: as frames carry them, as they are shown, and as a person gives them.

A person gives an ISO 8601 time (UTC where it names no zone), or how long ago: `90s`,
`15m`, `2h`, `3d`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

import typer

SECOND: Final = 1_000_000_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])")
_LAST: Final = 253_402_300_799 * SECOND
"""The last second of the year 9999; what lies behind it is no time."""


def show_time(time_ns: int) -> str:
    """Return a time as ISO 8601 in UTC, with microseconds; what is no time as a number."""
    if not 0 <= time_ns <= _LAST:
        return f"{time_ns} ns"
    seconds, rest = divmod(time_ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def parse_time(text: str) -> int:
    """Return the nanoseconds since 1970 that a person means; a usage error where it is no time."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * SECOND)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"expected a time such as 2026-02-28T13:45:00Z, or how long ago, such as 15m, "
            f"found {text!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * SECOND + since.microseconds * 1000


def show_span(nanoseconds: float) -> str:
    """Return a duration as a person reads it."""
    for unit, size in (("d", 86400e9), ("h", 3600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6)):
        if abs(nanoseconds) >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e3:.3g} us"


def show_bytes(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while abs(count) >= 1000 and unit != "TiB":
        count, unit = count / 1024, next(units)
    return f"{count:.3g} {unit}"
