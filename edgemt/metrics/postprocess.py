"""Cleaning a mask once it stands: the largest piece of each class, and agreement between neighbouring slices. No torch.

Shapes: *space 2 or 3 axes, S slices, H W size in pixels, C classes.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from edgemt.io.class_regions import each_class
from edgemt.io.volumes import neighbour_indices
from edgemt.metrics.surface_distance import bounding_box


def largest_component(
    mask: np.ndarray, *, classes: int, connectivity: Literal["full", "faces"] = "full", overlapping: bool = False
) -> np.ndarray:
    """Class indices [*space] -> the same, of each foreground class only its largest connected piece.

    "full" joins voxels that share a corner, as scikit-image does by default and with it the published clean-ups of DTC
    and BCP; "faces" requires a shared face. Needs scipy. `overlapping`: bits in place of indices.
    """
    from scipy import ndimage

    if overlapping:
        one = partial(largest_component, classes=2, connectivity=connectivity)
        return each_class(mask, one, classes=classes, overlapping=True)
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if connectivity == "full" else 1)
    out = mask.copy()
    for index in range(1, classes):
        there = mask == index
        box = bounding_box(there)
        pieces, count = ndimage.label(there[box], structure=structure)
        if count > 1:
            sizes = np.bincount(pieces.reshape(-1))
            sizes[0] = 0  # what is not of this class
            out[box][(pieces != sizes.argmax()) & there[box]] = 0
    return out


def through_plane(masks: np.ndarray, *, width: int = 3) -> np.ndarray:
    """Class indices [S, H, W] -> the same: each pixel takes the class that most of `width` neighbouring slices give it.

    A draw leaves the slice's own class, and so the first and last slice stay as they are for width 3. For two classes
    this is a median filter along S. Raises ValueError for an even width and for what is no volume.
    """
    if masks.ndim != 3:
        raise ValueError(f"through_plane: needs the slices of a volume [S, H, W], not shape {masks.shape}")
    if width < 1 or width % 2 == 0:
        raise ValueError(f"through_plane: width must be odd and above 0, not {width}")
    window = neighbour_indices(len(masks), width).T  # [width, S]
    out = masks.copy()
    most = sum((masks[around] == masks).astype(np.uint8) for around in window)
    for index in np.unique(masks):
        votes = sum((masks[around] == index).astype(np.uint8) for around in window)
        wins = votes > most
        out[wins] = index
        most = np.maximum(most, votes)
    return out
