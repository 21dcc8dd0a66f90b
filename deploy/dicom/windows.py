"""Windows: grey values of a DICOM image -> 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgemt.io.images import to_uint8


@dataclass(frozen=True)
class Window:
    """A VOI window over the modality values of a grey image; `kind` is the VOI LUT Function."""

    centre: float
    width: float
    kind: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The values through the window, uint8 of the same shape, after PS3.3 C.11.2.1.2.

        LINEAR ((x - (c - 0.5)) / (w - 1) + 0.5) 255, LINEAR_EXACT ((x - c) / w + 0.5) 255, SIGMOID
        255 / (1 + exp(-4 (x - c) / w)).
        """
        if self.kind == "SIGMOID":
            curve = 255 / (1 + np.exp(-4 * (values.astype(np.float64) - self.centre) / self.width))
            return np.rint(curve).astype(np.uint8)
        if self.kind == "LINEAR_EXACT":
            return to_uint8(as_deep(values), window=(self.centre - self.width / 2, self.centre + self.width / 2))
        middle, half = self.centre - 0.5, (self.width - 1) / 2
        return to_uint8(as_deep(values), window=(middle - half, middle + half))


@dataclass(frozen=True)
class Range:
    """A range for a grey image without a window: `low` becomes 0, `high` becomes 255."""

    low: float
    high: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        return to_uint8(as_deep(values), window=(self.low, self.high))


def as_deep(values: np.ndarray) -> np.ndarray:
    """uint8 as float32, since `to_uint8` does not apply a window to uint8; other types unchanged."""
    return values.astype(np.float32) if values.dtype == np.uint8 else values
