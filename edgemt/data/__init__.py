"""Cases on disk, how they are split, and the two-stream batches made of them. Importing it loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Cohort": "layouts",
    "DataOptions": "layouts",
    "find": "layouts",
    "AugmentOptions": "options",
    "VolumeOptions": "options",
    "Stack": "stream",
    "TwoStream": "stream",
    "load": "stream",
    "statistics": "stream",
    "VolumeStack": "volumes",
    "VolumeStream": "volumes",
    "load_volumes": "volumes",
    "volume_statistics": "volumes",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
