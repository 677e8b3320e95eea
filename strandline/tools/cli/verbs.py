"""The verbs of a command, each loaded when it is called.

Every expected error ends a verb with one message on stderr and an exit status, without a
traceback: 1 for what the store or the system refuses, 2 for a wrong use. What is not
expected keeps its traceback, for it is a fault of the program.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

import strandline
from strandline.errors import StrandlineError
from strandline.tools.cli.failure import CommandError
from strandline.tools.cli.terminal import fail, harmless, program


class Verbs(TyperGroup):
    """The group of a command's verbs."""

    modules: ClassVar[Mapping[str, str]] = {}
    """Verb to module; the module has a function of the verb's name, and EXAMPLES."""
    statuses: ClassVar[Mapping[type[StrandlineError], int]] = {}
    """The exit status of errors for which it is not 1; the first that fits counts."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        """Return the verbs in the order of the help."""
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
        """Load a verb; None where there is none of this name."""
        module = self.modules.get(cmd_name)
        return None if module is None else _load(cmd_name, module)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options of the command itself."""
        if args:
            program.set(args[0] or program.get())
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _disarm(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a verb and turn what it raises into a message and a status."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                _flush()
        except CommandError as error:
            fail(str(error))
            raise typer.Exit(error.status) from error
        except StrandlineError as error:
            fail(str(error))
            found = (code for kind, code in self.statuses.items() if isinstance(error, kind))
            raise typer.Exit(next(found, 1)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
            raise typer.Exit(1) from error
        except Exception as error:
            _disarm(error)
            raise


def _load(verb: str, module_name: str) -> Any:
    """Return the command that a module's function is."""
    module = importlib.import_module(module_name)
    alone = typer.Typer(add_completion=False)
    examples: Sequence[str] = getattr(module, "EXAMPLES", ())
    epilog = "\n\n".join(["Examples:", *examples]) if examples else None
    function = getattr(module, verb.replace("-", "_"))
    # Paragraphs are wrapped to the terminal's width, not to that of the source.
    paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
    text = "\n\n".join(each.replace("\n", " ") for each in paragraphs)
    alone.command(verb, help=text, epilog=epilog)(function)
    command = typer.main.get_command(alone)
    command.name = verb
    return command


def _flush() -> None:
    """Write out what is printed while an error can still be told; raises CommandError."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise CommandError(f"stdout: {error.strerror or error}; the output is not whole") from error


def _disarm(error: Exception) -> None:
    """Make a usage error's message harmless: it can quote an argument as it was given."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        error.message = harmless(message)  # type: ignore[attr-defined]


def show_version(wanted: bool) -> None:
    """Print the release and end; the callback of the option --version."""
    if wanted:
        typer.echo(f"strandline {strandline.__version__}")
        raise typer.Exit
