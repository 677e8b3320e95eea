"""`wal-inspect diff`: where two logs differ, a store's and its backup's say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from strandline.engine.operations import OPERATION_NAMES
from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import (
    ProgressBar,
    escape,
    harmless,
    out,
    show_grid,
    write_line,
)
from strandline.tools.inspect.comparing import (
    Comparison,
    Difference,
    Held,
    adjoin,
    common_to,
    compare,
    held_by,
)
from strandline.tools.inspect.examine import STATUS, Examination, examine
from strandline.tools.inspect.fields import Values, show_key, show_value
from strandline.tools.inspect.frames import LogOperation, Tables
from strandline.tools.inspect.lines import operation_plain
from strandline.tools.inspect.params import AsJson, ValuesForm
from strandline.tools.inspect.summary import (
    finding_plain,
    log_line,
    log_plain,
    tell_findings,
    tell_gone,
)
from strandline.tools.inspect.target import resolve
from strandline.tools.inspect.times import show_time

EXAMPLES: Final = (
    "wal-inspect diff data backup",
    "wal-inspect diff data backup --all --json",
)

DIFFERENT: Final = 8
NOTHING_COMMON: Final = 5

PathA = Annotated[Path, typer.Argument(metavar="A", help="A store, or the folder of its log.")]
PathB = Annotated[Path, typer.Argument(metavar="B", help="Another one, such as its backup.")]
All = Annotated[bool, typer.Option("--all", help="Count all differences; else end at the first.")]


def diff(
    a: PathA,
    b: PathB,
    *,
    every: All = False,
    values: ValuesForm = Values.UTF8,
    as_json: AsJson = False,
) -> None:
    """Find the first LSN at which two logs differ, and say how.

    Compared is what both hold, however it is grouped into frames: a backup is naturally
    behind. Exit status: 0 if all of that is the same, 8 if not, 5 if they have nothing in
    common and neither continues the other; else that of the graver log.
    """
    result = _Result(examine(resolve(a)), examine(resolve(b)), every=every)
    for log in result.logs:
        tell_findings(log)
    result.compare()
    if as_json:
        write_line(to_json(result.plain(values)))
    else:
        result.show(values)
    if result.status:
        raise typer.Exit(result.status)


class _Result:
    """Two logs, and what came out of comparing them."""

    def __init__(self, a: Examination, b: Examination, *, every: bool) -> None:
        self.logs = a, b
        self.held = held_by(a), held_by(b)
        self.every = every
        self.found = Comparison()
        self.tables = Tables(a.metadata), Tables(b.metadata)
        self.renamed: list[tuple[int, str, str]] = []
        """Tables that have different names: id, name in A, name in B."""
        left, right = self.held
        self.common = common_to(left, right) if left and right else None

    def compare(self) -> None:
        """Go through what both hold."""
        if self.common is None:
            return
        a, b = self.logs
        with ProgressBar("comparing", "operations", delay=0.5) as bar:
            for found, frames in compare(a, b, self.common):
                self.found = found
                done = sum(each.bytes_done for each in frames)
                bar.advance(found.compared, done, sum(each.bytes_total for each in frames))
                if found.first is not None and not self.every:
                    break
        for each in frames:
            tell_gone(each)
        for tables, log in zip(self.tables, self.logs, strict=True):
            tables.learn(log, below=self.common[1] + 1)
        left, right = (tables.known for tables in self.tables)
        self.renamed = [
            (table_id, left[table_id].name, right[table_id].name)
            for table_id in sorted(left.keys() & right.keys())
            if left[table_id].name != right[table_id].name
        ]

    @property
    def differs(self) -> bool:
        """Whether anything that both hold is not the same."""
        return self.found.first is not None or bool(self.renamed)

    @property
    def relation(self) -> str:
        """How the logs are to each other, in a word."""
        a, b = self.held
        if self.differs:
            return "different"
        if a is None or b is None:
            return "nothing-common"
        if self.common is None:
            return "continued" if adjoin(a, b) else "nothing-common"
        return "same" if a[:2] == b[:2] else "same-in-common"

    @property
    def status(self) -> int:
        """The exit status."""
        if self.differs:
            return DIFFERENT
        graver = STATUS[max((log.verdict for log in self.logs), key=lambda each: each.gravity)]
        if self.relation != "nothing-common":
            return graver
        # Where nothing of a log could be read, that is why.
        return graver if None in self.held and graver else NOTHING_COMMON

    # ---- for a program

    def plain(self, values: Values) -> dict[str, Any]:
        """Return the JSON document."""
        first = self.found.first
        return {
            "a": self._log_plain(0),
            "b": self._log_plain(1),
            "same_store": self.logs[0].target.uuid == self.logs[1].target.uuid,
            "relation": self.relation,
            "status": self.status,
            "common": None if self.common is None else _span(*self.common),
            "compared": self.found.compared,
            "whole": self.every or first is None,
            "differing": self.found.differing if self.every or first is None else None,
            "only_in_a": self.found.only_a,
            "only_in_b": self.found.only_b,
            "first_difference": None if first is None else self._difference_plain(first, values),
            "tables": [
                {"table_id": table_id, "a": left, "b": right}
                for table_id, left, right in self.renamed
            ],
        }

    def _log_plain(self, side: int) -> dict[str, Any]:
        log, held = self.logs[side], self.held[side]
        findings = [finding_plain(log, each) for each in log.findings]
        span = None if held is None or held.last < held.first else _span(held.first, held.last)
        return log_plain(log) | {"holds": span, "findings": findings}

    def _difference_plain(self, first: Difference, values: Values) -> dict[str, Any]:
        a, b = (
            None if each is None else operation_plain(each, tables, values)
            for each, tables in zip((first.a, first.b), self.tables, strict=True)
        )
        how = list(first.how)
        return {"lsn": first.lsn, "last_lsn": first.last_lsn, "how": how, "a": a, "b": b}

    # ---- for a person

    def show(self, values: Values) -> None:
        """Print what came out."""
        for name, log in zip("AB", self.logs, strict=True):
            console = out()
            console.print(f"{name}  ", log_line(log), sep="")
        write_line("")
        uuids = [log.target.uuid.hex() for log in self.logs]
        if uuids[0] != uuids[1]:
            write_line(f"They are logs of different stores: A of {uuids[0]}, B of {uuids[1]}.")
        for line in _ranges(*self.held, self.common):
            write_line(line)
        for table_id, left, right in self.renamed:
            names = f"{_name(left)} in A, {_name(right)} in B"
            write_line(f"Table {table_id} has different names: {names}.")
        first = self.found.first
        for has, lacks, count in (("A", "B", self.found.only_a), ("B", "A", self.found.only_b)):
            if count:
                write_line(f"Not compared: {count:,} LSNs that {has} holds and {lacks} has lost.")
        if first is not None:
            self._show_difference(first, values)
        elif self.common is not None:
            same = f"{self.found.compared:,} operations are the same"
            write_line(f"All that both hold is the same: {same}.")

    def _show_difference(self, first: Difference, values: Values) -> None:
        span = f"LSN {first.lsn}"
        if first.last_lsn > first.lsn:
            span += f" to {first.last_lsn}"
        if first.how == ("missing",):
            has, lacks = ("A", "B") if first.b is None and first.a is not None else ("B", "A")
            what = f"{has} holds it, {lacks} says that it was never issued"
        elif first.how == ("payload",):
            what = "a frame differs that does not hold operations"
        else:
            what = f"{' and '.join(first.how)} differ{'s' if len(first.how) == 1 else ''}"
        write_line(f"They differ first at {span}: {what}.")
        if self.every:
            write_line(
                f"{self.found.differing:,} LSNs differ, of {self.found.compared:,} compared."
            )
        if first.a is None and first.b is None:
            return
        write_line("")
        sides = [
            _shown(each, tables, values)
            for each, tables in zip((first.a, first.b), self.tables, strict=True)
        ]
        paths = [log.target.path for log in self.logs]
        titles = ["", f"A: {paths[0]}", f"B: {paths[1]}"]
        rows = [[name, *(side[name] for side in sides)] for name in sides[0]]
        show_grid([harmless(title) for title in titles], rows)
        if first.a is not None and first.b is not None:
            _show_bytes(first.a.value, first.b.value)


def _shown(operation: LogOperation | None, tables: Tables, values: Values) -> dict[str, str]:
    if operation is None:
        return dict.fromkeys(("time", "table", "op", "key", "value", "place"), "-")
    codec = tables.codec(operation.table_id)
    name = tables.name(operation.table_id)
    return {
        "time": show_time(operation.time_ns),
        "table": f"{_name(name)} (id {operation.table_id})",
        "op": OPERATION_NAMES[operation.op],
        "key": show_key(codec, operation.key),
        "value": show_value(values, operation.value),
        "place": f"segment {operation.segment_id}, offset {operation.offset}",
    }


def _show_bytes(a: bytes | None, b: bytes | None) -> None:
    """Say where values differ, for that can lie far behind a line's end."""
    if a is None or b is None or a == b:
        return
    shorter = min(len(a), len(b))
    low, high = 0, shorter
    while low < high:  # the longest prefix that both have
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    write_line("")
    write_line(f"The values, of {len(a):,} and {len(b):,} bytes, differ from byte {low:,} on.")


