"""EdgeMT: from a few labelled and many unlabelled medical images to a segmentation model that runs in real time."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edgemt.telemetry import switch_off

__version__ = "0.1.0"
switch_off()

# name -> its module, or MODULE:NAME where its name there differs; imported at the first use, so that `import edgemt`
# needs no torch
_PUBLIC = {
    "Batch": "edgemt.contract",
    "ModelCard": "edgemt.model_card",
    "Case": "edgemt.contract",
    "Normalisation": "edgemt.model_card",
    "Output": "edgemt.contract",
    "DataOptions": "edgemt.data.options",
    "METHODS": "edgemt.methods",
    "Method": "edgemt.methods",
    "RECIPES": "edgemt.recipes",
    "Recipe": "edgemt.pipeline.recipe",
    "Schedule": "edgemt.training.options",
    "run": "edgemt.pipeline.flow",
    "open_ship": "deploy.package.package:open_package",
    "runner": "deploy.runtimes.load",
    "evaluate": "edgemt.inference.evaluate",
    "stream": "deploy.stream.api",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(import_module(module), attribute or name)
    raise AttributeError(f"module 'edgemt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
