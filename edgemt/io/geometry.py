"""Orientation of NIfTI files: axis codes, the position of a label and its image, one axis order for a data set.

An order is three letters, one an axis of the array, the slice axis last: `RAS`, `RSA` ... (nibabel's codes, world
coordinates). `kij` and its kind only move the file's own axes i, j, k. Empty: as the file stores them.

Shapes: X Y Z voxels of a volume.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 0.2  # largest distance between the corners of an image and of its label, in voxels
ANISOTROPIC = 1.2  # an axis is the slice axis when its spacing is so many times that of both others
STORED = "ijk"
_STRIPS = 4  # times as many slices as pixels across: the axes lie in another order
_PAIRS = ("RL", "AP", "SI")


def unit_in_mm(header: Any) -> float:
    """Millimetres in the unit of length of a header of nibabel (xyzt_units); 1 where it states none, as in ITK."""
    return {"meter": 1000.0, "micron": 0.001}.get(str(header.get_xyzt_units()[0]), 1.0)


def in_mm(affine: np.ndarray, unit: float) -> np.ndarray:
    """An affine [4, 4] to a unit of so many millimetres -> one to millimetres."""
    return affine if unit == 1 else np.diag([unit, unit, unit, 1.0]) @ affine


@dataclass(frozen=True)
class Geometry:
    """What a header states. `affines` are those with a code, the sform first; none where the file states no place."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    affines: tuple[np.ndarray, ...] = ()
    channels: int = 1  # images along a fourth axis
    time: str = ""  # what the header states of time along it (`edgemt.io.fourth_axis`)
    unit_mm: float = 1.0  # of the lengths in the file; spacing and affines are in millimetres

    @property
    def codes(self) -> str:
        """Axis codes such as `RAS`, of the sform or else the qform; empty without a usable one."""
        if not self.affines:
            return ""
        import nibabel

        found = nibabel.aff2axcodes(self.affines[0])
        return "" if None in found else "".join(found)


def is_order(text: str) -> bool:
    """Whether `text` names three axes, each once."""
    if sorted(text) == sorted(STORED):
        return True
    return len(text) == 3 and all(sum(letter in pair for letter in text) == 1 for pair in _PAIRS)


def moves(codes: str, order: str) -> np.ndarray | None:
    """The orientation transform [3, 2] of nibabel that brings an array of `codes` to `order`; None: nothing moves.

    An anatomical order leaves an array without codes as it is.
    """
    if order in ("", STORED, codes):
        return None
    if set(order) == set(STORED):
        return np.array([[order.index(axis), 1] for axis in STORED], float)
    if not codes:
        return None
    from nibabel import orientations

    return orientations.ornt_transform(orientations.axcodes2ornt(codes), orientations.axcodes2ornt(order))


def arranged(array: np.ndarray, codes: str, order: str) -> np.ndarray:
    """[X, Y, Z] as the file stores it -> the same voxels in `order`."""
    move = moves(codes, order)
    if move is None:
        return array
    from nibabel import orientations

    return np.ascontiguousarray(orientations.apply_orientation(array, move))


def restored(array: np.ndarray, codes: str, order: str) -> np.ndarray:
    """The inverse of `arranged`: [X, Y, Z] in `order` -> as the file stores it."""
    move = moves(codes, order)
    if move is None:
        return array
    from nibabel import orientations

    back = np.empty_like(move)
    for axis, (to, flip) in enumerate(move):
        back[int(to)] = axis, flip
    return np.ascontiguousarray(orientations.apply_orientation(array, back))


def arranged_sizes(sizes: Sequence[Any], codes: str, order: str) -> tuple[Any, ...]:
    """One number an axis (shape or spacing), as `arranged` moves the axes."""
    move = moves(codes, order)
    if move is None:
        return tuple(sizes)
    out = list(sizes)
    for axis, (to, _) in enumerate(move):
        out[int(to)] = sizes[axis]
    return tuple(out)


def common_order(
    files: Sequence[tuple[Path, Geometry]], *, axes: str = "", slice_axis: int | None = None, compare: bool = True
) -> str:
    """The order that the files of a set are brought to: that of most of them, the slice axis last.

    The slice axis is `slice_axis` of that order, or else the axis with by far the largest spacing, or else the last.
    `axes` is taken as it is. Without `compare` headers count for the spacing alone.
    Raises ValueError, naming both files, where some state an orientation and others do not.
    """
    if axes:
        return axes
    codes = [(path, geometry.codes if compare else "") for path, geometry in files]
    stated = [code for _, code in codes if code]
    base = Counter(stated).most_common(1)[0][0] if stated else STORED
    if stated and len(stated) < len(codes):
        silent = next(path for path, code in codes if not code)
        sure, code = next((path, code) for path, code in codes if code)
        raise ValueError(
            f"{silent}: its header states no orientation (qform and sform code 0), {sure} is {code}; "
            "write the headers anew, or set data.affines=ignore to trust the order of the voxels"
        )
    if slice_axis is None:
        known = [
            arranged_sizes(geometry.spacing_mm, code, base)
            for (_, geometry), (_, code) in zip(files, codes, strict=True)
            if geometry.spacing_mm is not None
        ]
        slice_axis = Counter(map(_thickest, known)).most_common(1)[0][0] if known else 2
    order = "".join([*(base[k] for k in range(3) if k != slice_axis), base[slice_axis]])
    return "" if order == STORED else order


