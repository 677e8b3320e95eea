"""Compiling the shim, once for each version of its source.

    <cache>/strandline-shim-<digest of the sources and of how they are compiled>.so

Two processes may compile at the same time: each renames a file of its own into place.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
_FLAGS: Final = ("-shared", "-fPIC", "-std=gnu11", "-O2", "-Wall", "-Wextra")
_HIDDEN: Final = "-fvisibility=hidden"
_LIBRARIES: Final = ("-ldl", "-lpthread")
_SECONDS: Final = 120


def obstacle() -> str | None:
    """Return why the shim cannot work here, or None."""
    if not sys.platform.startswith("linux"):
        return f"the shim needs Linux, this is {sys.platform}"
    if sys.maxsize < 1 << 32:
        return "the shim needs a 64-bit interpreter, this one has 32 bits"
    if platform.libc_ver()[0] != "glibc":
        return "the shim needs an interpreter that is linked with glibc; this one is not"
    if _compiler() is None:
        return "the shim needs a C compiler: install one as `cc`, or name it in $CC"
    return None


def library(cache: Path) -> Path:
    """Return the compiled shim, from `cache` if it is there.

    Raises:
        RuntimeError: It cannot work here, or did not compile; the text says why.
    """
    if (why := obstacle()) is not None:
        raise RuntimeError(why)
    target = cache / f"strandline-shim-{_digest()}.so"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unfinished = Path(scratch, "shim.so")
            _compile(unfinished)
            os.replace(unfinished, target)
    return target


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc")


def _command() -> list[str]:
    return [_compiler() or "cc", *_FLAGS, _HIDDEN]


def _digest() -> str:
    digest = hashlib.sha256("\0".join((*_command(), *_LIBRARIES)).encode())
    for path in sorted((*_FOLDER.glob("*.c"), *_FOLDER.glob("*.h"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(target: Path) -> None:
    sources = sorted(str(path) for path in _FOLDER.glob("*.c"))
    command = [*_command(), "-o", str(target), *sources, *_LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the shim did not compile: {' '.join(command)} ended with {done.returncode}; "
            f"the compiler said:\n{done.stderr}"
        )
