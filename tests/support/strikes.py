"""`strike`: a call with a SIGINT that becomes pending at one chosen step of it.

CPython does not look for signals between any two bytecodes. Version 3.11 does so when a
frame begins or goes on (RESUME), when it jumps back (JUMP_BACKWARD and its conditional
forms), and after a call of anything that is not Python (CALL, CALL_FUNCTION_EX); a call
of a Python function looks in the callee's RESUME. Nowhere else does the main thread give
way, and code that relies on it (`items += ...; entries[key] = ...`) must not be failed for
an interrupt that no signal can cause.

So nothing is raised here by a trace function. It watches the frames of the package,
opcode by opcode, and just before the n-th of those that look for signals it makes a real
SIGINT pending, by an operator whose implementation is a C function: no frame of Python
runs between that and the opcode, so the interpreter finds the signal where it would look
for it anyway, and the handler raises KeyboardInterrupt there, with the tables of exception
handlers that apply to that place.

    for n in itertools.count():
        struck = strike(n, lambda: db.put(b"k", b"v"))
        if not struck.hit:
            break                       # the call has fewer than n steps

Only for the main thread, which is the one that Python gives signals to.
"""

from __future__ import annotations

import _thread
import dis
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

import strandline

PACKAGE: Final = os.path.dirname(strandline.__file__) + os.sep
_TOOLS: Final = PACKAGE + "tools" + os.sep
"""Not struck: a simulated disk is a part of the surroundings, not of the store."""

LOOKING: Final = frozenset(
    code
    for name, code in dis.opmap.items()
    if name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "FOR_ITER")
    or (name.startswith(("JUMP_BACKWARD", "POP_JUMP_BACKWARD")) and "NO_INTERRUPT" not in name)
)
"""Opcodes that look for signals, or begin or resume a frame that does."""


class _Trip:
    """`-trip` makes SIGINT pending without a call, after which it would be noticed at once."""

    __neg__: Any = _thread.interrupt_main


class Struck:
    """What became of a call that was interrupted, or was over before it could be."""

    __slots__ = ("answer", "error", "hit", "where")

    def __init__(self) -> None:
        self.hit = False
        """The step was reached: a SIGINT was made pending."""
        self.where = "nowhere"
        """The function, line and opcode just before which that was."""
        self.answer: Any = None
        self.error: BaseException | None = None
        """KeyboardInterrupt as a rule, or what the call made of it."""


def strike(n: int, call: Callable[[], Any], handle: Callable[[], Any] | None = None) -> Struck:
    """Make `call`; let an interrupt strike at the n-th step of it, counted from 0.

    With `handle` the signal's handler calls that instead of raising KeyboardInterrupt.
    """
    assert threading.current_thread() is threading.main_thread(), "signals go to the main thread"
    struck, trip, left = Struck(), _Trip(), n
    codes: dict[CodeType, bytes] = {}

    def each_opcode(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if event == "opcode":
            code = frame.f_code
            instructions = codes.get(code)
            if instructions is None:
                instructions = codes[code] = code.co_code
            if instructions[frame.f_lasti] in LOOKING:
                if left == 0:
                    struck.hit = True
                    name = dis.opname[instructions[frame.f_lasti]]
                    struck.where = f"{code.co_qualname}:{frame.f_lineno} {name}"
                    # Nothing is watched from here on, for this function's frame looks, too.
                    sys.settrace(None)
                    _ = -trip
                    return None
                left -= 1
        return each_opcode

    def each_frame(frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.startswith(_TOOLS):
            return None
        frame.f_trace_lines = False
        frame.f_trace = each_opcode  # first: Python 3.13 looks for it
        frame.f_trace_opcodes = True
        return each_opcode

    def answer(number: int, frame: FrameType | None) -> None:
        assert handle is not None
        handle()

    answering = signal.default_int_handler if handle is None else answer
    collecting = gc.isenabled()
    gc.disable()  # the steps are those of the call, not of what the collector finds meanwhile
    handler = signal.signal(signal.SIGINT, answering)
    sys._getframe().f_trace_opcodes = True  # Python 3.12 wants one before it begins to trace
    try:
        sys.settrace(each_frame)
        struck.answer = call()
        sys.settrace(None)
    except BaseException as error:
        struck.error = error
        _let_go(error)
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, handler)
        if collecting:
            gc.enable()
    return struck


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of a traceback hold, as it goes when an exception was dealt with."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
