"""Through a volume: which slices a 2-D network sees beside its own. The same in training and on the device.

Shapes: S slices of a volume, H W size in pixels, K slices that are seen together.
"""

from __future__ import annotations

import numpy as np


def neighbours(depth: int, slices: int) -> np.ndarray:
    """int64 [depth, slices]: the indices seen around each slice, its own in the middle, the ends repeated.

    Raises ValueError for an even number: no slice would be in the middle.
    """
    if slices < 1 or slices % 2 == 0:
        raise ValueError(f"slices: {slices} has no middle; use 1, 3 or 5")
    reach = slices // 2
    return np.clip(np.arange(depth)[:, None] + np.arange(-reach, reach + 1), 0, depth - 1)


def frame_around(frames: np.ndarray, at: int, *, slices: int) -> np.ndarray:
    """[S, H, W, 1], every slice of a volume -> [H, W, K], slice `at` and its neighbours as channels."""
    around = neighbours(len(frames), slices)[at]
    return np.ascontiguousarray(np.moveaxis(frames[around, ..., 0], 0, -1))
