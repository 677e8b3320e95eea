"""A log in figures: what is written, how often, when, and how far behind syncs are.

    analyse(log, Tables(log.metadata)) -> Analysis    see `figures.py` for what is in it

One pass, in bounded memory: what could grow with the log is counted by sketches that
state their error (`sketch.py`, `spread.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from strandline.tools.inspect.examine import Examination
from strandline.tools.inspect.figures import Analysis
from strandline.tools.inspect.frames import Tables

OnProgress = Callable[[int, int, int], None]
"""Called with operations, bytes done and bytes in all."""


def analyse(
    log: Examination,
    tables: Tables,
    *,
    from_lsn: int = 0,
    to_lsn: int | None = None,
    only: Collection[str] | None = None,
    top: int = 20,
    progress: OnProgress | None = None,
) -> Analysis:
    """Read the operations of a log, from one LSN to another, both included.

    With `only` (names, or `#id`) no operation of another table is counted; what is said
    of frames, of their sizes and of syncs is about all frames. `top` is how many of the
    hottest keys and prefixes are wanted. `tables` learns the tables that the log creates.
    """
    raise NotImplementedError
