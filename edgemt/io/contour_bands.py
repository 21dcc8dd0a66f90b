"""The outer and the inner region of a predicted mask, from the margins on a card.

    outer = {p : d(p, mask) <= outer margin}            dilation by a disc
    inner = {p in mask : d(p, background) > inner margin}   erosion by a disc

Distances are exact and between pixel centres. Beyond the frame lies nothing: a mask that touches the rim is not eroded
from there. For margins in px the mask has the size of the model, as in calibration.

Shapes: *space 2 or 3 axes, that of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemt.contour_margins import ContourMargins
from edgemt.io.class_regions import in_class
from edgemt.io.disc_dilation import dilate_by_disc
from edgemt.io.distances import distance_to

_MAX_DISC = 100.0  # pixels; above, the distance transform is quicker
SLACK = 1e-3  # of a distance, so that rounding never makes a line miss what the margin covers


@dataclass(frozen=True, eq=False)
class Band:
    """The two regions of one class."""

    value: int  # the class
    outer: np.ndarray | None  # bool [*space]; None: the margin is not finite
    inner: np.ndarray | None  # bool [*space], empty where the mask is thinner than the margin


def bands(
    mask: np.ndarray,
    margins: ContourMargins,
    *,
    classes: Sequence[str],
    spacing_mm: Sequence[float] | None = None,
    overlapping: bool = False,
) -> list[Band]:
    """The regions of each class that is in `mask`, integers [*space]; `classes` holds the background first.

    `overlapping`: the mask has bits (`edgemt.io.class_regions`).
    Raises ValueError for margins in mm without `spacing_mm` (one number an axis).
    """
    if margins.unit == "mm" and spacing_mm is None:
        raise ValueError("contours: these margins are in mm, and the voxel size is not known; a volume that states it")
    spacing = tuple(spacing_mm) if margins.unit == "mm" and spacing_mm is not None else None
    found = []
    last = len(classes) if overlapping else min(int(mask.max(initial=0)) + 1, len(classes))
    for value in range(1, last):
        region, name = in_class(mask, value, overlapping=overlapping), classes[value]
        if region.any():
            outer, inner = margins.outer.get(name), margins.inner.get(name)
            found.append(
                Band(
                    value,
                    None if outer is None else dilated(region, outer, spacing=spacing),
                    None if inner is None else eroded(region, inner, spacing=spacing),
                )
            )
    return found


def dilated(region: np.ndarray, margin: float, *, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Bool [*space]: the voxels within `margin` of the region; empty for an empty one."""
    out = np.zeros(region.shape, bool)
    if region.any():
        at = _box(region, margin, spacing)
        out[at] = _near(region[at], margin, spacing)
    return out


def eroded(region: np.ndarray, margin: float, *, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Bool [*space]: the voxels of the region that are farther than `margin` from every voxel outside it.

    `margin` 0 leaves the region as it is.
    """
    out = np.zeros(region.shape, bool)
    if region.any():
        at = _box(region, 0.0, spacing)
        out[at] = region[at] & ~_near(~region[at], margin, spacing)
    return out


def _near(region: np.ndarray, margin: float, spacing: Sequence[float] | None) -> np.ndarray:
    """Bool [*space]: the voxels whose distance to the region is at most `margin`."""
    if region.ndim == 2 and spacing is None and margin <= _MAX_DISC:
        return dilate_by_disc(region, margin + SLACK)
    return np.asarray(distance_to(region, spacing=spacing) <= margin + SLACK)


def _box(region: np.ndarray, reach: float, spacing: Sequence[float] | None) -> tuple[slice, ...]:
    """The part of the frame within `reach` and one voxel of a region that is not empty."""
    box = []
    for axis, length in enumerate(region.shape):
        there = np.flatnonzero(region.any(axis=tuple(a for a in range(region.ndim) if a != axis)))
        pad = 1 + int(np.ceil(min(reach / (spacing[axis] if spacing else 1.0), length)))
        box.append(slice(max(int(there[0]) - pad, 0), min(int(there[-1]) + 1 + pad, length)))
    return tuple(box)
