"""The server's side: it forks a child for each request, and buries it.

    request   b"F" and two descriptors, the ends of pipes to write to  ->  i32 process id
              b"W": wait for the child's end                           ->  i32 wait status

What the child is to do lies in the file `request`: [work, argument], in msgpack, where work
is the name of a function, "module:function". The child is not buried before b"W", so that
nobody else can have its process id when it is killed.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack

from strandline.tools.crash.runner import die_with_parent

FORK: Final = b"F"
WAIT: Final = b"W"
ANSWER: Final = struct.Struct("<i")
REQUEST: Final = "request"
"""The file with the request."""
STACKS: Final = "stacks"
"""The file with the stacks of a child that hangs, crashes, or raises."""
FAILED: Final = 70
"""Exit status of a work that raised an error."""

Work = Callable[[Any, "Talk"], object]


class Talk:
    """How a child speaks to the bench. What it says is whole, whichever thread says it."""

    def __init__(self, answers: int, marks: int) -> None:
        self._answers = answers
        self._marks = marks
        self._lock = threading.Lock()

    def say(self, data: bytes) -> None:
        """Say something; it has been said when this returns."""
        with self._lock:
            while data:
                data = data[os.write(self._answers, data) :]

    def mark(self) -> None:
        """Say that now is the time to be killed, or soon."""
        os.write(self._marks, b"!")


def load(name: str) -> Callable[..., Any]:
    """Return a function by its name, "module:function"."""
    module, _, function = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def serve(requests: socket.socket, folder: Path, patience: float) -> None:
    """Fork until the other side hangs up; never returns to what it was forked from."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN if each == signal.SIGINT else signal.SIG_DFL)
    # Objects that every child would touch, and so copy, whenever it collects garbage.
    gc.collect()
    gc.freeze()
    child = 0
    while True:
        word, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
        if word == FORK:
            child = os.fork()
            if not child:
                requests.close()
                _be_child(folder, patience, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            requests.sendall(ANSWER.pack(child))
        elif word == WAIT:
            _, status = os.waitpid(child, 0)
            child = 0
            requests.sendall(ANSWER.pack(status))
        else:
            if child:
                os.kill(child, signal.SIGKILL)
            return


def _be_child(folder: Path, patience: float, answers: int, marks: int) -> None:
    """Do the work of one request, and end."""
    code = FAILED
    with (folder / STACKS).open("wb", buffering=0) as stacks:
        try:
            die_with_parent()
            faulthandler.enable(stacks)
            faulthandler.dump_traceback_later(patience, file=stacks)
            work, argument = msgpack.unpackb((folder / REQUEST).read_bytes())
            load(work)(argument, Talk(answers, marks))
            code = 0
        except BaseException:
            stacks.write(traceback.format_exc().encode())
        finally:
            os._exit(code)


def main() -> None:
    """Serve in a process that was started anew: socket, folder, patience, imports, prelude."""
    die_with_parent()
    descriptor, folder, patience, modules, prelude = sys.argv[1:]
    for module in modules.split():
        importlib.import_module(module)
    for name in prelude.split():
        load(name)()
    with socket.socket(fileno=int(descriptor)) as requests:
        serve(requests, Path(folder), float(patience))


if __name__ == "__main__":
    main()
