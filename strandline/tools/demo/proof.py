"""What was recovered, compared with the model, to the byte.

After a crash four things must hold:

    events      the log table holds the first lines of the input, in order
    prefix      counters and aircraft are those after the first P operations, for one P
    order       the keys of the log table are the LSNs that counting gives, run by run,
                and the last LSN recovered is that of operation P
    levels      no acknowledged SYNC or BUFFERED write lies beyond P

The first operation of a flight is its line in the log table, so the number of lines says
to which flight P belongs; the few positions within that flight are then tried in turn.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from strandline import Durability, Store
from strandline.tools.demo.workload import (
    AIRCRAFT,
    CODECS,
    EVENTS,
    HOURS,
    ROUTES,
    START,
    Model,
    Position,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """Something that must hold, and whether it does."""

    claim: str
    holds: bool
    detail: str


class RunStart(NamedTuple):
    """Where a run of the writing process began."""

    operations: int
    """How many operations of the stream lay before it."""
    next_lsn: int
    """The LSN of its first operation."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds."""

    keys: array[int]
    """The keys of the log table, as numbers, in order."""
    wrong_line: int | None
    """The first line of the log table that is not the input's."""
    counters: dict[str, dict[str, bytes]]
    aircraft: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, store: Store, lines: list[bytes]) -> Found:
        """Read all tables, and compare the log table with the input on the way."""
        tables = {name: store.table(name, codec=codec) for name, codec in CODECS.items()}
        keys = array("Q")
        wrong: int | None = None
        for number, (key, line) in enumerate(tables[EVENTS].items()):
            keys.append(int.from_bytes(key, "big"))
            if wrong is None and (number >= len(lines) or line != lines[number]):
                wrong = number
        counters = {name: dict(tables[name].items()) for name in (ROUTES, HOURS)}
        return cls(keys, wrong, counters, dict(tables[AIRCRAFT].items()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The proofs after one crash, and what lies between acknowledged and recovered."""

    proofs: list[Proof]
    position: Position | None
    """Where to go on; None if what was recovered is no prefix."""
    recovered: int
    """P: how many operations of the stream were recovered."""
    acknowledged: int
    lost: Mapping[Durability, int]
    """Acknowledged operations that are gone, by level; ASYNC ones may be."""
    unheard: int
    """Operations that are there although their acknowledgement was never heard."""

    @property
    def holds(self) -> bool:
        """Whether everything was proved."""
        return all(proof.holds for proof in self.proofs)


def judge(
    found: Found, model: Model, runs: list[RunStart], last_lsn: int, acknowledged: Position
) -> Verdict:
    """Prove what must hold after a crash. Moves the model on to what was recovered."""
    proofs = [_prove_events(found, model)]
    position: Position | None = None
    if proofs[0].holds:
        position, closest = _locate(found, model)
        proofs.append(
            Proof(
                "counters and aircraft are those of one prefix of the input's operations",
                position is not None,
                f"exactly the first {model.operations:,} operations" if position else closest,
            )
        )
    if position is None:
        return Verdict(proofs, None, 0, 0, {}, 0)
    proofs.append(_prove_order(found.keys, model, runs, last_lsn))
    lost = Counter(step.level for step in model.between(position, acknowledged))
    unheard = len(model.between(acknowledged, position))
    heard = model.operations + lost.total() - unheard
    held = Counter(model.by_level)
    held.subtract(step.level for step in model.between(acknowledged, position))
    proofs += [
        Proof(
            f"no acknowledged {level.name} write is missing",
            not lost[level],
            f"{held[level] + lost[level]:,} acknowledged, {lost[level]:,} missing",
        )
        for level in (Durability.SYNC, Durability.BUFFERED)
    ]
    return Verdict(proofs, position, model.operations, heard, lost, unheard)


def _prove_events(found: Found, model: Model) -> Proof:
    claim = "the log table holds the first lines of the input, byte for byte and in order"
    count, before = len(found.keys), model.position.event
    if found.wrong_line is not None:
        return Proof(claim, False, f"line {found.wrong_line:,}, counted from 0, differs")
    if count <= before and model.position != START:
        return Proof(claim, False, f"expected more than {before:,} lines, found {count:,}")
    return Proof(claim, True, f"{count:,} lines")


def _locate(found: Found, model: Model) -> tuple[Position | None, str]:
    """Find the position that the tables agree with; else say how the closest one differs."""
    event = len(found.keys) - 1
    if event < 0:
        candidates = [START]
    else:
        first = max(1, model.position.steps) if event == model.position.event else 1
        candidates = [Position(event, at) for at in range(first, model.steps(event) + 1)]
    closest: list[str] = []
    for position in candidates:
        model.advance(position)
        differing = differences(found, model.counters, model.aircraft)
        if not differing:
            return position, ""
        if not closest or len(differing) < len(closest):
            closest = differing
    return None, f"values that differ at best: {len(closest):,}; {closest[0]}"


def differences(
    found: Found,
    counters: Mapping[str, Mapping[str, int]],
    aircraft: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return a line of text for every counter and aircraft that is not as expected."""
    result: list[str] = []
    for table, values in counters.items():
        expected = {key: b"%d" % value for key, value in values.items()}
        result += _compare(table, expected, found.counters[table])
    return result + _compare(AIRCRAFT, aircraft, found.aircraft)


def _compare(table: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    if expected == found:
        return []
    return [
        f"{table} {key!r}: expected {expected.get(key)!r}, found {found.get(key)!r}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]


def _prove_order(keys: array[int], model: Model, runs: list[RunStart], last_lsn: int) -> Proof:
    claim = "LSNs are dense: each key of the log table, and the last LSN, is what counting gives"
    bounds = [*(run.operations for run in runs[1:]), model.operations + 1]
    run = 0
    for number, key in enumerate(keys):
        operation = model.starts[number]
        while operation >= bounds[run]:
            run += 1
        expected = runs[run].next_lsn + operation - runs[run].operations
        if key != expected:
            return Proof(claim, False, f"line {number:,}: expected LSN {expected}, found {key}")
    expected = runs[-1].next_lsn + model.operations - runs[-1].operations - 1
    if last_lsn != expected:
        return Proof(claim, False, f"the last LSN: expected {expected}, found {last_lsn}")
    return Proof(claim, True, f"{len(keys):,} keys; the last LSN is {last_lsn}")
