"""The skeleton of a page that is one file and loads nothing.

A Content-Security-Policy says so to the browser: no address is ever asked for anything,
and no script runs but the page's own, named by its hash. Should a text ever get into the
markup unescaped, what it brings along stays dead.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files


def document(*, title: str, body: str, style: str, script: str | None = None) -> str:
    """Return a page; `body` is markup, `style` is added to the common look."""
    policy = ["default-src 'none'", "style-src 'unsafe-inline'"]
    code = ""
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy.append(f"script-src 'sha256-{digest}'")
        code = f"<script>{script}</script>\n"
    # Nothing can set a base or send a form, and no text becomes markup at run time.
    policy += ["base-uri 'none'", "form-action 'none'"]
    policy += ["require-trusted-types-for 'script'", "trusted-types 'none'"]
    look = read_text(__package__, "page.css")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{look}{style}</style>
</head>
<body>
{body}
{code}</body>
</html>
"""


def read_text(package: str, name: str) -> str:
    """Return a file that lies beside a package's modules."""
    return files(package).joinpath(name).read_text(encoding="utf-8")
