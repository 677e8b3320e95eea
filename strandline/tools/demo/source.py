"""The input: 336,776 flights that left New York in 2013, one to a line, in order.

Lines are handed out as they are in the file, so that the store can be compared with it
byte by byte. A file with another header is refused.
"""

from __future__ import annotations

import lzma
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

NAME: Final = "nyc-flights-2013.csv.xz"
HEADER: Final = (
    b"year,month,day,dep_time,dep_delay,arr_time,arr_delay,"
    b"carrier,flight,tailnum,origin,dest,air_time,distance"
)


class SourceError(Exception):
    """The input is missing or is not the file that the demonstration is made for."""


class Flight(NamedTuple):
    """One line, taken apart. A missing number is None, a missing name is empty."""

    day: str
    """As 2013-01-31."""
    departure: int | None
    """Actual local time as HHMM; None for a cancelled flight."""
    departure_delay: int | None
    """Minutes, negative when early."""
    arrival: int | None
    arrival_delay: int | None
    carrier: str
    flight: str
    aircraft: str
    """The tail number."""
    origin: str
    destination: str
    air_minutes: int | None


def find_data() -> Path:
    """Return the path of the input, below the working directory or in a source checkout.

    Raises SourceError where it is in neither.
    """
    wanted = Path("examples") / "data" / NAME
    places = [Path.cwd(), *Path(__file__).resolve().parents[3:4]]
    for place in places:
        if (place / wanted).is_file():
            return place / wanted
    looked = " and ".join(str(place / wanted) for place in dict.fromkeys(places))
    raise SourceError(
        f"no {NAME}: looked for {looked}. Run the command in a source checkout, or give the "
        "file's path with --data"
    )


def read_lines(path: Path, rows: int | None = None) -> list[bytes]:
    """Return the first `rows` flights, or all, without their line ends."""
    try:
        with lzma.open(path) as file:
            header = file.readline().rstrip(b"\r\n")
            if header != HEADER:
                raise SourceError(
                    f"{path}: expected the header {HEADER.decode()!r}, found {header[:200]!r}. "
                    f"The demonstration is made for {NAME}"
                )
            lines = [line.rstrip(b"\r\n") for line in islice(file, rows)]
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise SourceError(f"{path}: cannot be read: {error}. Fetch the file anew") from error
    if not lines:
        raise SourceError(f"{path}: expected flights below the header, found none")
    return lines


def parse(line: bytes) -> Flight:
    """Take one line apart."""
    (
        year,
        month,
        day,
        departure,
        departure_delay,
        arrival,
        arrival_delay,
        carrier,
        flight,
        aircraft,
        origin,
        destination,
        air_minutes,
        _,
    ) = line.decode("ascii").split(",")
    return Flight(
        f"{year}-{month:0>2}-{day:0>2}",
        _number(departure),
        _number(departure_delay),
        _number(arrival),
        _number(arrival_delay),
        carrier,
        flight,
        aircraft,
        origin,
        destination,
        _number(air_minutes),
    )


def _number(text: str) -> int | None:
    return int(text) if text else None
