"""Runs a target under atheris."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType


def run(target: Callable[[bytes], None]) -> None:
    """Fuzz `target` with the arguments of the command line, which are libFuzzer's."""
    import atheris

    # In place, for all is imported already; instrumenting everything would take half a minute.
    for name, module in list(sys.modules.items()):
        if name == "__main__" or name.startswith(("fuzz.", "strandline.")):
            for function in functions_of(module):
                atheris.instrument_func(function)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the functions that a module defines, those of its classes included."""
    for thing in (module, *vars(module).values()):
        if thing is module or (inspect.isclass(thing) and thing.__module__ == module.__name__):
            for member in vars(thing).values():
                if isinstance(member, FunctionType) and member.__module__ == module.__name__:
                    yield member
