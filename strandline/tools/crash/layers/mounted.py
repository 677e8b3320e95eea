"""What the layers share that mount file systems of their own: L5 and L6."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from strandline.tools.crash.blocks.kinds import KindName
from strandline.tools.crash.blocks.workspace import private_mounts
from strandline.tools.crash.forking.client import PATIENCE, ForkServer
from strandline.tools.crash.killing.children import MODULES
from strandline.tools.crash.layer import Bench

B = TypeVar("B", bound=Bench)


class MountedLayer(Generic[B]):
    """A layer that runs on those of its file systems that this machine can have."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        """Take how many seconds a child may take before it counts as hanging."""
        self._patience = patience

    def kinds(self) -> Sequence[KindName]:
        """Return the file systems that it is for."""
        raise NotImplementedError

    def reason(self, kind: KindName) -> str | None:
        """Return why this machine cannot have one of them, None if it can."""
        raise NotImplementedError

    def make_bench(self, directory: Path, server: ForkServer, kinds: Sequence[KindName]) -> B:
        """Return a bench on the file systems that there are."""
        raise NotImplementedError

    def obstacle(self) -> str | None:
        """Return why none of its file systems can be had here, None if one can."""
        return None if self._usable() else "; ".join(self.left_out())

    def left_out(self) -> Sequence[str]:
        """Return which of them cannot be had here, and why."""
        reasons = {kind: self.reason(kind) for kind in self.kinds()}
        return [f"{kind}: {reason}" for kind, reason in reasons.items() if reason is not None]

    @contextlib.contextmanager
    def bench(self, directory: Path) -> Iterator[B]:
        """Start the fork server where it sees the mounts to come; end it, and every child."""
        private_mounts()
        folder = directory / "forked"
        folder.mkdir()
        with ForkServer(folder, modules=MODULES, patience=self._patience) as server:
            yield self.make_bench(directory, server, self._usable())

    def _usable(self) -> tuple[KindName, ...]:
        return tuple(kind for kind in self.kinds() if self.reason(kind) is None)
