"""What each flight writes, and a model of the state after any number of these writes.

One flight is several operations, each a commit of its own:

    events     append   the line itself                             BUFFERED
    routes     incr     flights, minutes in the air, arrival delay  ASYNC
    hours      incr     flights and delay by carrier and hour       ASYNC
    aircraft   put      where the plane was seen last               BUFFERED, or SYNC

The stream follows from the input alone, so that "the recovered state is the state after
the first P operations, for one P" can be checked to the letter. Every operation changes
the state (a counter is not incremented by 0), so that there is only one such P.
"""

from __future__ import annotations

from array import array
from typing import Any, Final, Literal, NamedTuple

from strandline import Durability
from strandline.tools.demo.source import Flight, parse

EVENTS: Final = "events"
ROUTES: Final = "routes"
HOURS: Final = "hours"
AIRCRAFT: Final = "aircraft"

CODECS: Final = {
    EVENTS: "bytes",
    ROUTES: "utf-8/bytes",
    HOURS: "utf-8/bytes",
    AIRCRAFT: "json",
}
"""The tables and their codecs."""

SYNC_CARRIER: Final = "VX"
"""The carrier whose departures are on disk before the next operation: 5,131 of them.

Enough to measure, few enough for a disk that takes 5 ms for each."""


Verb = Literal["append", "incr", "put"]
"""The calls that are used, by the names of a table's methods."""


class Operation(NamedTuple):
    """One call. An append has no key: the store makes it."""

    table: str
    verb: Verb
    key: str
    value: Any
    level: Durability


class Position(NamedTuple):
    """How far the stream has come: `steps` operations of flight `event` are done, all before it.

    Of the two ways to speak of the end of a flight, the one with its own number is used.
    Positions compare as they follow each other.
    """

    event: int
    steps: int


START: Final = Position(0, 0)


def operations(number: int, line: bytes) -> list[Operation]:
    """Return what the flight on line `number`, counted from 0, writes, in order."""
    flight = parse(line)
    departed = flight.departure is not None
    stream = [Operation(EVENTS, "append", "", line, Durability.BUFFERED)]
    stream += [
        Operation(table, "incr", key, delta, Durability.ASYNC)
        for table, key, delta in _counters(flight)
        if delta
    ]
    if flight.aircraft:
        level = Durability.BUFFERED
        if departed and flight.carrier == SYNC_CARRIER:
            level = Durability.SYNC
        seen = _sighting(number, flight)
        stream.append(Operation(AIRCRAFT, "put", flight.aircraft, seen, level))
    return stream


def _counters(flight: Flight) -> list[tuple[str, str, int | None]]:
    route = f"{flight.origin}-{flight.destination}"
    if flight.departure is None:
        return [
            (ROUTES, f"{route} cancelled", 1),
            (HOURS, f"{flight.carrier} cancelled", 1),
        ]
    hour = f"{flight.carrier} {flight.departure // 100 % 24:02}h"
    return [
        (ROUTES, f"{route} flights", 1),
        (ROUTES, f"{route} air minutes", flight.air_minutes),
        (ROUTES, f"{route} arrival delay", flight.arrival_delay),
        (HOURS, f"{hour} flights", 1),
        (HOURS, f"{hour} departure delay", flight.departure_delay),
    ]


def _sighting(number: int, flight: Flight) -> dict[str, Any]:
    status = "landed"
    if flight.departure is None:
        status = "cancelled"
    elif flight.arrival is None:
        status = "departed"
    return {
        "event": number,
        "day": flight.day,
        "flight": flight.carrier + flight.flight,
        "from": flight.origin,
        "to": flight.destination,
        "status": status,
    }


class Model:
    """The state that the stream leads to, at one position of it; moves forwards only."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.position = START
        self.operations = 0
        """How many operations lie before the position."""
        self.by_level = dict.fromkeys(Durability, 0)
        self.counters: dict[str, dict[str, int]] = {ROUTES: {}, HOURS: {}}
        self.aircraft: dict[str, dict[str, Any]] = {}
        self.starts = array("Q")
        """The number of each flight's first operation, as far as the position has come."""

    def steps(self, event: int) -> int:
        """Return how many operations flight `event` is."""
        return len(operations(event, self.lines[event]))

    def advance(self, position: Position) -> None:
        """Go on to `position`, which must not lie behind."""
        if position < self.position:
            raise ValueError(f"the model is at {self.position}, beyond {position}")
        while self.position < position:
            event, done = self.position
            stream = operations(event, self.lines[event])
            if done == len(stream):
                event, done, stream = event + 1, 0, operations(event + 1, self.lines[event + 1])
            if done == 0:
                self.starts.append(self.operations)
            upto = position.steps if event == position.event else len(stream)
            for operation in stream[done:upto]:
                self._apply(operation)
            self.position = Position(event, upto)

    def _apply(self, operation: Operation) -> None:
        self.operations += 1
        self.by_level[operation.level] += 1
        if operation.verb == "incr":
            table = self.counters[operation.table]
            table[operation.key] = table.get(operation.key, 0) + operation.value
        elif operation.verb == "put":
            self.aircraft[operation.key] = operation.value

    def between(self, first: Position, last: Position) -> list[Operation]:
        """Return the operations after `first` up to `last`, wherever the model is."""
        return [
            operation
            for event in range(first.event, last.event + 1)
            for at, operation in enumerate(operations(event, self.lines[event]), 1)
            if first < Position(event, at) <= last
        ]
