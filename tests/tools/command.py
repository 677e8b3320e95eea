"""Running the command: inside this process, behind pipes, and on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from typer.testing import CliRunner, Result

import strandline
from strandline.tools.cli.app import app

ROOT: Final = Path(strandline.__file__).parents[1]
PROGRAM: Final = [sys.executable, "-m", "strandline.tools.cli.main"]
_TELLING: Final = ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS", "TTY_")
_DEADLINE: Final = 60.0


class Shown(NamedTuple):
    """What a terminal was sent, and how the command ended."""

    output: bytes
    status: int

    @property
    def text(self) -> str:
        """The output as text, with the line ends of a terminal made plain."""
        return self.output.decode().replace("\r\n", "\n")


def run(*args: object, data: bytes | None = None) -> Result:
    """Run the command in this process."""
    arguments = [str(each) for each in args]
    runner = CliRunner(env={"COLUMNS": "200"})
    return runner.invoke(app, arguments, input=data, prog_name="strandline")


def done(*args: object, data: bytes | None = None) -> str:
    """Run the command in this process, see it succeed, and return its output."""
    result = run(*args, data=data)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return str(result.stdout)


def as_json(*args: object) -> Any:
    """Run the command with --json and return what it says, a list of lines."""
    return [json.loads(line) for line in done(*args, "--json").splitlines()]


def piped(*args: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process whose streams are pipes."""
    return subprocess.run(
        [*PROGRAM, *(str(each) for each in args)],
        input=data,
        capture_output=True,
        env=environment(),
        check=False,
    )


def on_terminal(*args: object, columns: int = 80) -> Shown:
    """Run the command as a process whose streams are a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, *(str(each) for each in args)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "TERM": "xterm-256color"},
    )
    os.close(theirs)
    output = b""
    deadline = time.monotonic() + _DEADLINE
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # what Linux says when the other side is closed
                break
            if not data:
                break
            output += data
        return Shown(output, process.wait(_DEADLINE))
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def environment() -> dict[str, str]:
    """An environment that says nothing of terminals, in which the package can be imported."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_TELLING)}
    return {**kept, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
