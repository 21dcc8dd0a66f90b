"""Exact Euclidean distance to a region, by OpenCV, SciPy or numpy, whichever is installed.

Shapes: *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemt.io.opencv import find_opencv


def distance_to(region: np.ndarray, *, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Bool [*space] -> float [*space]: from the centre of each voxel to that of the nearest voxel of `region`.

    0 inside the region; infinite everywhere where it is empty. `spacing`: length of a voxel along each axis, None: 1.
    """
    if not region.any():
        return np.full(region.shape, np.inf)
    if region.ndim == 2 and spacing is None and (cv2 := find_opencv()) is not None:
        found: np.ndarray = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return found
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError:
        return by_axes(region, spacing=spacing or (1.0,) * region.ndim)
    return distance_transform_edt(~region, sampling=spacing)  # type: ignore[no-any-return]


def by_axes(region: np.ndarray, *, spacing: Sequence[float]) -> np.ndarray:
    """`distance_to` in numpy: along one axis after another, the least of (squared distance so far + step squared).

    Felzenszwalb and Huttenlocher, Theory of Computing 2012, without their envelope: slower, as exact.
    """
    squared = np.where(region, 0.0, np.inf)
    for axis, step in enumerate(spacing):
        lines = np.moveaxis(squared, axis, -1).reshape(-1, squared.shape[axis])
        at = np.arange(lines.shape[1]) * float(step)
        cost = (at[:, None] - at[None]) ** 2
        nearest = np.concatenate([(part[:, None] + cost).min(-1) for part in np.array_split(lines, _parts(lines))])
        shape = np.moveaxis(squared, axis, -1).shape
        squared = np.moveaxis(nearest.reshape(shape), -1, axis)
    return np.sqrt(squared)


def _parts(lines: np.ndarray) -> int:
    return max(1, lines.size * lines.shape[1] // (1 << 22))
