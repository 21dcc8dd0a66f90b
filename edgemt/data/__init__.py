"""Cases on disk, how they are split, and the two-stream batches made of them. Importing it loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Cohort": "cohort",
    "DataOptions": "cohort",
    "find": "cohort",
    "AugmentOptions": "options",
    "VolumeOptions": "options",
    "Stack": "slice_dataset",
    "TwoStream": "slice_dataset",
    "load": "slice_dataset",
    "statistics": "slice_dataset",
    "VolumeStack": "volume_dataset",
    "VolumeStream": "volume_dataset",
    "load_volumes": "volume_dataset",
    "volume_statistics": "volume_dataset",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