def check_slices(path: str | Path, geometry: Geometry, order: str, *, compare: bool = True) -> None:
    """Raises ValueError for a volume whose slices in `order` would be thin strips: its slices lie along another axis.

    That is one pixel, or a fourth of the number of slices where the file states no spacing, as .h5 files of [Z, H, W].
    """
    shape = arranged_sizes(geometry.shape, geometry.codes if compare else "", order)
    side = min(shape[:2])
    if shape[2] > 1 and (side == 1 or (geometry.spacing_mm is None and shape[2] >= _STRIPS * side)):
        base, k = order or STORED, shape.index(side)
        raise ValueError(
            f"{path}: has shape {geometry.shape}, which would be {shape[2]} slices of {shape[0]} x {shape[1]} pixels; "
            f"--data.axes {base[:k]}{base[k + 1 :]}{base[k]} cuts it across its short axis, --data.axes {base} as it is"
        )


def _thickest(spacing: Sequence[float]) -> int:
    axis = int(np.argmax(spacing))
    rest = max(spacing[k] for k in range(3) if k != axis)
    return axis if spacing[axis] >= ANISOTROPIC * rest else 2


def align(
    label: Geometry, image: Geometry, *, label_path: str | Path, image_path: str | Path, what: str = "image"
) -> np.ndarray | None:
    """The orientation transform that brings a label's array onto its image's; None when it lies there already.

    `what` the second file is to the first: "channel" for two channels of one case.

    Files that state no place, and labels with the identity (`says_nothing`), are compared by shape alone, later.
    Raises ValueError, naming both files, when they
    occupy different places.
    """
    if not label.affines or not image.affines or len(label.shape) != 3 or says_nothing(label, image):
        return None
    places = list(label.affines)
    if label.unit_mm != image.unit_mm:  # scripts keep the affine and drop the unit of the image
        places += [in_mm(affine, image.unit_mm / label.unit_mm) for affine in label.affines]
    pairs = list(itertools.product(image.affines, places))
    if label.shape == image.shape and any(_same(a, b, label.shape) for a, b in pairs):
        return None
    from nibabel import orientations

    for a, b in pairs:
        goal, now = orientations.io_orientation(a), orientations.io_orientation(b)
        if np.isnan(goal).any() or np.isnan(now).any():
            continue
        move = orientations.ornt_transform(now, goal)
        moved = b @ orientations.inv_ornt_aff(move, label.shape)
        shape = [0, 0, 0]
        for axis, (to, _) in enumerate(move):
            shape[int(to)] = label.shape[axis]
        if tuple(shape) == image.shape and _same(a, moved, image.shape):
            return move
    if label.shape != image.shape:
        return None  # the shapes are compared, and named, where the arrays meet
    raise ValueError(
        f"{label_path}: lies elsewhere than its {what} {image_path}: {_place(label)} against {_place(image)}; "
        "resample it onto the image, or set data.affines=ignore to trust the order of the voxels"
    )


def says_nothing(label: Geometry, image: Geometry) -> bool:
    """Whether a label was saved with the identity for its place, as scripts do that drop the image's header."""
    unknown = all(np.array_equal(affine, np.eye(4)) for affine in label.affines)
    return unknown and label.shape == image.shape and not any(_same(a, np.eye(4), image.shape) for a in image.affines)


def _same(image: np.ndarray, label: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether every corner of the grid falls on the same voxel, within the tolerance."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in shape))], float).T
    try:
        seen = np.linalg.inv(image) @ label @ corners
    except np.linalg.LinAlgError:
        return False
    return bool(np.abs(seen - corners).max() <= TOLERANCE)


def _place(geometry: Geometry) -> str:
    affine = geometry.affines[0]
    origin = ", ".join(f"{v:g}" for v in np.round(affine[:3, 3], 3))
    size = " x ".join(f"{v:g}" for v in np.round(np.sqrt((affine[:3, :3] ** 2).sum(0)), 4))
    return f"{geometry.codes or 'no axes'}, origin ({origin}), voxels {size} mm"


def like_input(mask: np.ndarray, header: Any) -> Any:
    """A NIfTI image of `mask` [X, Y, Z] with the complete geometry of the file that `header` came from.

    qform, sform, both codes and units are copied as they stand; scaling, display range, text and extensions are not.
    """
    import nibabel

    fresh = header.copy()
    if hasattr(fresh, "extensions"):
        fresh.extensions.clear()
    fresh.set_data_dtype(mask.dtype)
    for name, value in (("scl_slope", np.nan), ("scl_inter", np.nan), ("cal_max", 0), ("cal_min", 0)):
        fresh[name] = value
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        if name in fresh:
            fresh[name] = b""
    fresh["intent_code"] = 0
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    fresh.set_data_shape(mask.shape)
    return kind(mask, None, fresh)
