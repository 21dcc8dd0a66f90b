"""Polygons to pixels.

The rule: pixel (column i, row j) covers the square from (i, j) to (i + 1, j + 1), and belongs to the polygon when its
centre (i + 0.5, j + 0.5) lies inside, by the even-odd rule. A centre on an edge counts on the left and upper side of
an area, so two polygons that share an edge share no pixel and leave none out.

Shapes: N corners, H W size of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def corners_of(values: Any, *, least: int = 3) -> np.ndarray:
    """float64 [N, 2] of corners (x, y) given as pairs or as one flat list. Raises ValueError for anything else."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError("the corners of a polygon must be numbers") from None
    if array.ndim == 1 and array.size % 2 == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError("the corners of a polygon must be finite pairs x, y")
    if len(array) < least:
        raise ValueError(f"a polygon has {len(array)} corners; an area needs {least}")
    return array


def lies_beyond(corners: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether all corners [N, 2] are on the outer side of one rim of an image of `size` (rows, columns)."""
    return bool((corners.min(0) > size[::-1]).any() or corners.max(0).min() < 0)


def on_image(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The corners [N, 2] in pixels as they are. Raises ValueError where no part of them can lie on the image.

    A polygon that reaches beyond the rim is cut there; one in fractions of the image, or of another image, is refused.
    """
    if lies_beyond(corners, size):
        raise ValueError(f"its polygon lies beyond the image of {size[1]} x {size[0]} pixels; is it of another image?")
    low, high = corners.min(0), corners.max(0)
    if low.min() >= 0 and high.max() <= 1 and min(size) > 8 and len(np.unique(corners % 1)) > 2:
        raise ValueError("its corners lie between 0 and 1: fractions of the image, where pixels are required")
    return corners


def rasterise(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside `rings` together, by the even-odd rule, bool [H, W]; the rest is cut off.

    For each row the crossings of all edges with the line of its centres toggle the pixels to their right.
    """
    height, width = size
    toggles = np.zeros((height, width + 1), np.int32)
    for ring in rings:
        x, y = ring[:, 0], ring[:, 1]
        x_next, y_next = np.roll(x, -1), np.roll(y, -1)
        upwards = y > y_next  # both directions of an edge give equal crossings
        x0, y0 = np.where(upwards, x_next, x), np.where(upwards, y_next, y)
        x1, y1 = np.where(upwards, x, x_next), np.where(upwards, y, y_next)
        first = np.clip(np.ceil(y0 - 0.5), 0, height).astype(np.int64)  # rows with y0 <= row + 0.5 < y1
        last = np.clip(np.ceil(y1 - 0.5), 0, height).astype(np.int64)
        edge = np.repeat(np.arange(len(x)), last - first)
        if not len(edge):
            continue
        starts = np.cumsum(last - first) - (last - first)
        row = np.arange(len(edge)) - starts[edge] + first[edge]
        across = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)
        np.add.at(toggles, (row, column), 1)
    return (np.cumsum(toggles, axis=1) & 1).astype(bool)[:, :width]
