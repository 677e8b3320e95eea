"""The map as markup. What a cell is about goes to map.js as JSON, and is text there."""

from __future__ import annotations

from typing import Final

from strandline.tools.inspect.page.cells import Cell, LogMap, Row
from strandline.tools.inspect.page.words import many, script_json, text
from strandline.tools.inspect.regions import RegionKind
from strandline.tools.inspect.times import show_bytes

_LEGEND: Final = (
    (RegionKind.HEADER.value, "header"),
    (RegionKind.VALID.value, "valid frames"),
    (RegionKind.SEAL.value, "seal"),
    (RegionKind.DAMAGED.value, "damaged"),
    (RegionKind.TORN.value, "torn tail"),
    (RegionKind.STALE.value, "stale: an earlier use of the file"),
    (RegionKind.UNUSED.value, "unused"),
    (RegionKind.FOREIGN.value, "foreign"),
    ("missing", "no file"),
    ("empty", "empty file"),
    ("mixed", "several, with faults"),
)


def map_section(drawn: LogMap) -> str:
    """Return the map, its legend, and the panel for details."""
    if not drawn.rows:
        return "<p>No segment could be looked at, so there is no map.</p>"
    faults = sum(cell.fault for row in drawn.rows for cell in row.cells)
    return f"""<p>Each bar is one segment file from its first byte to its last. Widths go by bytes,
but nothing is too narrow to be seen and clicked. Choose a part for its detail: by mouse or touch,
or with Tab and then the arrow keys, Home and End.{_left_out(drawn)}</p>
{_legend(drawn)}
<div class="mapped">
<ol class="map" id="map">
{"".join(map(_row, drawn.rows))}</ol>
<aside class="detail" id="detail" aria-labelledby="detail-title">
<p class="steps" id="steps" hidden><button type="button" id="previous">previous</button>
<button type="button" id="next">next</button>
<button type="button" id="fault"{" disabled" if not faults else ""}>next fault</button></p>
<div aria-live="polite">
<h3 id="detail-title">No part of the map is chosen</h3>
<dl id="detail-facts"></dl>
<div class="scroll" id="detail-parts"></div>
</div>
<noscript><p>The details are shown by a script, and this browser runs none.</p></noscript>
</aside>
</div>
<script type="application/json" id="map-data">{_data(drawn)}</script>"""


def _left_out(drawn: LogMap) -> str:
    said = ""
    if drawn.merged_segments:
        said += (
            f" The log has too many segments for a bar each: {drawn.merged_segments:,} of them "
            "share bars with their neighbours, cut into stretches of segments."
        )
    if drawn.merged_regions:
        said += (
            f" {drawn.merged_regions:,} regions share a part of their bar with their neighbours, "
            "for want of room; the detail lists them, or the first of them."
        )
    return said


def _legend(drawn: LogMap) -> str:
    shown = {cell.kind for row in drawn.rows for cell in row.cells}
    items = []
    for kind, words in _LEGEND:
        if kind in shown or drawn.regions[kind]:
            count = ""
            if drawn.regions[kind]:
                size = show_bytes(drawn.kind_bytes[kind])
                count = f" <small>{many(drawn.regions[kind], 'region')}, {size}</small>"
            items.append(f'<li><i class="cell {kind}"></i>{words}{count}</li>')
    return f'<ul class="legend kinds">{"".join(items)}</ul>'


def _row(row: Row) -> str:
    whole = sum(cell.length for cell in row.cells) or 1
    cells = "".join(_cell(cell, whole) for cell in row.cells)
    label = text(f"{row.title}: {row.about}")
    return (
        f'<li><div class="name"><b>{text(row.title)}</b> <span>{text(row.about)}</span></div>'
        f'<div class="bar-of" role="group" aria-label="{label}">{cells}</div></li>\n'
    )


def _cell(cell: Cell, whole: int) -> str:
    kinds = f"cell {cell.kind}"
    if cell.parts > 1:
        kinds += " many"
    return (
        f'<button type="button" class="{kinds}" style="--g:{1000 * cell.length / whole:.2f}" '
        f'aria-label="{text(cell.title)}"></button>'
    )


def _data(drawn: LogMap) -> str:
    """Return the details of all cells, in the order of the buttons."""
    return script_json(
        [
            {
                "title": cell.title,
                "facts": cell.facts,
                "parts": cell.listed,
                "more": cell.unlisted,
                "fault": cell.fault,
            }
            for row in drawn.rows
            for cell in row.cells
        ]
    )
