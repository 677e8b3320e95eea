"""Builds `strandline.native._native`, the hot functions in C, into the source tree.

    python hatch_build.py        build it for the interpreter that runs this

Called by hatchling for every wheel, an editable one included. Where it cannot be built, for
want of a compiler say, the package works without it, more slowly, and says so here.
"""

from __future__ import annotations

import contextlib
import pathlib
import sysconfig
import warnings
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_ROOT: Final = pathlib.Path(__file__).parent
_FOLDER: Final = _ROOT / "strandline" / "native"
_FLAGS: Final = ["-std=c11", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden"]


def build() -> list[str]:
    """Compile; return the paths of what was built, relative to the project, or nothing."""
    from setuptools import Distribution, Extension, SetuptoolsDeprecationWarning

    library = _FOLDER / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    library.unlink(missing_ok=True)
    extension = Extension(
        "strandline.native._native",
        sources=sorted(str(path.relative_to(_ROOT)) for path in _FOLDER.glob("*.c")),
        extra_compile_args=_FLAGS,
        optional=True,
    )
    with warnings.catch_warnings(), contextlib.chdir(_ROOT):
        warnings.simplefilter("ignore", SetuptoolsDeprecationWarning)
        command = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
        command.inplace = command.force = True
        command.build_temp = "build"
        command.ensure_finalized()
        command.run()
    return [str(library.relative_to(_ROOT))] if library.exists() else []


class NativeBuildHook(BuildHookInterface[Any]):
    """Puts what was built into the wheel, and marks it as made for this platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build before the files of a wheel are collected."""
        built = build()
        if built:
            build_data["artifacts"] += ["/" + path for path in built]
            build_data["infer_tag"] = True
            build_data["pure_python"] = False
        else:
            self.app.display_warning("strandline: no C compiler; installed without native code")


if __name__ == "__main__":
    print(*build() or ["nothing was built"], sep="\n")
