"""The layers there are, in order. A layer's module is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import Final

from strandline.tools.crash.layer import Layer

_LAYERS: Final = "strandline.tools.crash.layers"
_CLASSES: Final = {
    "fuzz": f"{_LAYERS}.fuzz:FuzzLayer",
    "simulation": f"{_LAYERS}.simulation:SimulationLayer",
    "errors": f"{_LAYERS}.errors:ErrorsLayer",
    "recorded": f"{_LAYERS}.recorded:RecordedLayer",
    "kill": f"{_LAYERS}.kill:KillLayer",
    "shutdown": f"{_LAYERS}.shutdown:ShutdownLayer",
    "blocks": f"{_LAYERS}.blocks:BlocksLayer",
    "rot": f"{_LAYERS}.rot:RotLayer",
}

NAMES: Final = tuple(_CLASSES)
"""As `--layer` takes them."""


def load_layer(name: str) -> Layer:
    """Return a layer by its name, one of `NAMES`."""
    module, _, attribute = _CLASSES[name].partition(":")
    layer: Layer = getattr(importlib.import_module(module), attribute)()
    return layer
