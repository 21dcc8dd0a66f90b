"""Where the voxels of a volume lie: affines of NRRD, MetaImage and DICOM, and labels brought onto the grid of an image.

An affine [4, 4] maps voxel indices to millimetres. Files state LPS (to the left, back and head of the patient) or RAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgemt.convert.contract import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE = 0.05  # of a voxel, at the corners of the labels


def affine_of(directions: np.ndarray, origin: Sequence[float]) -> np.ndarray:
    """[4, 4] from the steps of the axes (columns, mm) and the centre of voxel 0. Raises ValueError for a flat one."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError("its axes do not span a volume; export it again")
    return affine


def onto_grid(
    labels: np.ndarray, affine: np.ndarray, image: Volume, *, label_path: Path, image_path: Path
) -> np.ndarray:
    """The labels on the voxels of `image`: axes swapped and turned, cut, and filled with 0 where they state nothing.

    Raises ValueError, naming both files, where the voxels of the two do not coincide.
    """
    step = np.linalg.inv(image.affine) @ affine
    whole = np.rint(step)
    corners = np.array(np.meshgrid(*([0, n - 1] for n in labels.shape), indexing="ij")).reshape(3, -1)
    away = np.abs((step - whole)[:3, :3] @ corners + (step - whole)[:3, 3:]).max()
    turned = whole[:3, :3]
    if away > _TOLERANCE or not (np.abs(turned).sum(0) == 1).all() or not (np.abs(turned).sum(1) == 1).all():
        raise ValueError(
            f"{label_path}: its voxels are not those of {image_path.name}; resample the labels to the image (in 3D "
            "Slicer: Segment editor, specify geometry), and export again"
        )
    order = [int(np.flatnonzero(turned[axis])[0]) for axis in range(3)]
    array = labels.transpose(order)
    start = [0, 0, 0]
    for axis in range(3):
        sign, offset = int(turned[axis, order[axis]]), int(whole[axis, 3])
        if sign < 0:
            array, offset = np.flip(array, axis), offset - array.shape[axis] + 1
        start[axis] = offset
    out = np.zeros(image.array.shape, labels.dtype)
    ranges = [(max(s, 0), min(s + n, total)) for s, n, total in zip(start, array.shape, out.shape, strict=True)]
    if all(low < high for low, high in ranges):
        inside = tuple(slice(low - s, high - s) for (low, high), s in zip(ranges, start, strict=True))
        out[tuple(slice(low, high) for low, high in ranges)] = array[inside]
        cut = np.count_nonzero(array) - np.count_nonzero(array[inside])
    else:
        cut = np.count_nonzero(array)
    if cut:
        raise ValueError(f"{label_path}: {cut} labelled voxels lie outside {image_path.name}; is it the right image?")
    return out
