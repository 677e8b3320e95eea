"""L0: coverage-guided fuzzing of everything that reads bytes from a disk.

The targets are in `fuzz/` of the source tree; each runs under atheris in a process of its
own, with the corpus that is kept with them, a dictionary, and a corpus of the worker's that
grows from round to round. A round is one target for a number of inputs. An input that a
target does not stand is a finding; the input is part of it, in base64.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import strandline
from strandline.tools.crash.layer import Finding, Tally

TARGETS: Final = (
    "frames", "payloads", "records", "identity", "headers", "logs", "codecs", "catalog",
)  # fmt: skip
_TREE: Final = Path(strandline.__file__).parents[1]
_SECONDS: Final = 8
_INPUTS: Final = 40_000
"""A round ends with the first of these: so that a short one repeats, and a slow one ends."""
_LONGEST: Final = 2048
_TIMEOUT: Final = 60
_EXECUTED: Final = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")


class FuzzLayer:
    """The layer."""

    name = "fuzz"
    number = "L0"
    title = "coverage-guided fuzzing of every decoder"

    def obstacle(self) -> str | None:
        """It needs the source tree, and atheris."""
        if not (_TREE / "fuzz" / "store.dict").is_file():
            return "the fuzz targets are in the source tree only: run it from a checkout"
        if importlib.util.find_spec("atheris") is None:
            return "atheris is not installed: pip install 'strandline[fuzz]'"
        return None

    def left_out(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[FuzzBench]:
        """Give the worker a corpus of its own."""
        yield FuzzBench(directory)


class FuzzBench:
    """Rounds of the targets in turn."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, seed: int) -> int:
        """An input is not made of steps."""
        return 0

    def round(self, seed: int, kept: frozenset[int] | None = None) -> Tally:
        """Run one target for a while."""
        target = TARGETS[seed % len(TARGETS)]
        corpus = self._directory / target
        corpus.mkdir(parents=True, exist_ok=True)
        crash = self._directory / f"crash-{target}"
        crash.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", f"fuzz.{target}", f"-seed={seed % (1 << 31) + 1}",
            f"-max_total_time={_SECONDS}", f"-runs={_INPUTS}", f"-max_len={_LONGEST}",
            f"-timeout={_TIMEOUT}", "-print_final_stats=1", f"-exact_artifact_path={crash}",
            f"-dict={_TREE / 'fuzz' / 'store.dict'}",
            str(corpus), str(_TREE / "fuzz" / "corpus" / target),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=_TREE, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
        executed = _EXECUTED.search(done.stderr)
        cases = int(executed[1]) if executed else 0
        tally = Tally(rounds=1, cases=cases, faults=cases)
        if done.returncode:
            said = done.stdout + done.stderr
            if not crash.exists():
                raise RuntimeError(
                    f"fuzz.{target} did not run: {said[-2000:].decode(errors='replace')}"
                )
            tally.cases = tally.faults = max(1, cases)
            tally.finding = _finding(target, said, crash.read_bytes())
        return tally


def _finding(target: str, said: bytes, data: bytes) -> Finding:
    text = said.decode(errors="replace")
    start = text.find("=== Uncaught Python exception: ===")
    trace = text[start:].split("==", 3)[-1] if start >= 0 else text[-1500:]
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    what = " | ".join(lines[1:12])
    encoded = base64.b64encode(data).decode()
    return Finding(10, f"fuzz.{target}: {what}", f"the input, in base64: {encoded}")
