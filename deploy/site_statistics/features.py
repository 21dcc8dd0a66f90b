"""What is measured of a shown frame and its mask, and in which bins it is counted.

Shapes: H W of the picture, h w of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemt.io.class_regions import in_class

_EVERY = 8  # pixels of the picture: brightness and colour are means over every eighth row and column


@dataclass(frozen=True)
class Feature:
    """A quantity with the inner edges of its bins: bin 0 is below the first edge, the last one from the last edge on.

    `about`: picture, mask or machine, which a change of it is a sign of.
    """

    name: str
    about: str
    unit: str
    edges: tuple[float, ...]

    @property
    def bins(self) -> int:
        return len(self.edges) + 1

    def bin_of(self, value: float) -> int:
        """The bin of a value; a value on an edge is in the bin above it."""
        return int(np.searchsorted(self.edges, value, side="right"))


def _linear(low: float, high: float, bins: int) -> tuple[float, ...]:
    return tuple(round(float(x), 6) for x in np.linspace(low, high, bins + 1)[1:-1])


def _log(low: float, high: float, edges: int) -> tuple[float, ...]:
    return tuple(float(f"{x:.6g}") for x in np.geomspace(low, high, edges))


_PICTURE = (
    *(Feature(name, "picture", "0 to 255", _linear(0, 256, 64)) for name in ("red", "green", "blue", "brightness")),
    Feature("contrast", "picture", "standard deviation of the brightness", _linear(0, 128, 64)),
    Feature("sharpness", "picture", "mean difference of neighbouring pixels", _log(0.25, 64.0, 41)),
    Feature("likeness", "picture", "to the training images, 0 to 1", _linear(0, 1, 40)),
)
_MASK = (Feature("uncertain", "mask", "share of the mask that is hatched", _log(1e-4, 0.5, 31)),)
_MACHINE = (
    Feature("age", "machine", "ms from the capture of a frame to its mask", _log(1.0, 1000.0, 61)),
    Feature("no mask", "machine", "share of the time", (0.5,)),
)


def features_of(classes: Sequence[str]) -> tuple[Feature, ...]:
    """All features of a model with these classes, the background first: an area for each other class."""
    areas = (Feature(f"area of {name}", "mask", "share of the picture", _log(1e-4, 1.0, 41)) for name in classes[1:])
    return (*_PICTURE, *areas, *_MASK, *_MACHINE)


def measure_picture(pixels: np.ndarray) -> dict[str, float]:
    """uint8 [H, W] or [H, W, 3] -> the features of the picture alone, but for its likeness."""
    step = pixels[::_EVERY, ::_EVERY].astype(np.float32)
    colour = step if step.ndim == 3 else np.repeat(step[..., None], 3, axis=2)
    red, green, blue = (float(x) for x in colour.mean((0, 1)))
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    rows = pixels[:: 2 * _EVERY].astype(np.float32)
    line = rows if rows.ndim == 2 else rows.mean(axis=2)
    sharpness = float(np.abs(np.diff(line, axis=1)).mean()) if line.shape[1] > 1 else 0.0
    values = {"red": red, "green": green, "blue": blue, "brightness": float(grey.mean())}
    return {**values, "contrast": float(grey.std()), "sharpness": sharpness}


def measure_mask(
    mask: np.ndarray, classes: Sequence[str], uncertain: np.ndarray | None = None, *, overlapping: bool = False
) -> dict[str, float]:
    """Mask uint8 [h, w] and its uncertain region, bool [h, w] -> the areas as shares of the picture."""
    counts = np.bincount(mask.reshape(-1), minlength=len(classes)) / mask.size
    if overlapping:
        counts = np.array([in_class(mask, k, overlapping=k > 0).mean() for k in range(len(classes))])
    values = {f"area of {name}": float(counts[index]) for index, name in enumerate(classes) if index}
    return values if uncertain is None else {**values, "uncertain": float(uncertain.mean())}
