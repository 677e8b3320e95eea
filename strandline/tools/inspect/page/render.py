"""The whole page of a report."""

from __future__ import annotations

import strandline
from strandline.tools.cli.terminal import harmless
from strandline.tools.inspect.analysis.figures import Analysis
from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.page.cells import lay_out
from strandline.tools.inspect.page.charts import writes_section
from strandline.tools.inspect.page.figures import (
    coalescing_section,
    doubts_section,
    hot_section,
    sizes_section,
    sync_section,
)
from strandline.tools.inspect.page.mapping import map_section
from strandline.tools.inspect.page.verdict import findings_section, head_section
from strandline.tools.inspect.page.words import text
from strandline.tools.pages.document import document, read_text


def render(log: Examination, figures: Analysis | None, made_ns: int) -> str:
    """Return the page; without figures where the log holds no operation."""
    drawn = lay_out(log)
    sections = [
        ("What was found", findings_section(log, drawn)),
        ("Map of the segments", map_section(drawn)),
    ]
    if figures is not None:
        sections += [
            ("Writes over time", doubts_section(figures) + writes_section(figures)),
            ("Groups and frames", sizes_section(figures)),
            ("What coalescing saves", coalescing_section(figures)),
            ("Hot keys and prefixes", hot_section(figures)),
            ("How far syncs stay behind", sync_section(figures)),
        ]
    body = head_section(log, figures, made_ns) + "\n<main>\n"
    body += "".join(
        f"<section>\n<h2>{title}</h2>\n{content}\n</section>\n" for title, content in sections
    )
    version = text(strandline.__version__)
    body += (
        f"</main>\n<footer><p>strandline {version}. This page holds keys of the store.</p></footer>"
    )
    return document(
        title=f"wal-inspect: {harmless(log.target.path)}",
        body=body,
        style=read_text(__package__, "page.css"),
        script=read_text(__package__, "map.js"),
    )
