"""The map of a log: a row for each segment, a cell for each region.

    segment 1   [header][ valid                                ][seal]
    segment 2   [header][ valid     ][damaged][ valid ][torn][ unused]

Bounded: a row has at most `CELLS` cells and the map about `ROWS` rows. What does not fit
shares a cell or a row with its neighbours, which then says how much it stands for and
lists the first of it. A fault is never without a cell.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from strandline.recovery.check_report import CheckVerdict, Finding
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.cli.terminal import harmless
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.tools.inspect.ls import state_of
from strandline.tools.inspect.page.details import Details
from strandline.tools.inspect.page.merging import Piece, group, merge
from strandline.tools.inspect.page.words import many
from strandline.tools.inspect.regions import FAULTS, Region, regions_of
from strandline.tools.inspect.times import show_bytes

ROWS: Final = 120
CELLS: Final = 24
LISTED: Final = 30
"""Parts of one cell that are listed, as long as the page has room."""
_LISTED_IN_ALL: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What can be seen and clicked."""

    kind: str
    """A region's kind, or `mixed`, `missing` or `empty`."""
    length: int
    """How many bytes, or segments, it stands for among those of its row."""
    title: str
    facts: list[tuple[str, str]]
    parts: int = 1
    """How many regions, or segments, it stands for."""
    listed: list[tuple[str, ...]] = field(default_factory=list)
    """What it stands for, where that is more than one thing: all of it, or what is wrong."""
    unlisted: int = 0
    """How much more there is of that."""
    fault: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One segment, or some that follow one another."""

    title: str
    about: str
    cells: list[Cell]
    segments: int = 1


@dataclass(slots=True)
class LogMap:
    """The map, and what it had no room for."""

    rows: list[Row] = field(default_factory=list)
    regions: Counter[str] = field(default_factory=Counter)
    """How many regions there are, by kind."""
    kind_bytes: Counter[str] = field(default_factory=Counter)
    merged_regions: int = 0
    """Regions that share a cell."""
    merged_segments: int = 0
    """Segments that share a row."""
    places: dict[int, int] = field(default_factory=dict)
    """In which cell, counted over the whole map, a finding lies; both by number."""


def lay_out(log: Examination) -> LogMap:
    """Return the map of a log."""
    return _Layout(log).lay_out()


class _Layout:
    """The map while it is made."""

    def __init__(self, log: Examination) -> None:
        self.log = log
        self.map = LogMap()
        self.details = Details(log)
        self.room = _LISTED_IN_ALL
        self.cells = 0
        self.findings: dict[str, list[tuple[int, Finding]]] = defaultdict(list)
        for number, finding in enumerate(log.findings):
            self.findings[finding.path].append((number, finding))
        torn = next((f for f in log.findings if f.verdict is CheckVerdict.TORN_TAIL), None)
        ids = {scan.path: scan.segment_id for scan in log.scans}
        neighbours = pairwise(scan.segment_id for scan in log.scans)
        self.last_of = {first: following - 1 for first, following in neighbours}
        """Of several missing segments in a row a scan has only the first."""
        self.tail: tuple[int, int] | None = None
        """Segment id and offset of the torn tail, with which all behind it goes."""
        if torn is not None and torn.path in ids:
            self.tail = (ids[torn.path], torn.offset or 0)

    def lay_out(self) -> LogMap:
        """Count what there is, then give every part of it a place."""
        faulty: set[int] = set()
        for scan in self.log.scans:
            regions = self._regions(scan)
            for region in regions:
                self.map.regions[region.kind.value] += 1
                self.map.kind_bytes[region.kind.value] += region.length
            if scan.path in self.findings or any(each.kind in FAULTS for each in regions):
                faulty.add(scan.segment_id)
        for scans in group(self.log.scans, faulty, ROWS):
            row = self._row(scans[0]) if len(scans) == 1 else self._shared_row(scans, faulty)
            self.map.rows.append(row)
            self.cells += len(row.cells)
        return self.map

    def _regions(self, scan: SegmentScan) -> list[Region]:
        torn_from = None
        if self.tail is not None and scan.segment_id >= self.tail[0]:
            torn_from = self.tail[1] if scan.segment_id == self.tail[0] else 0
        return regions_of(scan, torn_from=torn_from, live=self.log.writer is not None)

    # ---- a segment with a row of its own

    def _row(self, scan: SegmentScan) -> Row:
        regions = self._regions(scan)
        pieces = merge(regions, CELLS)
        cells = [self._cell(scan, piece) for piece in pieces] or [self._absent(scan)]
        for number, finding in self.findings[scan.path]:
            offset = finding.offset or 0
            inside = [at for at, piece in enumerate(pieces) if piece[-1].end > offset]
            self.map.places[number] = self.cells + (inside[0] if inside else len(cells) - 1)
        about = state_of(scan) + (f", {show_bytes(scan.size)}" if scan.size else "")
        if scan.operations:
            about += f", {many(scan.operations, 'operation')}"
        if verdicts := {WORDS[finding.verdict] for _, finding in self.findings[scan.path]}:
            about += f"; {', '.join(sorted(verdicts))}"
        return Row(title=self._name(scan), about=about, cells=cells)

    def _cell(self, scan: SegmentScan, piece: Piece) -> Cell:
        start, end = piece[0].offset, piece[-1].end
        findings = [
            finding
            for _, finding in self.findings[scan.path]
            if start <= (finding.offset or 0) < end or (finding.offset or 0) >= scan.size == end
        ]
        if len(piece) == 1:
            region = piece[0]
            title = f"segment {scan.segment_id}: {region.kind.value}, {show_bytes(region.length)}"
            facts = self.details.region(scan, region, findings)
            if self._dropped(scan, region):
                facts.append(("lies", "behind the torn tail: an opening drops it"))
            return Cell(
                kind=region.kind.value,
                length=region.length,
                title=title,
                facts=facts,
                fault=region.kind in FAULTS or bool(findings),
            )
        self.map.merged_regions += len(piece)
        fault = any(region.kind in FAULTS for region in piece)
        listed = piece[: self._take(len(piece))]
        return Cell(
            kind="mixed" if fault else "valid",
            length=end - start,
            title=f"segment {scan.segment_id}: {len(piece):,} regions, {show_bytes(end - start)}",
            facts=self.details.piece(scan, piece, findings),
            parts=len(piece),
            listed=[self.details.part(region) for region in listed],
            unlisted=len(piece) - len(listed),
            fault=fault or bool(findings),
        )

    def _dropped(self, scan: SegmentScan, region: Region) -> bool:
        return (
            self.tail is not None
            and bool(region.frames)
            and (scan.segment_id, region.offset) >= self.tail
        )

    def _absent(self, scan: SegmentScan) -> Cell:
        """Return the cell of a segment without a byte."""
        findings = [finding for _, finding in self.findings[scan.path]]
        missing = state_of(scan) == "missing"
        kind = "missing" if missing else "empty"
        what = "no file" if missing else "an empty file"
        if scan.trouble is not None and not missing and scan.trouble.found != "a file of 0 bytes":
            what = scan.trouble.found
        return Cell(
            kind=kind,
            length=1,
            title=f"{self._name(scan)}: {what}",
            facts=self.details.absent(scan, what, findings),
            fault=bool(findings),
        )

    def _name(self, scan: SegmentScan) -> str:
        last = self.last_of.get(scan.segment_id, scan.segment_id)
        return _span(scan.segment_id, scan.segment_id if scan.size else last)

    # ---- segments that share a row

    def _shared_row(self, scans: Sequence[SegmentScan], faulty: set[int]) -> Row:
        self.map.merged_segments += len(scans)
        size = -(-len(scans) // CELLS)
        chunks = [scans[at : at + size] for at in range(0, len(scans), size)]
        for at, chunk in enumerate(chunks):
            for scan in chunk:
                for number, _ in self.findings[scan.path]:
                    self.map.places[number] = self.cells + at
        size = sum(scan.size for scan in scans)
        about = f"{many(len(scans), 'segment')}, {show_bytes(size)}; {_wrong(scans, faulty)}"
        return Row(
            title=_span(scans[0].segment_id, scans[-1].segment_id),
            about=about,
            cells=[self._shared_cell(chunk, faulty) for chunk in chunks],
            segments=len(scans),
        )

    def _shared_cell(self, scans: Sequence[SegmentScan], faulty: set[int]) -> Cell:
        wrong = [scan for scan in scans if scan.segment_id in faulty]
        kinds: Counter[str] = Counter()
        for scan in scans:
            for region in self._regions(scan):
                kinds[region.kind.value] += region.length
        gone = sum(not scan.size for scan in scans)
        kind = "mixed" if wrong or gone else "valid"
        if gone == len(scans):
            kind = "missing"
        span = _span(scans[0].segment_id, scans[-1].segment_id)
        listed = wrong[: self._take(len(wrong))]
        return Cell(
            kind=kind,
            length=len(scans),
            title=f"{span}: {_wrong(scans, faulty)}",
            facts=self.details.segments(scans, kinds),
            parts=len(scans),
            listed=[self._listed(scan) for scan in listed],
            unlisted=len(wrong) - len(listed),
            fault=bool(wrong or gone),
        )

    def _listed(self, scan: SegmentScan) -> tuple[str, ...]:
        found = [f"{WORDS[each.verdict]}: {each.found}" for _, each in self.findings[scan.path]]
        if not found:
            found = sorted({r.kind.value for r in self._regions(scan) if r.kind in FAULTS})
        file = harmless(os.path.basename(scan.path))
        return (f"segment {scan.segment_id}", file, show_bytes(scan.size), harmless(found[0]))

    def _take(self, wanted: int) -> int:
        """Return how many lines a cell may list; the page has room for so many in all."""
        taken = min(wanted, LISTED, self.room)
        self.room -= taken
        return taken


def _span(first: int, last: int) -> str:
    return f"segment {first}" if first == last else f"segments {first} to {last}"


def _wrong(scans: Sequence[SegmentScan], faulty: set[int]) -> str:
    """Return in words how many segments are not as they should be."""
    wrong = sum(scan.segment_id in faulty for scan in scans)
    gone = sum(not scan.size for scan in scans)
    said = [f"{wrong:,} with faults"] if wrong else []
    if gone:
        said.append(f"{gone:,} without a file, or with an empty one")
    return ", ".join(said) or "no fault"
