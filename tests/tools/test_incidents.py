"""docs/incidents.md shows what the commands print: made anew here, and compared."""

from __future__ import annotations

from pathlib import Path

from tests.tools.incidents import DOCUMENT, STORIES, retell


def test_every_output_is_as_it_is_now(tmp_path: Path) -> None:
    """If it is not: look at what changed, then run `python -m tests.tools.incidents`."""
    written = DOCUMENT.read_text()
    assert retell(written, tmp_path) == written
    for story in STORIES:
        assert f"<!-- story: {story} -->" in written
