"""What is said of a cell of the map: label and text, both printable and not yet markup."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Final

from strandline.recovery.check_report import Finding
from strandline.recovery.segment_scan import SegmentScan
from strandline.tools.cli.terminal import harmless
from strandline.tools.inspect.examine import WORDS, Examination
from strandline.tools.inspect.page.merging import Piece
from strandline.tools.inspect.page.words import cut, many
from strandline.tools.inspect.regions import FAULTS, Region, RegionKind
from strandline.tools.inspect.times import show_bytes, show_time

Facts = list[tuple[str, str]]

_WHAT: Final = {
    RegionKind.HEADER: "the segment's header",
    RegionKind.VALID: "frames that verify",
    RegionKind.SEAL: "the seal that ends the segment",
    RegionKind.DAMAGED: "damaged: bytes that do not verify",
    RegionKind.TORN: "torn: a write that was cut short; opening the store drops it",
    RegionKind.STALE: "stale: left by an earlier use of the file",
    RegionKind.UNUSED: "unused",
    RegionKind.FOREIGN: "foreign: of another store or a newer format, not read",
}
_LONG: Final = 600
_FINDINGS: Final = 3
"""Findings that the detail of one cell repeats."""


class Details:
    """Says what there is to say of the parts of one log."""

    def __init__(self, log: Examination) -> None:
        self._log = log

    def region(self, scan: SegmentScan, region: Region, findings: Sequence[Finding]) -> Facts:
        """Return what is known of a region."""
        facts = [
            *_file(scan),
            ("what", _WHAT[region.kind]),
            ("offset", f"{region.offset:,} to {region.end:,}"),
            ("length", _length(region.length)),
        ]
        if region.kind is RegionKind.HEADER and scan.header is not None:
            header = scan.header
            facts.append(("epoch", f"{header.epoch}"))
            facts.append(("first LSN", f"{header.first_lsn}"))
            facts.append(("created", show_time(header.created_ns)))
        if region.first_lsn is not None and (region.operations or region.damage):
            facts.append(("LSNs" if region.frames else "LSNs expected", _lsns(region)))
        if region.frames:
            facts.append(("frames", f"{region.frames:,}"))
        if region.operations:
            facts.append(("operations", f"{region.operations:,}"))
            facts += self._in_lmdb(region)
        if region.damage is not None and not findings:
            facts.append(("expected", _said(region.damage.expected)))
            facts.append(("found", f"{_said(region.damage.found)} ({region.damage.kind.value})"))
        if region.detail:
            facts.append(("detail", _said(region.detail)))
        facts += _findings(findings)
        if region.kind is RegionKind.DAMAGED and not findings:
            facts.append(("note", "no finding: nothing of the log is lost by it"))
        return facts + self._command(scan, region)

    def piece(self, scan: SegmentScan, piece: Piece, findings: Sequence[Finding]) -> Facts:
        """Return what is known of regions that share a cell."""
        kinds = Counter(region.kind.value for region in piece)
        size: Counter[str] = Counter()
        for region in piece:
            size[region.kind.value] += region.length
        start, end = piece[0].offset, piece[-1].end
        facts = [
            *_file(scan),
            ("what", f"{len(piece):,} regions, shown as one for want of room"),
            ("offset", f"{start:,} to {end:,}"),
            ("length", _length(end - start)),
        ]
        facts += [
            (kind, f"{many(count, 'region')}, {show_bytes(size[kind])}")
            for kind, count in kinds.items()
        ]
        held = [region for region in piece if region.operations]
        if held:
            facts.append(("LSNs", f"{held[0].first_lsn} to {held[-1].last_lsn}"))
            facts.append(("frames", f"{sum(region.frames for region in piece):,}"))
            facts.append(("operations", f"{sum(region.operations for region in piece):,}"))
        return facts + _findings(findings)

    def part(self, region: Region) -> tuple[str, ...]:
        """Return one region of those that share a cell, as a line of a table."""
        lsns = ""
        if region.first_lsn is not None and (region.operations or region.kind in FAULTS):
            lsns = f"LSN {_lsns(region)}"
        return (region.kind.value, f"{region.offset:,}", show_bytes(region.length), lsns)

    def absent(self, scan: SegmentScan, what: str, findings: Sequence[Finding]) -> Facts:
        """Return what is known of a segment without a byte."""
        return [*_file(scan), ("what", harmless(what)), *_findings(findings)]

    def segments(self, scans: Sequence[SegmentScan], kinds: Counter[str]) -> Facts:
        """Return what is known of segments that share a cell."""
        facts = [
            ("segments", f"{len(scans):,}, shown as one for want of room"),
            ("length", _length(sum(scan.size for scan in scans))),
        ]
        facts += [(kind, show_bytes(size)) for kind, size in kinds.items() if size]
        gone = sum(not scan.size for scan in scans)
        if gone:
            facts.append(("missing or empty", many(gone, "segment")))
        runs = [run for scan in scans for run in scan.runs if run.operations]
        if runs:
            facts.append(("LSNs", f"{runs[0].first_lsn} to {runs[-1].last_lsn}"))
            facts.append(("frames", f"{sum(scan.frames for scan in scans):,}"))
            facts.append(("operations", f"{sum(scan.operations for scan in scans):,}"))
        return facts

    def _in_lmdb(self, region: Region) -> Facts:
        if self._log.metadata is None or region.first_lsn is None or region.last_lsn is None:
            return []
        watermark = self._log.watermark_lsn
        if region.last_lsn <= watermark:
            return [("in LMDB", "all of it")]
        if region.first_lsn > watermark:
            return [("in LMDB", "none of it yet")]
        return [("in LMDB", f"up to LSN {watermark}")]

    def _command(self, scan: SegmentScan, region: Region) -> Facts:
        """Return a command to go on with; of a path that cannot be typed nothing is said."""
        path = self._log.target.path
        if not path.isprintable() or path.startswith("-"):
            return []
        if region.operations:
            wanted = f"dump {shlex.quote(path)} --from-lsn {region.first_lsn} --limit 20"
        elif region.kind in (RegionKind.STALE, RegionKind.UNUSED, RegionKind.FOREIGN):
            return []
        else:
            place = f"--segment {scan.segment_id} --offset {region.offset}"
            wanted = f"frame {shlex.quote(path)} {place}"
        return [("see", f"wal-inspect {wanted}")]


def _file(scan: SegmentScan) -> Facts:
    file = cut(harmless(os.path.basename(scan.path)))
    return [("segment", f"{scan.segment_id}"), ("file", file)]


def _findings(findings: Sequence[Finding]) -> Facts:
    facts = []
    for finding in findings[:_FINDINGS]:
        facts.append(("finding", WORDS[finding.verdict]))
        facts.append(("expected", _said(finding.expected)))
        facts.append(("found", _said(finding.found)))
        facts.append(("next", _said(finding.next_step)))
    if len(findings) > _FINDINGS:
        facts.append(("finding", f"{len(findings) - _FINDINGS:,} more here"))
    return facts


def _said(message: str) -> str:
    return cut(harmless(message), _LONG)


def _lsns(region: Region) -> str:
    if region.last_lsn is None:
        return f"{region.first_lsn} and perhaps more"
    if region.first_lsn == region.last_lsn:
        return f"{region.first_lsn}"
    return f"{region.first_lsn} to {region.last_lsn}"


def _length(size: int) -> str:
    return f"{size:,} B" if size < 1000 else f"{size:,} B ({show_bytes(size)})"
