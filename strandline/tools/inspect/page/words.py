"""Text of a log as markup in which nothing acts, and numbers as a person reads them.

Three things are done to it: what is not printable is escaped as on a terminal (control
characters, directional overrides, bytes that are not UTF-8), `<`, `&` and quotes become
entities, and names are isolated, so that letters that run from right to left do not
rearrange what stands around them.
"""

from __future__ import annotations

from html import escape as entities
from typing import Any, Final

from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import escape, harmless
from strandline.tools.inspect.analysis.figures import Estimate

LONGEST: Final = 160
"""Letters of a key, a name or a message that are shown."""


def text(message: str, longest: int = 2000) -> str:
    """Return a message as markup."""
    return entities(cut(harmless(message), longest))


def name(data: str | bytes) -> str:
    """Return data, as it is shown elsewhere, as markup."""
    return isolated(escape(data))


def isolated(shown: str) -> str:
    """Return text that is printable already as markup with a direction of its own."""
    return f"<bdi>{entities(cut(shown))}</bdi>"


def cut(shown: str, longest: int = LONGEST) -> str:
    """Return a text, cut short where it is too long, and then it says so."""
    if len(shown) <= longest:
        return shown
    return f"{shown[:longest]}… ({len(shown) - longest:,} letters more)"


def script_json(plain: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it ends or begins a tag."""
    ascii_only = to_json(plain)
    return ascii_only.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def many(count: int, thing: str) -> str:
    """Return a number of things."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def about(estimate: Estimate) -> str:
    """Return a number that may be an estimate."""
    return f"{estimate.value:,}" if estimate.exact else f"about {estimate.value:,}"
