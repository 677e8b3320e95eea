"""Running `wal-inspect` in this process, over logs built frame by frame or left by a store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from strandline.tools.inspect.app import app
from strandline.wal.format import segment_name
from tests.support.logs import LogBuilder
from tests.tools.command import environment

PROGRAM: Final = [sys.executable, "-m", "strandline.tools.inspect.main"]


def inspect(*args: object) -> Result:
    """Run the command in this process."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        app, [str(each) for each in args], prog_name="wal-inspect"
    )


def inspected(*args: object, status: int = 0) -> str:
    """Run the command, see it end with a status, and return its output."""
    result = inspect(*args)
    said = result.stderr[-2000:]
    assert result.exit_code == status, (result.exit_code, said, result.exception)
    return str(result.stdout)


def document(*args: object, status: int = 0) -> Any:
    """Run the command with --json and return its one document."""
    return json.loads(inspected(*args, "--json", status=status))


def piped(*args: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process whose streams are pipes."""
    return subprocess.run(
        [*PROGRAM, *(str(each) for each in args)],
        capture_output=True,
        env=environment(),
        check=False,
    )


def lay(log: LogBuilder, directory: Path) -> Path:
    """Write the segments of a built log as files; return the folder."""
    directory.mkdir(parents=True, exist_ok=True)
    for segment_id in (*log.segments, *log.spares):
        (directory / segment_name(segment_id)).write_bytes(log.image(segment_id))
    return directory


def segment(directory: Path, segment_id: int) -> Path:
    """Return the path of a segment's file."""
    return directory / segment_name(segment_id)