def _ranges(a: Held | None, b: Held | None, common: tuple[int, int] | None) -> list[str]:
    """Return in words which LSNs each log holds."""
    lines = []
    for name, held in (("A", a), ("B", b)):
        if held is None:
            lines.append(f"{name} holds nothing that can be read.")
        elif held.last < held.first:
            lines.append(f"{name} holds no operation; the next one has LSN {held.first} or more.")
    if a is None or b is None:
        return lines
    if common is None:
        earlier, later = ("A", "B") if (a.first, a.last) <= (b.first, b.last) else ("B", "A")
        relation = f"{later} begins where {earlier} ends" if adjoin(a, b) else ""
        ends = f"A ends at LSN {a.last}, B at LSN {b.last}; they begin at {a.first} and {b.first}"
        gap = "they have no LSN in common, and neither continues the other"
        return [*lines, f"{ends}: {relation or gap}."]
    lines.append(f"Both hold LSN {common[0]} to {common[1]}.")
    for name, other, x, y in (("A", "B", a, b), ("B", "A", b, a)):
        if x.first > y.first:
            lines.append(f"{name} begins at LSN {x.first}; {other} begins earlier, at {y.first}.")
        if x.last < y.last:
            lines.append(f"{name} ends at LSN {x.last}; {other} goes on to {y.last}.")
    return lines


def _name(name: str) -> str:
    return escape(name) if name else "the default table"


def _span(first: int, last: int) -> dict[str, int]:
    return {"first_lsn": first, "last_lsn": last}
