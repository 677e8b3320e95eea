"""The figures at the end, computed plainly from the file, and compared with the store.

Nothing here is shared with what wrote the store, neither the reading of the file nor the
arithmetic, so that a mistake there cannot hide itself.
"""

from __future__ import annotations

import csv
import lzma
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from strandline.tools.demo.proof import Found, Proof


class Totals:
    """All counters and the last state of each aircraft over the first `rows` flights."""

    def __init__(self, path: Path, rows: int) -> None:
        self.routes: Counter[str] = Counter()
        self.hours: Counter[str] = Counter()
        self.aircraft: dict[str, dict[str, Any]] = {}
        with lzma.open(path, "rt", encoding="ascii", newline="") as file:
            for number, row in enumerate(islice(csv.DictReader(file), rows)):
                self._count(row)
                self._sight(number, row)

    def _count(self, row: dict[str, str]) -> None:
        route, carrier = f"{row['origin']}-{row['dest']}", row["carrier"]
        if not row["dep_time"]:
            self.routes[f"{route} cancelled"] += 1
            self.hours[f"{carrier} cancelled"] += 1
            return
        hour = row["dep_time"].zfill(4)[:2]
        hour = f"{carrier} {'00' if hour == '24' else hour}h"
        self.routes[f"{route} flights"] += 1
        self.hours[f"{hour} flights"] += 1
        for counter, key, column in (
            (self.routes, f"{route} air minutes", "air_time"),
            (self.routes, f"{route} arrival delay", "arr_delay"),
            (self.hours, f"{hour} departure delay", "dep_delay"),
        ):
            if row[column] not in ("", "0"):
                counter[key] += int(row[column])

    def _sight(self, number: int, row: dict[str, str]) -> None:
        if row["tailnum"]:
            self.aircraft[row["tailnum"]] = {
                "event": number,
                "day": "{}-{:02}-{:02}".format(*(int(row[c]) for c in ("year", "month", "day"))),
                "flight": row["carrier"] + row["flight"],
                "from": row["origin"],
                "to": row["dest"],
                "status": (
                    "cancelled"
                    if not row["dep_time"]
                    else "landed"
                    if row["arr_time"]
                    else "departed"
                ),
            }


def judge_totals(found: Found, totals: Totals, rows: int) -> list[Proof]:
    """Prove that the store holds what the file says: every event, counter and aircraft."""
    wrong = found.wrong_line
    events = Proof(
        "every flight is in the log table, byte for byte, once and in order",
        wrong is None and len(found.keys) == rows,
        f"{len(found.keys):,} of {rows:,}"
        + ("" if wrong is None else f"; line {wrong:,}, counted from 0, differs"),
    )
    proofs = [events]
    for table, claim, expected, stored in (
        ("routes", "every counter of every route", totals.routes, found.counters["routes"]),
        ("hours", "every counter by carrier and hour", totals.hours, found.counters["hours"]),
    ):
        plain = {key: str(value).encode("ascii") for key, value in expected.items()}
        proofs.append(_same(table, claim, plain, stored))
    proofs.append(
        _same("aircraft", "the last state of every aircraft", totals.aircraft, found.aircraft)
    )
    return proofs


def _same(table: str, what: str, expected: dict[str, Any], found: dict[str, Any]) -> Proof:
    differing = [
        key for key in sorted(expected.keys() | found.keys()) if expected.get(key) != found.get(key)
    ]
    detail = f"{len(expected):,} equal"
    if differing:
        key = differing[0]
        detail = (
            f"{len(differing):,} of {len(expected):,} differ; {table} {key!r}: "
            f"expected {expected.get(key)!r}, found {found.get(key)!r}"
        )
    return Proof(f"{what} equals a plain computation over the file", not differing, detail)
