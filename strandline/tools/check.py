"""Checking a store from a program, as `strandline check` does.

    from strandline.tools.check import CheckVerdict, check_store

    report = check_store("data")
    if report.verdict is not CheckVerdict.SOUND:
        ...

What it looks at, and what it cannot see, is in docs/command.md.
"""

from strandline.recovery.check import check_store
from strandline.recovery.check_report import (
    CheckProgress,
    CheckReport,
    CheckVerdict,
    Finding,
    LogFacts,
    StoreFacts,
    Writer,
)

__all__ = [
    "CheckProgress",
    "CheckReport",
    "CheckVerdict",
    "Finding",
    "LogFacts",
    "StoreFacts",
    "Writer",
    "check_store",
]
